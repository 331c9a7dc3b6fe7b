"""Pictures as inline SVG, readable on light and dark paper. The only module that knows matplotlib."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

INK = "#010203"
"""Stands for the page's own text colour, whatever that is."""
BLUE, ORANGE, GREY = "#4c86c6", "#d9822b", "#8a8f98"
SHADES = (BLUE, ORANGE, GREY, "#5a9e6f", "#9a6fb0", "#c2607a", "#a58a3c", "#4aa3a8")
SIZE = (4.6, 2.35)


@dataclass(frozen=True)
class Plot:
    """One picture with its caption."""

    stage: str
    title: str
    svg: str


@contextmanager
def figure(size: tuple[float, float] = SIZE) -> Iterator[tuple[Any, Callable[[], str]]]:
    """(axes, what makes them a picture), in our style."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it complains of a HOME that it cannot write into
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "sourdough",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.edgecolor": GREY,
        "axes.linewidth": 0.6,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
    }

    def finished() -> str:
        out = StringIO()
        picture.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return _inline(out.getvalue())

    with matplotlib.rc_context(style):
        picture = Figure(figsize=size, layout="constrained")
        axes = picture.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        yield axes, finished


def legend_above(axes: Any) -> None:
    """Above the picture, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        columns = 2 if max(map(len, labels)) > 16 else 3
        axes.legend(handles, labels, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns,
                    handlelength=1.0, columnspacing=1.2, borderaxespad=0.2, fontsize=8)  # fmt: skip


def _inline(svg: str) -> str:
    """The picture as a part of a page: no prolog, no metadata, no fixed size, the page's own ink and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([0-9.]+px)[^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    return svg.replace(INK, "currentColor")
