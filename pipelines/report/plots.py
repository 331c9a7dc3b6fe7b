"""Curves and maps of a run."""

import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.report import floor
from pipelines.report.collect import Report, StageFacts, WordFacts
from pipelines.report.drawing import BLUE, GREY, ORANGE, SHADES, Plot, figure, legend_above
from pipelines.report.figures import short, thinned
from pipelines.report.text import visible
from pipelines.report.tokenizers import TokenizerFacts

MARKS = "sD^vP*Xd"
POINTS = 300
MAP_SIZE = (4.6, 3.6)
FLOOR_TEXTS = 200
"""Texts from which the entropy is known well enough for a line."""


@dataclass(frozen=True)
class Series:
    """One line of a plot."""

    label: str
    steps: list[float]
    values: list[float]
    colour: str = BLUE
    spread: list[float] | None = None
    """A standard error for each value, drawn as a band."""
    dotted: bool = False


def plots(report: Report) -> list[Plot]:
    """The curves of every training stage that left some."""
    found = []
    for stage in report.stages:
        lines = _lines(stage)
        for draw in PLOTS.get(stage.kind, ()):
            plot = draw(stage, lines, report)
            if plot:
                found.append(plot)
    return found


def maps(report: Report) -> list[Plot]:
    """Words of every model that was asked for its embeddings, on their two principal components."""
    return [Plot(words.stage, "words by their embeddings", _map(words)) for words in report.words]


def vocabularies(report: Report) -> list[Plot]:
    """Bytes per token by vocabulary size, and by dataset where there is something to compare."""
    found = []
    for facts in report.tokenizers:
        if facts.sweep:
            found.append(Plot(facts.stage, "bytes per token by vocabulary size", _sizes(facts)))
        if len(facts.datasets) * len(facts.vocabularies) > 1:
            found.append(Plot(facts.stage, "bytes per token by dataset", _lengths(facts)))
    return found


def curves(series: Sequence[Series], *, xlabel: str) -> str:
    """Lines as a picture that is a file of its own: dark ink, or light ink where the reader's page is dark."""
    ink = "<style>svg{color:#24292f}@media(prefers-color-scheme:dark){svg{color:#d0d7de}}</style>"
    return re.sub(r"(<svg[^>]*>)", rf"\1{ink}", _svg(series, xlabel=xlabel), count=1)


def _loss(stage: StageFacts, lines: Sequence[dict[str, Any]], report: Report) -> Plot | None:
    series = [
        _series(lines, "loss", "training", smooth=True),
        _series(lines, "holdout_loss", "holdout", colour=ORANGE, dotted=True),
    ]
    entropy = _entropy(stage, report)
    drawn = [line for line in series if line]
    if not drawn:
        return None
    unit = "nats per token" if stage.kind in ("pretrain", "sft") else "nats per pair"
    return Plot(stage.name, f"loss, {unit}", _svg(drawn, xlabel="step", entropy=entropy))


def _accuracy(stage: StageFacts, lines: Sequence[dict[str, Any]], report: Report) -> Plot | None:
    series = [
        _series(lines, "accuracy", "training", smooth=True),
        _series(lines, "holdout_accuracy", "holdout", colour=ORANGE, dotted=True),
    ]
    drawn = [line for line in series if line]
    return Plot(stage.name, "share of pairs told apart", _svg(drawn, xlabel="step")) if drawn else None


def _reward(stage: StageFacts, lines: Sequence[dict[str, Any]], report: Report) -> Plot | None:
    series = _series(lines, "reward", "reward", spread="reward_stderr")
    return Plot(stage.name, "mean reward of a rollout", _svg([series], xlabel="step")) if series else None


def _kl(stage: StageFacts, lines: Sequence[dict[str, Any]], report: Report) -> Plot | None:
    series = _series(lines, "kl", "KL", colour=ORANGE)
    return Plot(stage.name, "KL to the reference, nats", _svg([series], xlabel="step")) if series else None


Draw = Callable[[StageFacts, Sequence[dict[str, Any]], Report], Plot | None]
PLOTS: dict[str, tuple[Draw, ...]] = {
    "pretrain": (_loss,),
    "sft": (_loss,),
    "reward": (_loss, _accuracy),
    "dpo": (_loss, _accuracy),
    "ppo": (_reward, _kl),
}
"""What is drawn of each kind of stage."""


def _lines(stage: StageFacts) -> list[dict[str, Any]]:
    """metrics.jsonl; a last line that a crash cut off is left out."""
    if stage.record is None:
        return []
    try:
        text = (Path(stage.record) / "metrics.jsonl").read_text(encoding="utf-8")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            lines.append(values)
    return lines


