"""Which stage came from which: places of boxes and lines, from left to right."""

from collections import defaultdict
from dataclasses import dataclass

from pipelines.report.collect import MODELS, Report, StageFacts

WIDTH, HEIGHT, ACROSS, DOWN = 160, 46, 56, 20
LONGEST = 27
"""Characters that fit into a box."""


@dataclass(frozen=True)
class Box:
    """One stage, and the data that it reads."""

    name: str
    reads: str
    done: bool
    x: int
    y: int


@dataclass(frozen=True)
class Line:
    """A curve from the right edge of one box to the left edge of another."""

    path: str
    is_model: bool
    """Weights went this way; else a tokenizer."""


@dataclass(frozen=True)
class Picture:
    """The whole lineage with its size."""

    boxes: list[Box]
    lines: list[Line]
    width: int
    height: int


def picture(report: Report) -> Picture:
    """The tokenizer and the stages that train, each right of what it started from."""
    shown = [stage for stage in report.stages if stage.kind in ("tokenizer", "model", *MODELS)]
    edges = _edges(shown)
    depth: dict[str, int] = {}
    columns: dict[int, list[str]] = defaultdict(list)
    for stage in shown:
        depth[stage.name] = max((depth[source] + 1 for source, target, _ in edges if target == stage.name), default=0)
        columns[depth[stage.name]].append(stage.name)
    tallest = max((len(names) for names in columns.values()), default=0)
    places = {}
    for column, names in columns.items():
        top = (tallest - len(names)) * (HEIGHT + DOWN) // 2
        for row, name in enumerate(names):
            places[name] = (column * (WIDTH + ACROSS) + 1, top + row * (HEIGHT + DOWN) + 1)
    boxes = [
        Box(_short(stage.name), _short(_reads(report, stage)), stage.state == "complete", *places[stage.name])
        for stage in shown
    ]
    lines = [Line(_curve(places[source], places[target]), is_model) for source, target, is_model in edges]
    width = max((x for x, _ in places.values()), default=0) + WIDTH + 1
    return Picture(boxes, lines, width, tallest * (HEIGHT + DOWN) - DOWN + 2 if tallest else 0)


def _edges(shown: list[StageFacts]) -> list[tuple[str, str, bool]]:
    """(source, target, whether weights went this way)."""
    kinds = {stage.name: stage.kind for stage in shown}
    found = {(source, stage.name) for stage in shown for source in stage.inputs.values() if source in kinds}
    return sorted((source, target, kinds[source] in ("model", *MODELS)) for source, target in found)


def _reads(report: Report, stage: StageFacts) -> str:
    """Names of the datasets of a stage."""
    names = [report.stage(job).stage for role, job in stage.inputs.items() if role.startswith("data.")]
    return ", ".join(dict.fromkeys(names))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _curve(start: tuple[int, int], end: tuple[int, int]) -> str:
    x, y = start[0] + WIDTH, start[1] + HEIGHT // 2
    to_x, to_y = end[0], end[1] + HEIGHT // 2
    middle = (x + to_x) // 2
    return f"M{x} {y}C{middle} {y} {middle} {to_y} {to_x} {to_y}"
