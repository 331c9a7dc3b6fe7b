"""What the steps of a cleaning say of the training rows of a dataset: which of them go, why, and like which other."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

KEPT = 0
"""Code of rows that stay."""


class Verdicts:
    """One verdict for each row; the first step that removes a row has the word. 10 bytes a row."""

    def __init__(self, rows: int):
        self.codes = np.zeros(rows, np.uint16)
        """Of each row: KEPT, or the place in `labels` of what it is removed for."""
        self.like = np.full(rows, -1, np.int64)
        """The row of the corpus that a removed one is like; -1 where there is none."""
        self.labels: list[tuple[str, str]] = [("", "")]
        """(reason, of what): ("duplicate", "earlier.0")."""

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

    def counts(self) -> dict[str, Counter[str]]:
        """Reason -> of what -> rows."""
        found: dict[str, Counter[str]] = {}
        for code, count in enumerate(np.bincount(self.codes, minlength=1).tolist()):
            if code != KEPT and count:
                reason, of = self.labels[code]
                found.setdefault(reason, Counter())[of] += count
        return dict(sorted(found.items()))

    def digest(self) -> str:
        """Of what is written of the rows."""
        return hashlib.sha256(self.codes.tobytes()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write what `kept_rows` reads."""
        np.save(folder / "codes.npy", self.codes)


def kept_rows(folder: Path, first: int, rows: int) -> np.ndarray:
    """The mask of some rows in a row, of what `save` wrote."""
    codes = np.load(folder / "codes.npy", mmap_mode="r")
    return np.asarray(codes[first : first + rows] == KEPT)
