"""What every trainer has in common: the batch is f(seed, step), a checkpoint is whole or absent, a killed run resumes
to the same bits, and nothing non-finite is ever applied or saved."""

import functools
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import accelerate.optimizer
import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import TrainOutput

from pipelines.data.schedule import InOrder, Noise, Order, Schedule, key
from pipelines.errors import Stopped
from pipelines.store import durable
from pipelines.training import checkpoints
from pipelines.training.best import Best
from pipelines.training.optim import OptimSettings, build_optimizer, build_scheduler
from pipelines.training.sentinel import FirstStep, MetricsLog, SignalWatch, check_step, require_finite_weights

# accelerate 1.15 searches the disk for a package of this name twice in every optimizer step: 0.3 ms.
accelerate.optimizer.is_lomo_available = functools.cache(accelerate.optimizer.is_lomo_available)


@dataclass(frozen=True)
class Exact:
    """How a run is made exact."""

    seed: int
    checkpoint_every: int
    keep: int = 2
    """Checkpoints kept."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Compared on resume: what differs is refused with its name."""
    optim: OptimSettings | None = None
    """None: the optimizer and schedule of the training arguments."""
    schedule: Order | None = None
    """Default: a permutation of the rows, pass after pass."""
    noise: Noise | None = None
    """What is done to each row before it is collated; a pure function, so that a resumed run sees the same."""
    record: Path | None = None
    """Folder of metrics.jsonl."""
    evaluate_every: int | None = None
    evaluate: Callable[[torch.nn.Module], Mapping[str, float]] | None = None
    """Numbers of the holdout, computed alike on every rank."""
    best: Best | None = None
    """Keeps the weights that score best, which are then the run's result; it needs `evaluate`."""


# What an exact run needs in its TrainingArguments, whatever the recipe says.
ARGUMENTS: dict[str, Any] = {
    "save_strategy": "no",  # the callback below says when
    "logging_strategy": "no",  # metrics.jsonl is written by the sentinel
    "train_sampling_strategy": "sequential",  # the data set is in order already
    "remove_unused_columns": False,  # our collators give what the model takes
    "logging_nan_inf_filter": False,  # it hides a NaN as the mean of earlier losses
    "full_determinism": False,  # it sets the seed once, we each step
    "auto_find_batch_size": False,  # it changes the global batch
}

_Base: Any = object  # a trainer, wherever the mixin is used


