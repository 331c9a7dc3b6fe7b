"""What a run draws from each dataset of its mixture, beside what was planned, in the record of its job."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import PartialState

from pipelines.data.schedule import Turns
from pipelines.stages.base import StageContext
from pipelines.store.durable import write_json

MIXTURE = "mixture.json"


@dataclass(frozen=True)
class Part:
    """A part of the run in which datasets have the same shares of rows: a phase, or what is left of one after a dataset
    has been taken as often as it may be."""

    phase: int
    """Number of the phase that it belongs to."""
    start: float
    """Share of the run before it."""
    rows: tuple[int, ...]
    """Taken of each dataset."""


def one_part(shares: Sequence[float], rows: int) -> Part:
    """A whole run of so many rows with the same shares."""
    return Part(0, 0.0, tuple(Turns(shares).before(rows)))


def write_examples(
    ctx: StageContext, names: Sequence[str], sizes: Sequence[int], *, rows: int, steps: int
) -> dict[str, float]:
    """Of a run that draws so many rows by shares of examples: what it draws of each dataset goes into the record, and
    the passes over it come back as metrics. `sizes`: rows of each."""
    shares = [share for _, share in ctx.job.mixture]
    part = one_part(shares, rows)
    write_mixture(ctx, [part], planned=[shares], steps=steps)
    return {
        f"source_{name}_epochs": round(taken / size, 4)
        for name, taken, size in zip(names, part.rows, sizes, strict=True)
    }


def write_mixture(
    ctx: StageContext,
    parts: Sequence[Part],
    *,
    planned: Sequence[Sequence[float]],
    starts: Sequence[float] = (0.0,),
    tokens_per_row: Sequence[float] | None = None,
    steps: int,
) -> None:
    """`planned`: shares of each dataset in each phase, which begin at `starts`. They are of tokens where it is said
    how many a row of each dataset has in the mean, else of examples."""
    sizes = np.ones(len(planned[0])) if tokens_per_row is None else np.array(tokens_per_row)
    found: dict[str, Any] = {
        "unit": "examples" if tokens_per_row is None else "tokens",
        "steps": steps,
        "roles": [role for role, _ in ctx.job.mixture],
        "phases": [{"start": start, "planned": list(shares)} for start, shares in zip(starts, planned, strict=True)],
        "parts": [
            {"phase": part.phase, "start": part.start, "drawn": (np.array(part.rows) * sizes).round(1).tolist()}
            for part in parts
        ],
    }
    if PartialState().is_main_process:
        write_json(ctx.record / MIXTURE, found)
