"""Runs of words that stood before: fingerprints by which they are found, how far they reach, and texts without them.

Fingerprints are chosen by winnowing (Schleimer, Wilkerson and Aiken, SIGMOD 2003): of every `window` neighbouring
hashes of `size` words the smallest, so that two texts that share a run of size + window - 1 words share one of them. Of
runs of 50 words that is one hash in 13 words, 16 bytes for every 80 bytes of text.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from pipelines.cleaning.kernels import KINDS, find_words, joined, mixed

Array = np.ndarray

FINGERPRINT = np.dtype([("hash", np.uint64), ("place", np.int64)])
"""`place`: number of its first word."""
_BASE = np.uint64(0x9E3779B97F4A7C15)


def sizes_of(run: int) -> tuple[int, int]:
    """(words of a fingerprint, fingerprints of a window) by which runs of so many words are found."""
    return run // 2, run - run // 2 + 1


def words_of(texts: Sequence[str], size: int, window: int) -> tuple[Array, Array, Array]:
    """(hash of each word, words of each text, fingerprints with their places among these words); shapes (words,),
    uint32, (texts,), int64, and (fingerprints,), FINGERPRINT. Words are compared in lower case."""
    data, starts = joined([text.lower() for text in texts])
    words, counts = np.empty(len(data) // 2 + len(texts), np.uint32), np.empty(len(texts), np.int64)
    found = np.empty(len(words), FINGERPRINT)
    chosen = _words(data, starts, KINDS, size, window, words, counts, found["hash"], found["place"])
    return words[: counts.sum()], counts, found[:chosen]


@njit(cache=True, nogil=True)
def _words(data, starts, kinds, size, window, words, counts, hashes, places):
    longest = 0
    for text in range(len(starts) - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    begins, ends = np.empty(longest // 2 + 1, np.int64), np.empty(longest // 2 + 1, np.int64)
    found, lengths = np.empty(longest // 2 + 1, np.uint64), np.empty(longest // 2 + 1, np.int64)
    grams, filled, chosen = np.empty(longest // 2 + 1, np.uint64), 0, 0
    leaving = np.uint64(1)
    for _ in range(size):
        leaving *= _BASE
    for text in range(len(starts) - 1):
        count = find_words(data, starts[text], starts[text + 1], kinds, begins, ends, found, lengths)
        value = np.uint64(0)
        for word in range(count):
            words[filled + word] = found[word] >> np.uint64(32)
            value = value * _BASE + found[word]
            if word >= size:
                value -= found[word - size] * leaving
            if word >= size - 1:
                grams[word - size + 1] = mixed(value)
        chosen = _winnow(grams, count - size + 1, window, filled, hashes, places, chosen)
        counts[text] = count
        filled += count
    return chosen


@njit(cache=True, nogil=True)
def _winnow(grams, count, window, before, hashes, places, chosen):
    """Of each window the smallest, the last of equal ones; a text with fewer than a window has the smallest of all."""
    smallest = -1
    for last in range(count):
        first = max(0, last - window + 1)
        if smallest < first:  # it has left the window
            smallest = first
            for place in range(first + 1, last + 1):
                if grams[place] <= grams[smallest]:
                    smallest = place
        elif grams[last] <= grams[smallest]:
            smallest = last
        is_window = last >= window - 1 or last == count - 1
        if is_window and (chosen == 0 or places[chosen - 1] != before + smallest):
            hashes[chosen], places[chosen] = grams[smallest], before + smallest
            chosen += 1
    return chosen


def repeated(found: Array, own: int) -> Array:
    """Places from `own` on whose fingerprint stood before, each with the first place that has it and with the last one
    before it; shape (places, 3), int64. `found`: shape (fingerprints,), their places ascending."""
    order = np.argsort(found["hash"], kind="stable")
    hashes, places = found["hash"][order], found["place"][order]
    begins = np.ones(len(hashes), bool)
    begins[1:] = hashes[1:] != hashes[:-1]
    first = places[begins][np.cumsum(begins) - 1]
    later = np.flatnonzero(~begins & (places >= own))
    return np.stack([places[later], first[later], places[later - 1]], axis=1)


def runs(pairs: Array, words: Array, starts: Array, least: int) -> Array:
    """Runs of `least` words at least that stood before, from places as `repeated` has them, which ascend.

    Where 25 words stand in many texts, a run around them may stand in one only: so each place is compared with two, the
    first and the last before it, and what either shares with it counts.
    Shape (runs, 4), int64: row, first word and the one behind the last, both counted from the row's beginning, and the
    row where it stood before. Runs of a row ascend and do not overlap. `words`: of all rows; `starts`: the place of
    each row's first word, and of all words' end."""
    found = []
    for with_which in (pairs[:, :2], pairs[pairs[:, 1] != pairs[:, 2]][:, ::2]):
        out = np.empty((len(with_which), 4), np.int64)
        found.append(out[: _runs(with_which, words, starts, least, out)])
    both = np.concatenate(found)
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    return both[: _apart(both)]


@njit(cache=True, nogil=True)
def _apart(runs):
    """Runs, by row and first word, each without what the ones before it have; returns how many are left."""
    count = 0
    for number in range(len(runs)):
        row, begin, end, other = runs[number]
        if count and runs[count - 1, 0] == row:
            begin = max(begin, runs[count - 1, 2])
        if begin < end:
            runs[count, 0], runs[count, 1], runs[count, 2], runs[count, 3] = row, begin, end, other
            count += 1
    return count


@njit(cache=True, nogil=True)
def _runs(pairs, words, starts, least, out):
    count, row, done = 0, 0, 0
    for number in range(len(pairs)):
        later, earlier = pairs[number, 0], pairs[number, 1]
        if later < done:
            continue  # within a run that was found
        while starts[row + 1] <= later:
            row += 1
        other = np.searchsorted(starts, earlier, side="right") - 1
        back = 0
        least_back = min(later - starts[row], earlier - starts[other])
        while back < least_back and words[later - back - 1] == words[earlier - back - 1]:
            back += 1
        ahead, most_ahead = 0, min(starts[row + 1] - later, starts[other + 1] - earlier)
        while ahead < most_ahead and words[later + ahead] == words[earlier + ahead]:
            ahead += 1
        if back + ahead < least:
            continue
        begin = later - back - starts[row]
        if count and out[count - 1, 0] == row and begin < out[count - 1, 1]:  # it began before the run beside it did
            before = out[count - 2, 2] if count > 1 and out[count - 2, 0] == row else 0
            out[count - 1, 1] = max(begin, before)
        start, done = max(later - back, done), later + ahead
        out[count] = row, start - starts[row], done - starts[row], other
        count += 1
    return count


def without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """A text without some runs of its words, which ascend, and without the white space behind each."""
    raw, begins, _ = _places(text)
    parts, place = list[bytes](), 0
    for start, stop in spans:
        parts.append(raw[place : begins[start]])
        place = int(begins[stop]) if stop < len(begins) else len(raw)
    cut = b"".join([*parts, raw[place:]]).decode()
    return cut if place < len(raw) else cut.rstrip()


def part_of(text: str, start: int, stop: int) -> str:
    """A run of its words, as it stands there."""
    raw, begins, ends = _places(text)
    return raw[begins[start] : ends[stop - 1]].decode()


def _places(text: str) -> tuple[bytes, Array, Array]:
    """(UTF-8, where each word begins, where it ends)"""
    data, starts = joined([text])
    most = len(data) // 2 + 1
    begins, ends, lengths = (np.empty(most, np.int64) for _ in range(3))
    words = find_words(data, 0, starts[1], KINDS, begins, ends, np.empty(most, np.uint64), lengths)
    return text.encode(), begins[:words], ends[:words]
