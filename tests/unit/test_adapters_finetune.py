"""Low-rank adapters of stage `finetune`: labels, numbers and targets, on encoders, decoders and encoder-decoders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_jobs import SMALL, base_folder, context, labelled, pairs
from peft import PeftModel
from safetensors.torch import load_file
from test_evaluate_finetuned import evaluated
from training_jobs import run
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from pipelines.errors import Stopped
from pipelines.evaluation.seq2seq import Seq2SeqLM
from pipelines.plan.estimate import adapter_parameters
from pipelines.plan.jobs import Input, Job
from pipelines.recipe.evaluation import EvaluateStage
from pipelines.recipe.model import ModelConfig
from pipelines.stages import evaluate
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.store import durable
from pipelines.training.adapters import num_trainable
from pipelines.training.exact import ExactTrainerMixin
from pipelines.training.export import export_model
from pipelines.training.inputs import pretrained, tokens_of, trained_classifier
from pipelines.training.saving import save_model
from pipelines.training.sentinel import read_metrics
from pipelines.training.starts import starting_classifier, writer_class

PEFT = {"r": 4, "lora_alpha": 8}
IDS = torch.arange(4, 36).reshape(2, 16)
AUTO = {"decoder": AutoModelForCausalLM, "encoder_decoder": AutoModelForSeq2SeqLM}


def job(root: Path, architecture: str, kind: str, name: str = "one", **fields: Any) -> StageContext:
    shape = fields.pop("shape", {})
    table = root / "table"
    if not table.exists():
        pairs(table) if kind == "seq2seq" else labelled(table, kind)
    task = "seq2seq" if kind == "seq2seq" else "classification"
    base = base_folder(root, architecture, **shape)
    values = {"task": task, "peft": PEFT, "learning_rate": 1e-2} | fields
    return context(root / name, table, model=base, **values)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = IDS
    return model.eval()(**inputs).logits


def read(ctx: StageContext) -> Any:
    base = ctx.inputs.get("model.base", ctx.inputs["model"])
    if ctx.job.config.task == "classification":
        return trained_classifier(ctx.output, base)
    return pretrained(writer_class(base), ctx.output, tokens_of(ctx.output), base=base)


CASES = [
    ("encoder", "single", {}),
    ("encoder", "number", {"use_dora": True}),
    ("decoder", "multi", {"use_rslora": True}),
    ("decoder", "single", {"use_dora": True, "lora_dropout": 0.1}),
    ("encoder_decoder", "seq2seq", {}),
    ("encoder_decoder", "seq2seq", {"use_dora": True, "use_rslora": True}),
    ("decoder", "seq2seq", {}),
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("architecture", "kind", "changes"), CASES)
def test_merged_it_is_what_peft_computes(
    tmp_path: Path, architecture: str, kind: str, changes: dict, tied: bool
) -> None:
    shape = {"tie_word_embeddings": tied} | ({"style": "bert"} if architecture == "encoder" else {})
    ctx = job(tmp_path, architecture, kind, peft=PEFT | changes, shape=shape)
    before = durable.digest(ctx.inputs["model"] / "model.safetensors")
    metrics = run(ctx)
    assert durable.digest(ctx.inputs["model"] / "model.safetensors") == before
    stored = load_file(ctx.output / "adapter_model.safetensors")
    assert metrics["trainable_parameters"] == sum(tensor.numel() for tensor in stored.values()) < metrics["parameters"]
    merged = read(ctx)
    if kind == "seq2seq":
        body = AUTO[architecture].from_pretrained(ctx.inputs["model"])
    else:
        body = AutoModelForSequenceClassification.from_pretrained(ctx.inputs["model"], config=merged.config)
    theirs = PeftModel.from_pretrained(body, ctx.output)
    assert torch.allclose(logits(merged), logits(theirs), atol=1e-5)


def test_heads_are_trained_and_saved_whole_and_the_labels_come_back(tmp_path: Path) -> None:
    ctx = job(tmp_path, "encoder", "single", shape={"style": "bert"}, duration="20 steps")
    run(ctx)
    config = json.loads((ctx.output / "adapter_config.json").read_text())
    assert (config["task_type"], sorted(config["modules_to_save"])) == ("SEQ_CLS", ["pooler", "score"])
    stored, model = load_file(ctx.output / "adapter_model.safetensors"), read(ctx)
    assert torch.equal(stored["base_model.model.pooler.dense.weight"], model.pooler.dense.weight)
    assert torch.equal(stored["base_model.model.score.weight"], model.score.weight)
    assert model.config.id2label == {0: "large", 1: "small"}
    assert model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize(("architecture", "kind"), [("encoder", "single"), ("encoder_decoder", "seq2seq")])
def test_stopped_and_resumed_it_ends_with_the_same_bits_and_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, kind: str
) -> None:
    fields = {"peft": {**PEFT, "lora_dropout": 0.2}, "eval_steps": 2, "duration": "7 steps", "learning_rate": 0.1}
    whole, halved = (job(tmp_path, architecture, kind, name, **fields) for name in ("whole", "halved"))
    best = run(whole)

    def stop(self, number: int) -> dict[str, float]:
        self._stop = self._stop or number == 5
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(ExactTrainerMixin, "step_metrics", stop)
        with pytest.raises(Stopped):
            run(halved)
    again = run(halved)
    digests = [durable.digest(ctx.output / "adapter_model.safetensors") for ctx in (whole, halved)]
    curves = [[line["loss"] for line in read_metrics(c.record / "metrics.jsonl")] for c in (whole, halved)]
    assert digests[0] == digests[1] and curves[0] == curves[1]
    assert best["best_step"] == again["best_step"] > 0 and best["best_value"] == again["best_value"]


@pytest.mark.parametrize(
    ("architecture", "kind", "task"),
    [
        ("encoder", "single", {"name": "classification", "data": "words"}),
        ("encoder_decoder", "seq2seq", {"name": "seq2seq", "data": "words", "max_completion_length": 8}),
    ],
)
def test_it_is_scored_as_what_it_is(tmp_path: Path, architecture: str, kind: str, task: dict) -> None:
    ctx = job(tmp_path, architecture, kind, duration="12 steps")
    metrics = run(ctx)
    merged = tmp_path / "merged"
    save_model(read(ctx), ctx.output, merged)
    scores = [
        {
            row["metric"]: row["value"]
            for row in evaluated(tmp_path / name, folder, tmp_path / "table", task, base=base)["scores"]
        }
        for name, folder, base in (("a", ctx.output, ctx.inputs["model"]), ("b", merged, None))
    ]
    assert scores[0] == scores[1]
    if kind == "single":
        assert scores[0]["accuracy"] == metrics["holdout_accuracy"]


def test_the_adapter_of_an_encoder_decoder_is_asked_and_exported_with_its_base(tmp_path: Path) -> None:
    ctx = job(tmp_path, "encoder_decoder", "seq2seq", duration="12 steps")
    run(ctx)
    base, expected = ctx.inputs["model"], logits(read(ctx))
    assert not torch.equal(expected, logits(AutoModelForSeq2SeqLM.from_pretrained(base)))
    export_model(ctx.output, tmp_path / "out", stock=False, facts={}, base=base)
    assert torch.equal(logits(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")), expected)
    inputs = {"model": ctx.output, "model.base": base}
    config = EvaluateStage.model_validate_json('{"kind": "evaluate", "models": ["one"], "tasks": ["blimp"]}')
    roles = {role: Input(job=role, fingerprint="f" * 64) for role in inputs}
    asking = Job(name="evaluate-one", stage="evaluate", config=config, seed=3, inputs=roles)
    workdir, launch = tmp_path / "evaluation", LaunchSettings()
    subject = evaluate._subject(StageContext(job=asking, inputs=inputs, workdir=workdir, launch=launch))
    assert isinstance(subject, Seq2SeqLM)
    assert torch.equal(logits(subject.model), expected)


def after(ctx: StageContext, start: StageContext) -> None:
    """Let this job start from the adapter that `start` made."""
    ctx.inputs["model.base"], ctx.inputs["model"] = start.inputs["model"], start.output
    ctx.job.inputs["model.base"] = Input(job="base", fingerprint=start.job.inputs["model"].fingerprint)


def test_an_adapter_is_gone_on_with_or_merged(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = job(tmp_path, "encoder_decoder", "seq2seq", "first")
    run(first)
    more = job(tmp_path, "encoder_decoder", "seq2seq", "more", learning_rate=1e-9)
    full = job(tmp_path, "encoder_decoder", "seq2seq", "full", peft=None, learning_rate=1e-9)
    for ctx in (more, full):
        after(ctx, first)
    run(more)
    assert "is merged" not in capsys.readouterr().out
    assert torch.allclose(logits(read(more)), logits(read(first)), atol=1e-5)
    metrics = run(full)
    assert "note: the adapter of model is merged into its base" in capsys.readouterr().out
    assert metrics["trainable_parameters"] == metrics["parameters"]
    again = AutoModelForSeq2SeqLM.from_pretrained(full.output)
    assert torch.allclose(logits(again), logits(read(first)), atol=1e-5)


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder"])
def test_the_plan_knows_how_much_an_adapter_trains(tmp_path: Path, architecture: str) -> None:
    kind = "seq2seq" if architecture == "encoder_decoder" else "single"
    ctx = job(tmp_path, architecture, kind, duration="1 steps")
    metrics = run(ctx)
    model = ModelConfig.model_validate(SMALL | {"architecture": architecture})
    stored = load_file(ctx.output / "adapter_model.safetensors")
    thin = sum(tensor.numel() for name, tensor in stored.items() if ".lora_" in name)
    assert adapter_parameters(model, PEFT["r"]) == thin <= metrics["trainable_parameters"]


@pytest.mark.parametrize("peft", [PEFT, None])
def test_a_classifier_goes_on_with_a_language_model_s_adapter(tmp_path: Path, peft: dict | None) -> None:
    writes = job(tmp_path, "decoder", "seq2seq", "writes", duration="20 steps")
    run(writes)
    labelled(tmp_path / "labels", "single")
    ctx = context(tmp_path / "sorts", tmp_path / "labels", model=writes.inputs["model"], peft=peft)
    after(ctx, writes)
    tokens = tokens_of(writes.output)
    started = starting_classifier(ctx, tokens, "single_label", ("large", "small")).eval()
    body = read(writes).eval().model(input_ids=IDS).last_hidden_state
    assert torch.allclose(started.base_model(input_ids=IDS).last_hidden_state, body, atol=1e-5)
    assert started.score.weight.requires_grad
    assert (num_trainable(started) < started.num_parameters() / 2) == (peft is not None)
    plain = states_of_the_base(writes)
    assert not torch.allclose(plain, body, atol=1e-3)  # the adapter does something
    assert run(ctx)["steps"] == 6


def states_of_the_base(ctx: StageContext) -> torch.Tensor:
    """States of the base alone."""
    return AutoModelForCausalLM.from_pretrained(ctx.inputs["model"]).eval().model(input_ids=IDS).last_hidden_state
