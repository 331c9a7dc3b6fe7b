"""The score table: a row per task, a column per model, and a mark where a change is beyond noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.evaluation.labels import labels
from pipelines.report import floor
from pipelines.report.collect import Report, ScoreFacts

NOISE = 3
"""Standard errors of a difference that count as noise."""
LEGEND = (
    "± is one standard error. ▲ better, ▼ worse than the stage it started from, by more than three standard errors of "
    "the difference; no mark: within noise."
)


@dataclass(frozen=True)
class Cell:
    """A score as it is shown."""

    text: str
    stderr: str
    mark: str
    """▲ | ▼ | empty"""
    title: str
    """The difference in words; empty where there is none to tell."""


@dataclass(frozen=True)
class Row:
    """One task under one set of settings."""

    task: str
    """Its name, and the settings that tell it from another row of that name."""
    metric: str
    note: str
    """Settings worth a word: shots, items; the entropy of a text, where it is known."""
    cells: list[Cell | None]
    """One per column; None where this model was not asked."""


@dataclass(frozen=True)
class Table:
    """Scores that may be read side by side."""

    title: str
    columns: list[str]
    rows: list[Row]


def tables(report: Report) -> list[Table]:
    """Plain prompts, then those in chat form: their settings differ, so they never share a row."""
    parts = [
        ("Plain prompts", [score for score in report.scores if not score.settings.get("apply_chat_template")]),
        ("In the chat template", [score for score in report.scores if score.settings.get("apply_chat_template")]),
    ]
    return [_table(title, scores, report) for title, scores in parts if scores]


def difference(before: ScoreFacts, after: ScoreFacts) -> tuple[float, float | None]:
    """(after - before, its standard error). ValueError unless both were measured in the same way."""
    if _asked(before) != _asked(after):
        raise ValueError(f"{before.task} of {before.stage} and {after.task} of {after.stage}: unequal settings")
    if before.stderr is None or after.stderr is None:
        return after.value - before.value, None
    return after.value - before.value, math.hypot(before.stderr, after.stderr)


def mark(before: ScoreFacts, after: ScoreFacts) -> str:
    """▲ where a score became better beyond noise, ▼ where it became worse."""
    change, stderr = difference(before, after)
    if stderr is None or after.higher_is_better is None or abs(change) <= NOISE * stderr:
        return ""
    return "▲" if (change > 0) == after.higher_is_better else "▼"


def _asked(score: ScoreFacts) -> tuple[object, ...]:
    """What was measured, and how."""
    return (score.task, score.metric, *sorted((name, str(value)) for name, value in score.settings.items()))


def _table(title: str, scores: Sequence[ScoreFacts], report: Report) -> Table:
    columns = [name for name in report.models() if any(score.stage == name for score in scores)]
    grouped: dict[tuple[object, ...], dict[str, ScoreFacts]] = {}
    for score in scores:
        grouped.setdefault(_asked(score), {})[score.stage] = score
    firsts = [next(iter(found.values())) for found in grouped.values()]
    names = labels((first.task, first.settings) for first in firsts)
    rows = [_row(name, found, columns, report) for name, found in zip(names, grouped.values(), strict=True)]
    return Table(title, columns, rows)


def _row(label: str, found: dict[str, ScoreFacts], columns: Sequence[str], report: Report) -> Row:
    first = next(iter(found.values()))
    shots = first.settings.get("num_fewshot") or 0
    note = f"{first.n:,} items" + (f", {shots} shot{'s' if shots > 1 else ''}" if shots else "")
    kind, _, dataset = first.task.partition("/")
    entropy = floor.bits_per_byte(report, dataset, first.n, with_end=False) if kind == "bits_per_byte" else None
    note += f", entropy {entropy:.3f}" if entropy is not None else ""
    cells = [_cell(found[name], _parent(name, found, report)) if name in found else None for name in columns]
    return Row(label, first.metric, note, cells)


def _parent(name: str, found: dict[str, ScoreFacts], report: Report) -> ScoreFacts | None:
    """The score of the nearest stage above that was asked the same."""
    seen = set()
    while (above := report.stage(name).inputs.get("model")) and above not in seen:
        if above in found:
            return found[above]
        seen.add(above)
        name = above
    return None


def _cell(score: ScoreFacts, parent: ScoreFacts | None) -> Cell:
    stderr = "" if score.stderr is None else f"±{score.stderr:.3f}"
    if parent is None:
        return Cell(f"{score.value:.3f}", stderr, "", "")
    change, spread = difference(parent, score)
    title = f"{change:+.3f} against {parent.stage}" + (f", standard error {spread:.3f}" if spread is not None else "")
    return Cell(f"{score.value:.3f}", stderr, mark(parent, score), title)
