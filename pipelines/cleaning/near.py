"""Texts that are nearly the same: shingles of words, MinHash signatures of them, and which of their bands agree.

Signatures are rensa's (0.5.0, September 2026; Fast Similarity Sketching, arXiv 1704.04370), of which the low 8 bits of
each slot are kept (b-bit minwise hashing, arXiv 0910.3349). Measured on one core on running text: rensa 1,530 MB/s of
text from shingles that are hashed already, datasketch 2.0.0 4.7 MB/s with its shingles, rensa with shingles made in
Python 25 MB/s; so the shingles are hashed here (230 MB/s) and the rest is rensa's.
"""

import hashlib
import itertools
import os
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numba import njit

from pipelines.cleaning.kernels import KINDS, clear_below, find_words, joined, mixed

Array = np.ndarray

SHINGLE = 5
"""Words in a row that are compared as one."""
SLOTS = 256
"""Of a signature, one byte each."""
ROWS = 8
"""Slots of a band; with 32 bands of them, two texts of Jaccard similarity s share one with probability
1 - (1 - s^8)^32: 0.12 at 0.5, 0.69 at 0.65, 0.97 at 0.75, 0.997 at 0.8."""
BANDS = SLOTS // ROWS
_SEED, _MULTIPLIER = np.uint64(0xCBF29CE484222325), np.uint64(0x9E3779B97F4A7C15)


