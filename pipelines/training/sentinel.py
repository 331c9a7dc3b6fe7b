"""What watches a run: signals, non-finite numbers, gradients that reach nothing, and metrics.jsonl."""

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from pipelines.errors import DataError, Diverged, MachineError

METRICS = "metrics.jsonl"
MOST_LINES = 2000
"""Longer runs write every n-th step, so that the file stays readable; the loss is then the mean since the last line."""


class SignalWatch:
    """SIGTERM, SIGINT and SIGUSR1 (Slurm's warning) ask a run to stop; all ranks then agree on the step."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Only while training: elsewhere there is nothing to save, and the process may end at once."""
        before = {number: signal.signal(number, self._on_signal) for number in self.NUMBERS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.asked:
            raise KeyboardInterrupt  # the second Ctrl+C leaves at once
        self.asked = True  # acted on once all ranks know: one that stops alone leaves the others waiting


def check_step(
    step: int, rows: np.ndarray, losses: np.ndarray, grad_norms: np.ndarray, trained_tokens: Sequence[float]
) -> None:
    """Raise, before anything is applied, when the step went wrong on any rank.

    `rows` is (accumulation, ranks, micro batch), `losses` (ranks, accumulation), `grad_norms` and `trained_tokens`
    (ranks,); trained tokens below zero are not counted by this kind of run."""
    bad = ~np.isfinite(losses).T
    if bad.any():
        raise Diverged(_not_finite(step, "loss", rows[bad]))
    if not np.isfinite(grad_norms).all():
        raise Diverged(_not_finite(step, "gradient", rows))
    if max(trained_tokens) == 0:
        raise DataError(
            f"step {step + 1}: no token of this batch is trained on (rows {_numbers(rows)}); check the chat template's "
            "assistant mask and max_length"
        )


def require_finite_weights(model: torch.nn.Module) -> None:
    """Raise Diverged, naming parameters, where a finite gradient has led to weights that are no numbers."""
    bad = [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]
    if bad:
        raise Diverged(f"{', '.join(bad[:4])}: not all finite numbers; nothing was saved; lower learning_rate")


def _not_finite(step: int, what: str, rows: np.ndarray) -> str:
    return (
        f"step {step + 1}: the {what} is not a finite number (rows {_numbers(rows)}); this step was not applied; "
        "a lower learning_rate, a longer warm-up or a smaller max_grad_norm usually helps"
    )


def _numbers(rows: np.ndarray) -> str:
    numbers = sorted(set(rows.flatten().tolist()))
    shown = ", ".join(map(str, numbers[:16]))
    return shown + (f" and {len(numbers) - 16} more" if len(numbers) > 16 else "")


class FirstStep:
    """Guards the first step that has a learning rate: every parameter has a gradient, and the weights move."""

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self._watched: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def before_update(self, grad_norm: float) -> None:
        """Gradients are there; remember the number that should move most in each parameter."""
        trainable = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        without = [name for name, parameter in trainable if parameter.grad is None]
        if without:
            raise RuntimeError(f"no gradient reaches {', '.join(without[:4])}: the loss does not depend on it")
        if grad_norm == 0:
            raise DataError("step 1: the gradient is zero everywhere, so nothing can be learnt from these rows")
        for _, parameter in trainable:
            gradient = parameter.grad
            assert gradient is not None
            place = gradient.abs().argmax()
            self._watched.append((parameter, place, parameter.detach().flatten()[place].clone()))

    def after_update(self) -> None:
        """Raise MachineError when not one of them moved: the steps are below the precision of the weights."""
        if not any(bool(parameter.detach().flatten()[place] != before) for parameter, place, before in self._watched):
            dtype = self._watched[0][0].dtype
            raise MachineError(
                f"step 1: no weight moved: learning_rate is too small for weights in {dtype}; raise it, or train with "
                "float32 weights"
            )


class MetricsLog:
    """Appends to metrics.jsonl: one line a step (every n-th in long runs), flushed, so a progress line can follow it.

    `seconds` and `tokens_per_second` count time in steps only, not evaluations and checkpoints."""

    def __init__(self, folder: Path | None, *, max_steps: int, resumed_step: int):
        self.tokens, self.seconds = 0, 0.0
        self._every = max(1, math.ceil(max_steps / MOST_LINES))
        self._max_steps = max_steps
        self._path = folder / METRICS if folder else None
        self._file: TextIO | None = None
        self._since, self._pending = time.perf_counter(), _Pending()
        if self._path:
            self._continue_after(self._path, resumed_step)

    def restart_clock(self) -> None:
        """Whatever came since the last step is not training."""
        self._since = time.perf_counter()

    def stop_clock(self) -> None:
        """The step is over; what follows until `step` and `restart_clock` is not training."""
        self._pending.last_seconds = time.perf_counter() - self._since

    def step(self, step: int, values: Mapping[str, float], tokens: int, *, saves: bool = False) -> None:
        """Note one optimizer step; `values` has loss, learning_rate, grad_norm and what the trainer adds.

        Where a checkpoint follows there is always a line: a resumed run counts on from it."""
        self._pending.add(values["loss"], tokens)
        self.tokens += tokens
        self.seconds += self._pending.last_seconds
        if step % self._every == 0 or step == 1 or saves or "eval_loss" in values:
            line = {"step": step, **values, "loss": self._pending.mean_loss}
            line |= {"tokens_per_second": self._pending.rate, "tokens": self.tokens, "seconds": round(self.seconds, 4)}
            self._append(line | {"max_steps": self._max_steps})
            self._pending = _Pending()

    @property
    def tokens_per_second(self) -> float:
        """Mean over the run's steps so far."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def _continue_after(self, path: Path, step: int) -> None:
        """Drop what a killed run wrote beyond its checkpoint, and a last line that was cut off."""
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        if kept:
            self.tokens = max(line.get("tokens", 0) for line in kept)
            self.seconds = max(line.get("seconds", 0.0) for line in kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(line) + "\n")


class _Pending:
    """Steps since the last line."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.tokens, self.seconds, self.last_seconds = 0, 0.0, 0.0

    def add(self, loss: float, tokens: int) -> None:
        self.losses.append(loss)
        self.tokens += tokens
        self.seconds += self.last_seconds

    @property
    def mean_loss(self) -> float:
        return math.fsum(self.losses) / len(self.losses)

    @property
    def rate(self) -> float:
        return round(self.tokens / self.seconds, 1) if self.seconds else 0.0


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; what is no JSON object (a line cut off by a kill) is passed over."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines
