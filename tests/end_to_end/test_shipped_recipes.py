"""The shipped recipes: each is right, and a shrunk twin of each goes through all its stages."""

import json
import math
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.recipe.evaluation import TASKS, EvaluateStage
from pipelines.recipe.load import load_recipe
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.root import Recipe
from pipelines.recipe.stages import PpoStage, TokenizerStage
from pipelines.recipe.training import TrainStage

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(path.name for path in RECIPES.glob("*.yaml"))
WORLD = {
    "text": "text",
    "chat": "chat",
    "preference": "preferences",
    "prompt": "prompts",
    "labelled": "sentiment",
    "pairs": "translation",
}
"""Format -> track of the built-in world."""


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mine.yaml"])  # which has yet to get its text
def test_a_shipped_recipe_is_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(RECIPES / name)]) == 0
    assert capsys.readouterr().out.endswith("no problems\n")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mine.yaml"])
def test_a_shipped_recipe_is_planned(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(RECIPES / name), "--store", str(tmp_path)]) == 0
    assert "Plan: 0 cached" in capsys.readouterr().out


def shrunk(recipe: Recipe) -> dict[str, str]:
    """What is set to make it small: other data, widths and lengths; the same stages, blocks and objectives."""
    found = {"name": "twin", "launch": "cpu"}
    others = iter(("text", "web"))  # datasets that are compared with each other are not one and the same
    for name, dataset in recipe.data.items():
        if dataset.builtin:
            found[f"data.{name}.limit"] = "150"
            continue
        is_compared = dataset.deduplicate and dataset.format == "text"
        track = next(others) if is_compared else WORLD[dataset.format]
        cleaning = ", deduplicate: true" if dataset.deduplicate else ""
        cleaning += f", decontaminate: {dataset.decontaminate.action}" if dataset.decontaminate else ""
        found[f"data.{name}"] = f"{{builtin: microworld/{track}, limit: 150{cleaning}}}"
    assert isinstance(recipe.model, ModelConfig)
    layers = len(recipe.model.layer_types or ()) or 2
    sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "max_position_embeddings": 256}
    sizes |= {"num_key_value_heads": 1} if recipe.model.num_key_value_heads else {}
    sizes |= {"moe_intermediate_size" if recipe.model.num_experts else "intermediate_size": 32}
    sizes |= {"sliding_window": 32} if recipe.model.sliding_window else {}
    found |= {f"model.{field}": str(value) for field, value in sizes.items()}
    for name, stage in recipe.stages.items():
        small: dict[str, object] = {}
        if isinstance(stage, TokenizerStage):
            small = {"vocab_size": 420}
        elif isinstance(stage, EvaluateStage):
            small = {"tasks": _few(stage)}
        elif isinstance(stage, TrainStage):
            small = {"global_batch_size": 4, "max_length": 256, "duration": "3 steps", "mixed_precision": "no"}
            small |= {"warmup_steps": 1}
            small |= {"length_warmup": "{start: 16, until: 50%}"} if getattr(stage, "length_warmup", None) else {}
            small |= {"eval_steps": 2} if getattr(stage, "eval_steps", None) else {}
        if isinstance(stage, PpoStage):
            small |= {"duration": "1 rollouts", "rollout_batch_size": 8, "max_completion_length": 8}
        found |= {f"stages.{name}.{field}": str(value) for field, value in small.items()}
    return found


def _few(stage: EvaluateStage) -> str:
    """The same tasks on a few rows; benchmarks of the Hub are stood in for by one of the world's."""
    few = []
    for task in stage.tasks:
        fields = task.model_dump(mode="json", exclude_defaults=True) | {"limit": 6}
        if task.name not in TASKS:
            fields = {"name": "microworld/comprehension", "limit": 6}
        if task.name in ("reward", "seq2seq"):
            fields["max_completion_length"] = 8
        if fields not in few:
            few.append(fields)
    return json.dumps(few)


@pytest.mark.parametrize("name", NAMES)
def test_a_shrunk_twin_goes_through_all_stages(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = RECIPES / name
    text = ["data.text={builtin: microworld/text}"] if name == "mine.yaml" else []
    recipe = load_recipe(path, text).recipe
    settings = [*text, *(f"{key}={value}" for key, value in shrunk(recipe).items())]
    twin = load_recipe(path, settings).recipe
    same = [(stage, config.kind, getattr(config, "objective", None)) for stage, config in recipe.stages.items()]
    assert [(s, config.kind, getattr(config, "objective", None)) for s, config in twin.stages.items()] == same
    assert isinstance(twin.model, ModelConfig) and isinstance(recipe.model, ModelConfig)
    assert (twin.model.architecture, twin.model.style) == (recipe.model.architecture, recipe.model.style)
    monkeypatch.chdir(tmp_path)
    flags = [part for setting in settings for part in ("--set", setting)]
    assert main(["run", str(path), *flags, "--store", "store"]) == 0
    report = json.loads((tmp_path / "runs/twin/report.json").read_text())
    assert {stage["name"] for stage in report["stages"]} >= {
        stage for stage, config in recipe.stages.items() if config.kind != "evaluate"
    }
    scored = {score["stage"] for score in report["scores"]}
    assert scored == {
        str(model) for config in recipe.stages.values() if isinstance(config, EvaluateStage) for model in config.models
    }
    assert all(math.isfinite(score["value"]) for score in report["scores"])
