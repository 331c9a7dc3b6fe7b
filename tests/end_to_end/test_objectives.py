"""A tiny recipe for each objective of pretrain, as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RECIPE = """\
name: tiny
data:
  village: {{builtin: microworld/text, limit: 300}}
model: {{architecture: {architecture}, style: {style}, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
        max_position_embeddings: 128}}
stages:
  tokenizer: {{vocab_size: 400, mask_token: true, num_sentinels: 10, data: village}}
  pretrain: {{objective: {objective}, data: village, duration: 20 steps, global_batch_size: 8, learning_rate: 3e-3}}
  further: {{like: pretrain, model: pretrain, duration: 4 steps{fields}}}
launch: {{config: cpu, micro_batch_size: 4}}
"""
KINDS = {
    "prefix_lm": ("decoder", "llama", ""),
    "masked_lm": ("encoder", "bert", ", whole_word_mask: true"),
    "span_corruption": ("encoder_decoder", "t5", ", noise_density: 0.2"),
}


@pytest.mark.parametrize("objective", KINDS)
def test_a_recipe_of_this_objective_is_run_and_reported(tmp_path: Path, objective: str) -> None:
    architecture, style, fields = KINDS[objective]
    recipe = RECIPE.format(objective=objective, architecture=architecture, style=style, fields=fields)
    (tmp_path / "tiny.yaml").write_text(recipe)
    command = [sys.executable, "-m", "pipelines", "run", "tiny.yaml", "--store", "artifacts"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    stages = {stage["name"]: stage for stage in json.loads((tmp_path / "runs/tiny/report.json").read_text())["stages"]}
    first, further = (stages[name]["metrics"] for name in ("pretrain", "further"))
    assert first["final_loss"] < first["first_loss"] and further["steps"] == 4
    assert further["holdout_loss"] < first["first_loss"]
