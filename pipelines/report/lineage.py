"""Which stage came from which: places of boxes and lines, from left to right."""

from collections import defaultdict
from dataclasses import dataclass

from pipelines.report.collect import MODELS, Report

WIDTH, HEIGHT, ACROSS, DOWN = 118, 34, 60, 16


@dataclass(frozen=True)
class Box:
    """One stage or dataset."""

    name: str
    kind: str
    done: bool
    x: int
    y: int


@dataclass(frozen=True)
class Line:
    """A curve from the right edge of one box to the left edge of another."""

    path: str
    is_model: bool
    """Weights went this way, rather than data."""


@dataclass(frozen=True)
class Picture:
    """The whole lineage with its size."""

    boxes: list[Box]
    lines: list[Line]
    width: int
    height: int


def picture(report: Report) -> Picture:
    """Datasets, the tokenizer and the stages that train; tokens are drawn as their dataset, scores not at all."""
    shown = [stage for stage in report.stages if stage.kind in ("data", "tokenizer", *MODELS)]
    edges = _edges(report, {stage.name for stage in shown})
    columns: dict[int, list[str]] = defaultdict(list)
    depth: dict[str, int] = {}
    for stage in shown:
        depth[stage.name] = max((depth[source] + 1 for source, target, _ in edges if target == stage.name), default=0)
    for stage in shown:
        columns[depth[stage.name]].append(stage.name)
    tallest = max((len(names) for names in columns.values()), default=0)
    places = {}
    for column, names in columns.items():
        top = (tallest - len(names)) * (HEIGHT + DOWN) // 2
        for row, name in enumerate(names):
            places[name] = (column * (WIDTH + ACROSS) + 1, top + row * (HEIGHT + DOWN) + 1)
    boxes = [
        Box(
            stage.stage if stage.kind == "data" else stage.name,
            stage.kind,
            stage.state == "complete",
            *places[stage.name],
        )
        for stage in shown
    ]
    lines = [Line(_curve(places[source], places[target]), is_model) for source, target, is_model in edges]
    width = max((x for x, _ in places.values()), default=0) + WIDTH + 1
    return Picture(boxes, lines, width, tallest * (HEIGHT + DOWN) - DOWN + 2 if tallest else 0)


def _edges(report: Report, shown: set[str]) -> list[tuple[str, str, bool]]:
    """(source, target, whether weights went this way)."""
    edges: dict[tuple[str, str], bool] = {}
    for edge in report.lineage:
        if edge.target not in shown:
            continue
        source = edge.source
        if report.stage(source).kind == "tokens":
            source = report.stage(source).inputs["dataset"]
        if source in shown:
            is_model = report.stage(source).kind in MODELS
            edges[source, edge.target] = edges.get((source, edge.target), False) or is_model
    return [(source, target, is_model) for (source, target), is_model in edges.items()]


def _curve(start: tuple[int, int], end: tuple[int, int]) -> str:
    x, y = start[0] + WIDTH, start[1] + HEIGHT // 2
    to_x, to_y = end[0], end[1] + HEIGHT // 2
    middle = (x + to_x) // 2
    return f"M{x} {y}C{middle} {y} {middle} {to_y} {to_x} {to_y}"
