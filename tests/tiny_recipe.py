"""A recipe of local files that tests write, change and plan."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.plan.files import Digests
from pipelines.plan.jobs import Plan
from pipelines.plan.planner import make_plan
from pipelines.recipe.load import load_recipe

TEXT = "The miller went to the well.\n\nAnna baked bread for the smith.\n\nThe smith thanked her.\n"


def chain() -> dict[str, Any]:
    """Every kind of stage, as small as it can be written."""
    train = {"global_batch_size": 8, "learning_rate": 0.001}
    return {
        "name": "tiny",
        "seed": 3,
        "data": {
            "tales": {"files": "tales.txt", "separator": "blank_line", "holdout": 0.1},
            "more": {"files": "more.txt", "separator": "blank_line", "holdout": 0},
            "chats": {"builtin": "microworld/chat"},
            "pairs": {"builtin": "microworld/preferences"},
            "asks": {"builtin": "microworld/prompts"},
        },
        "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 128},
        "stages": {
            "tokenizer": {"vocab_size": 300, "data": {"tales": 0.6, "more": 0.4}},
            "pretrain": {"data": {"tales": 0.5, "more": 0.5}, "duration": "4 steps", **train},
            "sft": {"model": "pretrain", "data": "chats", "duration": "4 steps", **train},
            "reward": {"model": "sft", "data": "pairs", "duration": "4 steps", **train},
            "dpo": {"model": "sft", "data": "pairs", "duration": "4 steps", **train},
            "ppo": {
                "model": "sft",
                "data": "asks",
                "reward_funcs": "reward",
                "duration": "2 rollouts",
                "rollout_batch_size": 8,
                "max_completion_length": 8,
                **train,
            },
            "evaluate": {
                "models": ["pretrain", "sft", "ppo"],
                "tasks": [
                    {"name": "bits_per_byte", "data": "tales"},
                    {"name": "reward", "data": "asks", "reward_funcs": "reward"},
                ],
            },
        },
    }


def only_data() -> dict[str, Any]:
    """One dataset of local text, and nothing that needs torch."""
    recipe = chain()
    recipe["data"] = {"tales": recipe["data"]["tales"]}
    recipe["stages"] = {"tokenizer": {"vocab_size": 300, "data": "tales"}}
    return recipe


def write(folder: Path, recipe: Mapping[str, Any], name: str = "tiny.yaml") -> Path:
    """The recipe as a file, with the text files that it reads beside it."""
    for file in ("tales.txt", "more.txt"):
        if not (folder / file).exists():
            (folder / file).write_text(TEXT if file == "tales.txt" else TEXT.replace("Anna", "Berta"))
    path = folder / name
    with path.open("w") as file:
        YAML().dump(dict(recipe), file)
    return path


def planned(folder: Path, recipe: Mapping[str, Any], overrides: Sequence[str] = ()) -> Plan:
    """The plan of a recipe written into a folder."""
    loaded = load_recipe(write(folder, recipe), overrides)
    return make_plan(loaded.recipe, path=loaded.path, digest=Digests(), pins={}, position=loaded.place)


def fingerprints(plan: Plan) -> dict[str, str]:
    return {job.name: job.fingerprint for job in plan.jobs}
