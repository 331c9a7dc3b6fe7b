"""Bugs that have ruined runs elsewhere without a sound, planted here: each must be refused, or change nothing."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_jobs import MODEL, VOCAB, causal_lm_folder, context, random_tokens, run, tokenizer_folder
from transformers import AutoModelForCausalLM

from pipelines.errors import ArtifactError, DataError, Diverged
from pipelines.stages.base import LaunchSettings
from pipelines.store import durable
from pipelines.training import checkpoints, inputs, losses, optim, saving
from pipelines.training.inputs import fresh_model, tokens_of
from pipelines.training.sentinel import read_metrics


def curve(ctx: Any, figure: str = "loss") -> list[float]:
    run(ctx)
    return [line[figure] for line in read_metrics(ctx.record / "metrics.jsonl")]


def test_a_mean_of_micro_batch_means_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 23. The planted bug ignores the token count of the whole step; the split of the batch then matters."""
    table = random_tokens(tmp_path / "words", "text")
    launches = {"whole": LaunchSettings(), "split": LaunchSettings(micro_batch_size=1)}
    fields = {"duration": "3 steps", "max_length": 32}
    right = {
        name: curve(context(tmp_path / name, "pretrain", table, launch=one, **fields)) for name, one in launches.items()
    }
    original = losses.causal_lm_loss
    monkeypatch.setattr(losses, "causal_lm_loss", lambda logits, labels, count: original(logits, labels) / 8)
    wrong = curve(context(tmp_path / "wrong", "pretrain", table, launch=launches["split"], **fields))
    assert right["whole"][0] == pytest.approx(right["split"][0], abs=0.05)  # dropout draws differ with the split
    assert abs(wrong[0] - right["split"][0]) > 1e-4


def test_the_logged_learning_rate_is_the_closed_form_under_accumulation(tmp_path: Path) -> None:
    """Row 24: schedules that advance once per process or micro batch."""
    table = random_tokens(tmp_path / "words", "text")
    launch = LaunchSettings(micro_batch_size=2)
    rates = curve(context(tmp_path, "pretrain", table, launch=launch, duration="5 steps"), "learning_rate")
    assert rates == pytest.approx([3e-3 * (1 - step / 5) for step in range(5)], rel=1e-9)


@pytest.mark.parametrize("name", ["optimizer", "scheduler"])
def test_a_checkpoint_without_its_optimizer_or_schedule_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    """Row 25."""
    model = torch.nn.Linear(2, 2)
    checkpoints.save(tmp_path / "c", model, {name: {"x": 1}}, {"job": "a"})
    with pytest.raises(KeyError):
        state = checkpoints.load_state(tmp_path / "c")
        _ = state["optimizer"], state["scheduler"]


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    """Row 28, 35: nothing may be left at its initial value."""
    checkpoints.save(tmp_path / "c", torch.nn.Linear(2, 3), {}, {})
    with pytest.raises(ArtifactError, match=r"does not fit this model .*bias"):
        checkpoints.load_weights(torch.nn.Linear(2, 3, bias=False), tmp_path / "c")


