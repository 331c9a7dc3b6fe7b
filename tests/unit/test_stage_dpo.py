"""Stage `dpo`: the reference is the starting model, computed once; the loss starts at ln 2 and leaves it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from training_jobs import context, random_tokens, run, weights_digest
from transformers import AutoModelForCausalLM

from pipelines.data.tokens import TokenTable
from pipelines.errors import ArtifactError
from pipelines.stages.base import LaunchSettings
from pipelines.training.sentinel import read_metrics


def losses(ctx) -> list[float]:
    return [line["loss"] for line in read_metrics(ctx.record / "metrics.jsonl")]


@pytest.mark.parametrize("beta", [0.1, 5.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_first_loss_is_ln_2_whatever_beta_and_dropout(tmp_path: Path, beta: float, smoothing: float) -> None:
    table = random_tokens(tmp_path / "pairs", "preference")
    ctx = context(tmp_path, "dpo", table, duration="1 steps", beta=beta, label_smoothing=smoothing)
    run(ctx)
    assert AutoModelForCausalLM.from_pretrained(ctx.inputs["model"]).config.dropout == 0.1
    assert losses(ctx)[0] == pytest.approx(math.log(2), abs=1e-6 if beta < 1 else 1e-5)
    assert AutoModelForCausalLM.from_pretrained(ctx.output).config.dropout == 0.1


@pytest.mark.parametrize(("loss_type", "first"), [("ipo", 25.0), ("hinge", 1.0)])
def test_other_losses_start_at_their_own_value(tmp_path: Path, loss_type: str, first: float) -> None:
    table = random_tokens(tmp_path / "pairs", "preference")
    ctx = context(tmp_path, "dpo", table, duration="1 steps", loss_type=loss_type, beta=0.1)
    run(ctx)
    assert losses(ctx)[0] == pytest.approx(first, rel=1e-5)


def test_a_planted_preference_is_learnt_within_thirty_steps(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "pairs", "preference", rows=160)
    metrics = run(context(tmp_path, "dpo", table, duration="30 steps", learning_rate=3e-3, beta=0.5))
    assert metrics["holdout_accuracy"] >= 0.8 and metrics["holdout_margin"] > 0.1
    assert metrics["final_loss"] < 0.6


def test_the_reference_is_the_starting_models_score_of_the_completion(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "pairs", "preference", rows=12)
    ctx = context(tmp_path, "dpo", table, duration="1 epochs")
    run(ctx)
    stored = load_file(ctx.checkpoints / "reference-train" / "scores.safetensors")
    assert sorted(stored["rows"].tolist()) == list(range(12))
    model, rows = AutoModelForCausalLM.from_pretrained(ctx.inputs["model"]).eval(), TokenTable.open(table, "train")
    for place, row in enumerate(stored["rows"].tolist()):
        for side, column in enumerate(("chosen_ids", "rejected_ids")):
            prompt, completion = rows.ids("prompt_ids", row), rows.ids(column, row)
            ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))
            with torch.no_grad():
                scores = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            expected = sum(float(scores[at - 1, ids[at]]) for at in range(len(prompt), len(ids)))
            assert stored["scores"][side, place] == pytest.approx(expected, abs=1e-4)


def test_the_reference_is_computed_once_and_refused_by_another_run(tmp_path: Path) -> None:
    from pipelines.training import reference

    table = random_tokens(tmp_path / "pairs", "preference")
    ctx = context(tmp_path, "dpo", table, duration="2 steps")
    run(ctx)
    digest = weights_digest(ctx)
    kept, reference._score = reference._score, None
    try:
        run(ctx)  # nothing is scored again
        assert weights_digest(ctx) == digest
        other = context(tmp_path, "dpo", table, duration="3 steps")
        with pytest.raises(ArtifactError, match="belongs to another run"):
            run(other)
    finally:
        reference._score = kept


def test_a_damaged_reference_is_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = random_tokens(tmp_path / "pairs", "preference")
    ctx = context(tmp_path, "dpo", table, duration="2 steps")
    run(ctx)
    digest = weights_digest(ctx)
    (ctx.checkpoints / "reference-train" / "scores.safetensors").write_bytes(b"short")
    run(ctx)
    assert weights_digest(ctx) == digest
    assert "damaged reference scores are computed again" in capsys.readouterr().out


def test_split_into_micro_batches_it_is_the_same_run(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "pairs", "preference")
    curves = []
    for size in (8, 2):
        launch = LaunchSettings(micro_batch_size=size)
        ctx = context(tmp_path / str(size), "dpo", table, launch=launch, duration="4 steps", beta=1.0)
        run(ctx)
        curves.append(losses(ctx))
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    assert abs(curves[0][-1] - math.log(2)) > 1e-3