def _series(
    lines: Sequence[dict[str, Any]],
    name: str,
    label: str,
    *,
    colour: str = BLUE,
    spread: str | None = None,
    smooth: bool = False,
    dotted: bool = False,
) -> Series | None:
    points = [line for line in lines if isinstance(line.get(name), int | float) and math.isfinite(line[name])]
    if not points:
        return None
    values = [float(line[name]) for line in points]
    if smooth:
        values = _smoothed(values)
    kept = thinned(values, POINTS)
    return Series(
        label,
        [points[place]["step"] for place in kept],
        [values[place] for place in kept],
        colour,
        [float(points[place].get(spread, 0.0)) for place in kept] if spread else None,
        dotted,
    )


def _smoothed(values: Sequence[float]) -> list[float]:
    """Mean over a window of one in forty: single batches are noise."""
    half = len(values) // 80
    return [
        math.fsum(values[max(0, place - half) : place + half + 1])
        / len(values[max(0, place - half) : place + half + 1])
        for place in range(len(values))
    ]


def _entropy(stage: StageFacts, report: Report) -> float | None:
    """Entropy per predicted token of the built-in text, where a stage was trained on nothing else."""
    tokens = [report.stage(name) for role, name in stage.inputs.items() if role.startswith("data.")]
    if stage.kind != "pretrain" or len(tokens) != 1:
        return None
    bits, counts = floor.bits_per_byte(report, tokens[0].stage, FLOOR_TEXTS, with_end=True), tokens[0].metrics
    if bits is None or not {"bytes", "tokens", "rows"} <= set(counts):
        return None
    predicted = float(counts["tokens"]) - float(counts["rows"])  # the first token of a text is given
    return bits * math.log(2) * float(counts["bytes"]) / predicted


def _svg(series: Sequence[Series], *, xlabel: str, entropy: float | None = None) -> str:
    with figure() as (axes, finished):
        for line in series:
            _draw(axes, line)
        if entropy is not None:
            axes.axhline(entropy, color=GREY, linewidth=1, linestyle=(0, (2, 2)), label="entropy of the text")
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
        axes.set_xlabel(xlabel)
        axes.margins(x=0.02)
        if len(series) + (entropy is not None) > 1:
            axes.legend(frameon=False, loc="best", handlelength=1.4)
        return finished()


def _map(words: WordFacts) -> str:
    with figure(MAP_SIZE) as (axes, finished), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that matplotlib's font lacks; the page's font draws them
        for word, (x, y) in words.points.items():
            axes.plot([x], [y], "o", color=BLUE, markersize=3)
            axes.annotate(visible(word), (x, y), (3, 3), textcoords="offset points", fontsize=8, parse_math=False)
        axes.margins(0.12)
        axes.set_xlabel(f"{words.explained[0]:.0%} of the variance")
        axes.set_ylabel(f"{words.explained[1]:.0%}")
        return finished()


def _sizes(facts: TokenizerFacts) -> str:
    own = facts.vocabularies[0]
    with figure() as (axes, finished):
        sizes = [size.vocab_size for size in facts.sweep]
        values = [size.bytes_per_token for size in facts.sweep]
        axes.plot(sizes, values, "o-", color=BLUE, linewidth=1.5, markersize=3.5, label="a part of the text")
        for number, one in enumerate(facts.vocabularies):
            label, colour = visible(one.name), ORANGE if one is own else GREY
            axes.plot([one.vocab_size], [one.bytes_per_token], MARKS[number % len(MARKS)], color=colour, label=label)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [short(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("entries")
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.5)
        legend_above(axes)
        return finished()


def _lengths(facts: TokenizerFacts) -> str:
    shown, thick = facts.datasets[:12], 0.8 / len(facts.vocabularies)
    with figure() as (axes, finished):
        for number, one in enumerate(facts.vocabularies):
            places = [place + number * thick for place in range(len(shown))]
            values = [one.sources[name].bytes_per_token for name in shown]
            label, colour = visible(one.name), SHADES[number % len(SHADES)]
            axes.barh(places, values, thick, align="edge", color=colour, label=label)
        axes.set_yticks([place + 0.4 for place in range(len(shown))], [visible(name) for name in shown])
        axes.invert_yaxis()
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.5)
        legend_above(axes)
        return finished()


def _draw(axes: Any, line: Series) -> None:
    if line.dotted:
        axes.plot(line.steps, line.values, "o-", color=line.colour, linewidth=1, markersize=3.5, label=line.label)
    else:
        axes.plot(line.steps, line.values, color=line.colour, linewidth=1.5, label=line.label)
    if line.spread:
        low = [value - spread for value, spread in zip(line.values, line.spread, strict=True)]
        high = [value + spread for value, spread in zip(line.values, line.spread, strict=True)]
        axes.fill_between(line.steps, low, high, color=line.colour, alpha=0.2, linewidth=0)
