"""Paragraphs that were cut into lines to fit a page: what judges lines would take most of them for no text."""

from itertools import pairwise

WIDTHS = range(40, 101)
"""Characters of the widest lines of a wrapped text: shorter ones are a list's, longer ones are paragraphs."""
WIDEST = 0.98
"""Share of the lines that are no wider than the page; a few always stick out."""
LONG = 0.1
"""Share of the lines that may be paragraphs."""
SLACK = 6
"""Characters by which a line may fall short of the width: not all programs count alike."""
FEWEST = 6
"""Full lines that a text needs before it is taken for wrapped."""
SHARE = 0.5
"""Of the lines that another follows, those that are full; a poem's or a menu's are not."""


def unwrapped(text: str) -> str:
    """The text with its wrapped paragraphs on one line each; others come back as they are.

    A line is full where the next word had no room in it. Where most lines that are followed by another are full, they
    were wrapped, and each full one is joined with the next."""
    if text.count("\n") < FEWEST:
        return text
    lines = [line.strip() for line in text.split("\n")]
    lengths = sorted(len(line) for line in lines if line)
    lines_of_pages = [length for length in lengths if length <= WIDTHS[-1]]
    if len(lines_of_pages) < max(1, (1 - LONG) * len(lengths)):
        return text
    width = lines_of_pages[int(WIDEST * (len(lines_of_pages) - 1))]
    full = [_is_full(line, after, width) for line, after in pairwise(lines)]
    followed = sum(bool(line and after) for line, after in pairwise(lines))
    if width < WIDTHS[0] or sum(full) < max(FEWEST, SHARE * followed):
        return text
    return "\n".join(_joined(lines, [*full, False]))


def _is_full(line: str, after: str, width: int) -> bool:
    if not line or not after or len(line) > WIDTHS[-1]:
        return False
    return len(line) + 1 + len(after.split(None, 1)[0]) > width - SLACK


def _joined(lines: list[str], full: list[bool]) -> list[str]:
    found, goes_on = list[str](), False
    for line, is_full in zip(lines, full, strict=True):
        if goes_on:
            # A hyphen at the end of a line may be the word's or the page's: it stays, and so does the word.
            is_hyphen = found[-1].endswith("-") and found[-1][-2:-1].isalpha()
            found[-1] += line if is_hyphen else f" {line}"
        else:
            found.append(line)
        goes_on = is_full
    return found
