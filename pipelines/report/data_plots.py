"""Pictures of data: what became of rows, how long documents are, and what stages draw over a run."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipelines.report.collect import Report
from pipelines.report.datasets import DataFacts, LengthFacts
from pipelines.report.drawing import BLUE, GREY, SHADES, SIZE, Plot, figure
from pipelines.report.figures import short
from pipelines.report.mixtures import MixtureFacts
from pipelines.report.text import visible

MOST_DATASETS, MOST_REASONS, LONGEST_NAME = 16, 6, 26
OTHERS = "others"
LOSSES = tuple(shade for shade in SHADES if shade not in (BLUE, GREY))
"""Colours of reasons; rows that are used are blue, the rest of the reasons grey."""


def data_plots(report: Report) -> list[Plot]:
    """Where there is something to see."""
    found = []
    if any(data.lost for data in report.data):
        found.append(Plot("rows", "used, and why not", _fates(report.data[:MOST_DATASETS])))
    lengths = [(data.name, data.lengths) for data in report.data if data.lengths and sum(data.lengths.rows)]
    if lengths:
        found.append(Plot("documents", "training rows by their tokens", _lengths(lengths, _row_lengths(report))))
    changing = [mixture for mixture in report.mixtures if len(mixture.parts) > 1 and len(mixture.uses) > 1]
    return found + [Plot(one.stage, f"{one.unit} drawn of each dataset", _draws(one)) for one in changing]


def _fates(data: Sequence[DataFacts]) -> str:
    totals = Counter[str]()
    for one in data:
        for reason in one.lost:
            totals[reason.reason] += reason.rows
    named = [name for name, _ in totals.most_common(MOST_REASONS)]
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
        _legend(axes)
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
        for number, (name, found) in enumerate(lengths[: len(SHADES)]):
            # Bins are as wide as each other on this axis but for the first ones, where lengths are whole numbers.
            total, colour = sum(found.rows), SHADES[number]
            values = [100 * rows / total for rows in found.rows]
            axes.stairs(values, found.edges, color=colour, linewidth=1.4, label=_name(name))
            axes.stairs(values, found.edges, color=colour, alpha=0.12, fill=True)
        for limit in limits:
            axes.axvline(limit, color=GREY, linewidth=1, linestyle=(0, (2, 2)))
            axes.text(limit, 1.0, f" {limit:,}", transform=axes.get_xaxis_transform(), va="top", fontsize=8, color=GREY)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda size, _: short(size))
        axes.set_xlabel("tokens (dashed: the rows of pretraining)" if limits else "tokens")
        axes.set_ylabel("% of rows")
        axes.set_ylim(0)
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
        _legend(axes)
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
        for number, use in enumerate(mixture.uses):
            high = [a + 100 * part.shares[number] for a, part in zip(low, mixture.parts, strict=True)]
            colour = SHADES[number % len(SHADES)]
            axes.stairs(high, edges, baseline=low, fill=True, color=colour, alpha=0.85, label=_name(use.data))
            low = high
        for start in mixture.starts[1:]:
            axes.axvline(start * steps, color=GREY, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_ylim(0, 100)
        axes.set_xlim(0, steps)
        axes.set_xlabel("step (dashed: a phase begins)" if len(mixture.starts) > 1 else "step")
        axes.set_ylabel(f"% of {mixture.unit}")
        _legend(axes)
        return finished()


def _legend(axes: Any) -> None:
    """Above the picture, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        columns = 2 if max(map(len, labels)) > 16 else 3
        axes.legend(handles, labels, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns,
                    handlelength=1.0, columnspacing=1.2, borderaxespad=0.2, fontsize=8)  # fmt: skip


def _name(name: str) -> str:
    """Short enough for the margin."""
    shown = visible(name)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"
