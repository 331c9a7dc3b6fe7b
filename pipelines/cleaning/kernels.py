"""Loops over the bytes of many texts at once, compiled by numba.

Texts are UTF-8, one after the other in one array, with the place where each begins. Words are what stands between
spaces and line ends of ASCII; a hash stands for each (64 bits: two different words of a text share one once in
10^19 / words^2 texts).
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

Array = np.ndarray

SPACE, LETTER, DIGIT, OTHER, CONTINUATION = 0, 1, 2, 3, 4
LINE_END, HASH, DOT = 10, 35, 46
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SEED = np.uint64(0xCBF29CE484222325)


def _kinds() -> Array:
    """What the first byte of a character says of it, and that the others are CONTINUATION. Beyond ASCII all is taken
    for letters but U+0080 to U+00BF, U+2000 to U+2FFF and U+10000 upwards, which are signs and emoji mostly."""
    kinds = np.full(256, OTHER, np.uint8)
    kinds[[9, 10, 11, 12, 13, 32]] = SPACE
    for first, last, kind in ((65, 90, LETTER), (97, 122, LETTER), (48, 57, DIGIT), (0x80, 0xBF, CONTINUATION)):
        kinds[first : last + 1] = kind
    kinds[0xC3:0xE2] = kinds[0xE3:0xF0] = LETTER
    return kinds


KINDS = _kinds()


def joined(texts: Sequence[str]) -> tuple[Array, Array]:
    """(bytes, where each text begins and the last ends); shapes (bytes,), uint8, and (texts + 1,), int64."""
    encoded = [text.encode() for text in texts]
    starts = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=starts[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), starts


@njit(cache=True, nogil=True, inline="always")
def mixed(value: np.uint64) -> np.uint64:
    """All bits of the result depend on all bits of the value (splitmix64, Steele et al. 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True, nogil=True, inline="always")
def after_spaces(data, place, stop, kinds):
    """The next place that holds no space, or the end."""
    while place < stop and kinds[data[place]] == SPACE:
        place += 1
    return place


@njit(cache=True, nogil=True)
def find_words(data, start, stop, kinds, begins, ends, hashes, lengths):
    """Words of one text: their places, hashes and characters; returns how many. The arrays hold (stop - start) // 2 + 1
    at least."""
    count, place = 0, after_spaces(data, start, stop, kinds)
    while place < stop:
        begins[count] = place
        value, characters = _SEED, 0
        while place < stop and kinds[data[place]] != SPACE:
            byte = data[place]
            value = (value ^ np.uint64(byte)) * _MULTIPLIER
            characters += kinds[byte] != CONTINUATION
            place += 1
        ends[count], hashes[count], lengths[count] = place, mixed(value), characters
        count += 1
        place = after_spaces(data, place, stop, kinds)
    return count


@njit(cache=True, nogil=True)
def find_lines(data, start, stop, kinds, begins, ends, hashes, lengths, least_breaks):
    """Lines of one text, or its paragraphs (`least_breaks` 2), without the spaces around them; as `find_words`."""
    count, place = 0, after_spaces(data, start, stop, kinds)
    while place < stop:
        begins[count], ends[count], lengths[count] = place, place, 0
        value, characters, breaks = _SEED, 0, 0
        while place < stop and breaks < least_breaks:
            byte = data[place]
            characters += kinds[byte] != CONTINUATION
            if kinds[byte] == SPACE:
                breaks += byte == LINE_END
                value += np.uint64(1)
            else:
                breaks = 0
                value = (value ^ np.uint64(byte)) * _MULTIPLIER
                ends[count], lengths[count], hashes[count] = place + 1, characters, value
            place += 1
        hashes[count] = mixed(hashes[count])
        count += 1
        place = after_spaces(data, place, stop, kinds)
    return count


@njit(cache=True, nogil=True)
def clear_below(keys, count):
    """A power of two of free slots, twice as many as `count` at least; returns their number less one."""
    mask = 1
    while mask < 2 * count:
        mask *= 2
    keys[:mask] = 0
    return np.uint64(mask - 1)


@njit(cache=True, nogil=True)
def repeated_units(hashes, lengths, count, keys, out):
    """Lines or paragraphs that stood in the text before: their share, and their share of the characters, into `out`."""
    mask, units, characters, total = clear_below(keys, count), 0, 0, 0
    for unit in range(count):
        value = hashes[unit] | np.uint64(1)
        slot = (value >> np.uint64(1)) & mask
        while keys[slot] != 0 and keys[slot] != value:
            slot = (slot + np.uint64(1)) & mask
        total += lengths[unit]
        if keys[slot] == value:
            units += 1
            characters += lengths[unit]
        keys[slot] = value
    out[0] = units / count if count else 0.0
    out[1] = characters / total if total else 0.0


