"""Labels of labelled data: of which kind they are, which names they have, and whether a holdout has others."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError

LabelKind = Literal["single_label", "multi_label", "regression"]
"""One class, any number of classes, or a number: the first words of transformers' problem types."""
Label = str | list[str] | float
SHOWN = 5
"""Names in a message."""
Place = Callable[[TokenTable, int], str]
"""Where a row stands, in words."""


def numbered(table: TokenTable, row: int) -> str:
    """For who knows no more than the table."""
    return f"row {row + 1} of {table.split} in {table.folder}"


def kind_of(label: Label) -> LabelKind:
    """Of one label, as `pipelines.data.formats` leaves it."""
    if isinstance(label, str):
        return "single_label"
    return "multi_label" if isinstance(label, list) else "regression"


def label_kind_of(tables: Sequence[TokenTable], place: Place = numbered) -> LabelKind:
    """The kind that all labels have. Raises DataError where two rows differ in it, or there is no row."""
    first: tuple[LabelKind, Label, TokenTable, int] | None = None
    for label, table, row in _labels(tables):
        kind = kind_of(label)
        if first is None:
            first = kind, label, table, row
        elif first[0] != kind:
            raise DataError(
                f"labels of two types: {first[1]!r} ({place(*first[2:])}) is {first[0]}, {label!r} "
                f"({place(table, row)}) is {kind}; write classes as text (or whole numbers, true, false), numbers to "
                "predict with a decimal point, several classes as a list"
            )
    if first is None:
        raise DataError("there is no labelled row; see the data stage's report of dropped rows")
    return first[0]


def label_names_of(tables: Sequence[TokenTable], place: Place = numbered) -> tuple[LabelKind, tuple[str, ...]]:
    """The kind of these labels, and the names of the classes, sorted (whole numbers by value); regression has none.

    Raises DataError where two rows differ in kind, or where there is nothing to tell apart."""
    kind = label_kind_of(tables, place)
    found = {name for label, _, _ in _labels(tables) for name in names_in(label)}
    names = tuple(sorted(found, key=int if all(map(_is_whole, found)) else str))
    if len(names) < {"single_label": 2, "multi_label": 1, "regression": 0}[kind]:
        if not names:
            raise DataError("no row has any label")
        _, table, row = next(_labels(tables))
        raise DataError(f"the only label is {names[0]!r}; a classifier needs two (the first row: {place(table, row)})")
    return kind, names


def check_labels(tables: Sequence[TokenTable], kind: LabelKind, names: Sequence[str], place: Place = numbered) -> None:
    """Raise DataError where these rows (a holdout's, a test set's) have labels of another kind, or unknown names."""
    known, unknown = set(names), dict[str, tuple[TokenTable, int]]()
    for label, table, row in _labels(tables):
        if kind_of(label) != kind:
            at = place(table, row)
            raise DataError(f"label {label!r} ({at}) is {kind_of(label)}, but the training data's are {kind}")
        for name in names_in(label):
            if name not in known:
                unknown.setdefault(name, (table, row))
    if unknown:
        shown = ", ".join(f"{name!r} ({place(*row)})" for name, row in sorted(unknown.items())[:SHOWN])
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise DataError(
            f"labels that no training row has: {shown}{more}; training has {_short(names)}. "
            "Correct the labels, or let training have all of them"
        )


def names_in(label: Label) -> Sequence[str]:
    """Classes that a label names."""
    if isinstance(label, str):
        return (label,)
    return label if isinstance(label, list) else ()


def _is_whole(name: str) -> bool:
    return re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name) is not None


def _labels(tables: Sequence[TokenTable]) -> Iterator[tuple[Any, TokenTable, int]]:
    for table in tables:
        for row, label in enumerate(table.json_values("label")):
            yield label, table, row


def _short(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