def shingles(texts: Sequence[str], common: Array) -> tuple[Array, Array]:
    """(hashes, where each text's begin and the last end); shapes (shingles,), uint64, and (texts + 1,), int64.

    Words are what stands between spaces and line ends, in lower case and Unicode form NFKC. Hashes in `common`, which
    is sorted, are left out."""
    data, starts = joined([unicodedata.normalize("NFKC", text).lower() for text in texts])
    hashes, offsets = np.empty(len(data) // 2 + 1, np.uint64), np.zeros(len(starts), np.int64)
    return hashes[: _shingles(data, starts, KINDS, common, hashes, offsets)], offsets


@njit(cache=True, nogil=True)
def _shingles(data, starts, kinds, common, out, offsets):
    longest = 0
    for text in range(len(starts) - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    begins, ends = np.empty(longest // 2 + 1, np.int64), np.empty(longest // 2 + 1, np.int64)
    words, lengths = np.empty(longest // 2 + 1, np.uint64), np.empty(longest // 2 + 1, np.int64)
    filled = 0
    for text in range(len(starts) - 1):
        count = find_words(data, starts[text], starts[text + 1], kinds, begins, ends, words, lengths)
        for first in range(count - SHINGLE + 1):
            value = _SEED
            for word in range(first, first + SHINGLE):
                value = (value ^ words[word]) * _MULTIPLIER
            value = mixed(value)
            if len(common):
                place = np.searchsorted(common, value)
                if place < len(common) and common[place] == value:
                    continue
            out[filled] = value
            filled += 1
        offsets[text + 1] = filled
    return filled


def distinct_shingles(texts: Sequence[str]) -> Array:
    """Those of each text once, one text after the other."""
    hashes, offsets = shingles(texts, np.zeros(0, np.uint64))
    return hashes[: _distinct(hashes, offsets)]


@njit(cache=True, nogil=True)
def _distinct(hashes, offsets):
    longest = 1
    for text in range(len(offsets) - 1):
        longest = max(longest, offsets[text + 1] - offsets[text])
    keys, filled = np.empty(4 * longest, np.uint64), 0
    for text in range(len(offsets) - 1):
        mask = clear_below(keys, offsets[text + 1] - offsets[text])
        for place in range(offsets[text], offsets[text + 1]):
            value = hashes[place] | np.uint64(1)
            slot = (value >> np.uint64(1)) & mask
            while keys[slot] != 0 and keys[slot] != value:
                slot = (slot + np.uint64(1)) & mask
            if keys[slot] == 0:
                keys[slot] = value
                hashes[filled] = hashes[place]
                filled += 1
    return filled


def common_shingles(sampled: Sequence[Array], least: float) -> Array:
    """Sorted hashes of those that more than `least` texts have, of what `distinct_shingles` gave for each part."""
    values, times = np.unique(np.concatenate([np.zeros(0, np.uint64), *sampled]), return_counts=True)
    return values[times > least]


def signatures(texts: Sequence[str], min_words: int, common: Array) -> tuple[Array, Array]:
    """(of each text, whether it is long); shapes (texts, 256), uint8, and (texts,), bool.

    A text with fewer than `min_words` words, those within common shingles not counted, is only like itself."""
    hashes, offsets = shingles(texts, common)
    sizes = np.diff(offsets)
    long = sizes > min_words - SHINGLE
    out = np.empty((len(texts), SLOTS), np.uint8)
    for place in np.flatnonzero(~long).tolist():
        folded = " ".join(unicodedata.normalize("NFKC", texts[place]).lower().split())
        out[place] = np.frombuffer(hashlib.shake_128(folded.encode()).digest(SLOTS), np.uint8)
    if long.any():
        out[long] = _slots(hashes[np.repeat(long, sizes)], np.cumsum([0, *sizes[long]]))
    return out, long


def _slots(hashes: Array, offsets: Array) -> Array:
    """Signatures of sets that lie one after the other; shape (sets, 256), uint8."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # workers are processes, and each has a core
    from rensa import RMinHash

    made = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), num_perm=SLOTS, seed=1)
    rows = itertools.chain.from_iterable(made.to_rows())
    slots = np.fromiter(rows, np.uint32, count=(len(offsets) - 1) * SLOTS).reshape(-1, SLOTS)
    return ((slots * np.uint32(0x9E3779B9)) >> np.uint32(24)).astype(np.uint8)


def band_keys(
    table: Array, equal: Array, long: Array, bands: Sequence[int], texts: int
) -> Iterator[tuple[Array, Array]]:
    """For some of the 32 bands, (the rows that it is of, ascending; what rows must share to be looked at together).

    Bands are spread over a row's long texts: those that are only like themselves would make bands that many rows agree
    in, or none. `table`: signatures, shape (rows, all texts * 256), uint8, of which the first `texts` are compared;
    `equal`: of each row, what stands for all that must be the same; `long`: bits of its long texts."""
    long = long & ((1 << texts) - 1)
    for kind in np.unique(long).tolist():
        rows, some = np.flatnonzero(long == kind), [text for text in range(texts) if kind >> text & 1]
        for band in bands if some else {0}.intersection(bands):
            keys = equal[rows]
            if some:
                place = ROWS * (BANDS * some[band % len(some)] + band // len(some))
                slots = np.ascontiguousarray(table[rows, place : place + ROWS])
                keys = keys ^ slots.view(np.uint64)[:, 0] * _MULTIPLIER
            yield rows, keys


def candidates(keys: Array, rows: Array, own: int, total: int) -> Array:
    """Pairs of rows that agree in a band, sorted: those from `own` on, each with the first row that has its key and
    with the last one before it, as `later * total + earlier`. `keys`: of `rows`, which ascend; shapes (rows,).

    So a key of many rows costs two pairs for each of them, not one for every two."""
    order = np.argsort(keys, kind="stable")
    ordered, keys = rows[order], keys[order]
    begins = np.ones(len(keys), bool)
    begins[1:] = keys[1:] != keys[:-1]
    first = ordered[begins][np.cumsum(begins) - 1]
    found = np.flatnonzero(~begins & (ordered >= own))
    later = ordered[found] * total
    return np.unique(np.concatenate([later + first[found], later + ordered[found - 1]]))


def copies(pairs: Array, table: Array, equal: Array, own: int, threshold: float, texts: int) -> tuple[Array, Array]:
    """(rows that are nearly the same as one before them, that one), both numbers of the corpus.

    In their order, the later row of each pair is compared with the earlier, or with what that one is a copy of: a row
    goes only where it is near one that stays. `pairs`: as `candidates` has them; the others as in `band_keys`."""
    like = np.full(len(table) - own, -1, np.int64)
    _resolve(pairs, table, equal, texts * SLOTS, own, _least_matches(threshold), like)
    found = np.flatnonzero(like >= 0)
    return found + own, like[found]


def _least_matches(threshold: float) -> int:
    """Slots that agree at this Jaccard similarity: those of equal shingles, and one in 256 of the others."""
    return int(np.ceil(SLOTS * (threshold + (1 - threshold) / 256)))


@njit(cache=True, nogil=True)
def _resolve(pairs, table, equal, width, own, least, like):
    for number in range(len(pairs)):
        row, other = pairs[number] // len(table), pairs[number] % len(table)
        if like[row - own] >= 0:
            continue
        if other >= own and like[other - own] >= 0:
            other = like[other - own]
        near = equal[row] == equal[other]
        for start in range(0, width, SLOTS):
            if not near:
                break
            matches = 0
            for slot in range(start, start + SLOTS):
                matches += table[row, slot] == table[other, slot]
            near = matches >= least
        if near:
            like[row - own] = other
