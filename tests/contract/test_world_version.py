"""What the built-in world says belongs to its version: artifacts of another version are made again.

When this test fails because the world was changed on purpose, raise `pipelines.recipe.data.MICROWORLD_VERSION` and
write the new digest here.
"""

import hashlib
import json
from typing import Any

from pipelines.data import microworld
from pipelines.recipe.data import MICROWORLD_VERSION
from pipelines.rewards import village_story

DIGESTS = {1: "02fd2165f50d9f5c3445cfab88ed15fb357004b73fcf8bf7b0476be3b539f127"}
SAMPLE = 60


def sample() -> list[Any]:
    """Some of all that is read from the world: rows, questions and rewards."""
    tracks = [
        [*microworld.generate(name, split, SAMPLE)] for name in microworld.TRACKS for split in ("train", "holdout")
    ]
    sizes = [[track.train, track.holdout] for track in microworld.TRACKS.values()]
    items = [microworld.task_items(name, SAMPLE) for name in microworld.TASKS] + [microworld.chat_items(SAMPLE)]
    pairs = [*microworld.generate("preferences", "holdout", SAMPLE)]
    wishes = [[pair[key] for pair in pairs] for key in ("prompt", "person", "object", "length")]
    rewards = [village_story(wishes[0], [pair[side] for pair in pairs], *wishes[1:]) for side in ("chosen", "rejected")]
    return [tracks, sizes, items, rewards]


def test_the_world_says_what_its_version_says() -> None:
    digest = hashlib.sha256(json.dumps(sample(), sort_keys=True).encode()).hexdigest()
    assert digest == DIGESTS[MICROWORLD_VERSION], "see the head of this file"
