"""An n-gram model of words: how well a text is foretold by what texts like those of a reference say.

Interpolated Kneser-Ney smoothing of trigrams, one discount for each order (Kneser & Ney 1995; Chen & Goodman 1999).
Words that stand in no reference share what is left for them as if there were UNSEEN of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.cleaning import ngram_kernels as kernels
from pipelines.cleaning.kernels import joined

Array = np.ndarray

UNSEEN = 1_000_000
LEAST = 2
"""Times that two or three words in a row stand in the reference, if the model is to know them: what stands there once
would more than double its size."""


@dataclass(frozen=True)
class NgramModel:
    """A hash table of the n-grams of a reference. Its scores are sums of whole numbers: the same everywhere."""

    table: Array
    """(slots,), uint64; see ngram_kernels."""
    unknown: int
    """Cost of a word that the reference has not."""

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]]) -> "NgramModel":
        """Trained on batches of texts. Some 60 bytes of memory for each byte of text."""
        parts = [kernels.words_of(*joined(batch)) for batch in texts]
        words = np.concatenate([np.zeros(0, np.uint64), *parts])
        if not (words != kernels.BOUNDARY).any():
            return cls(np.zeros(1, np.uint64), kernels.cost(1 / UNSEEN))
        return _trained(words)

    def perplexities(self, data: Array, starts: Array) -> Array:
        """Perplexity per word of each text, shape (texts,); infinite where a text has no word. What `joined` gives."""
        out = np.zeros((len(starts) - 1, 2), np.int64)
        kernels.score(data, starts, kernels.CLASSES, self.table, self.unknown, out)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.exp(out[:, 0] / kernels.UNIT / out[:, 1])
        return np.where(out[:, 1] > 0, found, np.inf)

    def save(self, path: Path) -> None:
        """Write what `load` reads."""
        np.savez(path, table=self.table, unknown=self.unknown)

    @classmethod
    def load(cls, path: Path) -> "NgramModel":
        with np.load(path) as arrays:
            return cls(arrays["table"], int(arrays["unknown"]))


@dataclass(frozen=True)
class _Counts:
    """Distinct n-grams of one order, sorted, by the numbers of their words."""

    last: Array
    """Of each, its last word."""
    before: Array
    """Of each, the number of the n-gram of one order less that its last word follows."""
    times: Array


def _trained(words: Array) -> NgramModel:
    """`words`: the hashes of all words, with BOUNDARY before each text."""
    vocabulary, ids = np.unique(words, return_inverse=True)
    boundary = int(np.searchsorted(vocabulary, kernels.BOUNDARY))
    size = len(vocabulary)
    is_word = ids != boundary
    pairs, of_pair = _counted(ids[:-1], ids[1:], is_word[1:], size)
    triples, _ = _counted(of_pair[:-1], ids[2:], is_word[1:-1] & is_word[2:], size)

    # How many different words come before a word, or before a pair. Before the pair that begins a text comes none.
    preceding = np.bincount(pairs.last, minlength=size)
    codes = pairs.before * size + pairs.last
    suffix = np.searchsorted(codes, pairs.last[triples.before] * size + triples.last)
    varied = np.where(pairs.before == boundary, pairs.times, np.bincount(suffix, minlength=len(codes)))

    discount = _discount(preceding[preceding > 0])
    left = discount * np.count_nonzero(preceding) / len(codes) / UNSEEN
    single = np.maximum(preceding - discount, 0) / len(codes) + left
    often = pairs.times >= LEAST
    own, after_one = _shares(pairs.before, varied, often, size)
    double = own + after_one[pairs.before] * single[pairs.last]
    kept = triples.times >= LEAST
    own, after_two = _shares(triples.before, triples.times, kept, len(codes))
    triple = own + after_two[triples.before] * double[suffix]

    keys = kernels.pair_keys(vocabulary[pairs.before], vocabulary[pairs.last])
    whole = kernels.pair_keys(keys[triples.before[kept]], vocabulary[triples.last[kept]])
    table = kernels.table_of(
        np.concatenate([vocabulary, keys[often], whole]),
        np.concatenate([single, double[often], triple[kept]]),
        np.concatenate([after_one, after_two[often], np.ones(len(whole))]),
    )
    return NgramModel(table, kernels.cost(left))


def _counted(before: Array, last: Array, counts: Array, size: int) -> tuple[_Counts, Array]:
    """The distinct n-grams among those that count, and the number of each in the text (0 where it counts not)."""
    codes, inverse, times = np.unique(before[counts] * size + last[counts], return_inverse=True, return_counts=True)
    places = np.zeros(len(before), np.int64)
    places[counts] = inverse
    return _Counts(codes % size, codes // size, times), places


def _shares(before: Array, times: Array, kept: Array, contexts: int) -> tuple[Array, Array]:
    """(of each n-gram, its discounted share of what follows its context; of each context, what is left to shorter ones)

    A context's shares of the n-grams that are kept and what is left sum to one."""
    totals = np.bincount(before, weights=times, minlength=contexts)
    own = np.where(kept, times - _discount(times), 0) / totals[before]
    return own, 1 - np.bincount(before, weights=own, minlength=contexts)


def _discount(times: Array) -> float:
    """n1 / (n1 + 2 n2), where n1 n-grams were seen once and n2 twice; within bounds for references that are small."""
    once, twice = int(np.count_nonzero(times == 1)), int(np.count_nonzero(times == 2))
    return float(np.clip(once / max(once + 2 * twice, 1), 0.1, 0.9))
