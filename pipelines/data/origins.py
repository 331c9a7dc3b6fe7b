"""Where a row of a data artifact comes from: looked for in its source, since finished data only keep what they say."""

from collections.abc import Sequence
from pathlib import Path

from pipelines.data.formats import Normalise, Row, Unusable, normaliser
from pipelines.data.rows import rows_at
from pipelines.data.sources import read_files
from pipelines.data.tokens import Split
from pipelines.errors import PipelineError
from pipelines.plan.jobs import DataJob, Job
from pipelines.recipe.data import Dataset


def origin(job: Job, folder: Path, split: Split, row: int) -> str:
    """`file:line` of a row in `folder`, where the files of its data job still say it; else its number. The folder is
    that job's own artifact, or what cleaning left of it."""
    assert isinstance(job.config, DataJob)
    dataset = job.config.dataset
    held = {*job.named_files.values()}
    own = bool(held) and split == "holdout"
    files = [Path(path) for path in job.files if (path in held) == own]
    wanted = rows_at(folder, split, {row})[row]
    found = _place_of(wanted, dataset, files) if dataset.files and dataset.layout is None else None
    return found or f"row {row + 1:,} of the {'training rows' if split == 'train' else split} of '{job.stage}'"


def _place_of(wanted: Row, dataset: Dataset, files: Sequence[Path]) -> str | None:
    normalise = normaliser(dataset.format, dataset.columns)
    try:
        for item in read_files(files, dataset):
            if item.row is not None and not item.reason and _same(normalise, item.row, wanted):
                return f"{item.file}:{item.line}"
    except (PipelineError, OSError):  # the files are not as they were
        pass
    return None


def _same(normalise: Normalise, row: Row, wanted: Row) -> bool:
    try:
        return bool(normalise(row) == wanted)
    except Unusable:
        return False
