"""What a job is given, what it gives back, and the table of all kinds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal

from pipelines.plan.jobs import Job
from pipelines.recipe.base import Section
from pipelines.stages.imports import quick_imports


class LaunchSettings(Section):
    """Where and how wide a job runs, resolved from the launch chapter and its Accelerate file."""

    num_processes: int = 1
    """Over all machines."""
    num_machines: int = 1
    device: str = "cpu"
    """cpu | gpu"""
    threads: int | None = None
    """Threads per process; None leaves torch's default."""
    micro_batch_size: int | None = None
    """Sequences per forward pass and process; None: the whole share of a process."""
    checkpoint_every: int = 500
    evaluate_every: int | None = None
    activation_checkpointing: bool = False
    workers: int = 1
    """Processes that read, clean and encode data."""
    engine: Literal["local", "ray"] = "local"
    """Where they are."""


@dataclass(frozen=True)
class StageContext:
    """Everything a job may touch. No environment variable, current directory or newest folder decides its result."""

    job: Job
    inputs: Mapping[str, Path]
    """Role (as in `job.inputs`) -> folder of its artifact, read-only."""
    workdir: Path
    """`artifacts/.partial/<folder>/`; kept when the job is stopped or killed."""
    launch: LaunchSettings = field(default_factory=LaunchSettings)

    @property
    def output(self) -> Path:
        """What becomes the artifact; emptied when a job starts."""
        return self.workdir / "output"

    @property
    def checkpoints(self) -> Path:
        """Resumable state; kept across crashes, dropped once the artifact is published."""
        return self.workdir / "checkpoints"

    @property
    def record(self) -> Path:
        """log.txt, metrics.jsonl and the like; published beside the output, outside the content digest."""
        return self.workdir / "record"


Metrics = Mapping[str, float | int | str]
"""Numbers worth reporting, flat: they stand in the manifest and in report.json."""

Stage = Callable[[StageContext], Metrics]
"""Reads `ctx.inputs`, writes `ctx.output`, returns metrics. Runs once in every process of the job."""


STAGES: Mapping[str, str] = {
    "data": "pipelines.stages.data",
    "benchmarks": "pipelines.stages.benchmarks",
    "clean": "pipelines.stages.clean",
    "contamination": "pipelines.stages.contamination",
    "model": "pipelines.stages.model",
    "tokenizer": "pipelines.stages.tokenizer",
    "tokens": "pipelines.stages.tokens",
    "vocabulary": "pipelines.stages.vocabulary",
    "pretrain": "pipelines.stages.pretrain",
    "finetune": "pipelines.stages.finetune",
    "sft": "pipelines.stages.sft",
    "reward": "pipelines.stages.reward",
    "dpo": "pipelines.stages.dpo",
    "ppo": "pipelines.stages.ppo",
    "evaluate": "pipelines.stages.evaluate",
}
"""Every kind of job, and the module whose `run` is its Stage. It is imported when a job needs it: a data job needs no
torch."""


def load_stage(kind: str) -> Stage:
    """Import what a kind of job needs."""
    with quick_imports():
        stage: Stage = import_module(STAGES[kind]).run
    return stage
