"""Which section a key path of a recipe lies in, and where a field of a given name is at home."""

from collections.abc import Iterator
from typing import Any, get_args

from pipelines.errors import KeyPath
from pipelines.recipe.base import Section
from pipelines.recipe.data import Dataset
from pipelines.recipe.evaluation import TaskConfig
from pipelines.recipe.launch import Launch, StageLaunch
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.own_model import OwnModel
from pipelines.recipe.quality import Filter, Quality
from pipelines.recipe.root import Recipe
from pipelines.recipe.stages import STAGE_KINDS, AnyStage
from pipelines.recipe.tree import Node

STAGES: dict[str, type[Section]] = {
    get_args(cls.model_fields["kind"].annotation)[0]: cls for cls in get_args(get_args(AnyStage)[0])
}
"""Kind -> its section."""
FILTERS: dict[str, type[Section]] = {
    get_args(cls.model_fields["kind"].annotation)[0]: cls for cls in get_args(get_args(Filter)[0])
}
"""The same of quality filters."""


def section_at(path: KeyPath, tree: Node) -> type[Section] | None:
    """The section whose fields stand directly below a path; None where names are free or nothing is known."""
    section: type[Section] | None = Recipe
    rest = list(path)
    while rest and section is not None:
        field = rest.pop(0)
        if (section, field) == (Recipe, "stages"):
            section = _stage_at(path, tree) if rest else None
            rest = rest[1:]
            continue
        if section is Quality and isinstance(field, int):  # the list of filters may stand there itself
            field, rest = "filters", [field, *rest]
        kind = section.model_fields[str(field)].annotation if field in section.model_fields else None
        inside = list(sections_in(kind))
        if (section, field) == (Recipe, "model"):
            inside = [model_section(tree)]
        if inside and _is_collection(kind):
            if not rest:
                return None
            rest.pop(0)
        if len(inside) > 1:
            inside = [one for one in inside if one is FILTERS.get(str(_kind_in(path[: len(path) - len(rest)], tree)))]
        section = inside[0] if inside else None
    return section


def _kind_in(path: KeyPath, tree: Node) -> Any:
    """The kind that stands at a path, in a block or alone."""
    node, reached = tree.nearest(path)
    kind = node.child("kind") if reached == path and isinstance(node.value, dict) else node
    return kind.value if kind is not None else None


def model_section(tree: Node) -> type[Section]:
    """Of chapter `model`, which has two ways to write it."""
    model = tree.child("model")
    return OwnModel if model is not None and model.child("python") is not None else ModelConfig


def sections_in(annotation: Any) -> Iterator[type[Section]]:
    """The section classes that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from sections_in(part)


def homes(field: str, tree: Node) -> list[str]:
    """Where a field of this name belongs, the stages of this recipe by their names."""
    found = ["at the top level"] if field in (*Recipe.model_fields, "extends") else []
    found += ["in a dataset of data"] if field in Dataset.model_fields else []
    found += ["in model"] if field in ModelConfig.model_fields else []
    found += _stage_homes(field, tree)
    found += ["in an item of tasks"] if field in TaskConfig.model_fields and field != "name" else []
    launch = field in Launch.model_fields or field in StageLaunch.model_fields
    return found + (["in launch"] if launch and field != "stages" else [])


def _stage_homes(field: str, tree: Node) -> list[str]:
    if field in STAGE_KINDS:
        return ["under stages"]
    kinds = [kind for kind, section in STAGES.items() if field in section.model_fields]
    stages = tree.child("stages")
    here = [name for name, stage in stages.children()] if stages is not None else []
    named = [name for name in here if _kind_of(stages, name) in kinds]
    if len(named) > 3:
        return [f"in a stage such as stages.{named[0]}"]
    return [f"under stages.{name}" for name in named] or [f"in a stage of kind {kind}" for kind in kinds[:1]]


def _stage_at(path: KeyPath, tree: Node) -> type[Section] | None:
    return STAGES.get(str(_kind_of(tree.child("stages"), path[1])))


def _kind_of(stages: Node | None, name: str | int) -> Any:
    stage = stages.child(name) if stages is not None else None
    kind = stage.child("kind") if stage is not None else None
    return kind.value if kind is not None else None


def _is_collection(annotation: Any) -> bool:
    """Whether one more key (a name or an index) stands between a field and the section in it."""
    origin = getattr(annotation, "__origin__", None)
    if origin in (dict, tuple):
        return True
    return any(_is_collection(part) for part in get_args(annotation))
