"""Spelling: which known word was probably meant."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that differs least, if it is near enough to be worth naming."""
    scored = []
    for candidate in known:
        slips = _slips(word.lower(), candidate.lower())
        likeness = difflib.SequenceMatcher(None, word.lower(), candidate.lower()).ratio()
        begins = len(word) >= 3 and candidate.lower().startswith(word.lower())
        if slips <= 1 or likeness >= 0.6 or begins:
            scored.append((slips, sorted(word) != sorted(candidate), -likeness, candidate))
    return min(scored)[-1] if scored else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'beta'?`, or nothing."""
    close = closest(word, known)
    return f"; did you mean '{close}'?" if close else ""


def is_typo(word: str, known: str) -> bool:
    """One slip of the fingers away: a letter missing, added, wrong, or two swapped."""
    return _slips(word, known) == 1


def _slips(a: str, b: str) -> int:
    """Damerau-Levenshtein distance (adjacent swaps count once)."""
    if abs(len(a) - len(b)) > 12 or max(len(a), len(b)) > 64:
        return 64
    before, last = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
