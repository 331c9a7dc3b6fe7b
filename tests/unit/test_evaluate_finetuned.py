"""Benchmarks of classifiers, of what writes targets, and of encoders: scores equal what a hand computes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from finetune_jobs import SMALL, context, labelled, pairs
from tiny_subject import tiny_tokenizer
from training_jobs import run, tokens_folder
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from pipelines.data.chat import ChatRenderer
from pipelines.data.tokens import TokenTable, TokenWriter
from pipelines.errors import ArtifactError, DataError
from pipelines.evaluation import predictions
from pipelines.plan.jobs import Input, Job
from pipelines.recipe.evaluation import EvaluateStage
from pipelines.recipe.model import ModelConfig
from pipelines.stages import evaluate
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.training.inputs import fresh_model, tokens_of
from pipelines.training.saving import save_model
from pipelines.training.writing import write


def evaluated(
    root: Path, model: Path, data: Path | None, *tasks: dict[str, Any], base: Path | None = None
) -> dict[str, Any]:
    """scores.json of an evaluate job; `base` is an adapter's."""
    inputs = {"model": model} | ({f"task.{number}.data": data for number in range(len(tasks))} if data else {})
    inputs |= {"model.base": base} if base else {}
    config = {"kind": "evaluate", "models": ["tuned"], "tasks": list(tasks)}
    job = Job(
        name="evaluate-tuned",
        stage="evaluate",
        config=EvaluateStage.model_validate_json(json.dumps(config)),
        seed=3,
        inputs={role: Input(job=role, fingerprint="f" * 64) for role in inputs},
    )
    ctx = StageContext(job=job, inputs=inputs, workdir=root / "evaluation", launch=LaunchSettings())
    ctx.output.mkdir(parents=True, exist_ok=True)
    evaluate.run(ctx)
    return json.loads((ctx.output / "scores.json").read_text())


def test_a_classifier_s_scores_are_those_of_its_logits(tmp_path: Path) -> None:
    table = labelled(tmp_path / "t", "single", rows=40)
    ctx = context(tmp_path, table, architecture="decoder", duration="4 steps")
    run(ctx)
    found = evaluated(tmp_path, ctx.output, table, {"name": "classification", "data": "words"})
    model = AutoModelForSequenceClassification.from_pretrained(ctx.output).eval()
    holdout, right, counts = TokenTable.open(table, "holdout"), [], np.zeros((2, 2), int)
    for row in range(16):
        ids = torch.tensor([[0, *holdout.ids("text_ids", row).tolist(), 1]])
        with torch.no_grad():
            said = model(input_ids=ids).logits.argmax().item()
        given = ["large", "small"].index(holdout.value("label", row))
        counts[given, said] += 1
        right.append(said == given)
    rows = {row["metric"]: row for row in found["scores"]}
    assert list(rows) == ["accuracy", "f1_macro", "matthews_correlation"]
    assert rows["accuracy"]["value"] == np.mean(right) and rows["accuracy"]["n"] == 16
    assert rows["accuracy"]["task"] == "classification/words" and rows["accuracy"]["higher_is_better"]
    assert rows["accuracy"]["confusion_matrix"] == {"labels": ["large", "small"], "counts": counts.tolist()}
    spread = np.sqrt(np.mean(right) * (1 - np.mean(right)) / 16)
    assert rows["accuracy"]["stderr"] == pytest.approx(spread, abs=0.02)


def test_several_labels_and_numbers_have_scores_of_their_own(tmp_path: Path) -> None:
    logits, given = np.array([[2.0, -1.0], [1.0, 1.0], [-3.0, -1.0]]), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    found = predictions.scores(logits, given, "multi_label")
    assert found == pytest.approx({"f1_micro": 0.8, "f1_macro": 0.5, "exact_match": 2 / 3})
    found = predictions.scores(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 3.0, 4.0]), "regression")
    assert found["spearman"] == pytest.approx(1) and found["rmse"] == pytest.approx(np.sqrt(1 / 3))
    assert "spearman" not in predictions.scores(np.ones((3, 1)), np.array([1.0, 3.0, 4.0]), "regression")
    ctx = context(tmp_path, labelled(tmp_path / "t", "number"), duration="4 steps")
    run(ctx)
    task = {"name": "classification", "data": "words", "limit": 9}
    rows = evaluated(tmp_path, ctx.output, tmp_path / "t", task)["scores"]
    assert {row["metric"]: row["higher_is_better"] for row in rows} == {
        "spearman": True,
        "pearson": True,
        "rmse": False,
    }
    assert all(row["n"] == 9 and row["stderr"] > 0 for row in rows)


