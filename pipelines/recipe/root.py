"""The recipe as a whole: its four chapters."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from pipelines.recipe.base import Name, Section
from pipelines.recipe.data import Dataset
from pipelines.recipe.launch import Launch
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.own_model import OwnModel
from pipelines.recipe.stages import AnyStage

BLOCKS, OWN = "blocks", "own"


def _which_model(value: Any) -> str:
    is_own = isinstance(value, OwnModel) or (isinstance(value, dict) and "python" in value)
    return OWN if is_own else BLOCKS


AnyModel = Annotated[Annotated[ModelConfig, Tag(BLOCKS)] | Annotated[OwnModel, Tag(OWN)], Discriminator(_which_model)]
"""From building blocks, or a file of one's own."""


class Recipe(Section):
    """One experiment, from raw text to scores. Everything outside `launch` decides the result."""

    name: Name
    """Names the folder runs/<name>."""
    seed: int = 0
    """Every random number of the run follows from it."""
    data: dict[Name, Dataset]
    """Chapter 1: named datasets."""
    model: AnyModel | None = None
    """Chapter 2: the transformer, from building blocks, or a file of your own (`python`, `class`)."""
    stages: dict[Name, AnyStage]
    """Chapter 3: what is done, in any order; a stage's kind is its name unless `kind` or `like` says otherwise."""
    launch: Launch = Launch(stages={})
    """Chapter 4: where and how wide; decides nothing of the result."""