class ExactTrainerMixin(_Base):
    """Put before a `transformers.Trainer` or a TRL trainer.

    Private methods replaced: `_get_grad_norm`, `_save_checkpoint`, `_load_from_checkpoint`. Public ones: `train`,
    `training_step`, `create_optimizer`, `create_scheduler`, `floating_point_ops`. The rest is a callback."""

    optimizer: Any
    lr_scheduler: Any
    train_dataset: Any

    def __init__(
        self,
        *,
        exact: Exact,
        rows: Any,
        model: torch.nn.Module,
        args: TrainingArguments,
        train_dataset: Any,
        data_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None,
        compute_loss_func: Callable[..., torch.Tensor] | None = None,
        processing_class: Any = None,
        ref_model: torch.nn.Module | None = None,
    ):
        """`rows`: a sized sequence of what the data collator takes; `rows.lengths`, when there, are its real tokens.

        `train_dataset` is what the trainer's own __init__ may look at; the run reads `rows`."""
        self.exact, self.stopped = exact, False
        self._losses: list[torch.Tensor] = []
        self._trained_tokens: torch.Tensor | None = None
        self._watch = SignalWatch()
        self._stop = self._due = False  # agreed by all ranks; wanted since the last rollout's end
        self._resume_from: Path | None = None
        self._step_values: dict[str, float] = {}
        optional = {
            "data_collator": data_collator,
            "compute_loss_func": compute_loss_func,
            "processing_class": processing_class,
            "ref_model": ref_model,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        if args.device.type != "cpu":
            use_same_kernels()
        before = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
        super().__init__(model=model, args=args, train_dataset=train_dataset, **given)
        for parameter, data in before:
            if parameter.dtype != data.dtype:  # TRL rounds an adapter to bfloat16 where its base has four bits
                parameter.data = data.to(parameter.device)
        self.rows = rows
        self._check_arguments()
        self.schedule: Order = exact.schedule or Schedule(len(rows), exact.seed)
        # after __init__: TRL's row filters and column names only saw the probe
        self.train_dataset = InOrder(rows, self.schedule, self.rows_needed, exact.noise)
        self.metrics_log = MetricsLog(None, max_steps=self.args.max_steps, resumed_step=0)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Flow(self))

    def _check_arguments(self) -> None:
        settings = self.args
        wrong = [name for name, value in ARGUMENTS.items() if getattr(settings, name) != value]
        if settings.max_steps <= 0:
            wrong.append("max_steps")
        if wrong:
            raise ValueError(f"not the values of an exact run: {', '.join(wrong)}")
        if settings.max_steps % self.steps_per_rollout:
            raise ValueError(f"max_steps must be a multiple of {self.steps_per_rollout}, the steps of one rollout")

    # what a subclass may say differently

    first_step_must_move = True
    """Whether a first step that changes nothing is an error. Where rewards are drawn, it may just have found none."""

    @property
    def steps_per_rollout(self) -> int:
        """Checkpoints fall only on multiples of this."""
        return 1

    @property
    def rows_needed(self) -> int:
        """Places of the schedule that the run reads."""
        return self.args.max_steps * self.global_batch

    def resumed(self, step: int) -> None:
        """Called once the weights of a checkpoint are loaded."""

    def step_metrics(self, step: int) -> Mapping[str, float]:
        """More numbers for this step's line in metrics.jsonl. Called on every rank, alike."""
        return {}

    def tokens_of_step(self, step: int) -> int:
        """Real tokens (no padding) of an optimizer step, over all processes."""
        lengths = getattr(self.rows, "lengths", None)
        if lengths is None:
            return 0
        start = step * self.global_batch
        return sum(int(lengths[self.train_dataset.row_at(place)]) for place in range(start, start + self.global_batch))

    # the batch is f(seed, step)

    @property
    def global_batch(self) -> int:
        """Rows of an optimizer step over all processes."""
        return self.get_total_train_batch_size(self.args)

    def rows_of_step(self, step: int) -> np.ndarray:
        """Rows of an optimizer step, shaped (accumulation, process, micro batch)."""
        start = step * self.global_batch
        rows = self.schedule(np.arange(start, start + self.global_batch))
        return rows.reshape(self.args.gradient_accumulation_steps, self.args.world_size, -1)

    # optimizer and schedule

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.exact.optim is not None:
            self.optimizer = build_optimizer(model or self.model, self.exact.optim)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None and self.exact.optim is not None:
            self.lr_scheduler = build_scheduler(optimizer or self.optimizer, self.exact.optim, num_training_steps)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: Trainer would walk over all parameters in every micro step."""
        return 0

    # stop on the step that goes wrong

    def training_step(self, model, inputs, num_items_in_batch=None):
        self._trained_tokens = num_items_in_batch
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses.append(loss)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        losses, self._losses = torch.stack(self._losses).float(), []
        trained = self._trained_tokens if self._trained_tokens is not None else -1
        mine = torch.cat(
            [losses, torch.tensor([float(norm), float(trained), float(self._watch.asked)], device=losses.device)]
        )
        everyone = self.accelerator.gather(mine).reshape(self.args.world_size, -1).cpu().numpy()
        self._stop = bool(everyone[:, -1].any())  # all ranks agree, so all stop at the same step
        step = self.state.global_step
        if not np.isfinite(everyone).all() or everyone[:, -2].max() == 0:
            check_step(step, self.rows_of_step(step), everyone[:, :-3], everyone[:, -3], everyone[:, -2].tolist())
        self._step_values = {
            "loss": float(everyone[:, :-3].sum(1).mean()),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "grad_norm": float(everyone[0, -3]),
        }
        return norm

    # checkpoints

    def _save_checkpoint(self, model, trial):
        require_finite_weights(self.model)
        if not self.args.should_save:
            return
        root, step = Path(self.args.output_dir), self.state.global_step
        work = root / ".partial"
        state = {
            "world_size": self.args.world_size,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
        }
        if self.exact.best is not None:
            state["best"] = self.exact.best.state()
        checkpoints.save(work, self.model, state, self._identity())
        replace(self.state, log_history=[]).save_to_json(str(work / "trainer_state.json"))
        durable.publish(work, root / f"checkpoint-{step}")
        durable.prune(root, self.exact.keep)

    def _identity(self) -> dict[str, Any]:
        return {
            **self.exact.identity,
            "seed": self.exact.seed,
            "rows": len(self.rows),
            "max_steps": self.args.max_steps,
            "global_batch": self.global_batch,
        }

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        folder = Path(resume_from_checkpoint)
        checkpoints.check_identity(folder, self._identity())
        checkpoints.load_weights(self.model, folder)
        if self.exact.best is not None:
            self.exact.best.load(checkpoints.load_state(folder)["best"])
        self.resumed(TrainerState.load_from_json(str(folder / "trainer_state.json")).global_step)

    def _restore(self, folder: Path) -> None:
        state = checkpoints.load_state(folder)
        before, now = state["world_size"], self.args.world_size
        if before != now and self.args.process_index == 0:
            print(f"note: saved by {before} processes, resumed by {now}: same batches, other rounding", flush=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["scheduler"])

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """Go on from the newest checkpoint that verifies, or start; a finished run only loads its weights."""
        found: list[Any] = [durable.newest(Path(self.args.output_dir)) if self.args.should_save else None]
        broadcast_object_list(found, from_process=0)
        step: int = found[0][0] if found[0] else 0
        folder: Any = found[0][1] if found[0] else None
        self._resume_from, self.stopped = folder, False
        record = self.exact.record if self.args.process_index == 0 else None
        self.metrics_log = MetricsLog(record, max_steps=self.args.max_steps, resumed_step=step)
        if step >= self.args.max_steps:
            self._load_from_checkpoint(str(folder))
            self.state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
            return TrainOutput(step, float("nan"), {})
        with self._watch.installed():
            return super().train(str(folder) if folder else None, trial, ignore_keys_for_eval)

    def train_or_stop(self) -> None:
        """`train`, and Stopped when a signal ended it before its last step. The best weights, where they are kept."""
        self.train()
        if self.stopped:
            raise Stopped(
                f"stopped after step {self.state.global_step} of {self.args.max_steps}, saved; "
                "run the same command again to go on"
            )
        if self.exact.best is not None:
            self.exact.best.restore(self.model)


def use_same_kernels() -> None:
    """On a GPU sums are added up in whatever order threads come, unless the kernels that do not are asked for. An
    operation that has none stops with an error that names it (warn_only=True would leave attention as it is)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it would write all memory twice


