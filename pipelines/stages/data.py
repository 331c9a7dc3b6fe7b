"""The data stage: fetch, parse, account for every row, split off the holdout, write parquet."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.blocks import Item
from pipelines.data.formats import REASONS, Row, Unusable, content, needed, normaliser, num_bytes
from pipelines.data.layouts import LEFT_OVER, Joined, join
from pipelines.data.rows import batches
from pipelines.data.sources import read, read_builtin, read_holdout
from pipelines.errors import DataError
from pipelines.plan.jobs import DataJob
from pipelines.recipe.data import Dataset
from pipelines.recipe.quality import Quality as QualityConfig
from pipelines.stages.base import Metrics, StageContext

if TYPE_CHECKING:
    from pipelines.cleaning.quality import Quality

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMAS = {
    "text": pa.schema([("text", pa.large_string())]),
    "chat": pa.schema([("messages", _MESSAGES)]),
    "preference": pa.schema([("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES)]),
    "prompt": pa.schema([("prompt", _MESSAGES), ("columns", pa.large_string())]),
    "labelled": pa.schema(
        [("text", pa.large_string()), ("text_pair", pa.large_string()), ("label", pa.large_string())]
    ),
    "pairs": pa.schema([("source", pa.large_string()), ("target", pa.large_string())]),
}


def run(ctx: StageContext) -> Metrics:
    """Every row that is read is either written or counted by the reason why not."""
    config = ctx.job.config
    assert isinstance(config, DataJob)
    dataset = config.dataset
    for folder in (ctx.output, ctx.record):
        folder.mkdir(parents=True, exist_ok=True)
    with _Account(dataset, ctx.record / "dropped.jsonl") as account:
        with _Rows(ctx.output, "train", dataset.format) as train, _Rows(ctx.output, "holdout", dataset.format) as kept:
            splits = {"train": train, "holdout": kept}
            for split, row in _split_rows(ctx, dataset, account):
                splits[split].append(row)
        account.check(train.rows, kept.rows)
        info = account.info() | {"train": train.rows, "holdout": kept.rows, "bytes": train.bytes + kept.bytes}
    (ctx.output / "info.json").write_text(json.dumps(info, indent=1))
    metrics: dict[str, float | int | str] = {
        name: info[name] for name in ("rows_in", "rows_used", "train", "holdout", "bytes")
    }
    if "rows_read" in info:
        metrics |= {name: info[name] for name in ("rows_read", "rows_joined")}
    for kind in ("dropped", "filtered", "left_over"):
        if kind in info:
            metrics |= {kind: sum(info[kind].values())}
            metrics |= {f"{kind}_{reason}": count for reason, count in info[kind].items()}
    return metrics | ({"changed": info["changed"]} if "changed" in info else {})


def _split_rows(ctx: StageContext, dataset: Dataset, account: "_Account") -> Iterator[tuple[str, Row]]:
    """(split, row) of every usable row."""
    cache, held = ctx.checkpoints / "hub", [Path(path) for path in ctx.job.named_files.values()]
    rows = read(dataset, [path for path in map(Path, ctx.job.files) if path not in held], cache)
    seen: set[bytes] = set()
    if dataset.builtin:
        # The world keeps its own facts apart, so its own split stands.
        for row, shown in account.usable(read_builtin(dataset, "train")):
            seen.add(_digest(shown))
            yield "train", row
        for row, _ in account.usable(read_holdout(dataset, held, cache) if dataset.holdout else iter(()), seen):
            yield "holdout", row
    elif held or dataset.holdout_split:
        # What others measure on stays whole; training gives way.
        for row, shown in account.usable(read_holdout(dataset, held, cache), is_filtered=False):
            seen.add(_digest(shown))
            yield "holdout", row
        for row, _ in account.usable(rows, seen, "also_in_holdout"):
            yield "train", row
    else:
        for row, shown in account.usable(rows):
            # Several pairs answer one prompt: all of them stand on one side.
            key = json.dumps(row["prompt"]) if dataset.layout and dataset.format == "preference" else shown
            share = int.from_bytes(_digest(key)[:8]) / 2**64
            yield "holdout" if share < dataset.holdout else "train", row


def _digest(shown: str) -> bytes:
    return hashlib.blake2b(shown.encode(), digest_size=16).digest()


class _Account:
    """Counts rows in and out, and keeps the ones that were dropped beside the data."""

    FIRST = 10
    KEPT = 1_000
    """Rows of the quarantine file for each reason."""
    PATIENCE = 100
    """Rows without the columns before it is clear that the columns are at fault."""

    def __init__(self, dataset: Dataset, quarantine: Path):
        self.dataset, self.quality = dataset, dataset.quality
        self.judge = _judge(dataset)
        self.filtered: Counter[str] = Counter()
        self.changed = 0
        self.joined = Joined()
        self.normalise = normaliser(dataset.format, {} if dataset.layout else dataset.columns)
        self.rows_in = self.used = 0
        self.dropped: Counter[str] = Counter()
        self.first: list[dict[str, Any]] = []
        self.columns: tuple[str, ...] | None = None
        self.quarantine = quarantine

    def __enter__(self) -> "_Account":
        self.file = self.quarantine.open("w")
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

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
            if seen and _digest(shown) in seen:
                self._drop(item, reason)
                continue
            self.used += 1
            yield row, shown

    def _normalised(self, items: Iterator[Item]) -> Iterator[tuple[Item, Row]]:
        for item in self._joined(items):
            self.rows_in += 1
            try:
                self.columns = self.columns or tuple(item.row or ())
                if item.row is None or item.reason:
                    raise Unusable(item.reason or "empty")
                row = self.normalise(item.row)
            except Unusable as error:
                self._drop(item, error.reason)
            else:
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
                    self._write(item, {"reason": verdict.reason, "detail": verdict.detail}, self.filtered)
                    self.filtered[verdict.reason] += 1
                self.changed += verdict.reason is None and verdict.text != row["text"]
                if self.quality.dry_run:
                    yield item, row
                elif verdict.reason is None:
                    yield item, {"text": verdict.text}

    def _drop(self, item: Item, reason: str) -> None:
        place = {"reason": reason, "file": item.file, "line": item.line}
        if len(self.first) < self.FIRST:
            self.first.append(place)
        self._write(item, {"reason": reason}, self.dropped)
        self.dropped[reason] += 1
        if self.dropped["missing_column"] == self.PATIENCE and not self.used and not self.dataset.layout:
            self._no_such_columns()

    def _write(self, item: Item, why: dict[str, Any], counts: Counter[str]) -> None:
        """A row that is not used, for people to look at: of each reason so many."""
        if counts[why["reason"]] < self.KEPT:
            shown = json.dumps(item.row, default=str)[:2000] if item.row is not None else None
            self.file.write(json.dumps(why | {"file": item.file, "line": item.line, "row": shown}) + "\n")

    def check(self, train: int, holdout: int) -> None:
        """Raise DataError where too little is left to go on with."""
        dropped = self.dropped.total()
        filtered = 0 if self.quality and self.quality.dry_run else self.filtered.total()
        lost = dropped + filtered
        assert self.joined.is_whole, "a row of the layout is not accounted for"
        assert self.rows_in == self.used + lost == train + holdout + lost, "a row is not accounted for"
        if not self.used and (left := self.joined.left_over):
            counts = ", ".join(f"{reason} {count:,} ({LEFT_OVER[reason]})" for reason, count in left.most_common())
            raise DataError(f"layout: {self.dataset.layout} makes no row of these {self.joined.read:,}: {counts}")
        if not self.rows_in:
            raise DataError("the source has no rows at all; look at its files")
        if filtered and not self.used and dropped <= self.dataset.max_dropped * self.rows_in:
            counts = ", ".join(f"{reason} {count:,}" for reason, count in self.filtered.most_common())
            raise DataError(f"quality: nothing passes the filters ({counts}); look at {self.quarantine}")
        if not self.used and self.dropped["missing_column"]:
            self._no_such_columns()
        limit = self.dataset.max_dropped
        if not self.used or dropped > limit * self.rows_in:
            raise DataError(
                f"{dropped:,} of {self.rows_in:,} rows cannot be used "
                f"(max_dropped allows {limit:.2%}):\n{self._reasons()}\n"
                f"  the first {self.KEPT:,} of each reason: {self.quarantine}\n  Correct them, or raise max_dropped."
            )
        own = next((name for name in ("holdout_files", "holdout_split") if getattr(self.dataset, name)), None)
        if own and not (train and holdout):
            side, other = ("training", "holdout") if holdout else ("the holdout", "training")
            raise DataError(f"{own}: no row is left for {side} beside {other}; look at {self.quarantine}")
        if self.dataset.holdout and not holdout:  # only the console is told: nothing may ever ask for it
            print(
                f"note: a holdout of {self.dataset.holdout:g} of {train} rows is none: nothing is left to score; raise "
                "holdout, or split the text into more rows (separator: blank_line, for example)",
                flush=True,
            )
        if not train:
            raise DataError(
                f"all {holdout} rows fell into the holdout; set holdout: 0, or split the text into more rows "
                "(separator: blank_line, for example)"
            )

    def _reasons(self) -> str:
        lines = []
        for reason, count in self.dropped.most_common():
            places = [f"{place['file']}:{place['line']}" for place in self.first if place["reason"] == reason]
            first = f", first at {', '.join(places[:3])}" if places else ""
            lines.append(f"  {reason}: {count:,} ({REASONS[reason]}{first})")
        return "\n".join(lines)

    def _no_such_columns(self) -> None:
        have = ", ".join(map(repr, self.columns or ()))
        what = self.dataset.layout or self.dataset.format
        raise DataError(
            f"rows have the columns {have}; needed: {needed(what, self.dataset.columns)}. "
            "Map them with columns: {our name: their name}"
        )

    def info(self) -> dict[str, Any]:
        return {
            "format": self.dataset.format,
            "rows_in": self.rows_in,
            "rows_used": self.used,
            "dropped": dict(sorted(self.dropped.items())),
            "first_dropped": self.first,
            **(self._judged(self.quality) if self.quality else {}),
            **(self._read() if self.dataset.layout else {}),
        }

    def _read(self) -> dict[str, Any]:
        left_over = dict(sorted(self.joined.left_over.items()))
        return {"rows_read": self.joined.read, "rows_joined": self.joined.used, "left_over": left_over}

    def _judged(self, quality: QualityConfig) -> dict[str, Any]:
        filtered = dict(sorted(self.filtered.items()))
        return {"filtered": filtered, "changed": self.changed, "dry_run": quality.dry_run}


def _judge(dataset: Dataset) -> "Quality | None":
    if dataset.quality is None:
        return None
    from pipelines.cleaning.quality import Quality  # numba takes a quarter of a second, and most data need none

    return Quality(dataset.quality)


class _Rows:
    """Writes rows of one split into parquet files of a bounded size."""

    BATCH_ROWS, BATCH_BYTES, FILE_BYTES = 10_000, 16 << 20, 1 << 30

    def __init__(self, folder: Path, split: str, format: str):
        self.folder, self.split, self.format = folder, split, format
        self.rows = self.bytes = self.files = self.in_file = self.in_batch = 0
        self.batch: list[Row] = []
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, error: object, *rest: object) -> None:
        if error is None:
            self._flush()
        self._end_file()

    def append(self, row: Row) -> None:
        size = num_bytes(self.format, row)
        self.batch.append(row)
        self.rows += 1
        self.bytes += size
        self.in_batch += size
        if len(self.batch) >= self.BATCH_ROWS or self.in_batch >= self.BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self.batch:
            return
        if self.writer is None:
            path = self.folder / f"{self.split}-{self.files:05d}.parquet"
            self.writer = pq.ParquetWriter(path, SCHEMAS[self.format], compression="zstd")
            self.files += 1
        self.writer.write_table(pa.Table.from_pylist(self.batch, SCHEMAS[self.format]))
        self.in_file += self.in_batch
        self.batch, self.in_batch = [], 0
        if self.in_file >= self.FILE_BYTES:
            self._end_file()

    def _end_file(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer, self.in_file = None, 0
