"""Mixtures that change over a run: phases, and datasets that are taken no more often than so many times."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.data.schedule import Positions, Schedule, Turns, key
from pipelines.errors import DataError


@dataclass(frozen=True)
class Phase:
    """Shares of rows from a position on; a dataset of share 0 is left out."""

    start: int
    shares: tuple[float, ...]


@dataclass(frozen=True)
class _Part:
    """Positions with one and the same mixture."""

    phase: int
    """Number of the phase that it belongs to."""
    start: int
    turns: Turns
    taken: tuple[int, ...]
    """Rows of each dataset before it."""

    def taken_before(self, position: int) -> tuple[int, ...]:
        """Rows of each dataset before a position of this part."""
        return tuple(np.add(self.taken, self.turns.before(position - self.start)).tolist())


class PhasedMixture:
    """Several datasets by shares that change, as a pure function of (seed, position).

    Rows are numbered through, as in `Mixture`. Each dataset has one order for the whole run: what a phase took, a later
    one does not take again before the rest has had its turn. Where a dataset reaches its cap, the others take over its
    part, in their proportions."""

    def __init__(
        self,
        sizes: Sequence[int],
        phases: Sequence[Phase],
        seed: int,
        *,
        length: int,
        caps: Sequence[int | None],
    ):
        """`length`: positions of the run; `caps`: most rows of each dataset. DataError where the caps leave too few."""
        self.length = length
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._orders = [Schedule(size, key(seed, "dataset", number)) for number, size in enumerate(sizes)]
        self._parts = _parts(phases, caps, length)

    def __call__(self, positions: Positions) -> np.ndarray:
        positions = np.asarray(positions, dtype=np.int64)
        result = np.empty_like(positions)
        which = np.searchsorted([part.start for part in self._parts], positions, side="right") - 1
        for number in np.unique(which):
            part, chosen = self._parts[number], np.flatnonzero(which == number)
            for dataset, turns, places in part.turns.of(positions[chosen] - part.start):
                if len(turns):
                    rows = self._orders[dataset](turns + part.taken[dataset])
                    result[chosen[places]] = rows + self._starts[dataset]
        return result

    def parts(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """(phase, first position, rows of each dataset) of each part with the same shares; in sum, what the run
        takes."""
        ends = [*(part.start for part in self._parts[1:]), self.length]
        after = [part.taken_before(end) for part, end in zip(self._parts, ends, strict=True)]
        return [
            (part.phase, part.start, tuple(np.subtract(rows, part.taken).tolist()))
            for part, rows in zip(self._parts, after, strict=True)
        ]


def _parts(phases: Sequence[Phase], caps: Sequence[int | None], length: int) -> list[_Part]:
    """A part for each phase, and one more wherever a dataset reaches its cap."""
    parts: list[_Part] = []
    taken = (0,) * len(caps)
    ends = [*(phase.start for phase in phases[1:]), length]
    for number, (phase, end) in enumerate(zip(phases, ends, strict=True)):
        start = phase.start
        while start < end:
            shares = [
                share if cap is None or count < cap else 0.0
                for share, cap, count in zip(phase.shares, caps, taken, strict=True)
            ]
            if not any(shares):
                raise DataError(
                    f"max_epochs: after {start / length:.0%} of the run every dataset of the mixture has been taken as "
                    "often as it may be; raise max_epochs, shorten duration, or add data"
                )
            part = _Part(number, start, Turns([share / sum(shares) for share in shares]), taken)
            parts.append(part)
            start = _first_full(part, shares, caps, end)
            taken = part.taken_before(start)
    return parts


def _first_full(part: _Part, shares: Sequence[float], caps: Sequence[int | None], end: int) -> int:
    """The first position before which a dataset that has turns is at its cap; `end` if none is."""
    low, high = part.start + 1, end
    while low < high:  # counts grow with the positions
        middle = (low + high) // 2
        taken = part.taken_before(middle)
        if any(share and cap is not None and n >= cap for share, cap, n in zip(shares, caps, taken, strict=True)):
            high = middle
        else:
            low = middle + 1
    return low
