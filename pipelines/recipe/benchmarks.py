"""What datasets with `decontaminate` need of the rest of a recipe: benchmarks with questions to look for."""

from collections.abc import Iterator
from typing import Any

from pipelines.recipe.evaluation import EvaluateStage, TaskConfig
from pipelines.recipe.outline import UNKNOWN, Fault, Outline, given

WORDLESS = ("embeddings",)
"""Tasks that ask about single words: there is no question to be found."""


def find_missing_benchmarks(outline: Outline) -> Iterator[Fault]:
    """At each dataset that looks for questions where the recipe asks none."""
    looking = [name for name, dataset in outline.data.items() if given(dataset, "decontaminate") not in (None, UNKNOWN)]
    stages = [stage for stage in outline.stages.values() if isinstance(stage, EvaluateStage)]
    tasks: list[Any] = [task for stage in stages for task in _tasks(stage)]
    names = [given(task, "name") if isinstance(task, TaskConfig) else UNKNOWN for task in tasks]
    if set(outline.stage_names) > set(outline.stages) or any(name not in WORDLESS for name in names):
        return
    asks = "asks only about single words" if names else "evaluates nothing"
    for name in looking:
        message = f"this recipe {asks}, so there is no question to look for; add an evaluate stage with benchmarks"
        yield Fault(("data", name, "decontaminate"), message)


def _tasks(stage: EvaluateStage) -> tuple[Any, ...]:
    tasks = given(stage, "tasks")
    return tasks if isinstance(tasks, tuple) else (UNKNOWN,)
