"""Every row of a dataset accounted for: used, or dropped for a reason that is counted and kept beside the data."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipelines.data import spellings
from pipelines.data.blocks import Item
from pipelines.data.formats import REASONS, Row, Unusable, column, content, needed, normaliser
from pipelines.data.layouts import LEFT_OVER, Joined, join
from pipelines.data.rows import batches
from pipelines.errors import DataError
from pipelines.recipe.data import Dataset

if TYPE_CHECKING:
    from pipelines.cleaning.quality import Quality

FIRST = 10
KEPT = 1_000
"""Rows of the quarantine file for each reason."""
PATIENCE = 100
"""Rows without the columns before it is clear that the columns are at fault."""


def digest_of(shown: str) -> bytes:
    """Of a row's content."""
    return hashlib.blake2b(shown.encode(), digest_size=16).digest()


@dataclass
class Tally:
    """Counts of a dataset or of a part of it; those of parts add up."""

    rows_in: int = 0
    used: int = 0
    train: int = 0
    holdout: int = 0
    bytes: int = 0
    changed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    filtered: Counter[str] = field(default_factory=Counter)
    first: list[dict[str, Any]] = field(default_factory=list)
    """Where the first dropped rows stand."""
    columns: tuple[str, ...] = ()
    """Of the first row that had some."""
    rows_read: int = 0
    """Where a layout makes rows of several: what was read, what went into rows, and why the rest did not."""
    rows_joined: int = 0
    left_over: Counter[str] = field(default_factory=Counter)
    labels: spellings.Spellings = field(default_factory=dict)
    """Of labelled data, how they are written."""

    def add(self, other: Self) -> None:
        """Take in what comes after."""
        for name in ("rows_in", "used", "train", "holdout", "bytes", "changed", "rows_read", "rows_joined"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("dropped", "filtered", "left_over"):
            getattr(self, name).update(getattr(other, name))
        self.first = [*self.first, *other.first][:FIRST]
        spellings.merge(self.labels, other.labels)
        self.columns = self.columns or other.columns

    def as_json(self) -> dict[str, Any]:
        """What `of_json` reads."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Self:
        """What `as_json` gave."""
        counters = {name: Counter(values[name]) for name in ("dropped", "filtered", "left_over")}
        return cls(**values | counters | {"columns": tuple(values["columns"])})

    def info(self, dataset: Dataset) -> dict[str, Any]:
        """What the artifact says of its rows."""
        found: dict[str, Any] = {"format": dataset.format, "rows_in": self.rows_in, "rows_used": self.used}
        found |= {"dropped": dict(sorted(self.dropped.items())), "first_dropped": self.first}
        if dataset.quality:
            filtered = dict(sorted(self.filtered.items()))
            found |= {"filtered": filtered, "changed": self.changed, "dry_run": dataset.quality.dry_run}
        if dataset.layout:
            left_over = dict(sorted(self.left_over.items()))
            found |= {"rows_read": self.rows_read, "rows_joined": self.rows_joined, "left_over": left_over}
        return found | {"train": self.train, "holdout": self.holdout, "bytes": self.bytes}


def check(tally: Tally, dataset: Dataset, quarantine: Path) -> None:
    """Raise DataError where too little is left to go on with."""
    spellings.check(tally.labels)
    dropped = tally.dropped.total()
    filtered = 0 if dataset.quality and dataset.quality.dry_run else tally.filtered.total()
    lost = dropped + filtered
    assert tally.rows_in == tally.used + lost == tally.train + tally.holdout + lost, "a row is not accounted for"
    if not tally.used and (left := tally.left_over):
        counts = ", ".join(f"{reason} {count:,} ({LEFT_OVER[reason]})" for reason, count in left.most_common())
        raise DataError(f"layout: {dataset.layout} makes no row of these {tally.rows_read:,}: {counts}")
    if not tally.rows_in:
        raise DataError("the source has no rows at all; look at its files")
    if filtered and not tally.used and dropped / tally.rows_in <= dataset.max_dropped:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in tally.filtered.most_common())
        raise DataError(f"quality: nothing passes the filters ({counts}); look at {quarantine}")
    if not tally.used and tally.dropped["missing_column"]:
        raise _no_such_columns(dataset, tally.columns)
    limit = dataset.max_dropped
    # Shares are divided: 0.29 times 100 is less than 29 to a computer, and 29 / 100 is 0.29.
    if not tally.used or dropped / tally.rows_in > limit:
        raise DataError(
            f"{dropped:,} of {tally.rows_in:,} rows cannot be used "
            f"(max_dropped allows {limit:.2%}):\n{_reasons(tally)}\n"
            f"  the first {KEPT:,} of each reason: {quarantine}\n  Correct them, or raise max_dropped."
        )
    own = next((name for name in ("holdout_files", "holdout_split") if getattr(dataset, name)), None)
    if own and not (tally.train and tally.holdout):
        side, other = ("training", "holdout") if tally.holdout else ("the holdout", "training")
        raise DataError(f"{own}: no row is left for {side} beside {other}; look at {quarantine}")
    if dataset.holdout and not tally.holdout:  # only the console is told: nothing may ever ask for it
        print(
            f"note: a holdout of {dataset.holdout:g} of {tally.train} rows is none: nothing is left to score; raise "
            "holdout, or split the text into more rows (separator: blank_line, for example)",
            flush=True,
        )
    if not tally.train:
        raise DataError(
            f"all {tally.holdout} rows fell into the holdout; set holdout: 0, or split the text into more rows "
            "(separator: blank_line, for example)"
        )


def _reasons(tally: Tally) -> str:
    lines = []
    for reason, count in tally.dropped.most_common():
        places = [f"{place['file']}:{place['line']}" for place in tally.first if place["reason"] == reason]
        first = f", first at {', '.join(places[:3])}" if places else ""
        lines.append(f"  {reason}: {count:,} ({REASONS[reason]}{first})")
    return "\n".join(lines)


def _no_such_columns(dataset: Dataset, columns: tuple[str, ...]) -> DataError:
    have = ", ".join(map(repr, columns))
    what = dataset.layout or dataset.format
    return DataError(
        f"rows have the columns {have}; needed: {needed(what, dataset.columns)}. "
        "Map them with columns: {our name: their name}"
    )


class Account:
    """Counts rows in and out, and keeps the ones that were dropped beside the data."""

    def __init__(self, dataset: Dataset, quarantine: Path, judge: "Quality | None" = None):
        """`judge`: the filters of the dataset, where it has some."""
        self.dataset, self.quality, self.quarantine, self.judge = dataset, dataset.quality, quarantine, judge
        self.tally = Tally()
        self.joined = Joined()
        self.normalise = normaliser(dataset.format, {} if dataset.layout else dataset.columns)
        self._label = dataset.columns.get("label", "label") if dataset.format == "labelled" else None

    def __enter__(self) -> "Account":
        self.file = self.quarantine.open("w")
        return self

    def __exit__(self, error: object, *rest: object) -> None:
        self.file.close()
        if error is None:
            assert self.joined.is_whole, "a row of the layout is not accounted for"
            self.tally.rows_read, self.tally.rows_joined = self.joined.read, self.joined.used
            self.tally.left_over = self.joined.left_over

    def usable(
        self,
        items: Iterator[Item],
        seen: Set[bytes] = frozenset(),
        reason: str = "also_in_train",
        *,
        is_filtered: bool = True,
    ) -> Iterator[tuple[Row, str]]:
        """Rows of ours with their content; those whose digest is in `seen` are dropped for `reason`."""
        rows = self._filtered(self._normalised(items)) if is_filtered and self.judge else self._normalised(items)
        for item, row in rows:
            shown = content(self.dataset.format, row)
            if seen and digest_of(shown) in seen:
                self._drop(item, reason)
                continue
            self.tally.used += 1
            yield row, shown

    def _normalised(self, items: Iterator[Item]) -> Iterator[tuple[Item, Row]]:
        for item in self._joined(items):
            self.tally.rows_in += 1
            try:
                self.tally.columns = self.tally.columns or tuple(item.row or ())
                if item.row is None or item.reason:
                    raise Unusable(item.reason or "empty")
                row = self.normalise(item.row)
            except Unusable as error:
                self._drop(item, error.reason)
            else:
                if self._label is not None:
                    spellings.note(self.tally.labels, column(item.row, self._label), f"{item.file}:{item.line}")
                yield item, row

    def _joined(self, items: Iterator[Item]) -> Iterator[Item]:
        """Rows that are read, or those that are made of them where they mean something together."""
        dataset = self.dataset
        if dataset.layout is None:
            return items
        return join(items, dataset.layout, dataset.format, dataset.columns, self.joined)

    def _filtered(self, rows: Iterator[tuple[Item, Row]]) -> Iterator[tuple[Item, Row]]:
        """What the quality filters leave, in the same order."""
        assert self.quality and self.judge
        for batch in batches(rows, size=lambda pair: len(pair[1]["text"])):
            for (item, row), verdict in zip(batch, self.judge([row["text"] for _, row in batch]), strict=True):
                if verdict.reason:
                    self._write(item, {"reason": verdict.reason, "detail": verdict.detail}, self.tally.filtered)
                    self.tally.filtered[verdict.reason] += 1
                self.tally.changed += verdict.reason is None and verdict.text != row["text"]
                if self.quality.dry_run:
                    yield item, row
                elif verdict.reason is None:
                    yield item, {"text": verdict.text}

    def _drop(self, item: Item, reason: str) -> None:
        place = {"reason": reason, "file": item.file, "line": item.line}
        if len(self.tally.first) < FIRST:
            self.tally.first.append(place)
        self._write(item, {"reason": reason}, self.tally.dropped)
        self.tally.dropped[reason] += 1
        if self.tally.dropped["missing_column"] == PATIENCE and not self.tally.used and not self.dataset.layout:
            raise _no_such_columns(self.dataset, self.tally.columns)

    def _write(self, item: Item, why: dict[str, Any], counts: Counter[str]) -> None:
        """A row that is not used, for people to look at: of each reason so many."""
        if counts[why["reason"]] < KEPT:
            shown = json.dumps(item.row, default=str)[:2000] if item.row is not None else None
            self.file.write(json.dumps(why | {"file": item.file, "line": item.line, "row": shown}) + "\n")
