"""How the classes of a labelled dataset are written: one that is written in two ways is most likely a mistake."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.errors import DataError

MOST_NAMES = 10_000
"""Names that are kept in mind; more are no classes."""

Spellings = dict[str, dict[str, str]]
"""Name without blanks at its ends -> each way that it is written (as JSON) -> where it first stands so."""


def note(found: Spellings, label: Any, place: str) -> None:
    """Take in the label of one row, as the source has it."""
    for name in label if isinstance(label, list) else [label]:
        if isinstance(name, float):
            continue
        written = json.dumps(name, ensure_ascii=False)
        plain = name.strip() if isinstance(name, str) else written
        if plain in found or len(found) < MOST_NAMES:
            found.setdefault(plain, {}).setdefault(written, place)


def merge(found: Spellings, later: Mapping[str, Mapping[str, str]]) -> None:
    """Take in what comes after."""
    for name, ways in later.items():
        for written, place in ways.items() if name in found or len(found) < MOST_NAMES else ():
            found.setdefault(name, {}).setdefault(written, place)


def check(found: Spellings) -> None:
    """Raise DataError, with both rows, where one name is written as text and as a number (or as true), or with and
    without blanks at its ends."""
    if told := list(_faults(found)):
        more = f"\nand {len(told) - 3} more labels" if len(told) > 3 else ""
        raise DataError("\n".join(told[:3]) + more)


def _faults(found: Spellings) -> Iterator[str]:
    for ways in found.values():
        if len(ways) > 1:
            (one, first), (other, second) = list(ways.items())[:2]
            yield f"one label is written in two ways, {one} ({first}) and {other} ({second}); write it in one"
