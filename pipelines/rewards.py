"""Rewards that a recipe may name: pure functions of texts, with TRL's signature.

`f(prompts, completions, **columns) -> scores`: one text per row in `prompts` and `completions`, the other columns of
the prompts' data set as lists of the same length. To add one, write it and give it a row in REWARDS, and its name to
`pipelines/recipe/stages.py: REWARD_FUNCTIONS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.data import microworld


def village_story(
    prompts: Sequence[str],
    completions: Sequence[str],
    person: Sequence[str],
    object: Sequence[str],
    length: Sequence[int],
    **columns: Any,
) -> list[float]:
    """The built-in world's own check of a story: who it is about, whether it follows, how long it is, how it ends."""
    return [microworld.story_reward(*row) for row in zip(completions, person, object, map(int, length), strict=True)]


REWARDS: Mapping[str, Callable[..., Sequence[float]]] = {"village_story": village_story}
