"""Which documents an optimizer step of pretraining takes: worked out again from the inputs, as the run does it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.data.rows import rows_at
from pipelines.errors import DataError
from pipelines.plan.jobs import Job
from pipelines.recipe.stages import PretrainStage
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.training.inputs import sources
from pipelines.training.mixtures import course_of, with_shares
from pipelines.training.objectives import rows_of

SHOWN = 80
"""Characters of a document."""


@dataclass(frozen=True)
class Piece:
    """Tokens `start` to `stop` of one document, in one row of the batch."""

    row: int
    data: str
    document: int
    """Number of the training row in the dataset's artifact, from zero."""
    start: int
    stop: int
    text: str
    """How the document begins."""


@dataclass(frozen=True)
class Step:
    """One batch, over all processes."""

    step: int
    steps: int
    """Of the run."""
    pieces: list[Piece]
    epochs: dict[str, float]
    """How often each dataset has been gone through by the end of the run."""


def step_of(job: Job, inputs: Mapping[str, Path], data: Mapping[str, Path], *, max_length: int, step: int) -> Step:
    """Step 1 is the first. `inputs`: role -> folder, of the job; `data`: role of a mixed dataset -> its own folder.

    Raises DataError for a step that the run does not have."""
    config = job.config
    assert isinstance(config, PretrainStage) and job.seed is not None
    info = json.loads((inputs["tokenizer"] / "info.json").read_text(encoding="utf-8"))
    ctx = StageContext(job=job, inputs=inputs, workdir=Path(), launch=LaunchSettings())
    mix = with_shares(config, sources(ctx, info["vocab_size"]))
    rows = rows_of(config, mix, max_length, info["bos_id"])
    course = course_of(config, rows, mix, job.seed)
    if not 1 <= step <= course.steps:
        raise DataError(f"step {step:,}: '{job.name}' has the steps 1 to {course.steps:,}")
    roles = [role for role, _ in job.mixture]
    first = (step - 1) * config.global_batch_size
    numbers = course.order(np.arange(first, first + config.global_batch_size)).tolist()
    held = [(place, *rows.segments(number)) for place, number in enumerate(numbers)]
    texts = {
        table: rows_at(data[role], "train", {segment[0] for _, other, row in held if other == table for segment in row})
        for table, role in enumerate(roles)
    }
    pieces = [
        Piece(place, mix[table].name, document, start, stop, texts[table][document]["text"][:SHOWN])
        for place, table, row in held
        for document, start, stop in row
    ]
    epochs = {
        source.name: round(taken / size, 4) for source, taken, size in zip(mix, course.taken, rows.sizes, strict=True)
    }
    return Step(step, course.steps, pieces, epochs)
