"""The order of pretraining's rows: shares of tokens, by phases, by size, and with caps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pipelines.data.collate import PackedRows
from pipelines.data.mixing import Phase, PhasedMixture
from pipelines.data.schedule import Order, mixed
from pipelines.recipe.stages import PretrainStage
from pipelines.stages.base import StageContext
from pipelines.training.arguments import num_steps
from pipelines.training.drawn import Part, one_part, write_mixture
from pipelines.training.inputs import Source


def with_shares(config: PretrainStage, mix: Sequence[Source]) -> list[Source]:
    """The sources with their shares of tokens in each phase; by size where the recipe says so."""
    if config.sampling_temperature is None:
        return list(mix)
    sizes = [source.train.tokens ** (1 / config.sampling_temperature) for source in mix]
    phases = [
        [size * bool(share) for size, share in zip(sizes, shares, strict=True)]
        for shares in zip(*(source.shares for source in mix), strict=True)
    ]
    phases = [[size / sum(phase) for size in phase] for phase in phases]
    return [
        replace(source, share=shares[0], later_shares=tuple(shares[1:]))
        for source, shares in zip(mix, zip(*phases, strict=True), strict=True)
    ]


@dataclass(frozen=True)
class Course:
    """Which rows a run takes."""

    order: Order
    steps: int
    parts: tuple[Part, ...]
    starts: tuple[float, ...]
    """Of the phases: shares of the run before them."""
    tokens_per_row: tuple[float, ...]
    """Of each dataset, in the mean."""

    @property
    def taken(self) -> tuple[int, ...]:
        """Rows of each dataset in the whole run."""
        return tuple(sum(rows) for rows in zip(*(part.rows for part in self.parts), strict=True))

    @property
    def skipped(self) -> list[float]:
        """Starts of the phases that no step falls into."""
        steps = [*(round(start * self.steps) for start in self.starts), self.steps]
        return [start for start, (first, end) in zip(self.starts, pairwise(steps), strict=True) if first == end]

    def write(self, ctx: StageContext, mix: Sequence[Source]) -> None:
        """Beside the plan, into the record of the job."""
        for start in self.skipped:
            print(f"note: no step falls into the phase from {start:.4g} of the run on: it has {self.steps}", flush=True)
        planned = list(zip(*(source.shares for source in mix), strict=True))
        write_mixture(
            ctx,
            self.parts,
            planned=planned,
            starts=self.starts,
            tokens_per_row=self.tokens_per_row,
            steps=self.steps,
        )

    def metrics(self, rows: PackedRows, mix: Sequence[Source]) -> dict[str, Any]:
        """Documents and tokens of each dataset, and how often the run went over them."""
        found: dict[str, Any] = {"rows_in": 0, "rows_used": 0}
        for number, (source, size, taken) in enumerate(zip(mix, rows.sizes, self.taken, strict=True)):
            found["rows_in"] += len(source.train)
            found["rows_used"] += len(source.train)
            name = f"source_{source.name}"
            found |= {f"{name}_rows_in": len(source.train), f"{name}_rows_used": len(source.train)}
            found |= {f"{name}_tokens": source.train.tokens, f"{name}_packed_rows": size}
            found |= {f"{name}_epochs": round(taken / size, 4), f"{name}_documents_cut": rows.num_cut(number)}
        return found | {"packed_rows": len(rows), "epochs": round(sum(self.taken) / len(rows), 4)}


def course_of(config: PretrainStage, rows: PackedRows, mix: Sequence[Source], seed: int) -> Course:
    """DataError where the caps leave fewer rows than the run takes."""
    means = tuple(float(rows.lengths[a:b].mean()) for a, b in pairwise(np.cumsum([0, *rows.sizes])))
    phases = [_row_shares(shares, means) for shares in zip(*(source.shares for source in mix), strict=True)]
    starts = (0.0, *(phase.start for phase in config.phases))
    steps = num_steps(
        config.duration,
        rows=len(rows),
        tokens_per_row=sum(
            (end - start) * sum(share * mean for share, mean in zip(shares, means, strict=True))
            for shares, (start, end) in zip(phases, pairwise([*starts, 1.0]), strict=True)
        ),
        global_batch_size=config.global_batch_size,
    )
    length = steps * config.global_batch_size
    caps = [
        None if source.max_epochs is None else max(1, math.floor(source.max_epochs * size))
        for source, size in zip(mix, rows.sizes, strict=True)
    ]
    if config.phases or any(cap is not None for cap in caps):
        firsts = [round(start * steps) * config.global_batch_size for start in starts]
        parts = [Phase(first, shares) for first, shares in zip(firsts, phases, strict=True)]
        phased = PhasedMixture(rows.sizes, parts, seed, length=length, caps=caps)
        taken = tuple(Part(phase, start / length, drawn) for phase, start, drawn in phased.parts())
        return Course(phased, steps, taken, starts, means)
    return Course(mixed(rows.sizes, phases[0], seed), steps, (one_part(phases[0], length),), starts, means)


def _row_shares(shares: Sequence[float], means: Sequence[float]) -> tuple[float, ...]:
    """The recipe's shares are of tokens; the schedule deals rows, with so many real tokens in the mean."""
    weights = [share / mean for share, mean in zip(shares, means, strict=True)]
    return tuple(weight / sum(weights) for weight in weights)