@njit(cache=True, nogil=True)
def repeated_grams(hashes, before, size, starts, count, keys, times, slots, out):
    """n-grams of `size` words at `count` places `starts`: the share of the words' characters that the most frequent
    one's occurrences make, and the share in n-grams that stood there before, into `out`. Leaves in `starts` the places
    whose n-gram stands there twice, and returns how many: only there can a longer one do so. `before`: characters of
    all words before each, and of all."""
    words = len(before) - 1
    while count and starts[count - 1] + size > words:
        count -= 1
    out[0] = out[1] = 0.0
    if count < 2:
        return 0
    mask = clear_below(keys, count)
    most, of_most, repeated, covered = 1, 0, 0, 0
    for number in range(count):
        first = starts[number]
        value = _SEED
        for word in range(first, first + size):
            value = (value ^ hashes[word]) * _MULTIPLIER
            value = (value << np.uint64(23)) | (value >> np.uint64(41))
        value |= np.uint64(1)
        slot = (value >> np.uint64(20)) & mask
        while keys[slot] != 0 and keys[slot] != value:
            slot = (slot + np.uint64(1)) & mask
        slots[number] = slot
        if keys[slot] == 0:
            keys[slot], times[slot] = value, 1
        else:
            times[slot] += 1
            length = before[first + size] - before[first]
            if times[slot] > most or (times[slot] == most and length > of_most):
                most, of_most = times[slot], length
            repeated += before[first + size] - before[max(first, covered)]
            covered = first + size
    left = 0
    for number in range(count):
        if times[slots[number]] > 1:
            starts[left] = starts[number]
            left += 1
    out[0], out[1] = most * of_most / before[words], repeated / before[words]
    return left


