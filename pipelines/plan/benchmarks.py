"""What all evaluate stages of a recipe ask: the input of decontamination."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.plan.derived import AskedTask, BenchmarksJob
from pipelines.plan.jobs import Input, Job
from pipelines.recipe.data import MICROWORLD_VERSION
from pipelines.recipe.evaluation import TASKS, EvaluateStage, TaskConfig
from pipelines.recipe.root import Recipe
from pipelines.recipe.task_files import find_task
from pipelines.recipe.word_files import word_files


@dataclass
class Asked:
    """Tasks with what decides their questions, as a Job holds it."""

    stage: str
    """The first evaluate stage."""
    tasks: list[AskedTask] = field(default_factory=list)
    inputs: dict[str, Input] = field(default_factory=dict)
    """`task.<i>.data`: the data artifact whose holdout is asked."""
    files: dict[str, str] = field(default_factory=dict)
    named_files: dict[str, str] = field(default_factory=dict)
    world: int | None = None

    @property
    def config(self) -> BenchmarksJob:
        return BenchmarksJob(tasks=tuple(self.tasks))


def asked_by(recipe: Recipe, path: Path, digest: Callable[[Path], str], data: Callable[[str], Job]) -> Asked:
    """Each task once, however often and of whichever models it is asked. `path`: of the recipe; `data`: the job of a
    dataset."""
    stage = next(name for name, config in recipe.stages.items() if isinstance(config, EvaluateStage))
    asked, found = Asked(stage), dict[str, tuple[AskedTask, Job | None, dict[str, str]]]()
    for task in _tasks(recipe):
        named = {name: str(file) for name, file in _named(task, path) if file.is_file()}
        source = data(task.data) if task.data else None
        digests = {name: digest(Path(file)) for name, file in named.items()}
        key = repr((task.name, task.limit or 0, source.fingerprint if source else "", sorted(digests.items())))
        found.setdefault(key, (AskedTask(name=task.name, limit=task.limit, data=task.data), source, named))
    for index, (_, (one, source, named)) in enumerate(sorted(found.items(), key=lambda item: item[0])):
        asked.tasks.append(one)
        if source:
            asked.inputs[f"task.{index}.data"] = Input(job=source.name, fingerprint=source.fingerprint)
        asked.named_files |= {f"task.{index}.{name}": file for name, file in named.items()}
        asked.files |= {file: digest(Path(file)) for file in named.values()}
        if one.name not in TASKS and (local := find_task(one.name, path)):
            asked.files |= {str(file): digest(file) for file in local.files}
            if "builtin" in local.values:
                asked.world = MICROWORLD_VERSION
    return asked


def _tasks(recipe: Recipe) -> Iterator[TaskConfig]:
    for stage in recipe.stages.values():
        if isinstance(stage, EvaluateStage):
            yield from stage.tasks


def _named(task: TaskConfig, recipe: Path) -> Iterator[tuple[str, Path]]:
    """Files that a task itself names; one that is missing is told where it is scored."""
    if task.file is not None:
        yield "file", recipe.resolve().parent / task.file
    yield from word_files(task.pairs, task.analogies, recipe).items()
