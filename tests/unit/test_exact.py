"""The batch is f(seed, step), checkpoints resume to the same bits, and a run that goes wrong stops in that step."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_jobs import BOS, EOS, PAD, VOCAB
from transformers import Trainer, TrainerCallback, TrainingArguments

from custom_models import DecoderConfig, DecoderForCausalLM
from pipelines.data.collate import PackedCollator
from pipelines.data.schedule import Schedule
from pipelines.errors import ArtifactError, DataError, Diverged, MachineError, Stopped
from pipelines.store import durable
from pipelines.training.checkpoints import pack, unpack
from pipelines.training.exact import ARGUMENTS, Exact, ExactTrainerMixin
from pipelines.training.losses import causal_lm_loss, causal_outputs_loss
from pipelines.training.optim import OptimSettings
from pipelines.training.trainers import PretrainTrainer


class Documents:
    """Packed rows of one or two made-up documents."""

    def __init__(self, count: int, *, seed: int = 0, alike: bool = False):
        rng = np.random.default_rng(seed)
        self.rows = [[self._document(rng) for _ in range(1 + number % 2)] for number in range(count)]
        if alike:
            self.rows = [self.rows[0]] * count
        self.lengths = np.array([sum(map(len, row)) for row in self.rows])

    @staticmethod
    def _document(rng: np.random.Generator) -> np.ndarray:
        return np.array([BOS, *rng.integers(4, VOCAB, rng.integers(3, 9)), EOS])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> list[np.ndarray]:
        return self.rows[row]


OPTIM = OptimSettings(learning_rate=1e-2, weight_decay=0.1, warmup_steps=2, lr_scheduler_type="cosine")


def model(dropout: float = 0.1) -> DecoderForCausalLM:
    torch.manual_seed(0)
    return DecoderForCausalLM(
        DecoderConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            dropout=dropout,
            pad_token_id=PAD,
        )
    )


def trainer(
    folder: Path,
    *,
    rows: Any = None,
    steps: int = 6,
    micro: int = 2,
    accumulate: int = 2,
    max_grad_norm: float = 1.0,
    dropout: float = 0.1,
    callback: TrainerCallback | None = None,
    **exact: Any,
) -> PretrainTrainer:
    made = PretrainTrainer(
        model=model(dropout),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulate,
            max_grad_norm=max_grad_norm,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            **ARGUMENTS,
        ),
        rows=rows or Documents(10),
        exact=Exact(**({"seed": 3, "checkpoint_every": 2, "optim": OPTIM, "record": folder / "record"} | exact)),
        collator=PackedCollator(PAD),
        loss=causal_outputs_loss,
    )
    if callback:
        made.add_callback(callback)
    return made


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "record" / "metrics.jsonl").read_text().splitlines()]


def same_weights(one: Trainer, other: Trainer) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


class Killed(Exception):
    pass


class KillAfter(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


class SignalIn(TrainerCallback):
    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretrainTrainer]:
    made = trainer(tmp_path_factory.mktemp("undisturbed"))
    made.train()
    yield made


def by_hand(rows: Documents, *, steps: int, batch: int, optim: OptimSettings, max_grad_norm: float) -> tuple[list, Any]:
    """A plain loop: one document at a time, losses summed over the step's tokens, torch's own AdamW."""
    net = model(0.0).train()
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=optim.learning_rate,
    )
    schedule, losses = Schedule(len(rows), seed=3), []
    for step in range(steps):
        documents = [d for row in schedule(np.arange(step * batch, (step + 1) * batch)).tolist() for d in rows[row]]
        count = sum(len(document) - 1 for document in documents)
        total = torch.zeros(())
        for document in documents:
            ids = torch.from_numpy(document)[None]
            total = total + causal_lm_loss(net(input_ids=ids).logits, ids) * (len(document) - 1) / count
        total.backward()
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(net.parameters(), max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = optim.learning_rate * min(
                1.0, (step + 0.0) / optim.warmup_steps if optim.warmup_steps else 1.0
            )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses, net


@pytest.mark.parametrize(("max_grad_norm", "weight_decay", "warmup"), [(0.3, 0.1, 2), (0.0, 0.0, 0)])
@pytest.mark.parametrize(("micro", "accumulate"), [(4, 1), (2, 2), (1, 4)])
def test_training_is_the_loop_by_hand(
    tmp_path: Path, max_grad_norm: float, weight_decay: float, warmup: int, micro: int, accumulate: int
) -> None:
    """Packed rows, any split into micro batches, and zeros that mean zero: off by rounding only."""
    optim = OptimSettings(
        learning_rate=1e-2, weight_decay=weight_decay, warmup_steps=warmup, lr_scheduler_type="constant"
    )
    rows = Documents(10)
    losses, net = by_hand(rows, steps=4, batch=4, optim=optim, max_grad_norm=max_grad_norm)
    fields = {"rows": rows, "steps": 4, "dropout": 0.0, "optim": optim, "max_grad_norm": max_grad_norm}
    made = trainer(tmp_path, micro=micro, accumulate=accumulate, **fields)
    made.train()
    assert [line["loss"] for line in lines(tmp_path)] == pytest.approx(losses, abs=2e-6)
    for ours, theirs in zip(made.model.parameters(), net.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-4)


def test_the_last_partial_batch_is_scaled_like_the_others(tmp_path: Path) -> None:
    """Ten equal rows, batch 2, accumulate 2, learning rate 0: three steps read twelve rows, and every loss is equal."""
    still = OptimSettings(learning_rate=0.0, lr_scheduler_type="constant")
    made = trainer(tmp_path, rows=Documents(10, alike=True), steps=3, dropout=0.0, optim=still)
    made.train()
    losses = [line["loss"] for line in lines(tmp_path)]
    assert len(losses) == 3 and max(losses) - min(losses) < 1e-6
    norms = [line["grad_norm"] for line in lines(tmp_path)]
    assert max(norms) - min(norms) < 1e-6


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_run_killed_at_any_step_ends_with_the_same_weights(
    tmp_path: Path, undisturbed: PretrainTrainer, step: int
) -> None:
    with pytest.raises(Killed):
        trainer(tmp_path, callback=KillAfter(step)).train()
    made = trainer(tmp_path)
    made.train()
    assert same_weights(made, undisturbed)
    told = lines(tmp_path)
    assert [line["step"] for line in told] == [1, 2, 3, 4, 5, 6]
    wanted = lines(Path(undisturbed.args.output_dir))
    assert [line["loss"] for line in told] == [line["loss"] for line in wanted]
    assert [line["learning_rate"] for line in told] == [line["learning_rate"] for line in wanted]
    assert told[-1]["tokens"] == wanted[-1]["tokens"]


@pytest.mark.parametrize("every", [4, 5, 6])
def test_checkpoints_around_the_end_of_an_epoch(tmp_path: Path, every: int) -> None:
    """Twenty rows, four a step: the first epoch ends with step 5."""
    rows = Documents(20)
    whole = trainer(tmp_path / "whole", rows=rows, steps=9)
    whole.train()
    with pytest.raises(Killed):
        trainer(tmp_path / "killed", rows=rows, steps=9, checkpoint_every=every, callback=KillAfter(7)).train()
    made = trainer(tmp_path / "killed", rows=rows, steps=9, checkpoint_every=every)
    made.train()
    assert same_weights(made, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_stops_and_the_rest_is_the_same(
    tmp_path: Path, undisturbed: PretrainTrainer, number: int
) -> None:
    before = signal.getsignal(number)
    made = trainer(tmp_path, checkpoint_every=100, callback=SignalIn(2, number))
    with pytest.raises(Stopped, match="stopped after step 3 of 6"):
        made.train_or_stop()
    assert signal.getsignal(number) == before
    assert [step for step, _ in durable.checkpoints(tmp_path)] == [3]
    again = trainer(tmp_path)
    again.train_or_stop()
    assert same_weights(again, undisturbed) and not again.stopped


def test_a_finished_run_takes_no_more_step(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    first.train()
    written = lines(tmp_path)
    for _ in range(2):
        again = trainer(tmp_path, callback=KillAfter(7))
        again.train()
        assert again.state.global_step == 6 and same_weights(again, first) and lines(tmp_path) == written


def test_evaluating_or_saving_more_often_changes_nothing(tmp_path: Path, undisturbed: PretrainTrainer) -> None:
    def look(net: torch.nn.Module) -> dict[str, float]:
        net.eval()
        return {"holdout_loss": float(torch.rand(()))}

    made = trainer(tmp_path, evaluate=look, evaluate_every=1, checkpoint_every=1)
    made.train()
    assert same_weights(made, undisturbed)
    told = lines(tmp_path)
    assert len(told) == 6 and all(line["eval_loss"] == line["holdout_loss"] for line in told)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed: 3 -> 4"),
        ({"rows": Documents(11)}, "rows: 10 -> 11"),
        ({"steps": 8}, "max_steps: 6 -> 8"),
        ({"micro": 1}, "global_batch: 4 -> 2"),
        ({"identity": {"job": "b", "input data.0": "x"}}, "input data.0: None -> 'x'; job: 'a' -> 'b'"),
    ],
)
def test_another_runs_checkpoint_is_refused_with_what_differs(tmp_path: Path, change: dict, named: str) -> None:
    with pytest.raises(Killed):
        trainer(tmp_path, identity={"job": "a"}, callback=KillAfter(3)).train()
    with pytest.raises(ArtifactError, match="belongs to another run") as refused:
        trainer(tmp_path, **({"identity": {"job": "a"}} | change)).train()
    assert named in str(refused.value)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, undisturbed: PretrainTrainer) -> None:
    with pytest.raises(Killed):
        trainer(tmp_path, callback=KillAfter(5)).train()
    path = tmp_path / "checkpoint-4" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    made = trainer(tmp_path)
    with pytest.warns(UserWarning, match=r"checkpoint-4/state.safetensors"):
        made.train()
    assert same_weights(made, undisturbed)


def test_checkpoints_hold_no_pickle_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    trainer(tmp_path, checkpoint_every=1).train()
    assert [step for step, _ in durable.checkpoints(tmp_path)] == [6, 5]
    names = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {".safetensors", ".json", ".jsonl"}


class Poisoned(PretrainTrainer):
    """Makes one number of one step not finite."""

    where, step = "loss", 3

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.state.global_step == self.step and self.where == "loss":
            loss = loss * float("nan")
        return loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.state.global_step == self.step and self.where == "gradient":
            self.model.model.norm.weight.grad[0] = float("inf")
        return loss


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_what_is_not_finite_stops_in_its_step_and_is_never_saved(
    tmp_path: Path, where: str, max_grad_norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Poisoned, "where", where)
    monkeypatch.setattr("test_exact.PretrainTrainer", Poisoned)
    made = trainer(tmp_path, checkpoint_every=1, max_grad_norm=max_grad_norm)
    rows = ", ".join(map(str, sorted(set(made.rows_of_step(3).flatten().tolist()))))
    with pytest.raises(Diverged, match=rf"step 4: the {where} is not a finite number \(rows {rows}\)"):
        made.train()
    assert [step for step, _ in durable.checkpoints(tmp_path)] == [3, 2]
    assert all(bool(parameter.isfinite().all()) for parameter in made.model.parameters())


class Untrained(Documents):
    def __getitem__(self, row: int) -> list[np.ndarray]:
        return [np.array([5]), np.array([6])]


def test_a_batch_without_a_trained_token_stops(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="step 1: no token of this batch is trained on"):
        trainer(tmp_path, rows=Untrained(10)).train()


def test_weights_that_do_not_move_stop_the_run(tmp_path: Path) -> None:
    """A learning rate below the precision of the weights trains nothing."""
    slow = OptimSettings(learning_rate=1e-12, lr_scheduler_type="constant")
    with pytest.raises(MachineError, match="no weight moved"):
        trainer(tmp_path, optim=slow).train()


def test_a_parameter_that_no_gradient_reaches_is_named(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.model.spare = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=r"no gradient reaches spare.weight, spare.bias"):
        made.train()


def test_metrics_have_what_a_progress_line_needs(undisturbed: PretrainTrainer) -> None:
    told = lines(Path(undisturbed.args.output_dir))
    assert {"step", "loss", "learning_rate", "grad_norm", "tokens_per_second", "seconds", "max_steps"} <= set(told[0])
    assert told[0]["learning_rate"] == 0.0 and told[1]["learning_rate"] == pytest.approx(5e-3)
    rows = undisturbed.rows
    assert told[0]["tokens"] == int(rows.lengths[undisturbed.rows_of_step(0)].sum())


def test_a_stopped_run_of_few_lines_counts_all_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.training.sentinel.MOST_LINES", 4)  # every second of eight steps has a line
    straight = trainer(tmp_path / "straight", steps=8)
    straight.train()
    trainer(tmp_path / "stopped", steps=8, callback=SignalIn(4, signal.SIGTERM)).train()
    resumed = trainer(tmp_path / "stopped", steps=8)
    resumed.train()
    assert resumed.metrics_log.tokens == straight.metrics_log.tokens > 0


def test_arguments_that_would_change_the_batch_are_refused(tmp_path: Path) -> None:
    class Plain(ExactTrainerMixin, Trainer):
        pass

    args = TrainingArguments(output_dir=str(tmp_path), max_steps=2, use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="not the values of an exact run: save_strategy"):
        Plain(model=model(), args=args, train_dataset=Documents(4), rows=Documents(4), exact=Exact(1, 1))


def test_state_survives_storage_in_types_and_bits() -> None:
    value = {0: {"a": torch.tensor(float("nan")), "b": (1, 2.5, None, True)}, "lr": [1e-3], 7: torch.arange(3)}
    tensors: dict[str, torch.Tensor] = {}
    again = unpack(json.loads(json.dumps(pack(value, tensors))), tensors)
    assert again[0]["b"] == (1, 2.5, None, True) and again["lr"] == [1e-3]
    assert again[0]["a"].isnan() and torch.equal(again[7], value[7])
    with pytest.raises(TypeError, match="without pickle"):
        pack({"x": object()}, {})
