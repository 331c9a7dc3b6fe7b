"""Labels and pairs from the built-in world to the report, by each architecture, as a user starts them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

pytestmark = pytest.mark.slow

TRAIN = {"kind": "finetune", "duration": "12 steps", "global_batch_size": 8, "learning_rate": 3e-3}
LABELS = {**TRAIN, "task": "classification", "data": "reviews", "eval_steps": 5, "class_weights": "balanced"}
PAIRS = {**TRAIN, "task": "seq2seq", "data": "sentences", "label_smoothing_factor": 0.1}
CLASSIFICATION = {"name": "classification", "data": "reviews", "limit": 20}
SEQ2SEQ = {"name": "seq2seq", "data": "sentences", "limit": 6, "max_completion_length": 16}
STAGES: dict[str, dict[str, Any]] = {
    "encoder": {
        "labels": {**LABELS, "model": None},
        "evaluate": {"models": "labels", "tasks": [CLASSIFICATION]},
    },
    "decoder": {
        "pairs": {**PAIRS, "model": None},
        "labels": {**LABELS, "model": "pairs"},
        "evaluate_labels": {"kind": "evaluate", "models": "labels", "tasks": [CLASSIFICATION]},
        "evaluate_pairs": {"kind": "evaluate", "models": "pairs", "tasks": [SEQ2SEQ]},
    },
    "encoder_decoder": {
        "pairs": {**PAIRS, "model": None, "eval_steps": 6, "metric_for_best_model": "chrf"},
        "evaluate": {"models": "pairs", "tasks": [SEQ2SEQ, {**SEQ2SEQ, "num_beams": 2, "length_penalty": 0.6}]},
    },
}


@pytest.mark.parametrize("architecture", list(STAGES))
def test_a_recipe_goes_from_nothing_to_its_scores(architecture: str, tmp_path: Path) -> None:
    stages = STAGES[architecture]
    named = {dataset for stage in stages.values() if isinstance(dataset := stage.get("data"), str)}
    builtin = {"reviews": "microworld/sentiment", "sentences": "microworld/translation"}
    recipe = {
        "name": "small",
        "data": {name: {"builtin": builtin[name], "limit": 300, "holdout": 0.1} for name in sorted(named)},
        "model": {"architecture": architecture, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        | {"max_position_embeddings": 96},
        "stages": {
            "tokenizer": {"vocab_size": 300, "data": dict.fromkeys(sorted(named), 1 / len(named))},
            **stages,
        },
        "launch": "cpu",
    }
    with (tmp_path / "small.yaml").open("w") as file:
        YAML().dump(recipe, file)
    command = [sys.executable, "-m", "pipelines", "run", "small.yaml", "--store", "artifacts"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((tmp_path / "runs/small/report.json").read_text())
    asked = {(score["stage"], score["metric"]) for score in report["scores"]}
    if "labels" in stages:
        assert {("labels", "accuracy"), ("labels", "f1_macro"), ("labels", "matthews_correlation")} <= asked
        metrics = next(stage["metrics"] for stage in report["stages"] if stage["name"] == "labels")
        said = ended.stdout + ended.stderr
        assert "labels: keeps the weights with the highest accuracy on the holdout, scored each 5 steps" in said
        assert f"labels: kept step {metrics['best_step']}: accuracy {metrics['best_value']:.4g}" in said
        assert metrics["best_metric"] == "accuracy" and metrics["best_step"] in (5, 10, 12)
    if "pairs" in stages:
        assert {("pairs", "chrf"), ("pairs", "bleu"), ("pairs", "exact_match")} <= asked
        assert [sample["kind"] for sample in report["samples"]] == ["pairs"] * len(report["samples"]) != []
    page = (tmp_path / "runs/small/report.html").read_text()
    assert all(metric in page for _, metric in asked)
