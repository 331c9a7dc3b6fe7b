"""Stage `pretrain` with the objectives beside causal_lm, from its inputs to a model that loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from training_jobs import (
    BOS,
    EOS,
    EXTRA,
    MODELS,
    PAD,
    SIZES,
    VOCAB,
    context,
    random_tokens,
    run,
    tokenizer_folder,
    tokens_folder,
    weights_digest,
)
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel

from pipelines.data.collate import IGNORED, PackedRows
from pipelines.data.noise import NoisedCollator
from pipelines.data.schedule import Schedule, key
from pipelines.data.tokens import TokenTable
from pipelines.errors import ArtifactError, MachineError, Stopped
from pipelines.recipe.model import ModelConfig
from pipelines.stages import pretrain
from pipelines.stages.base import LaunchSettings, StageContext
from pipelines.training.inputs import Source, fresh_model, tokens_of
from pipelines.training.objectives import Objective, objective_of
from pipelines.training.sentinel import read_metrics

OBJECTIVES = {
    "prefix_lm": AutoModelForCausalLM,
    "masked_lm": AutoModelForMaskedLM,
    "span_corruption": AutoModelForSeq2SeqLM,
}
MASK, SENTINEL = VOCAB, VOCAB + 1


def losses(ctx: StageContext) -> list[float]:
    return [line["loss"] for line in read_metrics(ctx.record / "metrics.jsonl")]


def without_dropout(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(MODELS, kind, MODELS[kind].model_copy(update={"dropout": 0.0}))


def the_objective(ctx: StageContext) -> tuple[Objective, PreTrainedModel]:
    """As the stage makes it, and the model it starts from."""
    tokens, table = tokens_of(ctx.inputs["tokenizer"]), ctx.inputs["data.0"]
    model = fresh_model(ctx.job.model, tokens, 7)
    mix = [Source("words", 1.0, TokenTable.open(table, "train"), TokenTable.open(table, "holdout"))]
    return objective_of(ctx.job.config, model, tokens, mix, max_length=64, seed=7), model


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_what_it_leaves_loads_and_its_numbers_add_up(tmp_path: Path, kind: str) -> None:
    tables = [random_tokens(tmp_path / "a", "text", rows=40), random_tokens(tmp_path / "b", "text", rows=20, seed=6)]
    ctx = context(tmp_path, kind, tables, duration="30 steps", optimizer="muon", learning_rate=0.02)
    metrics = run(ctx)
    assert metrics["steps"] == 30 and metrics["rows_in"] == metrics["rows_used"] == 60
    assert metrics["final_loss"] < metrics["first_loss"]
    parts = [metrics[f"holdout_loss_{name}"] for name in ("a", "b")]
    assert metrics["holdout_loss"] == pytest.approx(sum(parts) / 2) and metrics["holdout_rows"] == 16
    assert ("holdout_accuracy" in metrics) == (kind == "masked_lm") and "holdout_bits_per_byte" not in metrics
    model = OBJECTIVES[kind].from_pretrained(ctx.output)
    assert model.num_parameters() == metrics["parameters"]
    told = read_metrics(ctx.record / "metrics.jsonl")
    assert [line["step"] for line in told] == list(range(1, 31)) and told[-1]["tokens"] == metrics["tokens"]
    if kind == "span_corruption":
        said = model.generate(torch.tensor([[9, SENTINEL, EOS]]), max_new_tokens=4)
        assert said[0, 0] == BOS and said.shape[1] > 1


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_first_loss_is_the_mean_over_the_targets_of_the_whole_step(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed by hand: each row alone, through the whole model, whatever the micro batches."""
    without_dropout(monkeypatch, kind)
    ctx = context(
        tmp_path, kind, random_tokens(tmp_path / "words", "text"), launch=LaunchSettings(micro_batch_size=2, threads=1)
    )
    run(ctx)
    objective, model = the_objective(ctx)
    model.eval()
    total, count = 0.0, 0
    for place, row in enumerate(Schedule(len(objective.rows), 7)(np.arange(8))):
        item = objective.noise(objective.rows[int(row)], place)
        inputs = {
            name: torch.from_numpy(array)[None] for name, array in item.items() if name not in ("labels", "places")
        }
        logits, targets = model(**inputs).logits[0], torch.from_numpy(item["labels"])
        if kind == "prefix_lm":
            logits, targets = logits[:-1], targets[1:]
        total += float(cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum").detach())
        count += int((targets != IGNORED).sum())
    assert losses(ctx)[0] == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_split_into_micro_batches_it_is_the_same_run(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_dropout(monkeypatch, kind)
    table, curves = random_tokens(tmp_path / "words", "text"), []
    for micro in (8, 2, 1):
        launch = LaunchSettings(micro_batch_size=micro, threads=1)
        ctx = context(tmp_path / str(micro), kind, table, launch=launch, duration="4 steps")
        run(ctx)
        curves.append(losses(ctx))
    assert curves[0] == pytest.approx(curves[1], abs=1e-5) and curves[0] == pytest.approx(curves[2], abs=1e-5)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_stopped_and_begun_again_it_ends_with_the_same_bytes(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = random_tokens(tmp_path / "words", "text")
    whole, stopped = (context(tmp_path / name, kind, table, duration="8 steps") for name in ("whole", "stopped"))
    run(whole)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "PretrainTrainer", _StopsAfterThree)
        with pytest.raises(Stopped, match="stopped after step 3 of 8"):
            run(stopped)
    run(stopped)
    assert weights_digest(stopped) == weights_digest(whole) and losses(stopped) == losses(whole)


class _StopsAfterThree(pretrain.PretrainTrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        self._watch.asked = self.state.global_step == 2
        return super().training_step(model, inputs, num_items_in_batch)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_holdout_is_hidden_alike_for_every_seed_and_scored_as_by_hand(tmp_path: Path, kind: str) -> None:
    ctx = context(tmp_path, kind, random_tokens(tmp_path / "words", "text"), duration="2 steps")
    metrics = run(ctx)
    objective, _ = the_objective(ctx)
    model = OBJECTIVES[kind].from_pretrained(ctx.output).eval()
    assert objective.evaluate(model) == {
        name: pytest.approx(metrics[name], abs=1e-5) for name in metrics if name.startswith("holdout")
    }
    if kind == "masked_lm":
        holdout = PackedRows([(TokenTable.open(ctx.inputs["data.0"], "holdout"), _packing(ctx))])
        noise = type(objective.noise)(**{**objective.noise.__dict__, "seed": key("holdout")})
        batch = NoisedCollator(PAD)([noise(holdout[row], row) for row in range(len(holdout))])
        labels, _ = batch.pop("labels"), batch.pop("places")
        with torch.no_grad():
            logits = model(**batch).logits
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        assert metrics["holdout_loss"] == pytest.approx(float(loss), abs=1e-5)
        is_target = labels != IGNORED
        hits = (logits.argmax(-1) == labels)[is_target].float().mean()
        assert metrics["holdout_accuracy"] == pytest.approx(float(hits))


def _packing(ctx: StageContext):
    from pipelines.data.packing import pack_whole

    return pack_whole(TokenTable.open(ctx.inputs["data.0"], "holdout").lengths("input_ids"), 64)


def test_span_corruption_cuts_documents_into_rows_of_their_own_without_control_tokens(tmp_path: Path) -> None:
    rows = [{"input_ids": [BOS, *range(4, 4 + length), EOS], "num_bytes": 9} for length in (3, 90, 64, 0)]
    ctx = context(tmp_path, "span_corruption", tokens_folder(tmp_path / "words", "text", rows))
    objective, _ = the_objective(ctx)
    texts = [[int(token) for token in objective.rows[row][0]] for row in range(len(objective.rows))]
    assert texts == [[4, 5, 6], [*range(4, 68)], [*range(68, 94)], [*range(4, 68)]]
    assert objective.evaluate is None and objective.rows.lengths.tolist() == [3, 64, 26, 64]


def test_it_goes_on_from_another_stages_weights(tmp_path: Path) -> None:
    for kind, auto_class in OBJECTIVES.items():
        root = tmp_path / kind
        table = random_tokens(root / "words", "text")
        base = context(root / "base", kind, table, duration="1 steps")
        run(base)
        ctx = context(root, kind, table, duration="1 steps", model="base")
        job = ctx.job.model_copy(update={"model": None})
        ctx = StageContext(job, {**ctx.inputs, "model": base.output}, ctx.workdir, ctx.launch)
        run(ctx)
        before, after = (auto_class.from_pretrained(folder).state_dict() for folder in (base.output, ctx.output))
        assert 0 < max(float((before[name] - after[name]).abs().max()) for name in before) < 0.02


def test_what_the_tokenizer_or_the_model_lacks_is_told_in_numbers(tmp_path: Path) -> None:
    table = random_tokens(tmp_path / "words", "text")
    tokenizer_folder(tmp_path / "bare" / "tokenizer")
    with pytest.raises(ArtifactError, match="has no mask token; make the tokenizer with mask_token: true"):
        run(context(tmp_path / "bare", "masked_lm", table))
    with pytest.raises(ArtifactError, match="max_length 64 has up to 3 spans, and the tokenizer has 0 sentinels"):
        run(context(tmp_path / "bare", "span_corruption", table))
    with pytest.raises(ArtifactError, match=r"up to 32 spans, .* num_sentinels: 32, or lower"):
        run(context(tmp_path, "span_corruption", table, noise_density=0.5, mean_noise_span_length=1.0))
    with pytest.raises(MachineError, match=r"max_length 64 takes 72 places .* has 64 positions"):
        run(context(tmp_path, "span_corruption", table, noise_density=0.1, mean_noise_span_length=1.0))


def test_a_tiny_encoder_learns_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each document counts up from a random number: what is masked follows from either neighbour."""
    encoder = ModelConfig(architecture="encoder", **{**SIZES, "dropout": 0.0})
    monkeypatch.setitem(MODELS, "masked_lm", encoder)
    starts = np.random.default_rng(3).integers(4, VOCAB - 12, 300)
    rows = [{"input_ids": [BOS, *range(start, start + 12), EOS], "num_bytes": 36} for start in starts.tolist()]
    table = tokens_folder(tmp_path / "words", "text", rows[:280], rows[280:])
    fields = {"duration": "400 steps", "optimizer": "muon", "learning_rate": 0.02, "global_batch_size": 16}
    metrics = run(context(tmp_path, "masked_lm", table, max_length=28, **fields))
    assert metrics["holdout_accuracy"] > 0.85, metrics


def test_the_tokenizer_of_these_tests_has_what_the_recipe_would_give_it(tmp_path: Path) -> None:
    tokens = tokens_of(tokenizer_folder(tmp_path / "tokenizer", EXTRA))
    assert (tokens.mask_id, tokens.sentinel_ids[0], len(tokens.sentinel_ids)) == (MASK, SENTINEL, 8)
    assert tokens.tokenizer.mask_token_id == MASK and len(tokens.tokenizer) == tokens.vocab_size
    assert json.loads((tmp_path / "tokenizer" / "info.json").read_text())["vocab_size"] == VOCAB + 9
