"""Loops that find n-grams of words in many texts at once, compiled by numba.

Texts are lower case, in UTF-8, one after the other in one array, with the place where each begins. A word is a run of
letters, marks and digits of Unicode; a Chinese character or a kana is one by itself. A hash of 64 bits stands for each,
and each n-gram that is found by its hash is compared byte by byte.
"""

import unicodedata

import numpy as np
from numba import njit

from pipelines.cleaning.kernels import mixed

Array = np.ndarray

SEPARATOR, LETTER, ALONE = 0, 1, 2
_SEED, _MULTIPLIER = np.uint64(0xCBF29CE484222325), np.uint64(0x9E3779B97F4A7C15)
_BASE = np.uint64(0xD1342543DE82EF95)
"""Of the polynomial that rolls over the hashes of words."""
_SPACE = np.uint8(32)


def _classes() -> Array:
    """The class of every character below U+10000."""
    letters = [unicodedata.category(chr(code))[0] in "LMN" for code in range(0x10000)]
    classes = np.where(letters, LETTER, SEPARATOR).astype(np.uint8)
    for first, last in ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)):
        classes[first : last + 1][classes[first : last + 1] == LETTER] = ALONE
    return classes


CLASSES = _classes()


@njit(cache=True, nogil=True, inline="always")
def class_at(data, place, classes):
    """(class, bytes) of the character at a place of valid UTF-8."""
    byte = data[place]
    if byte < 0x80:
        return classes[byte], 1
    if byte < 0xE0:
        return classes[((byte & 0x1F) << 6) | (data[place + 1] & 0x3F)], 2
    if byte < 0xF0:
        code = ((byte & 0x0F) << 12) | ((data[place + 1] & 0x3F) << 6) | (data[place + 2] & 0x3F)
        return classes[code], 3
    code = ((byte & 0x07) << 18) | ((data[place + 1] & 0x3F) << 12)
    if code >= 0x20000:  # rare ideographs
        return np.uint8(ALONE), 4
    return np.uint8(LETTER if code < 0x1D000 else SEPARATOR), 4  # old scripts; notes, emoji


@njit(cache=True, nogil=True)
def find_words(data, start, stop, classes, begins, ends, hashes):
    """Words of one text: their places and hashes; returns how many. The arrays hold (stop - start) // 2 + 1
    at least."""
    count, place, inside = 0, start, False
    value = _SEED
    while place < stop:
        kind, size = class_at(data, place, classes)
        if kind == LETTER:
            if not inside:
                begins[count], value, inside = place, _SEED, True
            for at in range(place, place + size):
                value = (value ^ np.uint64(data[at])) * _MULTIPLIER
        elif inside:
            ends[count], hashes[count], inside = place, mixed(value), False
            count += 1
        if kind == ALONE:
            value = _SEED
            for at in range(place, place + size):
                value = (value ^ np.uint64(data[at])) * _MULTIPLIER
            begins[count], ends[count], hashes[count] = place, place + size, mixed(value)
            count += 1
        place += size
    if inside:
        ends[count], hashes[count] = stop, mixed(value)
        count += 1
    return count


@njit(cache=True, nogil=True, inline="always")
def hash_of(hashes, first, size):
    """Of `size` words; equal to what rolls along in `search`."""
    value = np.uint64(0)
    for word in range(first, first + size):
        value = value * _BASE + hashes[word]
    return value


@njit(cache=True, nogil=True, inline="always")
def key_of(value, size):
    """What stands for an n-gram in the table; never 0, which is a free slot."""
    return mixed(value + np.uint64(size)) | np.uint64(1)


@njit(cache=True, nogil=True)
def bare_words(data, starts, classes, text, begins, ends, hashes, firsts):
    """The words of all texts with one space between them into `text`; their places there and hashes, and the number of
    each text's first word (and of all) into `firsts`; returns (words, bytes)."""
    words = used = 0
    for number in range(len(starts) - 1):
        firsts[number] = words
        stop = words + find_words(data, starts[number], starts[number + 1], classes, begins[words:], ends[words:],
                                  hashes[words:])  # fmt: skip
        for word in range(words, stop):
            begin = used
            for place in range(begins[word], ends[word]):
                text[used] = data[place]
                used += 1
            begins[word], ends[word] = begin, used
            text[used] = _SPACE
            used += 1
        words = stop
    firsts[len(starts) - 1] = words
    return words, used


