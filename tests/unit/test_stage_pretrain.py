"""Stage `pretrain` from its inputs to a model that loads."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_jobs import EOS, SIZES, VOCAB, context, random_tokens, run, tokens_folder, weights_digest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.errors import ArtifactError, DataError, MachineError
from pipelines.recipe.base import Duration
from pipelines.recipe.model import ModelConfig
from pipelines.stages.base import LaunchSettings
from pipelines.training.arguments import micro_batch_size, num_steps
from pipelines.training.sentinel import read_metrics


def test_what_it_leaves_loads_and_its_numbers_add_up(tmp_path: Path) -> None:
    tables = [random_tokens(tmp_path / "a", "text", rows=40), random_tokens(tmp_path / "b", "text", rows=20, seed=6)]
    ctx = context(tmp_path, "pretrain", tables, duration="30 steps", optimizer="muon", learning_rate=0.02)
    metrics = run(ctx)
    assert metrics["steps"] == 30 and metrics["rows_in"] == metrics["rows_used"] == 60
    assert metrics["source_a_rows_used"] == 40 and metrics["source_b_rows_used"] == 20
    assert metrics["final_loss"] < metrics["first_loss"]
    assert 0 < metrics["holdout_bits_per_byte"] < 8 and metrics["holdout_rows"] == 16
    assert all(isinstance(value, int | float | str) for value in metrics.values())
    model = AutoModelForCausalLM.from_pretrained(ctx.output)
    assert model.num_parameters() == metrics["parameters"] and model.config.use_cache and model.config.dropout == 0.1
    assert model.generation_config.eos_token_id == [EOS, 3] and model.generation_config.pad_token_id == 2
    assert len(AutoTokenizer.from_pretrained(ctx.output)) == VOCAB
    assert json.loads((ctx.output / "info.json").read_text())["vocab_size"] == VOCAB
    told = read_metrics(ctx.record / "metrics.jsonl")
    assert [line["step"] for line in told] == list(range(1, 31)) and told[-1]["tokens"] == metrics["tokens"]


def test_the_holdouts_loss_is_that_of_scoring_each_document_alone(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "words", "text")
    ctx = context(tmp_path, "pretrain", table, duration="2 steps")
    metrics = run(ctx)
    from pipelines.data.tokens import TokenTable

    model, held_out = AutoModelForCausalLM.from_pretrained(ctx.output).eval(), TokenTable.open(table, "holdout")
    total, count, ends = 0.0, 0, 0.0
    for row in range(len(held_out)):
        ids = torch.from_numpy(held_out.ids("input_ids", row).astype(np.int64))[None]
        with torch.no_grad():
            output = model(input_ids=ids, labels=ids)
        total += float(output.loss) * (ids.shape[1] - 1)
        ends -= float(output.logits[0, -2].log_softmax(-1)[EOS])
        count += ids.shape[1] - 1
    assert metrics["holdout_loss"] == pytest.approx(total / count, abs=1e-5)
    num_bytes = held_out.lengths("num_bytes").sum()
    assert metrics["holdout_bits_per_byte"] == pytest.approx((total - ends) / np.log(2) / num_bytes, rel=1e-5)


def test_shares_are_of_tokens(tmp_path: Path) -> None:
    """Short documents on one side, long ones on the other; half of the tokens come from each."""
    rng = np.random.default_rng(0)
    made = {}
    for name, length in (("short", 7), ("long", 60)):
        rows = [{"input_ids": [0, *rng.integers(4, VOCAB, length - 2).tolist(), 1], "num_bytes": 9} for _ in range(30)]
        made[name] = tokens_folder(tmp_path / name, "text", rows)
    ctx = context(tmp_path, "pretrain", list(made.values()), duration="40 steps", max_length=60)
    from pipelines.stages import pretrain

    seen = {}
    original = pretrain.PretrainTrainer

    def spy(**arguments):
        seen["trainer"] = original(**arguments)
        return seen["trainer"]

    pretrain.PretrainTrainer = spy
    try:
        run(ctx)
    finally:
        pretrain.PretrainTrainer = original
    trainer = seen["trainer"]
    rows = np.concatenate([trainer.rows_of_step(step).flatten() for step in range(40)])
    is_short = rows < trainer.rows.sizes[0]
    tokens = trainer.rows.lengths[rows]
    assert tokens[is_short].sum() / tokens.sum() == pytest.approx(0.5, abs=0.02)


def test_split_into_micro_batches_it_is_the_same_run(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "words", "text")
    curves = []
    for micro in (8, 2):
        root = tmp_path / str(micro)
        ctx = context(root, "pretrain", table, launch=LaunchSettings(micro_batch_size=micro), duration="4 steps")
        ctx.job.model.__dict__["dropout"] = 0.0
        try:
            run(ctx)
        finally:
            ctx.job.model.__dict__["dropout"] = 0.1
        curves.append([line["loss"] for line in read_metrics(ctx.record / "metrics.jsonl")])
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_it_goes_on_from_another_stages_weights(tmp_path: Path) -> None:
    from training_jobs import causal_lm_folder

    base = causal_lm_folder(tmp_path / "base")
    ctx = context(tmp_path, "pretrain", random_tokens(tmp_path / "words", "text"), duration="1 steps", model="base")
    job = ctx.job.model_copy(update={"model": None})
    ctx = type(ctx)(job=job, inputs={**ctx.inputs, "model": base}, workdir=ctx.workdir, launch=ctx.launch)
    run(ctx)
    before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (base, ctx.output))
    moved = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 0 < moved < 0.02


def test_the_same_job_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "words", "text")
    digests = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        ctx = context(tmp_path / name, "pretrain", table, duration="2 steps")
        ctx = type(ctx)(ctx.job.model_copy(update={"seed": seed}), ctx.inputs, ctx.workdir, ctx.launch)
        run(ctx)
        digests.append(weights_digest(ctx))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_master_weights_are_float32_in_either_precision(tmp_path: Path, precision: str) -> None:
    ctx = context(tmp_path, "pretrain", random_tokens(tmp_path / "words", "text"), mixed_precision=precision)
    metrics = run(ctx)
    model = AutoModelForCausalLM.from_pretrained(ctx.output)
    assert model.dtype == torch.float32 and metrics["final_loss"] > 0
    values = torch.cat([parameter.flatten() for parameter in model.parameters()])
    assert not torch.equal(values, values.bfloat16().float())


def test_what_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "words", "text")
    with pytest.raises(MachineError, match="max_length 65 is more than the model's 64 positions"):
        run(context(tmp_path, "pretrain", table, max_length=65))
    short = context(tmp_path / "short", "pretrain", table)
    model = ModelConfig(**SIZES | {"max_position_embeddings": 60}).model_copy(update={"position_embedding": "learned"})
    with pytest.raises(MachineError, match="padded to 64, and the model has 60 positions; set max_length: 56"):
        run(dataclasses.replace(short, job=short.job.model_copy(update={"model": model})))
    with pytest.raises(MachineError, match="does not divide over 3 processes"):
        run(context(tmp_path, "pretrain", table, launch=LaunchSettings(num_processes=3)))
    with pytest.raises(MachineError, match="ask for 2 processes and 1 are running"):
        run(context(tmp_path, "pretrain", table, launch=LaunchSettings(num_processes=2)))
    with pytest.raises(DataError, match="empty has no row to train on"):
        run(context(tmp_path, "pretrain", tokens_folder(tmp_path / "empty", "text", [])))


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    from training_jobs import tokenizer_folder

    folder = tokenizer_folder(tmp_path / "tokenizer")
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps(info | {"vocab_size": VOCAB - 1}))
    with pytest.raises(ArtifactError, match="vocabulary of 96, and the model has 95"):
        run(context(tmp_path, "pretrain", random_tokens(tmp_path / "words", "text")))


def test_durations_become_steps() -> None:
    def steps(text: str) -> int:
        return num_steps(Duration.model_validate(text), rows=100, tokens_per_row=50.0, global_batch_size=8)

    assert [steps("7 steps"), steps("1 epochs"), steps("2 epochs"), steps("0.5 epochs")] == [7, 13, 25, 7]
    assert [steps("4000 tokens"), steps("4001 tokens"), steps("1 tokens")] == [10, 11, 1]


def test_micro_batches_follow_from_processes() -> None:
    assert micro_batch_size(16, LaunchSettings(num_processes=2)) == 8
    assert micro_batch_size(16, LaunchSettings(num_processes=2, micro_batch_size=2)) == 2
    with pytest.raises(MachineError, match="a process has 8 of 16 sequences a step, which micro_batch_size 3"):
        micro_batch_size(16, LaunchSettings(num_processes=2, micro_batch_size=3))
