"""Who uses what in a recipe: datasets that are compared, and models and tokenizers made elsewhere."""

from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.plan.derived import Source
from pipelines.recipe.base import ArtifactKind, OutsideModel, Reads, Section
from pipelines.recipe.kinds import starts_from
from pipelines.recipe.root import Recipe
from pipelines.recipe.stages import TokenizerStage
from pipelines.recipe.tokenizer import Reference


def compared_with(recipe: Recipe, name: str) -> tuple[list[str], list[str]]:
    """The datasets above and below one in the recipe that are deduplicated with it: used by a stage, and of its
    format. An unused one costs nothing and takes nothing away."""
    format, used = recipe.data[name].format, {name, *_used(recipe.stages.values())}
    among = [
        other
        for other, dataset in recipe.data.items()
        if dataset.deduplicate and dataset.format == format and other in used
    ]
    place = among.index(name)
    return among[:place], among[place + 1 :]


def _used(sections: Iterable[Any]) -> Iterator[str]:
    """Names of datasets that sections read, at every depth."""
    for section in sections:
        if not isinstance(section, Section):
            continue
        for field, _ in section.marked(Reads):
            value = getattr(section, field)
            yield from [value] if isinstance(value, str) else (value or ())
        for field in type(section).model_fields:
            value = getattr(section, field)
            yield from _used(value if isinstance(value, tuple) else (value,))


def outside_tokenizers(recipe: Recipe) -> Iterator[tuple[str, Reference]]:
    """(stage, tokenizer made elsewhere that it takes over or is compared with)"""
    for name, stage in recipe.stages.items():
        if isinstance(stage, TokenizerStage):
            yield from ((name, reference) for reference in (stage.source, *stage.compare) if reference is not None)


def outside_models(recipe: Recipe) -> Iterator[OutsideModel]:
    """The models made elsewhere that a recipe starts from or scores."""
    for name in recipe.stages:
        yield from (model for model in _sources(recipe, name) if isinstance(model, OutsideModel))


def first_user(recipe: Recipe, model: OutsideModel) -> str:
    """The first stage that names a model made elsewhere."""
    return next(name for name in recipe.stages if model in _sources(recipe, name))


def uses_of(recipe: Recipe, model: OutsideModel) -> dict[str, tuple[ArtifactKind, ...]]:
    """The stages that start from a model made elsewhere, and what each of them can start from."""
    return {name: starts_from(stage) for name, stage in recipe.stages.items() if model in _sources(recipe, name)}


def starts_outside(recipe: Recipe, name: Source | None) -> bool:
    """Whether the weights of a stage come from a model made elsewhere."""
    while isinstance(name, str):
        name = getattr(recipe.stages[name], "model", None)
    return name is not None


def _sources(recipe: Recipe, name: str) -> tuple[Source | None, ...]:
    stage = recipe.stages[name]
    return getattr(stage, "models", None) or (getattr(stage, "model", None),)
