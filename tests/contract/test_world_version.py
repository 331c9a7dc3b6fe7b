"""What the built-in world says belongs to its version: artifacts of another version are made again.

When this test fails because the world was changed on purpose, raise `pipelines.recipe.data.MICROWORLD_VERSION` and
write the new digests here. A track that is added changes no artifact there is, so it keeps the version: it gets a
digest of its own in ADDED, under the version of the track (`TRACK_VERSIONS` where only that track has changed).
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pipelines.data import microworld
from pipelines.data.tokens import SPLITS
from pipelines.recipe.data import MICROWORLD_VERSION, TRACK_VERSIONS
from pipelines.rewards import village_story

DIGESTS = {1: "02fd2165f50d9f5c3445cfab88ed15fb357004b73fcf8bf7b0476be3b539f127"}
FIRST = ("text", "chat", "preferences", "prompts")
"""Tracks of the digest above."""
ADDED = {
    ("web", 2): "df1bd14433aa917f210f9433b10d96e9d224f5f7bdd489f4f1aa9037c2b3efbe",
    ("reviews", 1): "da2fd683401f77736107bde5631d1d5ae341570517d27e69dea0d77bf46747d5",
    ("sentiment", 2): "c6296b028899b6caf68ccac617c32c99a98bc190d9b17c0e35c03532d6384ff7",
    ("translation", 1): "3fd41aef6b9bd4df5de3d645bc480cb6dd906f0eabbfb5a2d01bf73ea12c6958",
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
    added = {
        (name, TRACK_VERSIONS.get(f"microworld/{name}", MICROWORLD_VERSION)): digest(rows_and_sizes([name]))
        for name in microworld.TRACKS
        if name not in FIRST
    }
    assert added == ADDED, "see the head of this file"
