"""What a person sees while jobs run: a live line, or every ten seconds a plain one if there is news."""

import json
import os
import sys
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_SECONDS = 10.0
IDLE_SECONDS = 30.0
"""Without a new step: it loads, evaluates or saves."""
_LIVE_SECONDS = 0.2
_NOTE = "note: "
"""Lines of a log that begin so are shown; the rest stays in the log."""


class Console:
    """Writes to standard error; standard output belongs to results."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        self.live = sys.stderr.isatty() and not quiet and os.environ.get("TERM") != "dumb"
        self.colour = self.live and not os.environ.get("NO_COLOR")

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def cached(self, name: str) -> None:
        self.say(f"= {name:<24} {self._dim('cached')}")

    def begin(self, name: str, reason: str, command: str | None) -> None:
        self.say(f"+ {name:<24} {reason}".rstrip())
        if command:
            self.say(self._dim(f"  by hand: {command}"))

    def done(self, name: str, seconds: float, metrics: Mapping[str, Any]) -> None:
        self.say(f"{self._green('✓')} {name:<24} {duration(seconds):>7}  {summary(metrics)}".rstrip())

    def follow(self, name: str, record: Path, *, live: bool) -> "Follower":
        """A view of one running job, to be asked for news again and again; `live` where it is alone on the screen."""
        return Follower(self, name, record, live=live and self.live)

    def _dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self.colour else text

    def _green(self, text: str) -> str:
        return f"\x1b[32m{text}\x1b[0m" if self.colour else text


class Follower:
    """Reads what a job writes and shows the newest of it."""

    def __init__(self, console: Console, name: str, record: Path, *, live: bool):
        self._console, self._name, self._live = console, name, live
        self._steps = [_Tail(record / name, from_end=False) for name in ("metrics.jsonl", "progress.jsonl")]
        self._log = _Tail(record / "log.txt", from_end=True)
        self._newest: dict[str, Any] = {}
        self._shown_at = self._started = time.monotonic()
        self._said, self._said_at = "", self._started
        self._bar: Progress | None = None

    def tick(self) -> None:
        """Show what is new. Cheap enough to be called many times a second."""
        now = time.monotonic()
        if self._console.quiet or now - self._shown_at < (_LIVE_SECONDS if self._live else PLAIN_SECONDS):
            return
        self._shown_at = now
        self._notes()
        for line in chain.from_iterable(tail.lines() for tail in self._steps):
            try:
                self._newest |= json.loads(line)
            except ValueError:
                continue  # a line of an attempt that was killed while writing it
        if self._live:
            self._draw(now - self._started)
            return
        text = progress(self._newest)
        if text == self._said and now - self._said_at < IDLE_SECONDS:
            return
        shown = text if text != self._said else f"{duration(now - self._started)} so far"
        self._said, self._said_at = text, now
        self._console.say(f"  {self._name} {shown}")

    def end(self) -> None:
        """Take the live line away and show the last notes."""
        if self._bar is not None:
            self._bar.stop()
        self._notes()

    def _notes(self) -> None:
        for line in self._log.lines():
            if line.startswith(_NOTE):
                self._console.say(f"  {self._name}: {line.removeprefix(_NOTE)}")

    def _draw(self, elapsed: float) -> None:
        if self._bar is None:
            self._bar = _live_bar(self._name, colour=self._console.colour)
            self._bar.start()
        total = self._newest.get("max_steps")
        text = progress(self._newest) if self._newest else duration(elapsed)
        self._bar.update(self._bar.task_ids[0], completed=self._newest.get("step", 0), total=total, text=text)
        self._bar.refresh()


def _live_bar(name: str, *, colour: bool) -> "Progress":
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn

    screen = RichConsole(stderr=True, no_color=not colour, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"))
    bar = Progress(*columns, console=screen, transient=True, auto_refresh=False)
    bar.add_task(f"  {name}", total=None, text="")
    return bar


class _Tail:
    """Whole lines appended to a file since the last look."""

    def __init__(self, path: Path, *, from_end: bool):
        self._path = path
        self._offset = path.stat().st_size if from_end and path.exists() else 0

    def lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                if self._path.stat().st_size < self._offset:
                    self._offset = 0  # a resumed job drops the lines after its checkpoint
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        return data[:whole].decode("utf-8", errors="replace").splitlines()


def progress(line: Mapping[str, Any]) -> str:
    """`412/1000 loss 1.832 lr 4.1e-05 |g| 0.71 8.1k tok/s 1:12 left`, or `rows 3/149 1:12 left` of work in parts."""
    parts = [line["pass"]] if "pass" in line else []
    if "step" in line:
        parts.append(f"{line['step']}/{line['max_steps']}" if line.get("max_steps") else str(line["step"]))
    for key, label, style in (
        ("loss", "loss", ".3f"),
        ("reward", "reward", ".3f"),
        ("kl", "kl", ".3f"),
        ("learning_rate", "lr", ".2g"),
        ("grad_norm", "|g|", ".2f"),
    ):
        if isinstance(line.get(key), int | float):
            parts.append(f"{label} {line[key]:{style}}")
    if line.get("tokens_per_second"):
        parts.append(f"{_short(line['tokens_per_second'])} tok/s")
    left = _time_left(line)
    if left is not None:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def _time_left(line: Mapping[str, Any]) -> float | None:
    if isinstance(line.get("seconds_left"), int | float):
        return float(line["seconds_left"])
    step, total, seconds = line.get("step"), line.get("max_steps"), line.get("seconds")
    if not step or not total or not seconds:
        return None
    return (total - step) * seconds / step


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3:07`, `2:03:07`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def summary(metrics: Mapping[str, Any], most: int = 4) -> str:
    """The first few metrics of a finished job."""
    shown = [(name, value) for name, value in metrics.items() if isinstance(value, int | float)][:most]
    return "  ".join(f"{name} {_number(value)}" for name, value in shown)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
