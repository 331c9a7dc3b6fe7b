"""Datasets cleaned in this process, from a recipe: its data jobs and what cleans them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_recipe import planned

from pipelines.data.rows import read_rows
from pipelines.recipe.launch import Launch
from pipelines.run.launcher import light_settings
from pipelines.stages import clean, data
from pipelines.stages.base import Metrics, StageContext
from pipelines.store.durable import digest


@dataclass(frozen=True)
class Cleaned:
    """What the clean job of one dataset left."""

    output: Path
    record: Path
    metrics: Metrics

    def rows(self, split: str = "train") -> list[dict[str, Any]]:
        return [row for batch in read_rows(self.output, split) for row in batch]

    def texts(self, split: str = "train") -> list[str]:
        return [row["text"] for row in self.rows(split)]

    @property
    def info(self) -> dict[str, Any]:
        return json.loads((self.output / "info.json").read_text())

    @property
    def samples(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.record / "removed.jsonl").read_text().splitlines()]

    def digests(self) -> dict[str, str]:
        return {path.name: digest(path) for path in sorted(self.output.iterdir())}


def run_clean(root: Path, datasets: Mapping[str, Mapping[str, Any]], **launch: Any) -> dict[str, Cleaned]:
    """Every dataset of text that a tokenizer reads, cleaned; `rows` of a dataset are written to its file first."""
    root.mkdir(exist_ok=True)
    data_chapter = {}
    for name, fields in datasets.items():
        fields = dict(fields)
        for field, key in (("files", "rows"), ("holdout_files", "held")):
            if key in fields:
                rows = [{"text": row} if isinstance(row, str) else row for row in fields.pop(key)]
                file = root / f"{name}-{key}.jsonl"
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
                fields[field] = file.name
        data_chapter[name] = {"deduplicate": True} | ({} if "held" in str(fields) else {"holdout": 0}) | fields
    shares = [name for name, fields in data_chapter.items() if fields.get("format", "text") != "preference"]
    stages = {"tokenizer": {"vocab_size": 300, "data": shares}}
    plan = planned(root, {"name": "tiny", "seed": 3, "data": data_chapter, "stages": stages})
    folders, found = dict[str, Path](), dict[str, Cleaned]()
    for job in plan.jobs:
        if job.kind not in ("data", "clean"):
            continue
        inputs = {role: folders[item.job] for role, item in job.inputs.items()}
        ctx = StageContext(job=job, inputs=inputs, workdir=root / job.name, launch=light_settings(Launch(**launch)))
        for folder in (ctx.output, ctx.checkpoints, ctx.record):
            folder.mkdir(parents=True, exist_ok=True)
        metrics = (clean if job.kind == "clean" else data).run(ctx)
        folders[job.name] = ctx.output
        if job.kind == "clean":
            found[job.stage] = Cleaned(ctx.output, ctx.record, metrics)
    return found
