"""Jobs of a recipe that look for questions, run in this process: its data, the benchmarks, and what reads both."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_recipe import planned

from pipelines.data.formats import said
from pipelines.data.rows import read_rows
from pipelines.recipe.launch import Launch
from pipelines.run.launcher import light_settings
from pipelines.stages.base import Metrics, StageContext, load_stage

KINDS = ("data", "benchmarks", "clean", "contamination")


@dataclass(frozen=True)
class Ran:
    """What one job left."""

    output: Path
    record: Path
    metrics: Metrics
    format: str = "text"

    def said(self, split: str = "train") -> list[str]:
        """All that each row says."""
        rows = (row for batch in read_rows(self.output, split) for row in batch)
        return ["\n".join(said(self.format, row)) for row in rows]

    @property
    def facts(self) -> dict[str, Any]:
        return json.loads((self.output / "contamination.json").read_text())

    @property
    def by_task(self) -> dict[str, dict[str, Any]]:
        return {task["task"]: task for task in self.facts["tasks"]}

    @property
    def samples(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.record / "contamination.jsonl").read_text().splitlines()]


def run_jobs(root: Path, recipe: Mapping[str, Any], **launch: Any) -> dict[str, Ran]:
    """By the names of jobs."""
    plan = planned(root, recipe)
    found = dict[str, Ran]()
    for job in plan.jobs:
        if job.kind not in KINDS:
            continue
        inputs = {role: found[item.job].output for role, item in job.inputs.items()}
        ctx = StageContext(
            job=job, inputs=inputs, workdir=root / job.name, launch=light_settings(Launch(**{"workers": 1, **launch}))
        )
        shutil.rmtree(ctx.output, ignore_errors=True)
        for folder in (ctx.output, ctx.checkpoints, ctx.record):
            folder.mkdir(parents=True, exist_ok=True)
        format = recipe["data"].get(job.stage, {}).get("format", "text")
        found[job.name] = Ran(ctx.output, ctx.record, load_stage(job.kind)(ctx), format)
    return found
