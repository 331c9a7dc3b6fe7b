"""Stage `reward`: pairs are learnt, scores do not depend on padding, and the model loads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from training_jobs import PAD, context, random_tokens, run, weights_digest
from transformers import AutoModelForSequenceClassification

from pipelines.data.collate import PairCollator, PairRows
from pipelines.data.tokens import TokenTable
from pipelines.stages.base import LaunchSettings
from pipelines.training.holdout import reward_margins
from pipelines.training.inputs import reward_model
from pipelines.training.sentinel import read_metrics


def test_a_planted_preference_is_learnt(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "pairs", "preference", rows=160)
    ctx = context(tmp_path, "reward", table, duration="3 epochs", learning_rate=1e-2)
    metrics = run(ctx)
    assert metrics["holdout_accuracy"] >= 0.75 and metrics["holdout_rows"] == 8
    assert metrics["final_loss"] < 0.5 < metrics["first_loss"]
    model = AutoModelForSequenceClassification.from_pretrained(ctx.output)
    assert model.config.num_labels == 1 and model.config.pad_token_id == PAD


def test_the_first_loss_is_the_logistic_loss_of_the_margins_by_hand(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "pairs", "preference", rows=8)
    ctx = context(tmp_path, "reward", table, duration="1 steps", center_rewards_coefficient=0.5)
    base = ctx.inputs["model"]
    config = (base / "config.json").read_text().replace('"dropout": 0.1', '"dropout": 0.0')
    (base / "config.json").write_text(config)
    run(ctx)
    model, rows = reward_model(base, seed=7).eval(), TokenTable.open(table, "train")
    expected = []
    for row in range(8):
        sides = [
            np.concatenate([rows.ids("prompt_ids", row), rows.ids(side, row)])
            for side in ("chosen_ids", "rejected_ids")
        ]
        with torch.no_grad():
            good, bad = (
                model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], attention_mask=torch.ones(1, len(ids)))
                .logits.double()
                .item()
                for ids in sides
            )
        expected.append(np.log1p(np.exp(bad - good)) + 0.5 * (good + bad) ** 2)
    loss = read_metrics(ctx.record / "metrics.jsonl")[0]["loss"]
    assert loss == pytest.approx(np.mean(expected), abs=1e-5)


def test_scores_do_not_depend_on_batch_or_padding(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "pairs", "preference", rows=7)
    ctx = context(tmp_path, "reward", table, duration="1 steps")
    run(ctx)
    model = AutoModelForSequenceClassification.from_pretrained(ctx.output).eval()
    rows = PairRows([TokenTable.open(table, "train")], max_length=64, overlong="drop")
    collator = PairCollator(PAD, with_completion_mask=False)

    def margins(size: int) -> torch.Tensor:
        parts = [range(start, min(start + size, 7)) for start in range(0, 7, size)]
        with torch.no_grad():
            return torch.cat([reward_margins(model, collator([rows[row] for row in part])) for part in parts])

    alone = margins(1)
    assert all(torch.allclose(margins(size), alone, atol=1e-5) for size in (2, 4, 7))


def test_split_into_micro_batches_it_is_the_same_run(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "pairs", "preference")
    curves = []
    for size in (8, 2):
        root = tmp_path / str(size)
        ctx = context(root, "reward", table, launch=LaunchSettings(micro_batch_size=size), duration="4 steps")
        config = ctx.inputs["model"] / "config.json"
        config.write_text(config.read_text().replace('"dropout": 0.1', '"dropout": 0.0'))
        run(ctx)
        curves.append([line["loss"] for line in read_metrics(ctx.record / "metrics.jsonl")])
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_the_head_comes_from_the_seed_and_the_body_from_the_model(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "pairs", "preference")
    ctx = context(tmp_path, "reward", table, duration="1 steps")
    one, same, other = (reward_model(ctx.inputs["model"], seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(one["score.weight"], same["score.weight"]) and one["score.weight"].abs().max() > 0
    assert not torch.equal(one["score.weight"], other["score.weight"])
    assert torch.equal(one["model.norm.weight"], other["model.norm.weight"])
    run(ctx)
    assert weights_digest(ctx)
