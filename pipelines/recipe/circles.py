"""Stages and datasets that need each other in a circle."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipelines.errors import KeyPath
from pipelines.recipe.base import Consumes, Reads, Section
from pipelines.recipe.decontaminate import Decontaminate
from pipelines.recipe.evaluation import EvaluateStage, TaskConfig
from pipelines.recipe.finetune import FinetuneStage
from pipelines.recipe.kinds import made_by
from pipelines.recipe.outline import Fault, Outline, given
from pipelines.recipe.quality import Classifier, Perplexity
from pipelines.recipe.quality_fits import filters_of
from pipelines.recipe.stages import PretrainStage, TokenizerStage

Node = tuple[str, str]
"""What is made: ("stages", name), ("data", name), or ("clean", name) for a dataset as stages read it."""
Step = tuple[KeyPath, Node]
"""(where it is said, what is needed)"""


def find_circles(outline: Outline) -> Iterator[Fault]:
    """Each circle once, at the first of its stages, or at the filter that needs its own dataset."""
    told: set[Node] = set()
    for name in outline.stages:
        start = ("stages", name)
        trail = None if start in told else _trail_back(start, lambda node: _of_stage(node, outline))
        if trail:
            told.update(node for _, node in trail)
            names = " -> ".join([name, *(other for _, (_, other) in trail)])
            yield Fault(trail[0][0], f"stages need each other in a circle: {names}")
    if told:
        return  # what a dataset needs would go round in it as well
    for name in outline.data:
        start = ("data", name)
        trail = None if start in told else _trail_back(start, lambda node: _of_any(node, outline))
        if trail:
            told.update(node for _, node in trail)
            between = dict.fromkeys(other for _, (_, other) in trail[:-1])
            around = " -> ".join([name, *(other for other in between if other != name), name])
            message = f"the filter needs what is made of the dataset itself: {around}; take other data for one of them"
            yield Fault(trail[0][0], message)


def _trail_back(start: Node, needs: Callable[[Node], Iterable[Step]]) -> list[Step] | None:
    """The steps that lead from something back to it."""
    pending: list[list[Step]] = [[step] for step in needs(start)]
    seen: set[Node] = set()
    while pending:
        trail = pending.pop(0)
        node = trail[-1][1]
        if node == start:
            return trail
        if node not in seen:
            seen.add(node)
            pending += [[*trail, step] for step in needs(node)]
    return None


def _of_any(node: Node, outline: Outline) -> Iterator[Step]:
    """What something needs, stages and datasets."""
    kind, name = node
    if kind == "data":
        yield from _of_data(name, outline)
    elif kind == "clean":
        yield from _of_clean(name, outline)
    else:
        yield from _of_stage(node, outline)
        yield from _read_by(name, outline)


def _of_stage(node: Node, outline: Outline) -> Iterator[Step]:
    """All stages that a stage consumes, if they make what it needs."""
    for path, name in _references(outline.stages[node[1]], outline):
        yield (*node, *path), ("stages", name)


def _references(stage: Section, outline: Outline) -> Iterator[tuple[KeyPath, str]]:
    """(path inside the stage, name)"""
    for field, consumes in type(stage).marked(Consumes):
        value = given(stage, field)
        steps = enumerate(value) if isinstance(value, tuple) else [(None, value)]
        for index, name in steps:
            target = outline.stages.get(name) if isinstance(name, str) else None
            if target is not None and made_by(name, outline) in (*consumes.kinds, None):
                yield (field,) if index is None else (field, index), name
    for index, task in enumerate(given(stage, "tasks") or ()):
        if isinstance(task, TaskConfig):
            yield from ((("tasks", index, *path), name) for path, name in _references(task, outline))


def _read_by(name: str, outline: Outline) -> Iterator[Step]:
    """The datasets of a stage, and the tokenizer that it takes for the only one."""
    stage: Any = outline.stages[name]
    if not (isinstance(stage, TokenizerStage) and given(stage, "source")):
        kind = "data" if isinstance(stage, TokenizerStage) else "clean"
        for section in (stage, *(given(stage, "phases") or ())):
            for field, _ in type(section).marked(Reads):
                value = given(section, field)
                names = [value] if isinstance(value, str) else (value or ())
                yield from ((("stages", name, field), (kind, other)) for other in names if other in outline.data)
    if isinstance(stage, PretrainStage | FinetuneStage) and not given(stage, "model") and not given(stage, "tokenizer"):
        own = [other for other, one in outline.stages.items() if isinstance(one, TokenizerStage)]
        yield from ((("stages", name), ("stages", other)) for other in own if len(own) == 1)


def _of_clean(name: str, outline: Outline) -> Iterator[Step]:
    """The dataset, those that it is compared with, and those whose holdouts are benchmarks that it must not have."""
    dataset = outline.data[name]
    yield ("data", name), ("data", name)
    if given(dataset, "deduplicate"):
        for other, one in outline.data.items():
            if given(one, "deduplicate") and given(one, "format") == given(dataset, "format"):
                yield ("data", name, "deduplicate"), ("data", other)
    asked = given(dataset, "decontaminate")
    if isinstance(asked, Decontaminate) and given(asked, "action") == "drop":
        for stage in outline.stages.values():
            for task in (given(stage, "tasks") or ()) if isinstance(stage, EvaluateStage) else ():
                if isinstance(task, TaskConfig) and (other := given(task, "data")) in outline.data:
                    yield ("data", name, "decontaminate"), ("data", str(other))


def _of_data(name: str, outline: Outline) -> Iterator[Step]:
    """What its filters take from elsewhere."""
    for where, item in filters_of(name, outline.data[name]):
        if isinstance(item, Perplexity) and given(item, "reference") in outline.data:
            yield (*where, "reference"), ("data", item.reference)
        elif isinstance(item, Classifier):
            yield from (((*where, *path), ("stages", stage)) for path, stage in _references(item, outline))
