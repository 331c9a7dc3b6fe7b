"""What a recipe implies without naming it a stage: its data, their tokens, and models made elsewhere."""

from collections.abc import Iterator
from typing import Literal

from pipelines.recipe.base import ArtifactKind, OutsideModel
from pipelines.recipe.data import Dataset, Format
from pipelines.recipe.root import Recipe
from pipelines.recipe.stages import StageConfig

Source = str | OutsideModel
"""What a stage may start from: a stage's name, or a model made elsewhere."""


class DataJob(StageConfig):
    """Derived from an entry of `data`: fetch, parse, account for every row, split off the holdout."""

    produces = ArtifactKind.DATASET
    kind: Literal["data"] = "data"
    dataset: Dataset


class TokensJob(StageConfig):
    """Derived from a (dataset, tokenizer) pair: ids with document boundaries, not packed."""

    produces = ArtifactKind.TOKENS
    kind: Literal["tokens"] = "tokens"
    format: Format


class ModelJob(StageConfig):
    """Derived from a model made elsewhere: its weights in our blocks, with its tokenizer."""

    produces = ArtifactKind.CAUSAL_LM
    kind: Literal["model"] = "model"
    model: OutsideModel


def outside_models(recipe: Recipe) -> Iterator[OutsideModel]:
    """The models made elsewhere that a recipe starts from or scores."""
    for name in recipe.stages:
        yield from (model for model in _sources(recipe, name) if isinstance(model, OutsideModel))


def first_user(recipe: Recipe, model: OutsideModel) -> str:
    """The first stage that names a model made elsewhere."""
    return next(name for name in recipe.stages if model in _sources(recipe, name))


def starts_outside(recipe: Recipe, name: Source | None) -> bool:
    """Whether the weights of a stage come from a model made elsewhere."""
    while isinstance(name, str):
        name = getattr(recipe.stages[name], "model", None)
    return name is not None


def _sources(recipe: Recipe, name: str) -> tuple[Source | None, ...]:
    stage = recipe.stages[name]
    return getattr(stage, "models", None) or (getattr(stage, "model", None),)
