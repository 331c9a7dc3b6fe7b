"""The course of every training stage: rows mixed, steps counted, trained, scored, saved, told in numbers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel

from pipelines.data.collate import RowCount
from pipelines.data.schedule import GroupedByLength, Noise, Order, mixed
from pipelines.recipe.training import FromModelStage
from pipelines.stages.base import StageContext
from pipelines.training.adapters import num_trainable, save_adapter
from pipelines.training.arguments import num_steps
from pipelines.training.best import Best
from pipelines.training.drawn import write_examples
from pipelines.training.exact import Exact, ExactTrainerMixin
from pipelines.training.holdout import FirstRows
from pipelines.training.inputs import Source, check_batch, identity, longest, sources
from pipelines.training.optim import OptimSettings
from pipelines.training.saving import save_model
from pipelines.training.sentinel import METRICS, read_metrics

FINAL_STEPS = 50
"""`final_loss` is the mean over the last lines of metrics.jsonl, so many or a tenth of them."""


@dataclass
class Clock:
    """Where the time of a stage went."""

    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[f"seconds_{part}"] = round(now - self._since, 3)
        self._since = now


def seed_of(ctx: StageContext) -> int:
    """Every training kind draws, so its job has a seed."""
    assert ctx.job.seed is not None
    return ctx.job.seed


@dataclass(frozen=True)
class Examples:
    """What a stage is trained and scored on whose shares are of examples."""

    rows: Any
    held_out: FirstRows
    counts: Mapping[str, float]
    """Metrics of what became of the rows, and how often the run goes over them."""
    schedule: Order
    steps: int


def examples_of(ctx: StageContext, model: PreTrainedModel, rows_of: Callable[..., Any]) -> Examples:
    """The datasets of the job as rows that fit the model, checked before the first step. `rows_of` makes rows of
    tables, max_length and overlong."""
    config: Any = ctx.job.config
    max_length = longest(config, model)
    mix = sources(ctx, model.config.vocab_size)
    rows, held_out = (
        rows_of(tables, max_length=max_length, overlong=config.overlong)
        for tables in ([source.train for source in mix], [source.holdout for source in mix])
    )
    counts = _checked_counts(rows.counts, mix, config, max_length)
    schedule, steps = _schedule(ctx, rows, mix)
    check_batch(model, rows, schedule(np.arange(config.global_batch_size)).tolist())
    drawn = write_examples(
        ctx, [source.name for source in mix], rows.sizes, rows=steps * config.global_batch_size, steps=steps
    )
    return Examples(rows, FirstRows(held_out), counts | drawn, schedule, steps)


def _schedule(ctx: StageContext, rows: Any, mix: Sequence[Source]) -> tuple[Order, int]:
    """Order of the rows, grouped by length, and optimizer steps."""
    config: Any = ctx.job.config
    steps = num_steps(
        config.duration,
        rows=len(rows),
        tokens_per_row=float(np.mean(rows.lengths)),
        global_batch_size=config.global_batch_size,
    )
    order = mixed(rows.sizes, [source.share for source in mix], seed_of(ctx))
    grouped = GroupedByLength(
        order, rows.longest, batch_size=config.global_batch_size, num_batches=steps, seed=seed_of(ctx)
    )
    return grouped, steps


def _checked_counts(
    counts: Sequence[RowCount], mix: Sequence[Source], config: FromModelStage, max_length: int
) -> dict[str, int]:
    """Metrics of what became of the rows, in sum and per dataset; DataError when too many were dropped."""
    metrics: dict[str, int] = {}
    for count, source in zip(counts, mix, strict=True):
        count.check(source.name, max_dropped=config.max_dropped, max_length=max_length)
        for name, value in count.metrics().items():
            metrics[name] = metrics.get(name, 0) + value
            metrics[f"source_{source.name}_{name}"] = value
    return metrics


def exact_run(
    ctx: StageContext,
    schedule: Order,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    noise: Noise | None = None,
    best: Best | None = None,
) -> Exact:
    """How the trainer of this job is made exact."""
    config: Any = ctx.job.config
    return Exact(
        seed=seed_of(ctx),
        checkpoint_every=ctx.launch.checkpoint_every,
        identity=identity(ctx),
        optim=OptimSettings.of(config),
        schedule=schedule,
        noise=noise,
        record=ctx.record,
        evaluate_every=ctx.launch.evaluate_every,
        evaluate=evaluate,
        best=best,
    )


def finish(
    ctx: StageContext,
    trainer: ExactTrainerMixin,
    model: PreTrainedModel,
    clock: Clock,
    *,
    config_values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train to the end (or raise Stopped), score the holdout, save, and say how it went."""
    clock.lap("preparing")
    trainer.train_or_stop()
    clock.lap("training")
    scores = dict(trainer.exact.evaluate(model)) if trainer.exact.evaluate else {}
    clock.lap("scoring")
    tokenizer = ctx.inputs["tokenizer" if "tokenizer" in ctx.inputs else "model"]
    peft, base = getattr(ctx.job.config, "peft", None), ctx.job.base
    if peft is not None and base is not None:
        folder = ctx.inputs.get("model.base", ctx.inputs["model"])
        save_adapter(model, peft, ctx.output, base=folder, fingerprint=base.fingerprint, tokenizer_folder=tokenizer)
    else:
        save_model(model, tokenizer, ctx.output, config_values=config_values)
    clock.lap("saving")
    sizes = {"parameters": model.num_parameters(), "trainable_parameters": num_trainable(model)}
    best = trainer.exact.best.metrics() if trainer.exact.best else {}
    if best and PartialState().is_main_process:
        print(f"note: kept step {best['best_step']}: {best['best_metric']} {best['best_value']:.4g}", flush=True)
    return {**_course(ctx, trainer), **sizes, **_merged(ctx), **best, **scores, **clock.seconds}


def _merged(ctx: StageContext) -> dict[str, str]:
    """For the manifest: the adapter that this job merged and did not go on with."""
    if "model.base" not in ctx.inputs or getattr(ctx.job.config, "peft", None) is not None:
        return {}
    return {"merged_adapter": ctx.job.inputs["model"].job}


def _course(ctx: StageContext, trainer: ExactTrainerMixin) -> dict[str, Any]:
    log = trainer.metrics_log
    course = {
        "steps": trainer.state.global_step,
        "tokens": log.tokens,
        "tokens_per_second": round(log.tokens_per_second, 1),
    }
    losses = [line["loss"] for line in read_metrics(ctx.record / METRICS) if "loss" in line]
    if losses:
        last = losses[-max(1, min(FINAL_STEPS, len(losses) // 10)) :]
        course |= {"first_loss": losses[0], "final_loss": sum(last) / len(last)}
    return course
