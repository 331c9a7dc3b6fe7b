"""The recipe as a whole: its four chapters."""

from pipelines.recipe.base import Name, Section
from pipelines.recipe.data import Dataset
from pipelines.recipe.launch import Launch
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.stages import AnyStage


class Recipe(Section):
    """One experiment, from raw text to scores. Everything outside `launch` decides the result."""

    name: Name
    """Names the folder runs/<name>."""
    seed: int = 0
    """Every random number of the run follows from it."""
    data: dict[Name, Dataset]
    """Chapter 1: named datasets."""
    model: ModelConfig | None = None
    """Chapter 2: the transformer, from building blocks."""
    stages: dict[Name, AnyStage]
    """Chapter 3: what is done, in any order; a stage's kind is its name unless `kind` or `like` says otherwise."""
    launch: Launch = Launch(stages={})
    """Chapter 4: where and how wide; decides nothing of the result."""
