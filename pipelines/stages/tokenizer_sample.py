"""The text that a tokenizer learns from, and the text that it is measured on."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipelines.data.chat import INFO
from pipelines.data.formats import said
from pipelines.data.rows import read_rows
from pipelines.data.tokens import Split
from pipelines.errors import DataError

SHORT = 2_000
"""Characters of a passage."""
LONGEST_RUN = 10_000
"""Characters without white space that are learnt from in one piece. The time for a piece grows with its square: a
picture of three megabytes, written as text, would take the better part of an hour."""
_RUN = re.compile(rf"\S{{{LONGEST_RUN}}}(?=\S)")
REPEATS = 10
"""How often a small dataset may be repeated to reach its share, before the others are cut instead."""


class Sample:
    """Texts of several datasets in their shares of bytes: rows evenly spread over each dataset, in its order."""

    def __init__(self, shares: Sequence[tuple[Path, float]], max_bytes: int):
        sizes = {folder: sum(len(text.encode()) for text in texts_of(folder)) for folder, _ in shares}
        empty = [str(folder) for folder, size in sizes.items() if not size]
        if empty:
            raise DataError(f"{', '.join(empty)}: no text to learn a tokenizer from")
        wanted = [sizes[folder] / share for folder, share in shares]
        self.bytes = int(min(max_bytes, max(wanted), REPEATS * min(wanted)))
        self.available = sum(sizes.values())
        """Bytes of all datasets."""
        self.rates = [(folder, self.bytes * share / sizes[folder]) for folder, share in shares]

    def __iter__(self) -> Iterator[str]:
        for folder, rate in self.rates:
            for number, text in enumerate(texts_of(folder)):
                for _ in range(int((number + 1) * rate) - int(number * rate)):
                    yield from _pieces(text)

    def part(self, size: int) -> Iterator[str]:
        """About so many bytes in the same shares, nothing twice."""
        for folder, rate in self.rates:
            yield from thinned(texts_of(folder), rate * size / self.bytes)


def _pieces(text: str) -> Iterator[str]:
    """The text, cut inside of runs that are no words."""
    start = 0
    for run in _RUN.finditer(text) if len(text) > LONGEST_RUN else ():
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]


def thinned(texts: Iterable[str], share: float) -> Iterator[str]:
    """About this share of the characters, evenly spread: whole short texts, and passages from all over long ones."""
    credit = 0.0
    for text in texts:
        for start in range(0, len(text), SHORT):
            passage = text[start : start + SHORT]
            credit += len(passage) * min(1.0, share)
            if credit >= len(passage):
                yield passage
                credit -= len(passage)


def texts_of(folder: Path, split: Split = "train") -> Iterator[str]:
    """Every text of a dataset, whatever its format."""
    format = json.loads((folder / INFO).read_text())["format"]
    for batch in read_rows(folder, split):
        for row in batch:
            yield from said(format, row)


def held_out(folder: Path, characters: int) -> list[str]:
    """So many characters of texts that were not learnt from; of the training rows where nothing is held out."""
    return first(texts_of(folder, "holdout"), characters) or first(texts_of(folder), characters)


def first(texts: Iterator[str], characters: int) -> list[str]:
    """The first texts, until they have so many characters; the last one is cut."""
    found = []
    for text in texts:
        if characters <= 0:
            break
        found.append(text[:characters])
        characters -= len(text)
    return [text for text in found if text]
