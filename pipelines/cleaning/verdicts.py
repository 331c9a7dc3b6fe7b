"""What the steps of a cleaning say of the training rows of a dataset: which of them go, why, and like which other."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

KEPT = 0
"""Code of rows that stay."""
FIRST = 20
"""Of each reason and source so many are shown."""


class Verdicts:
    """One verdict for each row; the first step that removes a row has the word. 10 bytes a row."""

    def __init__(self, rows: int):
        self.codes = np.zeros(rows, np.uint16)
        """Of each row: KEPT, or the place in `labels` of what it is removed for."""
        self.like = np.full(rows, -1, np.int64)
        """The row of the corpus that a removed one is like; -1 where there is none."""
        self.labels: list[tuple[str, str]] = [("", "")]
        """(reason, of what): ("duplicate", "earlier.0")."""
        self.cuts = np.zeros((0, 3), np.int64)
        """Runs of words that go, of rows that stay: row, first word, the one behind the last; rows ascend."""
        self.cut_words: Counter[str] = Counter()
        """How many words that are, by what they stood in before."""
        self.first_cuts: list[tuple[str, int, int, int]] = []
        """Some of them, of each source: it, the row, first word, the one behind the last."""

    @property
    def kept(self) -> np.ndarray:
        """Mask of the rows that stay, shape (rows,)."""
        return self.codes == KEPT

    def remove(self, rows: np.ndarray, reason: str, of: str, like: np.ndarray | None = None) -> None:
        """Rows (numbers, distinct) go, unless they went before."""
        fresh = self.codes[rows] == KEPT
        if (reason, of) not in self.labels:
            self.labels.append((reason, of))
        self.codes[rows[fresh]] = self.labels.index((reason, of))
        if like is not None:
            self.like[rows[fresh]] = like[fresh]

    def cut(self, runs: np.ndarray, of: str) -> None:
        """Runs of words go; shape (runs, 3), of rows that stay, none over another."""
        cuts = np.concatenate([self.cuts, runs])
        self.cuts = cuts[np.lexsort((cuts[:, 1], cuts[:, 0]))]
        self.cut_words[of] += int((runs[:, 2] - runs[:, 1]).sum())
        self.first_cuts += [(of, *run) for run in runs[:FIRST].tolist()]

    def counts(self) -> dict[str, Counter[str]]:
        """Reason -> of what -> rows."""
        found: dict[str, Counter[str]] = {}
        for code, count in enumerate(np.bincount(self.codes, minlength=1).tolist()):
            if code != KEPT and count:
                reason, of = self.labels[code]
                found.setdefault(reason, Counter())[of] += count
        return dict(sorted(found.items()))

    def digest(self) -> str:
        """Of what becomes of the rows."""
        return hashlib.sha256(self.codes.tobytes() + self.cuts.tobytes()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write what `Saved` reads."""
        np.save(folder / "codes.npy", self.codes)
        np.save(folder / "cuts.npy", self.cuts)


class Saved:
    """What `Verdicts.save` wrote, for one part of the rows."""

    def __init__(self, folder: Path):
        self._codes = np.load(folder / "codes.npy", mmap_mode="r")
        self._cuts = np.load(folder / "cuts.npy", mmap_mode="r")

    def kept(self, first: int, rows: int) -> list[bool]:
        """Of some rows in a row, whether they stay."""
        return np.asarray(self._codes[first : first + rows] == KEPT).tolist()

    def cuts(self, first: int, rows: int) -> dict[int, list[tuple[int, int]]]:
        """Row -> (first word, the one behind the last) of what is cut out of it."""
        start, stop = np.searchsorted(self._cuts[:, 0], [first, first + rows]).tolist()
        found: dict[int, list[tuple[int, int]]] = {}
        for row, begin, end in self._cuts[start:stop].tolist():
            found.setdefault(row, []).append((begin, end))
        return found