def test_non_finite_weights_are_never_saved(tmp_path: Path) -> None:
    """Row 29."""
    tokens = tokens_of(tokenizer_folder(tmp_path / "tokenizer"))
    model = fresh_model(MODEL, tokens, seed=1)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(Diverged, match=r"model.norm.weight: not all finite"):
        saving.save_model(model, tokens.folder, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_a_checkpoint_of_weights_that_an_update_spoilt_is_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 29: the gradient was finite, the step too long."""
    spoilt = optim.Muon.step

    def step(self: Any, closure: Any = None) -> None:
        spoilt(self, closure)
        if self.param_groups[0]["lr"] < 3e-3:  # every step but the first
            self.param_groups[0]["params"][0].data[0] = float("inf")

    monkeypatch.setattr(optim.Muon, "step", step)
    launch = LaunchSettings(threads=1, checkpoint_every=1)
    ctx = context(tmp_path, "pretrain", random_tokens(tmp_path / "t", "text"), launch=launch, optimizer="muon")
    with pytest.raises(Diverged, match=r"layers.0.* not all finite numbers"):
        run(ctx)
    assert [step for step, _ in durable.checkpoints(ctx.checkpoints)] == [1]


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_lost_on_the_way_to_disk_is_found(tmp_path: Path, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 35: after saving, the folder is read back and must give the same logits."""
    tokens = tokens_of(tokenizer_folder(tmp_path / "tokenizer"))
    model = fresh_model(MODEL.model_copy(update={"tie_word_embeddings": tied}), tokens, seed=1)
    saving.save_model(model, tokens.folder, tmp_path / "right")
    write = saving._write

    def losing(model: Any, *rest: Any) -> None:
        write(model, *rest)
        other = fresh_model(MODEL.model_copy(update={"tie_word_embeddings": tied}), tokens, seed=2)
        other.save_pretrained(rest[1])

    monkeypatch.setattr(saving, "_write", losing)
    with pytest.raises(RuntimeError, match="other logits"):
        saving.save_model(model, tokens.folder, tmp_path / "wrong")


def test_an_id_without_an_embedding_is_refused_before_the_first_step(tmp_path: Path, monkeypatch) -> None:
    """Row 14, with a table whose meta data lie about its ids."""
    table = random_tokens(tmp_path / "words", "text")
    ctx = context(tmp_path, "pretrain", table)
    info = json.loads((ctx.inputs["tokenizer"] / "info.json").read_text())
    (ctx.inputs["tokenizer"] / "info.json").write_text(json.dumps(info | {"vocab_size": 50}))
    meta = json.loads((table / "meta.json").read_text())
    (table / "meta.json").write_text(json.dumps(meta | {"vocab_size": 50}))
    with pytest.raises(ArtifactError, match=r"token id \d+ has no embedding in a model of 50"):
        run(ctx)


def test_dropout_in_dpo_would_show_in_the_first_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 42: TRL's own switch finds no module in our models."""
    table = random_tokens(tmp_path / "pairs", "preference")
    causal_lm_folder(tmp_path / "base", MODEL.model_copy(update={"dropout": 0.3}))
    right = curve(context(tmp_path, "dpo", table, duration="1 steps"))
    assert right[0] == pytest.approx(math.log(2), abs=1e-6)
    monkeypatch.setattr(inputs, "DROPOUT", ())
    ctx = context(tmp_path, "dpo", table, duration="2 steps", beta=0.5)
    ctx = type(ctx)(ctx.job, ctx.inputs, tmp_path / "wrong", ctx.launch)
    for folder in (ctx.output, ctx.checkpoints, ctx.record):
        folder.mkdir(parents=True)
    assert abs(curve(ctx)[0] - math.log(2)) > 1e-4


def test_pairs_without_a_difference_are_dropped_and_refused(tmp_path: Path) -> None:
    """Row 43: a reward or DPO run on identical sides learns nothing and says so."""
    from training_jobs import tokens_folder

    alike = [{"prompt_ids": [0, 5], "chosen_ids": [6, 3], "rejected_ids": [6, 3]} for _ in range(8)]
    table = tokens_folder(tmp_path / "pairs", "preference", alike)
    for kind in ("dpo", "reward"):
        with pytest.raises(DataError, match=r"8 of 8 rows dropped .* 8 without .*, none is left; raise"):
            run(context(tmp_path, kind, table))


def test_initial_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """Row 36: not on what was drawn before."""
    tokens = tokens_of(tokenizer_folder(tmp_path / "tokenizer"))
    first = fresh_model(MODEL, tokens, seed=1).state_dict()
    torch.rand(17)
    second, other = (fresh_model(MODEL, tokens, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_packed_documents_do_not_see_each_other(tmp_path: Path) -> None:
    """Rows 12 and 13, through our own collator."""
    from pipelines.data.collate import PackedCollator

    tokens = tokens_of(tokenizer_folder(tmp_path / "tokenizer"))
    model = fresh_model(MODEL, tokens, seed=1).eval()
    rng = np.random.default_rng(0)
    documents = [rng.integers(4, VOCAB, length) for length in (5, 9, 3)]
    packed = PackedCollator(2)([documents])
    packed.pop("labels")
    with torch.no_grad():
        together = model(**packed).logits[0]
        start = 0
        for document in documents:
            alone = model(input_ids=torch.from_numpy(document)[None]).logits[0]
            assert torch.allclose(together[start : start + len(document)], alone, atol=1e-5)
            start += len(document)


def test_the_saved_model_caches_and_stops(tmp_path: Path) -> None:
    """Rows 4 and 35: trainers switch the cache off; the stop tokens travel with the model."""
    ctx = context(tmp_path, "sft", random_tokens(tmp_path / "chats", "chat"), duration="1 steps")
    run(ctx)
    assert json.loads((ctx.output / "config.json").read_text())["use_cache"] is True
    generation = AutoModelForCausalLM.from_pretrained(ctx.output).generation_config
    assert generation.eos_token_id == [1, 3] and generation.bos_token_id == 0