def test_a_holdout_with_other_labels_is_refused(tmp_path: Path) -> None:
    ctx = context(tmp_path, labelled(tmp_path / "t", "single"), duration="1 steps")
    run(ctx)
    row = {"text_ids": [8, 9], "pair_ids": [], "label": "huge"}
    other = tokens_folder(tmp_path / "other", "labelled", [row], [row, row])
    with pytest.raises(DataError, match="task classification: labels that no training row has: 'huge'"):
        evaluated(tmp_path, ctx.output, other, {"name": "classification", "data": "words"})


@pytest.mark.parametrize("architecture", ["encoder_decoder", "decoder"])
def test_what_is_written_is_scored_and_shown(architecture: str, tmp_path: Path) -> None:
    table = pairs(tmp_path / "p", rows=400)
    fields: dict[str, Any] = {"task": "seq2seq", "duration": "5 epochs", "learning_rate": 5e-3}
    ctx = context(tmp_path, table, architecture=architecture, shape={"dropout": 0.0}, **fields)
    run(ctx)
    task = {"name": "seq2seq", "data": "words", "max_completion_length": 8, "limit": 3}
    found = evaluated(tmp_path, ctx.output, table, task, task | {"num_beams": 3, "length_penalty": 0.6})
    rows = {(row["metric"], row["num_beams"]): row for row in found["scores"]}
    assert set(rows) == {(metric, beams) for metric in ("chrf", "bleu", "exact_match") for beams in (1, 3)}
    holdout = TokenTable.open(table, "holdout")
    first = holdout.ids("source_ids", 0).tolist()
    assert found["samples"][0]["prompt"] == " ".join(f"w{token}" for token in first)
    said = [sample["completion"] for sample in found["samples"][:3]]
    wanted = [" ".join(f"w{token}" for token in holdout.ids("target_ids", row)) for row in range(3)]
    assert rows["exact_match", 1]["value"] == np.mean([a == b for a, b in zip(said, wanted, strict=True)])
    by_hand = sacrebleu.corpus_chrf(said, [wanted]).score
    assert rows["chrf", 1]["value"] == pytest.approx(by_hand) and by_hand > 5 and rows["chrf", 1]["n"] == 3
    assert "nrefs:1" in rows["chrf", 1]["signature"] and rows["chrf", 1]["stderr"] is not None


def test_greedy_is_the_likeliest_token_each_time_and_padding_does_not_matter(tmp_path: Path) -> None:
    ctx = context(tmp_path, pairs(tmp_path / "p"), architecture="encoder_decoder", task="seq2seq", duration="9 steps")
    run(ctx)
    model, tokens = AutoModelForSeq2SeqLM.from_pretrained(ctx.output).eval(), tokens_of(ctx.output)
    sources = [[10, 11, 1], [12, 13, 14, 15, 16, 1]]
    found = write(model, sources, tokens, max_new_tokens=6)
    for source, said in zip(sources, found, strict=True):
        written = [0]
        while len(written) < 7 and written[-1] not in tokens.stop_ids:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([written])).logits
            written.append(int(logits[0, -1].argmax()))
        assert said == [token for token in written[1:] if token not in tokens.stop_ids]


def test_beams_find_what_greedy_does_not_and_their_length_is_a_choice(tmp_path: Path) -> None:
    ctx = context(tmp_path, pairs(tmp_path / "p"), architecture="encoder_decoder", task="seq2seq", duration="30 steps")
    run(ctx)
    model, tokens = AutoModelForSeq2SeqLM.from_pretrained(ctx.output).eval(), tokens_of(ctx.output)
    table = TokenTable.open(tmp_path / "p", "holdout")
    sources = [[*table.ids("source_ids", row).tolist(), 1] for row in range(8)]

    def said(**settings: Any) -> list[list[int]]:
        return write(model, sources, tokens, max_new_tokens=8, **settings)

    short, long = said(num_beams=4, length_penalty=-4.0), said(num_beams=4, length_penalty=4.0)
    assert sum(map(len, short)) < sum(map(len, long))
    assert said(num_beams=4, length_penalty=4.0) == long != said()