class _Flow(TrainerCallback):
    """When to seed, restore, save, evaluate and stop. Everything here is public callback API."""

    def __init__(self, trainer: ExactTrainerMixin):
        self.trainer = trainer
        self._first: FirstStep | None = None

    def on_train_begin(self, args, state, control, **kwargs):  # after prepare(), before the first batch
        if self.trainer._resume_from is not None:
            self.trainer._restore(self.trainer._resume_from)
        elif self.trainer.first_step_must_move:
            self._first = FirstStep(self.trainer.model)
        self.trainer.metrics_log.restart_clock()

    def on_step_begin(self, args, state, control, **kwargs):
        """Randomness is f(seed, step, rank): none is stored, and no evaluation or loader can shift it."""
        number = key(self.trainer.exact.seed, state.global_step, args.process_index)
        random.seed(number)
        np.random.seed(number % 2**32)
        torch.default_generator.manual_seed(number)  # torch.manual_seed asks every kind of device: 0.1 ms a step
        if args.device.type != "cpu":
            torch.get_device_module(args.device).manual_seed(number)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        values = self.trainer._step_values
        if self._first is not None and values["learning_rate"] > 0:
            self._first.before_update(values["grad_norm"])

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self._first is not None and self.trainer._step_values["learning_rate"] > 0:
            self._first.after_update()
            self._first = None

    def on_step_end(self, args, state, control, **kwargs):
        trainer, step = self.trainer, state.global_step
        trainer.metrics_log.stop_clock()
        values = {**trainer._step_values, **trainer.step_metrics(step), **self._evaluation(step)}
        trainer._due |= step % trainer.exact.checkpoint_every == 0 or step >= args.max_steps or trainer._stop
        saves = trainer._due and step % trainer.steps_per_rollout == 0
        trainer.metrics_log.step(step, values, trainer.tokens_of_step(step - 1), saves=saves)
        trainer.metrics_log.restart_clock()
        if saves:
            control.should_save, trainer._due = True, False
            if trainer._stop and step < args.max_steps:
                control.should_training_stop = trainer.stopped = True
        return control

    def on_save(self, args, state, control, **kwargs):
        self.trainer.metrics_log.restart_clock()

    def _evaluation(self, step: int) -> Mapping[str, float]:
        """Numbers of the holdout, where they are due; `eval_loss` among them."""
        exact = self.trainer.exact
        is_choice = exact.best is not None and exact.best.is_due(step, self.trainer.args.max_steps)
        is_look = exact.evaluate_every is not None and step % exact.evaluate_every == 0
        if exact.evaluate is None or not (is_choice or is_look):
            return {}
        scores = exact.evaluate(self.trainer.model)
        if exact.best is not None and is_choice:
            exact.best.see(step, scores, self.trainer.model)
        return {**scores, "eval_loss": scores["holdout_loss"]} if "holdout_loss" in scores else scores