@njit(cache=True, nogil=True)
def repetition(data, starts, kinds, out):
    """Repetition in each text, as Gopher measures it (arXiv 2112.11446, table A1); `out` is (texts, 13): REPETITION."""
    longest = 0
    for text in range(len(starts) - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    room, slots = longest // 2 + 2, 1
    while slots < 2 * room:
        slots *= 2
    begins, ends = np.empty(room, np.int64), np.empty(room, np.int64)
    hashes, lengths = np.empty(room, np.uint64), np.empty(room, np.int64)
    keys, times = np.empty(slots, np.uint64), np.empty(slots, np.int32)
    before, places, of_places = np.zeros(room + 1, np.int64), np.empty(room, np.int64), np.empty(room, np.uint64)
    pair = np.zeros(2)
    for text in range(len(starts) - 1):
        start, stop = starts[text], starts[text + 1]
        for kind in range(2):
            count = find_lines(data, start, stop, kinds, begins, ends, hashes, lengths, kind + 1)
            repeated_units(hashes, lengths, count, keys, pair)
            out[text, 2 * kind], out[text, 2 * kind + 1] = pair[0], pair[1]
        count = find_words(data, start, stop, kinds, begins, ends, hashes, lengths)
        for word in range(count):
            before[word + 1], places[word] = before[word] + lengths[word], word
        left = count
        for size in range(2, 11):
            left = repeated_grams(hashes, before[: count + 1], size, places, left, keys, times, of_places, pair)
            out[text, size + 2] = pair[0] if size < 5 else pair[1]


REPETITION = (
    *("duplicate_lines", "duplicate_line_characters", "duplicate_paragraphs", "duplicate_paragraph_characters"),
    *(f"top_{size}_gram" for size in (2, 3, 4)),
    *(f"duplicate_{size}_grams" for size in range(5, 11)),
)

TERMINAL = tuple(".!?\"'\u201c\u201d\u2019\u2026\u203d\u3002\uff01\uff1f\u300d\u300f\u0964")
"""Characters that end a sentence, of ASCII and of other scripts; those beyond ASCII are three bytes long."""
ELLIPSIS, BULLET = np.uint64(0xE280A6), np.uint64(0xE280A2)
_SHORT = np.array([ord(sign) for sign in TERMINAL if sign.isascii()], np.uint8)
_LONG = np.array([int.from_bytes(sign.encode()) for sign in TERMINAL if not sign.isascii()], np.uint64)


@njit(cache=True, nogil=True)
def is_sign(data, begin, end, sign):
    """Whether this character of three bytes stands at a place."""
    if end - begin < 3:
        return False
    value = (np.uint64(data[begin]) << np.uint64(16)) | (np.uint64(data[begin + 1]) << np.uint64(8))
    return value | np.uint64(data[begin + 2]) == sign


@njit(cache=True, nogil=True)
def is_ellipsis(data, begin, end):
    """Whether three dots stand at a place, or one sign for them."""
    dots = end - begin >= 3 and data[begin] == DOT and data[begin + 1] == DOT and data[begin + 2] == DOT
    return dots or is_sign(data, begin, end, ELLIPSIS)


@njit(cache=True, nogil=True)
def ends_sentence(data, begin, end):
    """Whether a line ends with one of TERMINAL."""
    for byte in _SHORT:
        if data[end - 1] == byte:
            return True
    for sign in _LONG:  # noqa: SIM110  numba compiles loops
        if is_sign(data, max(begin, end - 3), end, sign):
            return True
    return False


@njit(cache=True, nogil=True)
def word_shape(data, kinds, stop_words, begins, ends, lengths, words, row):
    """Of a text's words, into its row."""
    total, with_letter, found = 0, 0, np.uint64(0)
    for word in range(words):
        total += lengths[word]
        for place in range(begins[word], ends[word]):
            if kinds[data[place]] == LETTER:
                with_letter += 1
                break
        if ends[word] - begins[word] <= 4:
            value = np.uint64(0)
            for place in range(begins[word], ends[word]):
                value = (value << np.uint64(8)) | np.uint64(data[place] | 32)
            for number in range(len(stop_words)):
                if stop_words[number] == value:
                    found |= np.uint64(1) << np.uint64(number)
    distinct = np.uint64(0)
    while found:
        distinct += found & np.uint64(1)
        found = found >> np.uint64(1)
    row[1], row[2] = words, total / max(words, 1)
    row[4], row[5] = with_letter / max(words, 1), distinct


@njit(cache=True, nogil=True)
def line_shape(data, begins, ends, lengths, lines, row):
    """Of a text's lines, into its row."""
    bullets, ellipses, whole, short = 0, 0, 0, 0
    for line in range(lines):
        first, end = begins[line], ends[line]
        bullets += data[first] == ord("-") or data[first] == ord("*") or is_sign(data, first, end, BULLET)
        ellipses += is_ellipsis(data, max(first, end - 3), end)
        whole += ends_sentence(data, first, end)
        short += lengths[line] < 30
    row[6], row[7], row[8] = lines, bullets / max(lines, 1), ellipses / max(lines, 1)
    row[9], row[10] = whole / max(lines, 1), short / max(lines, 1)


@njit(cache=True, nogil=True)
def shape(data, starts, kinds, stop_words, out):
    """What the words and lines of each text are like; `out` is (texts, 13): SHAPE. `stop_words`: their letters, the
    last one lowest."""
    longest = 0
    for text in range(len(starts) - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    room = longest // 2 + 2
    begins, ends = np.empty(room, np.int64), np.empty(room, np.int64)
    hashes, lengths = np.empty(room, np.uint64), np.empty(room, np.int64)
    for text in range(len(starts) - 1):
        start, stop, row = starts[text], starts[text + 1], out[text]
        characters, spaces, digits, hash_signs, ellipses, behind = 0, 0, 0, 0, 0, 0
        for place in range(start, stop):
            byte = data[place]
            kind = kinds[byte]
            characters += kind != CONTINUATION
            spaces += kind == SPACE
            digits += kind == DIGIT
            if byte == HASH:
                hash_signs += 1
            # What an ellipsis begins with: looking further at every byte costs half.
            elif (byte == DOT or byte == 0xE2) and place >= behind and is_ellipsis(data, place, stop):
                ellipses, behind = ellipses + 1, place + 3  # four dots are one, six are two
        words = find_words(data, start, stop, kinds, begins, ends, hashes, lengths)
        word_shape(data, kinds, stop_words, begins, ends, lengths, words, row)
        lines = find_lines(data, start, stop, kinds, begins, ends, hashes, lengths, 1)
        line_shape(data, begins, ends, lengths, lines, row)
        row[0], row[3] = characters, max(hash_signs, ellipses) / max(words, 1)
        row[11], row[12] = digits / max(characters, 1), spaces / max(characters, 1)


SHAPE = (
    *("characters", "words", "mean_word_length", "symbols_per_word", "words_with_letter", "stop_words"),
    *("lines", "bullet_lines", "ellipsis_lines", "whole_lines", "short_lines", "digits", "spaces"),
)
STOP_WORDS = np.array(
    [int.from_bytes(word.encode()) for word in ("the", "be", "to", "of", "and", "that", "have", "with")], np.uint64
)
"""Of Gopher (arXiv 2112.11446, A1.1)."""
