"""Which row comes when: a pure function of (seed, position), for one dataset, for mixtures, and grouped by length."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

Positions = np.ndarray
"""int64 places in the endless stream of rows; batch t of size B holds the positions t * B ... t * B + B - 1."""

BLOCK = 2048
"""Positions that `InOrder` looks up at once: numpy's overhead is per call, so single ones would cost a step 0.5 ms."""


Order = Callable[[Positions], np.ndarray]
"""Rows at positions, for ever."""

Noise = Callable[[Any, int], Any]
"""What becomes of a row at its place in the run."""


def key(*parts: object) -> int:
    """A 63-bit key that depends on every part and on nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


class Schedule:
    """Pass after pass over the rows, each pass its own keyed permutation (a Feistel network: any place costs O(1))."""

    def __init__(self, rows: int, seed: int):
        if rows < 1:
            raise ValueError("a schedule needs at least one row")
        self.rows, self.seed = rows, seed
        self._half_bits = max(1, math.ceil(math.log2(max(rows, 2)) / 2))

    def __call__(self, positions: Positions) -> np.ndarray:
        passes, places = np.divmod(np.asarray(positions, dtype=np.uint64), np.uint64(self.rows))
        result = np.empty_like(places)
        for number in np.unique(passes):
            chosen = passes == number
            result[chosen] = self._permute(places[chosen], int(number))
        return result.astype(np.int64)

    def _permute(self, places: np.ndarray, pass_number: int) -> np.ndarray:
        keys = [np.uint64(key(self.seed, pass_number, turn)) for turn in range(4)]
        half, mask = np.uint64(self._half_bits), np.uint64((1 << self._half_bits) - 1)
        result = places.copy()
        outside = np.ones(len(places), dtype=bool)
        while outside.any():  # cycle walking: the network permutes the next power of four
            left, right = result[outside] >> half, result[outside] & mask
            for turn in keys:
                mixed = (right + turn) * np.uint64(0x9E3779B97F4A7C15)
                mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
                left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
            result[outside] = (left << half) | right
            outside = result >= self.rows
        return result


class Turns:
    """Whose turn it is, by shares.

    After any number of positions each dataset has had its share, rounded: the first is rounded against the rest, the
    second against the rest of the rest, and so on. Two datasets are never off by more than half a row."""

    def __init__(self, shares: Sequence[float]):
        """A share of 0 has no turn."""
        self._num_datasets = len(shares)
        # Largest first: what a dataset is off by shrinks with its share of what is left.
        self._turns = sorted(np.flatnonzero(shares).tolist(), key=lambda number: (-shares[number], number))
        left = np.cumsum([shares[number] for number in self._turns][::-1])[::-1]
        self._shares = [shares[number] / rest for number, rest in zip(self._turns, left, strict=True)]

    def of(self, positions: Positions) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(dataset, its turns, where in `positions`): each position once; a dataset's turns count from zero."""
        open_places = np.arange(len(positions))
        for number, share in zip(self._turns[:-1], self._shares[:-1], strict=True):
            before = np.floor(positions * share + 0.5).astype(np.int64)
            taken = np.floor((positions + 1) * share + 0.5).astype(np.int64) > before
            yield number, before[taken], open_places[taken]
            open_places, positions = open_places[~taken], (positions - before)[~taken]
        yield self._turns[-1], positions, open_places

    def before(self, position: int) -> list[int]:
        """Turns that each dataset has had before a position."""
        counts = [0] * self._num_datasets
        for number, share in zip(self._turns[:-1], self._shares[:-1], strict=True):
            counts[number] = int(np.floor(position * share + 0.5))
            position -= counts[number]
        counts[self._turns[-1]] = position
        return counts


class Mixture:
    """Several datasets by shares. Rows are numbered through: dataset k starts at the sum of the sizes before it."""

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], seed: int):
        if len(sizes) != len(shares) or not sizes:
            raise ValueError("a mixture needs one share for each dataset")
        if min(shares) <= 0:
            raise ValueError("shares are above zero")
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._turns = Turns(shares)
        self._orders = [Schedule(size, key(seed, "dataset", number)) for number, size in enumerate(sizes)]

    def __call__(self, positions: Positions) -> np.ndarray:
        positions = np.asarray(positions, dtype=np.int64)
        result = np.empty_like(positions)
        for number, turns, places in self._turns.of(positions):
            if len(turns):
                result[places] = self._orders[number](turns) + self._starts[number]
        return result


class GroupedByLength:
    """The rows of another order, rearranged so that a batch holds rows of like length and little padding.

    Within a window of batches the rows are sorted by length and dealt into batches, which come in a keyed order. The
    run as a whole has the same rows as without: its last window ends where the run ends."""

    WINDOW = 32
    """Batches of a window: enough for little padding, few enough that lengths stay mixed over time."""

    def __init__(self, order: Order, lengths: np.ndarray, *, batch_size: int, num_batches: int, seed: int):
        self._order, self._lengths, self._seed = order, lengths, seed
        self._batch_size, self._num_batches = batch_size, num_batches
        self._window: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __call__(self, positions: Positions) -> np.ndarray:
        positions = np.asarray(positions, dtype=np.int64)
        size = self.WINDOW * self._batch_size
        windows, places = np.divmod(positions, size)
        result = np.empty_like(positions)
        for number in np.unique(windows):
            chosen = windows == number
            result[chosen] = self._rows_of(int(number))[places[chosen]]
        return result

    def _rows_of(self, window: int) -> np.ndarray:
        if self._window[0] != window:
            self._window = (window, self._arrange(window))
        return self._window[1]

    def _arrange(self, window: int) -> np.ndarray:
        first = window * self.WINDOW
        batches = min(self.WINDOW, self._num_batches - first)
        if batches <= 0:
            raise ValueError(f"the run has {self._num_batches} batches; batch {first} is not one of them")
        start = first * self._batch_size
        rows = self._order(np.arange(start, start + batches * self._batch_size))
        dealt = rows[np.argsort(self._lengths[rows], kind="stable")].reshape(batches, self._batch_size)
        generator = np.random.Generator(np.random.Philox(key=key(self._seed, "window", window)))
        return dealt[generator.permutation(batches)].reshape(-1)


class InOrder(Dataset):
    """The rows in the order of the schedule, as long as the run: read from front to back, one epoch, no shuffle."""

    def __init__(self, rows: Any, order: Order, length: int, noise: Noise | None = None):
        self.rows, self._order, self._length, self._noise = rows, order, length, noise
        self._block: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return self._length

    def __getitems__(self, positions: list[int]) -> list[Any]:
        return [self[position] for position in positions]

    def __getitem__(self, position: int) -> Any:
        row = self.rows[self.row_at(position)]
        return row if self._noise is None else self._noise(row, position)

    def row_at(self, position: int) -> int:
        """Number of the row at a place of the run."""
        number, place = divmod(position, BLOCK)
        if self._block[0] != number:
            end = min((number + 1) * BLOCK, self._length)
            self._block = (number, self._order(np.arange(number * BLOCK, end)).tolist())
        return self._block[1][place]


def mixed(sizes: Sequence[int], shares: Sequence[float], seed: int) -> Order:
    """One dataset's own schedule, or a mixture's."""
    return Schedule(sizes[0], seed) if len(sizes) == 1 else Mixture(sizes, shares, seed)
