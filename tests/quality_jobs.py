"""Data jobs whose quality filters ask a model, run in this process from a recipe: with what they read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_recipe import planned

from pipelines.data.rows import read_rows
from pipelines.recipe.launch import Launch
from pipelines.run.launcher import light_settings
from pipelines.stages.base import LaunchSettings, StageContext, load_stage
from pipelines.store.durable import digest


@dataclass(frozen=True)
class Made:
    """What a data job left."""

    output: Path
    record: Path

    def texts(self, split: str = "train") -> set[str]:
        return {row["text"] for batch in read_rows(self.output, split) for row in batch}

    @property
    def info(self) -> dict[str, Any]:
        return json.loads((self.output / "info.json").read_text())

    @property
    def dropped(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.record / "dropped.jsonl").read_text().splitlines()]

    def digests(self) -> dict[str, str]:
        return {path.name: digest(path) for path in sorted(self.output.glob("*.parquet"))}


def good(number: int) -> str:
    """Sentences of one small world."""
    who, where = ("Anna", "Berta", "Karl", "the miller")[number % 4], ("well", "market", "mill")[number % 3]
    return f"In the morning {who} went to the {where} and bought bread {number}. " * (2 + number % 3)


def junk(number: int) -> str:
    """Words that stand in no such sentence."""
    words = (f"{word}{'xyz'[number % 3]}" for word in ("casino", "bonus", "spin", "jackpot") * (2 + number % 3))
    return f"{' '.join(words)} {number}"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def recipe_of(root: Path, quality: Any, parts: int = 1) -> dict[str, Any]:
    """Datasets `tales` (good texts), `marks` (labelled good and bad) and `web` (both, in so many files), with a stage
    `judge` that learns to tell them apart."""
    for part in range(parts):
        numbers = range(200 + 40 * part, 240 + 40 * part)
        write_rows(root / f"web-{part}.jsonl", [{"text": (good, junk)[n % 2](n)} for n in numbers])
    marks = [{"text": (good, junk)[n % 2](n), "label": ("good", "bad")[n % 2]} for n in range(80)]
    train = {"duration": "30 steps", "global_batch_size": 8, "learning_rate": 0.01}
    return {
        "name": "tiny",
        "seed": 3,
        "data": {
            "tales": {"files": write_rows(root / "t.jsonl", [{"text": good(n)} for n in range(80)]), "holdout": 0.2},
            "marks": {"files": write_rows(root / "m.jsonl", marks), "format": "labelled", "holdout": 0.1},
            "web": {"files": "web-*.jsonl", "quality": quality, "holdout": 0.1},
        },
        "model": {"architecture": "encoder", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        | {"max_position_embeddings": 128},
        "stages": {
            "tokenizer": {"vocab_size": 300, "data": "tales", "mask_token": True},
            "judge": {"kind": "finetune", "task": "classification", "data": "marks", "overlong": "truncate", **train},
            "pretrain": {"data": "web", "objective": "masked_lm", "max_length": 32, **train},
        },
    }


def run_jobs(root: Path, recipe: Mapping[str, Any], until: str, **launch: Any) -> dict[str, Made]:
    """One job of a plan and what it needs, each in its folder below `root`; but for it, what is there stays."""
    plan, found = planned(root, recipe), dict[str, Made]()
    needed, pending = set[str](), [until]
    while pending:
        name = pending.pop()
        needed.add(name)
        pending += [item.job for item in plan.by_name[name].inputs.values()]
    for job in plan.jobs:
        if job.name not in needed:
            continue
        workdir = root / job.folder
        inputs = {role: found[item.job].output for role, item in job.inputs.items()}
        settings = LaunchSettings(threads=1) if job.kind == "finetune" else light_settings(Launch(**launch))
        ctx = StageContext(job=job, inputs=inputs, workdir=workdir, launch=settings)
        if job.name == until or not ctx.output.exists():
            for folder in (ctx.output, ctx.checkpoints, ctx.record):
                folder.mkdir(parents=True, exist_ok=True)
            load_stage(job.kind)(ctx)
        found[job.name] = Made(ctx.output, ctx.record)
    return found
