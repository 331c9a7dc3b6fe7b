"""As much of a recipe as could be understood, so that a fault in one place hides none elsewhere."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, ValidationError

from pipelines.errors import KeyPath
from pipelines.recipe.base import ArtifactKind, OutsideModel, Reads, Section
from pipelines.recipe.data import BUILTIN, Dataset
from pipelines.recipe.launch import Launch
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.outside import kind_of, positions_of
from pipelines.recipe.own_model import OwnModel
from pipelines.recipe.root import Recipe
from pipelines.recipe.sections import STAGES, model_section, sections_in
from pipelines.recipe.training import StageConfig
from pipelines.recipe.tree import Node


@dataclass(frozen=True)
class Outline:
    """The four chapters. A section with faults lacks the fields that are no good: ask with `given`."""

    data: dict[str, Dataset] = field(default_factory=dict)
    model: ModelConfig | OwnModel | None = None
    stages: dict[str, StageConfig] = field(default_factory=dict)
    launch: Launch | None = None
    has_model: bool = False
    """Whether there is a chapter `model` at all, understood or not."""
    dataset_names: tuple[str, ...] | None = ()
    """Every name in the file, understood or not; None where there is no chapter `data` to look into."""
    stage_names: tuple[str, ...] = ()
    """Every name in the file, understood or not."""
    folder: Path | None = None
    """Where the recipe lies, from which folders of models are looked for."""

    def kind_of(self, model: OutsideModel) -> ArtifactKind | None:
        """What a model made elsewhere is, where its folder is here and says it."""
        path = given(model, "path")
        return kind_of(self.folder / path) if self.folder is not None and path else None

    def positions_of(self, model: OutsideModel) -> int | None:
        """Most tokens of a row that a model made elsewhere reads, where its folder is here and says it."""
        path = given(model, "path")
        return positions_of(self.folder / path) if self.folder is not None and path else None


@dataclass(frozen=True)
class Fault:
    """Something that does not fit, and at which key."""

    path: KeyPath
    message: str
    at_key: bool = False
    """Whether the key itself is at fault rather than its value."""


class _Unknown:
    """The value of a field that is missing or no good: equal to nothing, and false."""

    def __bool__(self) -> bool:
        return False


UNKNOWN = _Unknown()


def given(section: Section | None, name: str) -> Any:
    """A field's value, or UNKNOWN."""
    return UNKNOWN if section is None else section.__dict__.get(name, UNKNOWN)


def outline_of(tree: Node, stage_names: tuple[str, ...], broken: set[KeyPath]) -> Outline:
    """Build every section from its good fields."""

    def part(cls: type[Section], *path: str) -> Any:
        return _section(cls, tree, path, broken)

    def names(chapter: str) -> tuple[str, ...]:
        node = tree.child(chapter)
        return tuple(str(name) for name, _ in node.children()) if node and isinstance(node.value, dict) else ()

    kinds = {name: tree.nearest(("stages", name, "kind"))[0].value for name in names("stages")}
    data, model = tree.child("data"), tree.child("model")
    launch = part(Launch, "launch") if tree.child("launch") else Launch(stages={})
    return Outline(
        data={name: built for name in names("data") if (built := part(Dataset, "data", name))},
        model=part(model_section(tree), "model"),
        stages={n: built for n, kind in kinds.items() if (built := part(STAGES[str(kind)], "stages", n))},
        launch=launch,
        has_model=model is not None and (model.value is not None or model.refused),
        dataset_names=names("data") if data is not None and isinstance(data.value, dict) else None,
        stage_names=stage_names,
    )


def outline_of_whole(recipe: Recipe) -> Outline:
    """Everything was understood."""
    return Outline(
        data=recipe.data,
        model=recipe.model,
        stages=dict(recipe.stages),
        launch=recipe.launch,
        has_model=recipe.model is not None,
        dataset_names=tuple(recipe.data),
        stage_names=tuple(recipe.stages),
    )


def _section(cls: type[Section], tree: Node, path: KeyPath, broken: set[KeyPath]) -> Section | None:
    node, reached = tree.nearest(path)
    if reached != path:
        return None
    values = node.plain()
    if not any(bad[: len(path)] == path for bad in broken):
        try:
            return cls.model_validate(values)
        except ValidationError:
            return None
    if not isinstance(values, dict):
        return None
    bad = {fault[len(path)] for fault in broken if len(fault) > len(path) and fault[: len(path)] == path}
    good = {name: _value(cls, name, values[name]) for name in cls.model_fields if name in values and name not in bad}
    nested = {name: _nested(cls, tree, (*path, name), broken) for name in bad if name in cls.model_fields}
    # Shares that do not sum to one still name datasets.
    shares = {name: values[name] for name, _ in cls.marked(Reads) if isinstance(values.get(name), dict)}
    mixed = {name: dict.fromkeys(names, 1.0) for name, names in shares.items() if name in bad}
    found = good | nested | mixed
    built = cls.model_construct(**{name: value for name, value in found.items() if value is not UNKNOWN})
    for name in bad | set(good):
        if found.get(name, UNKNOWN) is UNKNOWN:
            built.__dict__.pop(str(name), None)
    if cls is Dataset and "builtin" in values:
        built.__dict__.pop("format", None)
        if isinstance(values["builtin"], str) and values["builtin"] in BUILTIN:
            built.__dict__["format"] = BUILTIN[values["builtin"]]
    return built


def _value(cls: type[Section], name: str, value: Any) -> Any:
    try:
        return _validator(cls, name).validate_python(value)
    except ValidationError:
        return UNKNOWN


@cache
def _validator(cls: type[Section], name: str) -> Any:
    """Of one field alone, as the section would check it."""
    from pydantic import TypeAdapter  # a good recipe needs none of this

    info = cls.model_fields[name]
    kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    return TypeAdapter(kind, config=None if list(sections_in(info.annotation)) else ConfigDict(strict=True))


def _nested(cls: type[Section], tree: Node, path: KeyPath, broken: set[KeyPath]) -> Any:
    """A list of sections (the tasks of evaluate), or a mapping of them, of which some are no good."""
    node, reached = tree.nearest(path)
    inside = list(sections_in(cls.model_fields[str(path[-1])].annotation))
    if reached != path or not inside or path in broken:
        return UNKNOWN
    items = {key: _section(inside[0], tree, (*path, key), broken) for key, _ in node.children()}
    if isinstance(node.value, dict):
        return {key: item for key, item in items.items() if item is not None}
    return tuple(items.values()) if isinstance(node.value, list) else UNKNOWN
