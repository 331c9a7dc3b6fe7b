"""Stage `sft`: which tokens are trained, that rows are accounted for, and that TRL computes our loss."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_jobs import PAD, VOCAB, causal_lm_folder, context, random_tokens, run, tokens_folder, weights_digest
from transformers import AutoModelForCausalLM

from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError
from pipelines.stages.base import LaunchSettings
from pipelines.training.sentinel import read_metrics


def losses(ctx) -> list[float]:
    return [line["loss"] for line in read_metrics(ctx.record / "metrics.jsonl")]


def without_dropout(root: Path) -> None:
    from training_jobs import MODEL

    causal_lm_folder(root / "base", MODEL.model_copy(update={"dropout": 0.0}))


def test_it_learns_and_accounts_for_its_rows(tmp_path: Path) -> None:
    ctx = context(tmp_path, "sft", random_tokens(tmp_path / "chats", "chat"), duration="4 epochs", learning_rate=1e-2)
    metrics = run(ctx)
    assert metrics["steps"] == 20 and metrics["rows_used"] == 40 == metrics["source_chats_rows_in"]
    assert metrics["final_loss"] < metrics["first_loss"] and metrics["holdout_rows"] == 8
    assert metrics["source_chats_epochs"] == 4
    drawn = json.loads((ctx.record / "mixture.json").read_text())
    assert (drawn["unit"], drawn["parts"]) == ("examples", [{"phase": 0, "start": 0.0, "drawn": [160.0]}])
    assert AutoModelForCausalLM.from_pretrained(ctx.output).config.dropout == 0.1


def test_the_first_loss_is_the_mean_over_assistant_tokens_by_hand(tmp_path: Path) -> None:
    without_dropout(tmp_path)
    table = random_tokens(tmp_path / "chats", "chat", rows=8)
    ctx = context(tmp_path, "sft", table, duration="1 steps")
    run(ctx)
    model, rows = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval(), TokenTable.open(table, "train")
    total, count = 0.0, 0
    for row in range(8):
        ids = torch.from_numpy(rows.ids("input_ids", row).astype(np.int64))
        with torch.no_grad():
            scores = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for place in np.flatnonzero(rows.ids("assistant_mask", row)):
            total -= float(scores[place - 1, ids[place]])
            count += 1
    assert losses(ctx) == pytest.approx([total / count], abs=1e-5)


@pytest.mark.parametrize("micro", [4, 1])
def test_split_into_micro_batches_it_is_the_same_run(tmp_path: Path, micro: int) -> None:
    table = random_tokens(tmp_path / "chats", "chat")
    curves = []
    for name, size in (("whole", 8), ("split", micro)):
        without_dropout(tmp_path / name)
        ctx = context(tmp_path / name, "sft", table, launch=LaunchSettings(micro_batch_size=size), duration="4 steps")
        run(ctx)
        curves.append(losses(ctx))
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_the_plain_head_is_trls_fused_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU we answer for TRL's fused head; loss and gradients are the same."""
    from pipelines.training import trainers

    table = random_tokens(tmp_path / "chats", "chat")
    curves = []
    for name in ("plain", "fused"):
        without_dropout(tmp_path / name)
        if name == "fused":
            monkeypatch.setattr(trainers, "_use_plain_head_on_cpu", lambda model: None)
        ctx = context(tmp_path / name, "sft", table, duration="4 steps")
        run(ctx)
        curves.append(losses(ctx))
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_all_tokens_are_trained_when_asked(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "chats", "chat")
    ctx = [context(tmp_path / name, "sft", table, assistant_only_loss=name == "a", duration="1 steps") for name in "ab"]
    for one in ctx:
        run(one)
    assert losses(ctx[0]) != losses(ctx[1])


def test_rows_that_are_too_long_are_dropped_counted_and_bounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def row(prompt: int, answer: int) -> dict:
        ids = [0, *rng.integers(4, VOCAB, prompt + answer - 1).tolist()]
        return {"input_ids": ids, "assistant_mask": [0] * prompt + [1] * answer, "num_bytes": 9}

    rows = [row(10, 5) for _ in range(17)] + [row(prompt, 4) for prompt in (31, 32, 40)]
    table = tokens_folder(tmp_path / "chats", "chat", rows, rows[-3:])
    with pytest.raises(DataError, match="chats: 3 of 20 rows dropped"):
        run(context(tmp_path / "a", "sft", table, max_length=32))
    metrics = run(context(tmp_path / "b", "sft", table, max_length=32, max_dropped=0.2))
    assert (metrics["rows_in"], metrics["rows_used"], metrics["dropped_overlong"]) == (20, 17, 3)
    assert "holdout_loss" not in metrics  # nothing of the holdout fits
    cut = run(context(tmp_path / "c", "sft", table, max_length=32, max_dropped=0.2, overlong="truncate"))
    assert (cut["rows_used"], cut["dropped_untrained"], cut["truncated"]) == (18, 2, 1)
    assert np.isfinite([cut["final_loss"], cut["holdout_loss"]]).all()


def test_the_same_job_gives_the_same_bytes(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "chats", "chat")
    contexts = [context(tmp_path / name, "sft", table, duration="2 steps") for name in "ab"]
    for ctx in contexts:
        run(ctx)
    assert weights_digest(contexts[0]) == weights_digest(contexts[1])
    assert PAD == 2