def encoder_folder(folder: Path, *, mask: bool = True) -> Path:
    """A random encoder with a real tokenizer, whose id 3 stands for the mask."""
    tiny_tokenizer(folder.with_name("words"))
    info = json.loads((folder.with_name("words") / "info.json").read_text())
    (folder.with_name("words") / "info.json").write_text(json.dumps(info | ({"mask_id": 3} if mask else {})))
    tokens = tokens_of(folder.with_name("words"))
    model = fresh_model(ModelConfig.model_validate(SMALL | {"architecture": "encoder"}), tokens, seed=1)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 1.0)
    save_model(model, tokens.folder, folder)
    return folder


def test_an_encoder_s_scores_on_text_and_on_pairs(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "encoder")
    renderer = ChatRenderer.load(folder)
    data = tmp_path / "data"
    data.mkdir()
    texts = ["Mia has a red ball.", "Tom went to the mill.", "The baker is happy today. " * 9]
    writer = TokenWriter(data, format="text", vocab_size=renderer.vocab_size)
    for split in ("train", "holdout"):
        writer.append(split, {"input_ids": renderer.documents(texts), "num_bytes": [len(text) for text in texts]})
    writer.close()
    file = tmp_path / "agreement.jsonl"
    file.write_text('{"sentence_good": "Mia is happy.", "sentence_bad": "Mia are happy."}\n' * 3)
    tasks = [{"name": name, "data": "words"} for name in ("masked_accuracy", "pseudo_perplexity")]
    found = evaluated(tmp_path, folder, data, *tasks, {"name": "minimal_pairs", "file": str(file)})
    one, two, three = found["scores"]
    assert (one["task"], one["metric"], one["n"], one["truncated"]) == (
        "masked_accuracy/words",
        "masked_accuracy",
        3,
        1,
    )
    assert 0 <= one["value"] <= 1 and not two["higher_is_better"] and two["value"] > 1
    assert (three["task"], three["metric"], three["value"] in (0.0, 1.0)) == (
        "minimal_pairs/agreement",
        "minimal_pair_accuracy",
        True,
    )
    task = {"name": "pseudo_perplexity", "data": "words", "limit": 1}
    ids = renderer.document(texts[0])
    losses = []
    model = fresh_model(ModelConfig.model_validate(SMALL | {"architecture": "encoder"}), tokens_of(folder), seed=1)
    model = type(model).from_pretrained(folder).eval()
    for place in range(1, len(ids) - 1):
        masked = [3 if other == place else token for other, token in enumerate(ids)]
        with torch.no_grad():
            losses.append(-model(input_ids=torch.tensor([masked])).logits.log_softmax(-1)[0, place, ids[place]].item())
    (row,) = evaluated(tmp_path, folder, data, task)["scores"]
    assert row["value"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)


def test_an_encoder_without_a_mask_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="mask_token: true"):
        evaluated(
            tmp_path,
            encoder_folder(tmp_path / "encoder", mask=False),
            tmp_path,
            {"name": "masked_accuracy", "data": "w"},
        )


def test_room_and_holdouts_that_are_missing_are_one_line(tmp_path: Path) -> None:
    table = pairs(tmp_path / "p")
    ctx = context(tmp_path, table, architecture="decoder", task="seq2seq", duration="1 steps")
    run(ctx)
    with pytest.raises(DataError, match="47 new tokens leave no room"):
        evaluated(tmp_path, ctx.output, table, {"name": "seq2seq", "data": "words", "max_completion_length": 47})
    empty = tokens_folder(tmp_path / "e", "pairs", [{"source_ids": [9], "target_ids": [9]}])
    with pytest.raises(DataError, match="'words' has no holdout"):
        evaluated(tmp_path, ctx.output, empty, {"name": "seq2seq", "data": "words"})
