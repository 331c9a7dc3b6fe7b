"""Stage `finetune`: losses by hand, labels that a pipeline names, the best weights, and what changes nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_jobs import context, labelled, pairs
from training_jobs import EOS, causal_lm_folder, run, tokens_folder, weights_digest
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.training.best import Best
from pipelines.training.inputs import causal_lm, fresh_model, tokens_of
from pipelines.training.losses import label_losses, target_loss
from pipelines.training.sentinel import read_metrics
from pipelines.training.starts import classifier

PLAIN = {"dropout": 0.0}


def losses_of(ctx: StageContext) -> list[float]:
    return [line["loss"] for line in read_metrics(ctx.record / "metrics.jsonl")]


# --- losses -----------------------------------------------------------------------------------------------------------


def test_a_smoothed_and_weighted_loss_is_what_a_hand_computes() -> None:
    logits, label = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([1])
    weights = torch.tensor([0.5, 3.0, 1.0])
    nll = (-logits.double().log_softmax(-1))[0].tolist()
    even = 0.3 / 3 * (0.5 * nll[0] + 3.0 * nll[1] + 1.0 * nll[2])
    found = label_losses(logits, label, "single_label", class_weights=weights, label_smoothing=0.3)
    assert found.item() == pytest.approx(0.7 * 3.0 * nll[1] + even, abs=1e-6)
    yes, no = (-torch.nn.functional.logsigmoid(torch.tensor(sign * 2.0)).item() for sign in (1, -1))
    found = label_losses(
        torch.tensor([[2.0, 2.0]]),
        torch.tensor([[1.0, 0.0]]),
        "multi_label",
        class_weights=torch.tensor([4.0, 1.0]),
        label_smoothing=0.2,
    )
    assert found.item() == pytest.approx(((4 * 0.9 * yes + 0.1 * no) + (0.1 * yes + 0.9 * no)) / 2, abs=1e-6)
    assert label_losses(torch.tensor([[2.5]]), torch.tensor([1.0]), "regression").item() == 2.25


def test_a_target_loss_is_smoothed_and_counts_the_step_s_tokens() -> None:
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[1, 2, -100], [4, -100, -100]])
    nll = -logits.double().log_softmax(-1)
    wanted = sum(0.9 * nll[r, t, targets[r, t]] + 0.1 * nll[r, t].mean() for r, t in ((0, 0), (0, 1), (1, 0)))
    found = target_loss(logits, targets, torch.tensor(7), label_smoothing=0.1)
    assert found.item() == pytest.approx(wanted.item() / 7, abs=1e-6)


def test_the_first_step_s_loss_is_the_weighted_mean_over_its_rows(tmp_path: Path) -> None:
    table = labelled(tmp_path / "t", "single", rows=8, pair=True)
    ctx = context(tmp_path, table, duration="1 steps", class_weights={"small": 3.0}, shape=PLAIN)
    run(ctx)
    tokens, rows = tokens_of(tmp_path / "tokenizer"), TokenTable.open(table, "train")
    model = classifier(None, ctx.job.model, tokens, "single_label", ("large", "small"), seed=7).eval()
    expected = []
    for row in range(8):
        ids = [0, *rows.ids("text_ids", row).tolist(), EOS, *rows.ids("pair_ids", row).tolist(), EOS]
        number = ["large", "small"].index(rows.value("label", row))
        with torch.no_grad():
            nll = -model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)[0, number].item()
        expected.append((1.0, 3.0)[number] * nll)
    assert losses_of(ctx)[0] == pytest.approx(np.mean(expected), abs=1e-5)


def test_the_first_step_s_loss_of_pairs_is_per_target_token(tmp_path: Path) -> None:
    table = pairs(tmp_path / "p", rows=8)
    expected: dict[str, list[float]] = {}
    for architecture in ("encoder_decoder", "decoder"):
        root = tmp_path / architecture
        ctx = context(root, table, architecture=architecture, task="seq2seq", duration="1 steps", shape=PLAIN)
        run(ctx)
        tokens, rows = tokens_of(root / "tokenizer"), TokenTable.open(table, "train")
        model = fresh_model(ctx.job.model, tokens, 7).eval()
        found = []
        for row in range(8):
            source, target = rows.ids("source_ids", row).tolist(), [*rows.ids("target_ids", row).tolist(), EOS]
            with torch.no_grad():
                if architecture == "decoder":
                    ids = torch.tensor([[0, *source, EOS, *target]])
                    logits = model(input_ids=ids).logits[0, len(source) + 1 : -1]
                else:
                    start = torch.tensor([[0, *target[:-1]]])
                    logits = model(input_ids=torch.tensor([[*source, EOS]]), decoder_input_ids=start).logits[0]
            found += (-logits.log_softmax(-1)[range(len(target)), target]).tolist()
        expected[architecture] = found
        assert losses_of(ctx)[0] == pytest.approx(np.mean(found), abs=1e-5), architecture


@pytest.mark.parametrize(
    ("task", "architecture", "kind"),
    [
        ("classification", "encoder", "single"),
        ("classification", "decoder", "multi"),
        ("classification", "encoder", "number"),
        ("seq2seq", "encoder_decoder", ""),
        ("seq2seq", "decoder", ""),
    ],
)
def test_split_into_micro_batches_it_is_the_same_run(task: str, architecture: str, kind: str, tmp_path: Path) -> None:
    table = pairs(tmp_path / "t") if task == "seq2seq" else labelled(tmp_path / "t", kind)
    smooth = {} if kind == "number" else {"label_smoothing_factor": 0.1}
    curves = []
    for size in (8, 2):
        launch = LaunchSettings(micro_batch_size=size)
        fields: dict[str, Any] = {"task": task, "duration": "4 steps", **smooth}
        ctx = context(tmp_path / str(size), table, architecture=architecture, shape=PLAIN, launch=launch, **fields)
        run(ctx)
        curves.append(losses_of(ctx))
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_a_rule_is_learnt_and_a_pipeline_names_the_classes(architecture: str, tmp_path: Path) -> None:
    table = labelled(tmp_path / "t", "single", rows=160)
    ctx = context(tmp_path, table, architecture=architecture, duration="4 epochs", class_weights="balanced")
    metrics = run(ctx)
    assert metrics["holdout_accuracy"] >= 0.9 and metrics["holdout_rows"] == 16
    assert (metrics["label_kind"], metrics["num_labels"], metrics["rows_used"]) == ("single_label", 2, 160)
    config = json.loads((ctx.output / "config.json").read_text())
    assert config["id2label"] == {"0": "large", "1": "small"}
    assert config["problem_type"] == "single_label_classification"
    asked = pipeline(
        "text-classification",
        model=AutoModelForSequenceClassification.from_pretrained(ctx.output),
        tokenizer=AutoTokenizer.from_pretrained(ctx.output),
        device="cpu",
    )
    assert [answer["label"] for answer in asked(["w8 w9 w20 w31", "w80 w77 w60 w90"])] == ["small", "large"]


def test_the_saved_tokenizer_marks_texts_as_training_did(tmp_path: Path) -> None:
    ctx = context(tmp_path, labelled(tmp_path / "t", "single"), duration="1 steps", shape={"type_vocab_size": 2})
    run(ctx)
    tokenizer = AutoTokenizer.from_pretrained(ctx.output)
    assert tokenizer("w8 w9")["input_ids"] == [0, 8, 9, EOS]
    both = tokenizer("w8 w9", "w7")
    assert both["input_ids"] == [0, 8, 9, EOS, 7, EOS] and both["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_several_labels_and_numbers_are_learnt(tmp_path: Path) -> None:
    many = run(context(tmp_path / "m", labelled(tmp_path / "tm", "multi", rows=240), duration="6 epochs"))
    assert many["label_kind"] == "multi_label" and many["holdout_f1_micro"] > 0.85
    number = run(context(tmp_path / "n", labelled(tmp_path / "tn", "number", rows=240), duration="6 epochs"))
    assert number["label_kind"] == "regression" and number["holdout_spearman"] > 0.7
    config = json.loads((tmp_path / "n/job/output/config.json").read_text())
    assert config["problem_type"] == "regression"


def test_the_head_is_drawn_and_the_body_is_the_model_s(tmp_path: Path) -> None:
    base = causal_lm_folder(tmp_path / "base")
    tokens = tokens_of(base)
    one, same, other = (
        classifier(base, None, tokens, "single_label", ("a", "b", "c"), seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(one["score.weight"], same["score.weight"]) and one["score.weight"].shape[0] == 3
    assert not torch.equal(one["score.weight"], other["score.weight"])
    saved = causal_lm(base, tokens).state_dict()
    assert torch.equal(one["model.embed_tokens.weight"], saved["model.embed_tokens.weight"])
    ctx = context(tmp_path, labelled(tmp_path / "t", "single"), model=base, duration="2 steps")
    assert run(ctx)["steps"] == 2


# --- the best weights -------------------------------------------------------------------------------------------------


def best_context(root: Path, table: Path, **fields: Any) -> StageContext:
    given = {"duration": "9 steps", "eval_steps": 2, "metric_for_best_model": "loss", "learning_rate": 0.03} | fields
    return context(root, table, launch=LaunchSettings(threads=1, checkpoint_every=3), **given)


def test_the_result_is_the_best_of_what_was_looked_at(tmp_path: Path) -> None:
    ctx = best_context(tmp_path, labelled(tmp_path / "t", "single", rows=16), duration="40 steps", learning_rate=0.05)
    metrics = run(ctx)
    lines = read_metrics(ctx.record / "metrics.jsonl")
    seen = {line["step"]: line["holdout_loss"] for line in lines if "eval_loss" in line}
    assert set(seen) == {*range(2, 41, 2)}
    step = min(seen, key=lambda step: seen[step])
    assert step < 40 and (metrics["best_step"], metrics["best_metric"]) == (step, "loss")
    assert metrics["best_value"] == seen[step] == pytest.approx(metrics["holdout_loss"], abs=1e-7)


@pytest.mark.parametrize("step", [9, 10])
def test_resumed_from_any_checkpoint_it_ends_with_the_same_best_bytes(step: int, tmp_path: Path) -> None:
    """Also where the best came before the checkpoint, and where the checkpoint is the end."""
    table = labelled(tmp_path / "t", "single", rows=16)
    whole = best_context(tmp_path / "whole", table, duration="10 steps", learning_rate=0.1)
    expected = run(whole)
    assert expected["best_step"] < 9
    again = best_context(tmp_path / "again", table, duration="10 steps", learning_rate=0.1)
    shutil.copytree(whole.checkpoints / f"checkpoint-{step}", again.checkpoints / f"checkpoint-{step}")
    metrics = run(again)
    assert weights_digest(again) == weights_digest(whole)
    assert (metrics["best_step"], metrics["best_value"]) == (expected["best_step"], expected["best_value"])


def test_of_equals_the_earliest_is_the_best_and_nothing_else_never_is() -> None:
    model = torch.nn.Linear(1, 1)
    best = Best("accuracy", higher_is_better=True, every=2)
    for step, scores in ((2, {}), (4, {"holdout_accuracy": 0.5}), (6, {"holdout_accuracy": 0.5})):
        best.see(step, scores, model)
    assert (best.step, best.value) == (4, 0.5)
    with pytest.raises(DataError, match="not a number after any step"):
        Best("spearman", higher_is_better=True, every=2).restore(model)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("single", {"class_weights": {"tiny": 2.0}}, "no label is called tiny; there are large, small"),
        ("number", {"class_weights": "balanced"}, "class_weights: is for classes"),
        ("number", {"label_smoothing_factor": 0.1}, "label_smoothing_factor: is for classes"),
        ("number", {"eval_steps": 2, "metric_for_best_model": "accuracy"}, "choose one of spearman, pearson"),
    ],
)
def test_what_the_labels_cannot_give_is_one_line(
    kind: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        run(context(tmp_path, labelled(tmp_path / "t", kind), **fields))


def test_without_a_holdout_there_is_no_best(tmp_path: Path) -> None:
    made = [{"text_ids": [9, 8], "pair_ids": [], "label": label} for label in ("a", "b") * 8]
    with pytest.raises(DataError, match="eval_steps: no dataset has a holdout"):
        run(context(tmp_path, tokens_folder(tmp_path / "t", "labelled", made), eval_steps=2))
