"""Data, tokenizer and tokens jobs on a few rows, run in this process."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.plan.jobs import DataJob, Input, Job, TokensJob
from pipelines.recipe.data import Dataset
from pipelines.recipe.stages import TokenizerStage
from pipelines.stages import data, tokenizer, tokens
from pipelines.stages.base import LaunchSettings, Metrics, StageContext

TEMPLATES = Path(__file__).parents[1] / "recipes" / "chat_templates"


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_data(workdir: Path, files: Sequence[Path] = (), *, workers: int = 1, **dataset: Any) -> tuple[Path, Metrics]:
    """(output folder, metrics) of a data job."""
    named = {"files": tuple(map(str, files))} if files else {}
    config = DataJob(dataset=Dataset(**named, **dataset))
    held = config.dataset.holdout_files
    job = Job(
        name="data-x",
        stage="x",
        config=config,
        seed=None,
        files={str(file): "0" for file in [*files, *held]},
        named_files={f"holdout.{index}": file for index, file in enumerate(held)},
    )
    ctx = StageContext(job=job, inputs={}, workdir=workdir, launch=LaunchSettings(workers=workers))
    return ctx.output, data.run(ctx)


def run_tokenizer(workdir: Path, datasets: Mapping[Path, float], **stage: Any) -> tuple[Path, Metrics]:
    template = Path(stage.setdefault("chat_template", "chatml"))
    template = template if template.suffix else TEMPLATES / f"{template}.jinja"
    shares = {f"d{i}": share for i, share in enumerate(datasets.values())}
    config = TokenizerStage(kind="tokenizer", data=shares, **({"vocab_size": 300} | stage))
    inputs = {f"data.{i}": Input(job="d", fingerprint="0", share=share) for i, share in enumerate(datasets.values())}
    job = Job(name="tokenizer", stage="tokenizer", config=config, seed=None, files={str(template): "0"}, inputs=inputs)
    folders = {f"data.{i}": folder for i, folder in enumerate(datasets)}
    ctx = StageContext(job=job, inputs=folders, workdir=workdir)
    return ctx.output, tokenizer.run(ctx)


def run_tokens(workdir: Path, dataset: Path, tokenizer_folder: Path, format: str) -> tuple[Path, Metrics]:
    job = Job(name="tokens-x", stage="x", config=TokensJob(format=format), seed=None)  # type: ignore[arg-type]
    ctx = StageContext(job=job, inputs={"dataset": dataset, "tokenizer": tokenizer_folder}, workdir=workdir)
    return ctx.output, tokens.run(ctx)
