"""Documents into rows of one length: whole documents by best fit, or a stream cut at every row's end."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Segment = tuple[int, int, int]
"""(document, start, stop): these tokens of that document. Segments of a row do not see each other."""


@dataclass(frozen=True)
class Packing:
    """Which segments each row holds. Every token of every document stands in exactly one of them."""

    max_length: int
    offsets: np.ndarray
    """Row i holds segments offsets[i] to offsets[i + 1]; shape (rows + 1,)."""
    documents: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> list[Segment]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        part = slice(self.offsets[row], self.offsets[row + 1])
        return list(
            zip(self.documents[part].tolist(), self.starts[part].tolist(), self.stops[part].tolist(), strict=True)
        )

    def __iter__(self) -> Iterator[list[Segment]]:
        return (self[row] for row in range(len(self)))

    @property
    def tokens(self) -> int:
        """Tokens in all rows, without padding."""
        return int((self.stops - self.starts).sum())

    @property
    def padding_share(self) -> float:
        """Share of all positions that hold no token."""
        return 1 - self.tokens / (len(self) * self.max_length) if len(self) else 0.0


def pack_whole(lengths: np.ndarray, max_length: int) -> Packing:
    """Best fit, longest first: a document is cut only where it is longer than a row.

    Documents of one length are placed together, so that millions take a second.
    """
    documents, starts, stops = _pieces(lengths, max_length)
    sizes = stops - starts
    by_size = np.argsort(-sizes, kind="stable")
    bounds = np.flatnonzero(np.diff(sizes[by_size])) + 1
    rows = np.empty(len(sizes), np.int64)
    free = _FreeRows(max_length)
    for alike in np.split(by_size, bounds) if len(by_size) else ():
        rows[alike] = free.place(int(sizes[alike[0]]), len(alike))
    order = np.lexsort((-sizes, rows))
    return _packing(max_length, rows[order], documents[order], starts[order], stops[order])


def pack_split(lengths: np.ndarray, max_length: int) -> Packing:
    """Documents one after the other, in their order; every row but the last is full."""
    lengths = _checked(lengths, max_length)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.concatenate([ends[lengths > 0], np.arange(max_length, total, max_length, dtype=np.int64)])
    cuts.sort(kind="stable")
    cuts = cuts[np.diff(cuts, prepend=0) > 0]
    begins = np.concatenate([[0], cuts[:-1]]).astype(np.int64)[: len(cuts)]
    documents = np.searchsorted(ends, begins, side="right")
    first = (ends - lengths)[documents]
    return _packing(max_length, begins // max_length, documents, begins - first, cuts - first)


def cut_alone(lengths: np.ndarray, max_length: int, *, skipped: tuple[int, int] = (0, 0)) -> Packing:
    """Every document in rows of its own, cut where it is longer than a row. So many tokens at its start and at its end
    are left out: control tokens."""
    first, last = skipped
    documents, starts, stops = _pieces((np.asarray(lengths) - first - last).clip(0), max_length)
    return _packing(max_length, np.arange(len(documents)), documents, starts + first, stops + first)


class _FreeRows:
    """Rows by the space that is left in them."""

    def __init__(self, max_length: int):
        self.max_length = max_length
        self.rows = 0
        self.with_space: dict[int, list[np.ndarray]] = {}

    def place(self, size: int, count: int) -> np.ndarray:
        """The row of each of `count` pieces of this size: always the fullest row that still takes one."""
        placed = []
        for space in sorted(space for space in self.with_space if space >= size):
            if not count:
                break
            # The fullest row stays the fullest until nothing of this size fits, so it takes all that it can.
            rows = np.concatenate(self.with_space.pop(space))
            placed.append(self._fill(rows, space, size, count))
            count -= len(placed[-1])
        if count:
            fresh = -(-count // (self.max_length // size))
            rows = np.arange(self.rows, self.rows + fresh)
            self.rows += fresh
            placed.append(self._fill(rows, self.max_length, size, count))
        return np.concatenate(placed)

    def _fill(self, rows: np.ndarray, space: int, size: int, count: int) -> np.ndarray:
        fit = space // size
        full, rest = divmod(min(count, fit * len(rows)), fit)
        self._keep(rows[:full], space - fit * size)
        self._keep(rows[full : full + 1] if rest else rows[:0], space - rest * size)
        self._keep(rows[full + bool(rest) :], space)
        return np.concatenate([np.repeat(rows[:full], fit), np.repeat(rows[full : full + 1], rest)])

    def _keep(self, rows: np.ndarray, space: int) -> None:
        if space and len(rows):
            self.with_space.setdefault(space, []).append(rows)


def _checked(lengths: np.ndarray, max_length: int) -> np.ndarray:
    lengths = np.asarray(lengths, np.int64)
    if max_length < 1 or lengths.ndim != 1 or (lengths < 0).any():
        raise ValueError("lengths must be one row of numbers from zero up, max_length at least one")
    return lengths


def _pieces(lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = _checked(lengths, max_length)
    counts = -(-lengths // max_length)
    documents = np.repeat(np.arange(len(lengths)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    starts = (np.arange(len(documents)) - first) * max_length
    return documents, starts, np.minimum(starts + max_length, lengths[documents])


def _packing(
    max_length: int, rows: np.ndarray, documents: np.ndarray, starts: np.ndarray, stops: np.ndarray
) -> Packing:
    """`rows` is sorted and leaves none out."""
    count = int(rows[-1]) + 1 if len(rows) else 0
    offsets = np.searchsorted(rows, np.arange(count + 1))
    return Packing(max_length, offsets, documents, starts, stops)
