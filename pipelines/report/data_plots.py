"""Pictures of data: what became of rows, how long documents are, and what stages draw over a run."""

from collections import Counter
from collections.abc import Sequence

from pipelines.report.collect import Report
from pipelines.report.datasets import DataFacts, LengthFacts
from pipelines.report.drawing import BLUE, GREY, SHADES, SIZE, Plot, figure, legend_above
from pipelines.report.figures import short
from pipelines.report.mixtures import MixtureFacts
from pipelines.report.text import visible

MOST_DATASETS, LONGEST_NAME = 16, 26
OTHERS = "others"
DATASETS = tuple(shade for shade in SHADES if shade != GREY)
LOSSES = DATASETS[1:]
"""Colours of reasons; rows that are used are blue, the rest of the reasons grey."""


def data_plots(report: Report) -> list[Plot]:
    """Where there is something to see."""
    found = []
    if any(data.lost for data in report.data):
        found.append(Plot("rows", "used, and why not", _fates(report.data[:MOST_DATASETS])))
    lengths = [(data.name, data.lengths) for data in report.data if data.lengths and sum(data.lengths.rows)]
    if lengths:
        found.append(Plot("documents", "training rows by their tokens", _lengths(lengths, _row_lengths(report))))
    return found


def draw_plots(report: Report) -> dict[str, str]:
    """Stage whose mixture changes -> picture of it."""
    changing = [mixture for mixture in report.mixtures if len(mixture.parts) > 1 and len(mixture.uses) > 1]
    return {one.stage: _draws(one) for one in changing}


def _fates(data: Sequence[DataFacts]) -> str:
    totals = Counter[str]()
    for one in data:
        for reason in one.lost:
            totals[reason.reason] += reason.rows
    named = [name for name, _ in totals.most_common(len(LOSSES))]
    colours = dict(zip(named, LOSSES, strict=False)) | {OTHERS: GREY}
    with figure((SIZE[0], 1.35 + 0.27 * len(data))) as (axes, finished):
        starts = [0.0] * len(data)
        for label in ("used", *named, *([OTHERS] if len(totals) > len(named) else [])):
            values = [_share(one, label, named) for one in data]
            axes.barh(range(len(data)), values, 0.66, left=starts, color=colours.get(label, BLUE), label=_name(label))
            starts = [start + value for start, value in zip(starts, values, strict=True)]
        axes.set_yticks(range(len(data)), [_name(one.name) for one in data])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the rows that were read")
        legend_above(axes)
        return finished()


def _share(data: DataFacts, label: str, named: Sequence[str]) -> float:
    """Per cent of the rows in."""
    if label == "used":
        rows = data.rows_used
    else:
        rows = sum(
            reason.rows for reason in data.lost if (reason.reason if reason.reason in named else OTHERS) == label
        )
    return 100 * rows / max(1, data.rows_in)


def _lengths(lengths: Sequence[tuple[str, LengthFacts]], limits: Sequence[int]) -> str:
    with figure((SIZE[0], SIZE[1] + 0.35)) as (axes, finished):
        for number, (name, found) in enumerate(lengths[: len(DATASETS)]):
            total, colour = sum(found.rows), DATASETS[number]
            first = next(place for place, rows in enumerate(found.rows) if rows)
            values, edges = [100 * rows / total for rows in found.rows[first:]], found.edges[first:]
            axes.stairs(values, edges, color=colour, linewidth=1.4, label=_name(name))
            axes.stairs(values, edges, color=colour, alpha=0.12, fill=True)
        for limit in limits:
            axes.axvline(limit, color=GREY, linewidth=1, linestyle=(0, (2, 2)))
            axes.text(limit, 1.0, f" {limit:,}", transform=axes.get_xaxis_transform(), va="top", fontsize=8, color=GREY)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda size, _: short(size))
        axes.set_xlabel("tokens (dashed: the rows of pretraining)" if limits else "tokens")
        axes.set_ylabel("% of rows")
        axes.set_ylim(0)
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
        legend_above(axes)
        return finished()


def _row_lengths(report: Report) -> list[int]:
    """max_length of the stages that pretrain."""
    stages = report.resolved.get("stages", {}).values()
    lengths = {stage.get("max_length") for stage in stages if stage.get("kind") == "pretrain"}
    return sorted(length for length in lengths if length)[:3]


def _draws(mixture: MixtureFacts) -> str:
    """Shares as bands, from the first step to the last."""
    steps = mixture.steps or 1
    edges = [part.start * steps for part in mixture.parts] + [steps]
    with figure((SIZE[0], SIZE[1] + 0.35)) as (axes, finished):
        low = [0.0] * len(mixture.parts)
        for name, colour, shares in _bands(mixture):
            high = [a + 100 * share for a, share in zip(low, shares, strict=True)]
            axes.stairs(high, edges, baseline=low, fill=True, color=colour, alpha=0.85, label=name)
            low = high
        for start in mixture.starts[1:]:
            axes.axvline(start * steps, color=GREY, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_ylim(0, 100)
        axes.set_xlim(0, steps)
        axes.set_xlabel("step (dashed: a phase begins)" if len(mixture.starts) > 1 else "step")
        axes.set_ylabel(f"% of {mixture.unit}")
        legend_above(axes)
        return finished()


def _bands(mixture: MixtureFacts) -> list[tuple[str, str, list[float]]]:
    """(name, colour, share of each part), in the recipe's order; datasets beyond the colours are one."""
    drawn = [[part.shares[number] for part in mixture.parts] for number in range(len(mixture.uses))]
    totals = [use.total or 0.0 for use in mixture.uses]
    most = len(DATASETS) if len(drawn) <= len(DATASETS) else len(DATASETS) - 1
    large = sorted(sorted(range(len(drawn)), key=lambda number: -totals[number])[:most])
    bands = [(_name(mixture.uses[n].data), colour, drawn[n]) for n, colour in zip(large, DATASETS, strict=False)]
    small = [drawn[number] for number in range(len(drawn)) if number not in large]
    return [*bands, (OTHERS, GREY, [sum(shares) for shares in zip(*small, strict=True)])] if small else bands


def _name(name: str) -> str:
    """Short enough for the margin."""
    shown = visible(name)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"
