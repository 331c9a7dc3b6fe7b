"""Labels and settings of stages `finetune`, looked at before anything is trained."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import DataError, KeyPath
from pipelines.plan.jobs import DataJob, Job, Plan
from pipelines.recipe.evaluation import EvaluateStage
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.tree import format_path

if TYPE_CHECKING:  # numpy is wanted only where there is something to look at
    from pipelines.data.labels import Place
    from pipelines.data.lessons import Lesson
    from pipelines.data.tokens import Split, TokenTable

Position = Callable[[KeyPath], tuple[str, int, int]]


def check_lessons(plan: Plan, jobs: Iterable[Job], folders: Mapping[str, Path], position: Position) -> None:
    """Raise DataError with all that is wrong with these jobs, as far as what they read is finished.

    `folders`: name of a finished job -> its output. A day of pretraining may lie between this and the stage itself."""
    told = [fault for job in jobs for fault in _faults(plan, job, folders, position)]
    if told:
        raise DataError("\n".join([*dict.fromkeys(told), "nothing was trained"]))


def _faults(plan: Plan, job: Job, folders: Mapping[str, Path], position: Position) -> Iterator[str]:
    if isinstance(job.config, FinetuneStage):
        yield from _finetune(plan, job, folders, position)
    elif isinstance(job.config, EvaluateStage):
        yield from _tasks(plan, job, folders)
    elif isinstance(job.config, DataJob) and "classifier" in job.inputs:
        yield from _filter(plan, job, folders, position)


def _finetune(plan: Plan, job: Job, folders: Mapping[str, Path], position: Position) -> Iterator[str]:
    from pipelines.data.lessons import Unfit

    try:
        _lesson(plan, job, folders)
    except Unfit as error:
        for path, message in error.faults:
            file, line, column = position(("stages", job.stage, *path))
            yield f"{file}:{line}:{column}: {format_path(('stages', job.stage, *path))}: {message}"
    except DataError as error:
        yield f"{job.name}: {error}"


def _lesson(plan: Plan, job: Job, folders: Mapping[str, Path]) -> "Lesson | None":
    """What a finetune job learns; None where its tokens are not finished."""
    from pipelines.data.lessons import lesson_of

    names = [job.inputs[role].job for role, _ in job.mixture]
    if any(name not in folders for name in names):
        return None
    train, holdout = (_tables(names, folders, split) for split in ("train", "holdout"))
    assert isinstance(job.config, FinetuneStage)
    return lesson_of(job.config, train, holdout, _places(plan, names, folders))


def _tasks(plan: Plan, job: Job, folders: Mapping[str, Path]) -> Iterator[str]:
    """Of an evaluation: whether the model knows the labels that it is asked for."""
    from pipelines.data.labels import check_labels

    config, model = job.config, plan.by_name[job.inputs["model"].job]
    assert isinstance(config, EvaluateStage)
    if not isinstance(model.config, FinetuneStage):
        return
    asked = {
        job.inputs[f"task.{number}.data"].job
        for number, task in enumerate(config.tasks)
        if task.name == "classification"
    }
    if not (asked := {name for name in asked if name in folders}):
        return
    try:
        lesson = _lesson(plan, model, folders)
    except DataError:
        return  # told at the stage
    if lesson is None or lesson.kind is None:
        return
    for name in sorted(asked):
        try:
            check_labels(_tables([name], folders, "holdout"), lesson.kind, lesson.names, _places(plan, [name], folders))
        except DataError as error:
            yield f"{job.name}: task classification: {error}"


def _filter(plan: Plan, job: Job, folders: Mapping[str, Path], position: Position) -> Iterator[str]:
    """Of a dataset that a classifier judges: whether this learns the label that texts shall have."""
    from pipelines.recipe.words import did_you_mean

    model = plan.by_name[job.inputs["classifier"].job]
    assert isinstance(job.config, DataJob) and job.config.dataset.quality
    try:
        lesson = _lesson(plan, model, folders) if isinstance(model.config, FinetuneStage) else None
    except DataError:
        return  # told at the stage
    if lesson is None or lesson.kind is None:
        return
    for number, item in enumerate(job.config.dataset.quality.filters):
        if item.kind != "classifier" or str(item.label) in lesson.names:
            continue
        path = ("data", job.stage, "quality", "filters", number, "label")
        file, line, column = position(path)
        known = ", ".join(lesson.names)
        what = f"'{model.stage}' learns no label '{item.label}'{did_you_mean(str(item.label), lesson.names)}; "
        what += f"it learns {known}" if known else "it learns numbers: label its texts with words"
        yield f"{file}:{line}:{column}: {format_path(path)}: {what}"


def _tables(names: Iterable[str], folders: Mapping[str, Path], split: "Split") -> "list[TokenTable]":
    from pipelines.data.tokens import TokenTable

    return [TokenTable.open(folders[name], split) for name in names]


def _places(plan: Plan, names: Iterable[str], folders: Mapping[str, Path]) -> "Place":
    """Where rows of these tokens come from."""
    from pipelines.data.origins import origin

    rows = {folders[name]: plan.by_name[plan.by_name[name].inputs["dataset"].job] for name in names}

    def place(table: "TokenTable", row: int) -> str:
        job = rows[table.folder]
        if job.name not in folders:
            return f"row {row + 1:,} of {table.split} of '{job.stage}'"
        return origin(_source(plan, job), folders[job.name], table.split, row)

    return place


def _source(plan: Plan, job: Job) -> Job:
    """The data job whose rows these are: cleaning stands between."""
    while not isinstance(job.config, DataJob):
        job = plan.by_name[job.inputs["dataset"].job]
    return job
