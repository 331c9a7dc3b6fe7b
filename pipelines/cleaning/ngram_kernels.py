"""Loops of the n-gram model, compiled by numba: words of texts as hashes, and a table of n-grams.

A word is a run of letters without regard to the case of ASCII ones, a run of digits (any for any other), a sign, or a
Chinese or Japanese character. A slot of the table holds 32 bits of an n-gram's hash, and 16 each of its cost and of
what it costs to go on from it with an n-gram that it knows not; both are -ln p in units of 1 / UNIT.
"""

import numpy as np
from numba import njit

from pipelines.cleaning.kernels import mixed

Array = np.ndarray

UNIT, MOST = 2048, 0xFFFF
SPACE, LETTER, DIGIT, SIGN, ALONE = 0, 1, 2, 3, 4
BOUNDARY = np.uint64(1)
"""Stands before each text."""
_NUMBER = np.uint64(0x5851F42D4C957F2D)
_MULTIPLIER, _SEED = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xCBF29CE484222325)
_LOW, _WORD = np.uint64(0xFFFF), np.uint64(16)


def _classes() -> Array:
    """What the first byte of a character says of it: all of U+2000 to U+9FFF is taken for signs and characters that are
    words, all else beyond ASCII for letters."""
    classes = np.full(256, LETTER, np.uint8)
    classes[:128] = SIGN
    classes[:33] = classes[127] = SPACE
    for first, last, kind in ((65, 90, LETTER), (97, 122, LETTER), (48, 57, DIGIT), (0xE3, 0xE9, ALONE)):
        classes[first : last + 1] = kind
    classes[0xE2] = ALONE
    return classes


CLASSES = _classes()


@njit(cache=True, nogil=True, inline="always")
def _sign(data, place):
    """The byte that stands for a sign of three: typographic quotes, dashes and ellipses are like ASCII's; else 0."""
    if data[place] != 0xE2 or data[place + 1] != 0x80:
        return 0
    last = data[place + 2]
    if last == 0x98 or last == 0x99:
        return 39  # '
    if last == 0x9C or last == 0x9D:
        return 34  # "
    if last == 0x93 or last == 0x94:
        return 45  # -
    return 46 if last == 0xA6 else 0  # .


@njit(cache=True, nogil=True)
def find_words(data, place, stop, classes, words):
    """The hashes of one text's words; returns how many. `words` holds a place for each byte at least."""
    count = 0
    while place < stop:
        kind = classes[data[place]]
        if kind == SPACE:
            place += 1
            continue
        value = _SEED
        if kind == LETTER:
            while place < stop and classes[data[place]] == LETTER:
                byte = data[place]
                value = (value ^ np.uint64(byte | 32 if byte < 128 else byte)) * _MULTIPLIER
                place += 1
        elif kind == DIGIT:
            value = _NUMBER
            while place < stop and classes[data[place]] == DIGIT:
                place += 1
        elif kind == SIGN:
            value = (value ^ np.uint64(data[place])) * _MULTIPLIER
            place += 1
        else:
            sign = _sign(data, place)
            if sign:
                value = (value ^ np.uint64(sign)) * _MULTIPLIER
            else:
                for at in range(place, min(place + 3, stop)):
                    value = (value ^ np.uint64(data[at])) * _MULTIPLIER
            place += 3
        words[count] = mixed(value)
        count += 1
    return count


@njit(cache=True, nogil=True)
def _all_words(data, starts, classes, words):
    count = 0
    for text in range(len(starts) - 1):
        words[count] = BOUNDARY
        count += 1 + find_words(data, starts[text], starts[text + 1], classes, words[count + 1 :])
    return count


def words_of(data: Array, starts: Array) -> Array:
    """Hashes of the words of all texts, BOUNDARY before each; what `kernels.joined` gives."""
    words = np.zeros(len(data) + len(starts), np.uint64)
    return words[: _all_words(data, starts, CLASSES, words)].copy()


@njit(cache=True, nogil=True, inline="always")
def _pair(first, last):
    """The hash of what has one hash, and then a word."""
    return mixed(((first << np.uint64(21)) | (first >> np.uint64(43))) * _MULTIPLIER ^ last)


@njit(cache=True, nogil=True)
def pair_keys(first, last):
    """Hashes of n-grams of one word more, shape (n-grams,)."""
    keys = np.empty(len(last), np.uint64)
    for number in range(len(last)):
        keys[number] = _pair(first[number], last[number])
    return keys


def cost(probability: float) -> int:
    """-ln p in units of the table."""
    return int(min(MOST, round(-np.log(probability) * UNIT)))


def table_of(keys: Array, probabilities: Array, left: Array) -> Array:
    """A table of n-grams by their hashes, half full at most; all of shape (n-grams,). `left`: what each leaves to
    n-grams that do not begin with it."""
    with np.errstate(divide="ignore"):
        costs = [np.minimum(MOST, np.rint(-np.log(np.clip(p, 0, 1)) * UNIT)) for p in (probabilities, left)]
    slots = 1 << max(1, int(2 * len(keys) - 1).bit_length())
    table = np.zeros(slots, np.uint64)
    _fill(table, keys, costs[0].astype(np.uint64), costs[1].astype(np.uint64))
    return table


@njit(cache=True, nogil=True)
def _fill(table, keys, costs, left):
    mask = np.uint64(len(table) - 1)
    for number in range(len(keys)):
        slot = keys[number] & mask
        while table[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        check = (keys[number] >> np.uint64(32)) | np.uint64(1)
        table[slot] = (check << np.uint64(32)) | (costs[number] << _WORD) | left[number]


@njit(cache=True, nogil=True, inline="always")
def _find(table, mask, key):
    """The slot of an n-gram, or 0."""
    check, slot = (key >> np.uint64(32)) | np.uint64(1), key & mask
    while table[slot] != 0 and table[slot] >> np.uint64(32) != check:
        slot = (slot + np.uint64(1)) & mask
    return table[slot]


@njit(cache=True, nogil=True)
def score(data, starts, classes, table, unknown, out):
    """(cost of its words, how many) of each text into `out`, shape (texts, 2), int64."""
    longest, mask = 0, np.uint64(len(table) - 1)
    for text in range(len(starts) - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    words = np.empty(longest + 1, np.uint64)
    beginning = np.int64(_find(table, mask, BOUNDARY) & _LOW)
    for text in range(len(starts) - 1):
        count, total = find_words(data, starts[text], starts[text + 1], classes, words), np.int64(0)
        key_before, word_before = np.uint64(0), BOUNDARY
        after_two, after_one = np.int64(0), beginning
        for number in range(count):
            word = words[number]
            key = _pair(word_before, word)
            single, double = _find(table, mask, word), _find(table, mask, key)
            # There are no three words whose first two, or last two, are not there.
            triple = _find(table, mask, _pair(key_before, word)) if double != 0 and after_two != 0 else np.uint64(0)
            if triple != 0:
                total += np.int64((triple >> _WORD) & _LOW)
            elif double != 0:
                total += after_two + np.int64((double >> _WORD) & _LOW)
            elif single != 0:
                total += after_two + after_one + np.int64((single >> _WORD) & _LOW)
            else:
                total += after_two + after_one + unknown
            after_one = np.int64(single & _LOW)
            after_two = np.int64(double & _LOW)
            key_before, word_before = key, word
        out[text, 0], out[text, 1] = total, count
