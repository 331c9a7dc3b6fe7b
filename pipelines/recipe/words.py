"""Spelling: which known word was probably meant."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that differs least, if it is near enough to be worth naming."""
    names = list(known)
    slips = [name for name in names if is_typo(word.lower(), name.lower()) or word.lower() == name.lower()]
    if slips:
        return min(slips, key=lambda name: (sorted(word) != sorted(name), -_likeness(word, name), name))
    return min((name for name in names if _is_alike(word, name)), key=lambda name: -_likeness(word, name), default=None)


def _is_alike(word: str, name: str) -> bool:
    begins = len(word) >= 3 and name.lower().startswith(word.lower())
    return begins or _likeness(word, name) >= 0.6


def _likeness(word: str, name: str) -> float:
    return difflib.SequenceMatcher(None, word.lower(), name.lower()).ratio()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'beta'?`, or nothing."""
    close = closest(word, known)
    return f"; did you mean '{close}'?" if close else ""


def is_typo(word: str, known: str) -> bool:
    """One slip of the fingers away: a letter missing, added, wrong, or two neighbours swapped."""
    start = next((i for i, (a, b) in enumerate(zip(word, known, strict=False)) if a != b), min(len(word), len(known)))
    word, known = word[start:], known[start:]
    while word and known and word[-1] == known[-1]:
        word, known = word[:-1], known[:-1]
    return (len(word) <= 1 and len(known) <= 1 and word != known) or (len(word) == 2 and word == known[::-1])
