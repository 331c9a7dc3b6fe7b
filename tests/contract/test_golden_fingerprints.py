"""A release never rebuilds by accident: the fingerprints of the shipped recipes are committed.

When a change is meant to rebuild (a kind's `version` was raised, a recipe was changed):

    python tests/contract/test_golden_fingerprints.py --update
"""

import json
import sys
from pathlib import Path

import pytest

from pipelines.plan.files import Digests
from pipelines.plan.planner import make_plan
from pipelines.recipe.load import load_recipe
from pipelines.recipe.model import ModelConfig

RECIPES = Path(__file__).parents[2] / "recipes"
GOLDEN = Path(__file__).with_name("fingerprints.json")
OWN_TEXT = ("mine.yaml",)
"""Reads files that come with whoever uses it."""


def fingerprints() -> dict[str, dict[str, str]]:
    found = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        if path.name not in OWN_TEXT:
            recipe = load_recipe(path).recipe
            pins = {item.hub: {"revision": "0" * 40} for item in recipe.data.values() if item.hub}
            plan = make_plan(recipe, path=path, digest=Digests(), pins=pins)
            found[path.name] = {job.name: job.fingerprint for job in plan.jobs}
    return found


def test_the_shipped_recipes_keep_their_fingerprints() -> None:
    assert fingerprints() == json.loads(GOLDEN.read_text()), "see the head of this file"


@pytest.mark.parametrize("feed_forward", ["swiglu", "gelu"])
@pytest.mark.parametrize("hidden_size", [8, 100, 128, 512, 1000])
def test_the_models_own_default_width_is_the_recipes(hidden_size: int, feed_forward: str) -> None:
    from custom_models import DecoderConfig

    fields = {"hidden_size": hidden_size, "num_attention_heads": 2, "feed_forward": feed_forward}
    recipe = ModelConfig(num_hidden_layers=1, **fields)
    assert DecoderConfig(vocab_size=300, **fields).intermediate_size == recipe.default_intermediate_size


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(__doc__)
    GOLDEN.write_text(json.dumps(fingerprints(), indent=1, sort_keys=True) + "\n")
