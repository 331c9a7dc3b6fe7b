"""Short contexts first: rows cut into pieces that grow over the first steps of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MULTIPLE = 8
"""Pieces are as long as a multiple of this, so that few different lengths occur."""


@dataclass(frozen=True)
class ShortContexts:
    """What `InOrder` does to a row at its place of the run: a pure function, so that a resumed run sees the same.

    No token is left out: a piece is a document of its own to the collator, so a step has its tokens and its time, but
    for the target at each cut."""

    start: int
    """Tokens of the first pieces."""
    max_length: int
    global_batch_size: int
    steps: int
    """After so many steps rows are whole."""

    def length_at(self, step: int) -> int:
        """Most tokens of a piece in an optimizer step, counted from zero."""
        if step >= self.steps:
            return self.max_length
        length = self.start + (self.max_length - self.start) * step / self.steps
        return min(self.max_length, max(self.start, int(length) // MULTIPLE * MULTIPLE))

    def __call__(self, row: Sequence[np.ndarray], position: int) -> list[np.ndarray]:
        length = self.length_at(position // self.global_batch_size)
        return [document[at : at + length] for document in row for at in range(0, len(document), length)]
