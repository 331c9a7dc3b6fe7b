"""What the built-in world says belongs to its version: artifacts of another version are made again.

When this test fails because the world was changed on purpose, raise `pipelines.recipe.data.MICROWORLD_VERSION` and
write the new digests here. A track that is added changes no artifact there is, so it keeps the version: it gets a
digest of its own in ADDED.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pipelines.data import microworld
from pipelines.data.tokens import SPLITS
from pipelines.recipe.data import MICROWORLD_VERSION
from pipelines.rewards import village_story

DIGESTS = {1: "02fd2165f50d9f5c3445cfab88ed15fb357004b73fcf8bf7b0476be3b539f127"}
FIRST = ("text", "chat", "preferences", "prompts")
"""Tracks of the digest above."""
ADDED = {
    1: {
        "sentiment": "f4e4bf69b02b5b06efacddf8936b5bb7063436f9dce71c872b42b4dde9500c7c",
        "translation": "3fd41aef6b9bd4df5de3d645bc480cb6dd906f0eabbfb5a2d01bf73ea12c6958",
    }
}
SAMPLE = 60


def rows_and_sizes(names: Sequence[str]) -> tuple[list[Any], list[Any]]:
    rows = [[*microworld.generate(name, split, SAMPLE)] for name in names for split in SPLITS]
    return rows, [[microworld.TRACKS[name].train, microworld.TRACKS[name].holdout] for name in names]


def sample() -> list[Any]:
    """Some of all that is read from the world: rows, questions and rewards."""
    tracks, sizes = rows_and_sizes(FIRST)
    items = [microworld.task_items(name, SAMPLE) for name in microworld.TASKS] + [microworld.chat_items(SAMPLE)]
    pairs = [*microworld.generate("preferences", "holdout", SAMPLE)]
    wishes = [[pair[key] for pair in pairs] for key in ("prompt", "person", "object", "length")]
    rewards = [village_story(wishes[0], [pair[side] for pair in pairs], *wishes[1:]) for side in ("chosen", "rejected")]
    return [tracks, sizes, items, rewards]


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def test_the_world_says_what_its_version_says() -> None:
    assert digest(sample()) == DIGESTS[MICROWORLD_VERSION], "see the head of this file"


def test_added_tracks_say_what_their_version_says() -> None:
    added = {name: digest(rows_and_sizes([name])) for name in microworld.TRACKS if name not in FIRST}
    assert added == ADDED[MICROWORLD_VERSION], "see the head of this file"