@njit(cache=True, nogil=True)
def number_ngrams(text, begins, ends, hashes, firsts, sizes, keys, numbers, ngram_of, found):
    """Gives the n-gram of each (first word, size) a number, the same for the same words, into `ngram_of`; the place of
    its first word and its size into `found`; returns how many there are. `keys` and `numbers` are the table's slots,
    whose count is a power of two."""
    count, mask = 0, np.uint64(len(keys) - 1)
    for place in range(len(firsts)):
        first, size = firsts[place], sizes[place]
        key = key_of(hash_of(hashes, first, size), size)
        begin, end = begins[first], ends[first + size - 1]
        slot = (key >> np.uint64(1)) & mask
        while keys[slot] != 0:
            if keys[slot] == key:
                other = found[numbers[slot], 0]
                if same_bytes(text, begin, end, begins[other], ends[other + found[numbers[slot], 1] - 1]):
                    break
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == 0:
            keys[slot], numbers[slot] = key, count
            found[count, 0], found[count, 1] = first, size
            count += 1
        ngram_of[place] = numbers[slot]
    return count


@njit(cache=True, nogil=True)
def same_bytes(text, begin, end, other, other_end):
    """Whether two parts of a text are the same."""
    if end - begin != other_end - other:
        return False
    for place in range(end - begin):  # noqa: SIM110  numba compiles loops
        if text[begin + place] != text[other + place]:
            return False
    return True


@njit(cache=True, nogil=True)
def mark_beginnings(hashes, ngrams, shortest, bits):
    """Sets a bit for the first `shortest` words of each n-gram, all but a few per cent of other words' stay clear."""
    mask = np.uint64(64 * len(bits) - 1)
    for number in range(len(ngrams)):
        bit = key_of(hash_of(hashes, ngrams[number, 0], shortest), shortest) >> np.uint64(1) & mask
        bits[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@njit(cache=True, nogil=True)
def stands_at(data, begins, ends, word, text, place, stop):
    """Whether the words from `word` on are those of text[place:stop]."""
    while place < stop:
        for at in range(begins[word], ends[word]):
            if place == stop or data[at] != text[place]:
                return False
            place += 1
        if place < stop and text[place] != _SPACE:
            return False
        place += 1
        word += 1
    return True


@njit(cache=True, nogil=True)
def search(data, starts, classes, sizes, bits, keys, numbers, text, spans, seen, out):
    """Every n-gram that stands in a text, once for each text, as (text, n-gram, first byte, last byte + 1) into `out`;
    returns how many there are, of which `out` has the first. `sizes`: those of n-grams, the shortest first. `spans`:
    where each n-gram's words stand in `text`. `seen`: zeros, one for each n-gram."""
    longest = 0
    for number in range(len(starts) - 1):
        longest = max(longest, starts[number + 1] - starts[number])
    room = longest // 2 + 1  # a word of one letter has a separator; one of three bytes needs none
    begins, ends, hashes = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint64)
    shortest, leading, found = sizes[0], np.uint64(1), 0
    mask, bit_mask = np.uint64(len(keys) - 1), np.uint64(64 * len(bits) - 1)
    for _ in range(shortest - 1):
        leading *= _BASE
    for number in range(len(starts) - 1):
        count = find_words(data, starts[number], starts[number + 1], classes, begins, ends, hashes)
        if count < shortest:
            continue
        rolling = hash_of(hashes, 0, shortest)
        for word in range(count - shortest + 1):
            if word:
                rolling = (rolling - hashes[word - 1] * leading) * _BASE + hashes[word + shortest - 1]
            bit = key_of(rolling, shortest) >> np.uint64(1) & bit_mask
            if not (bits[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1):
                continue
            for size in sizes:
                if word + size > count:
                    break
                key = key_of(hash_of(hashes, word, size), size)
                slot = (key >> np.uint64(1)) & mask
                while keys[slot] != 0:
                    ngram = numbers[slot]
                    begin, end = spans[ngram, 0], spans[ngram, 1]
                    if keys[slot] == key and stands_at(data, begins, ends, word, text, begin, end):
                        if seen[ngram] != number + 1:
                            seen[ngram] = number + 1
                            if found < len(out):
                                out[found, 0], out[found, 1] = number, ngram
                                out[found, 2], out[found, 3] = begins[word], ends[word + size - 1]
                            found += 1
                        break
                    slot = (slot + np.uint64(1)) & mask
    return found
