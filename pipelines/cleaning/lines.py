"""Lines of a text that are no text: menus, notices, scripts (C4, arXiv 1910.10683, 2.2)."""

import re
from collections.abc import Sequence

import numpy as np
from numba import njit

from pipelines.cleaning.automaton import automaton, lines_with
from pipelines.cleaning.kernels import LINE_END, ends_sentence
from pipelines.recipe.quality import Lines

BOILERPLATE = re.compile(
    r"javascript|\bcookies?\b|terms of (?:use|service)|privacy policy|all rights reserved|lorem ipsum"
    r"|\b(?:sign|log)(?:ed)? ?in\b|\bsubscribe\b|\bnewsletter\b|\bclick here\b|\bread more\b",
    re.IGNORECASE,
)
_LITERALS = (
    *("javascript", "cookie", "terms of ", "privacy policy", "all rights reserved", "lorem ipsum", "subscribe"),
    *("newsletter", "click here", "read more"),
    *(f"{word}{ending}" for word in ("sign", "log") for ending in ("in", " in", "edin", "ed in")),
)
"""One of them stands in everything that BOILERPLATE matches, or one of the characters below does."""
_SAME_LETTERS = ("\u0130", "\u0131", "\u017f", "\u212a")
"""What is a letter of ASCII (i, i, s, k) to an expression that ignores case."""
_SIGNS = automaton([[*_LITERALS, *_SAME_LETTERS]], ignore_case=True)
LONGEST = 200
"""Characters of a line from which on it is a paragraph, which may speak of cookies."""


class LineFilter:
    """Keeps the lines of texts that are worth reading; empty lines stay between those that are kept."""

    def __init__(self, config: Lines):
        self.config = config

    def __call__(self, texts: Sequence[str], data: np.ndarray, starts: np.ndarray) -> list[str]:
        """`data` and `starts` are `kernels.joined(texts)`."""
        out, ends = np.empty(len(data), np.uint8), np.empty(len(texts), np.int64)
        unwanted = self._boilerplate(data, starts) if self.config.boilerplate else np.empty(0, np.int64)
        keep_lines(data, starts, unwanted, self.config.min_words, self.config.terminal_punctuation, out, ends)
        return [
            # Where no byte is gone, nothing is.
            text if ends[number] == starts[number + 1] else out[starts[number] : ends[number]].tobytes().decode()
            for number, text in enumerate(texts)
        ]

    def _boilerplate(self, data: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Where the lines begin that are short and of no text, in their order."""
        found = np.empty(1024, np.int64)
        count = lines_with(data, starts, *_SIGNS, found)
        if count > len(found):
            found = np.empty(count, np.int64)
            lines_with(data, starts, *_SIGNS, found)
        whole = data.tobytes() if count else b""
        stops = starts[np.searchsorted(starts, found[:count], side="right")]
        bad = [a for a, b in zip(found.tolist(), stops.tolist(), strict=False) if _is_boilerplate(whole, a, b)]
        return np.array(bad, np.int64)


def _is_boilerplate(data: bytes, begin: int, stop: int) -> bool:
    """Of the line that begins there; its text ends at `stop`."""
    end = data.find(b"\n", begin, stop)
    line = data[begin : stop if end < 0 else end].decode().strip()
    return len(line) < LONGEST and BOILERPLATE.search(line) is not None


@njit(cache=True, nogil=True)
def keep_lines(data, starts, unwanted, min_words, terminal, out, ends):
    """Copy each text to the same place of `out`, without the lines whose begin is in `unwanted`, that have fewer words,
    or (`terminal`) that do not end a sentence; empty lines stay, but no two beside each other and none at an end of
    the text. `ends`, (texts,): where each text's copy ends."""
    bad = 0
    for text in range(len(starts) - 1):
        place, stop, target = starts[text], starts[text + 1], starts[text]
        breaks = 2  # line ends just before the place in `out`; at the start none is wanted
        is_first = True
        while place <= stop:
            begin, words, first, last, in_word = place, 0, -1, -1, False
            while place < stop and data[place] != LINE_END:
                width = space_width(data, place, stop)
                if width:
                    in_word = False
                    place += width
                else:
                    words += not in_word
                    in_word = True
                    first = place if first < 0 else first
                    place += 1
                    last = place
            is_kept = True
            if first >= 0:
                is_kept = words >= min_words and (not terminal or ends_sentence(data, first, last))
                if bad < len(unwanted) and unwanted[bad] == begin:
                    is_kept, bad = False, bad + 1
            if is_kept:
                if not is_first and breaks < 2:
                    out[target] = LINE_END
                    target, breaks = target + 1, breaks + 1
                is_first = False
                if place > begin:
                    out[target : target + place - begin] = data[begin:place]
                    target, breaks = target + place - begin, 0
            place += 1
        while target > starts[text] and out[target - 1] == LINE_END:
            target -= 1
        ends[text] = target


@njit(cache=True, nogil=True)
def space_width(data, place, stop):
    """Bytes of the character at a place if it is white space to Python, else 0."""
    byte = data[place]
    if byte <= 32:
        return 1 if byte >= 28 or 9 <= byte <= 13 else 0
    if byte < 0xC2 or byte > 0xE3:
        return 0
    if byte == 0xC2:
        return 2 if data[place + 1] == 0x85 or data[place + 1] == 0xA0 else 0
    if byte < 0xE1:
        return 0
    second, third = data[place + 1], data[place + 2]
    if byte == 0xE1:
        return 3 if second == 0x9A and third == 0x80 else 0
    if byte == 0xE3:
        return 3 if second == 0x80 and third == 0x80 else 0
    if second == 0x81:
        return 3 if third == 0x9F else 0
    is_space = third <= 0x8A or third == 0xA8 or third == 0xA9 or third == 0xAF
    return 3 if second == 0x80 and is_space else 0
