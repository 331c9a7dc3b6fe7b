"""Rows of several data artifacts as one sequence: what a dataset is compared with, and at the end its own rows."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipelines.cleaning.exact import key_of
from pipelines.data.formats import CONTENT, Row
from pipelines.data.rows import RowGroup, read_group, row_groups, rows_at
from pipelines.data.shards import grouped

Side = Literal["train", "holdout"]


@dataclass(frozen=True)
class Source:
    """One split of one artifact."""

    role: str
    """Of the artifact, among the inputs of the job."""
    split: Side
    folder: Path
    groups: tuple[RowGroup, ...]

    @cached_property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def name(self) -> str:
        """`dataset`, `holdout` of it, `earlier.0`, `earlier.0/holdout`."""
        return self.role if self.split == "train" else f"{self.role}/holdout"


ANSWERS = {"labelled": "label", "pairs": "target", "prompt": "columns"}
"""Columns that make two training rows different, and with which a row still is in a holdout that asks the same."""


def row_keys(format: str, row: Row) -> tuple[bytes, bytes]:
    """(key of all that a row says, key of what it asks), 16 bytes each: without its label, its target, its columns."""
    said = row["text"] if format == "text" else [row[column] for column in CONTENT[format]]
    asked, answer = key_of(said), ANSWERS.get(format)
    return key_of([asked.hex(), row[answer]]) if answer else asked, asked


class Corpus:
    """The sources in the order in which rows win over equal ones: datasets above with their holdouts, holdouts of
    those below and of the dataset's own, and last its training rows. Rows are numbered through."""

    def __init__(self, inputs: Mapping[str, Path]):
        others = [role for role in inputs if role.startswith("earlier.")]
        later = [role for role in inputs if role.startswith("later.")]
        asked: list[tuple[str, Side]] = [(role, split) for role in others for split in ("train", "holdout")]
        asked += [*((role, "holdout") for role in later), ("dataset", "holdout"), ("dataset", "train")]
        groups = {role: list(row_groups(inputs[role])) for role in dict.fromkeys(role for role, _ in asked)}
        self.sources = [
            Source(role, split, inputs[role], tuple(group for group in groups[role] if group.split == split))
            for role, split in asked
        ]
        self.starts = np.cumsum([0, *(source.rows for source in self.sources)])
        """Number of the first row of each source, and of all."""

    @property
    def own(self) -> int:
        """Number of the first row of the dataset's own training rows, which are the last source."""
        return int(self.starts[-2])

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def source_of(self, rows: np.ndarray) -> np.ndarray:
        """The number of the source that each row stands in."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def parts(self, *, only_own: bool = False) -> Iterator[dict[str, Any]]:
        """Row groups that are read together, in order, of one source each: its number, the number of the `first` row,
        how many rows and bytes, and what `read_part` reads."""
        for number in range(len(self.sources))[-1 if only_own else 0 :]:
            source, first = self.sources[number], int(self.starts[number])
            for group in grouped([group.bytes for group in source.groups]):
                some = [source.groups[place] for place in group]
                rows, files = sum(one.rows for one in some), [[one.file, one.number] for one in some]
                size = {"first": first, "rows": rows, "bytes": sum(one.bytes for one in some)}
                yield {"source": number, "folder": str(source.folder), "groups": files} | size
                first += rows

    def rows_at(self, numbers: Collection[int]) -> dict[int, Row]:
        """Some rows by their numbers."""
        found, wanted = dict[int, Row](), np.array(sorted(numbers), np.int64)
        places = self.source_of(wanted)
        for place in np.unique(places).tolist():
            source, start = self.sources[place], int(self.starts[place])
            within = (wanted[places == place] - start).tolist()
            rows = rows_at(source.folder, source.split, within)
            found |= {start + number: row for number, row in rows.items()}
        return found


def read_part(part: Mapping[str, Any]) -> Iterator[list[Row]]:
    """Batches of the rows of a part, in their order."""
    for file, number in part["groups"]:
        yield from read_group(Path(part["folder"]) / file, number)
