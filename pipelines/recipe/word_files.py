"""Files of words that the task embeddings asks about: pairs with a score of people, and analogies."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import DataError

Pair = tuple[str, str, float]
Analogy = tuple[str, str, str, str]


def read_pairs(path: Path) -> list[Pair]:
    """(word, word, score) of each line, with tabs, commas or spaces between; a head may come first."""
    found: list[Pair] = []
    for number, line in _lines(path):
        fields = _fields(line)
        score = _number(fields[2]) if len(fields) == 3 else None
        if score is None and not found and len(fields) == 3:
            continue
        if score is None:
            raise DataError(f"{path}:{number}: needs a word, a word and a number, as in `old<tab>new<tab>1.58`")
        found.append((fields[0], fields[1], score))
    if len(found) < 3:
        raise DataError(f"{path}: has {len(found)} pairs; a correlation needs at least 3")
    if len({score for _, _, score in found}) == 1:
        raise DataError(f"{path}: all pairs have the same score, so there is nothing to correlate with")
    return found


def read_analogies(path: Path) -> list[Analogy]:
    """(a, b, c, d) of each line, where a is to b as c is to d; lines that start with `:` name a part, as word2vec's."""
    found: list[Analogy] = []
    for number, line in _lines(path):
        if line.startswith(":"):
            continue
        fields = _fields(line)
        if len(fields) != 4:
            raise DataError(f"{path}:{number}: needs four words, as in `man king woman queen`, not {len(fields)}")
        found.append((fields[0], fields[1], fields[2], fields[3]))
    if not found:
        raise DataError(f"{path}: has no analogies")
    return found


def word_files(pairs: str | None, analogies: str | None, recipe: Path) -> dict[str, Path]:
    """Field of the task -> the file that it names, relative to the recipe."""
    named = {"pairs": pairs, "analogies": analogies}
    return {field: recipe.resolve().parent / name for field, name in named.items() if name is not None}


READERS: Mapping[str, Callable[[Path], Sequence[Any]]] = {"pairs": read_pairs, "analogies": read_analogies}
"""By the field of the task that names the file."""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that say something, with their numbers; those that start with `#` are notes."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: a name that can be none, or text that is not UTF-8
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def _fields(line: str) -> list[str]:
    mark = "\t" if "\t" in line else "," if "," in line else None
    return [field for field in map(str.strip, line.split(mark)) if field]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
