"""Questions of benchmarks in training data: found by n-grams of words that both have.

After GPT-3 (arXiv 2005.14165, appendix C): text counts in lower case and without punctuation; what a question and a
document share is 13 words in a row, or the whole question where it has fewer, but 8 at least; and what stands in more
than 10 documents is taken for a phrase of the language.
"""

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from pipelines.cleaning import word_search
from pipelines.cleaning.kernels import joined
from pipelines.cleaning.word_search import CLASSES

Array = np.ndarray

MIN_WORDS = 8
"""Words of the shortest question that is looked for."""
MOST = 1000
"""n-grams of a whole document that are looked for."""
TEMPLATE_SHARE = 0.01
"""Share of a task's questions from which on words that they have in common are their template, unless they are few."""
_BITS, _SLOTS = 16, 2
"""For each n-gram, at least."""


def plain(text: str) -> str:
    """As texts are compared: in lower case, and characters that look alike in one form (NFKC)."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()


class Hits(NamedTuple):
    """n-grams that stand in texts, each once for each text; shapes (hits,)."""

    text: Array
    """Number of the text, rising."""
    ngram: Array
    begin: Array
    """First byte of it in `plain(text)`, in UTF-8."""
    end: Array
    """Last byte + 1."""


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of questions, each of which may be said in several texts: the question alone, with its answer, ..."""

    text: Array
    """The bare words of all texts, one space between them; uint8."""
    spans: Array
    """(n-grams, 2): where the words of each stand in it."""
    sizes: Array
    """Numbers of words that n-grams have, the smallest first."""
    bits: Array
    keys: Array
    numbers: Array
    """The slots of a hash table, and a filter before it, for `word_search.search`."""
    pairs: Array
    """(pairs, 2): n-gram and the text that has it, by n-gram; each pair once, and none of a template's."""
    question_of: Array
    """(texts,): number of the question that each text belongs to."""
    ngrams_of: Array
    """(texts,): distinct n-grams of each text, those of a template left out."""
    is_short: Array
    """(questions,): whether no text of it has enough words to be looked for."""

    @classmethod
    def of(
        cls,
        questions: Sequence[Sequence[str]],
        tasks: Sequence[int],
        *,
        size: int,
        few: int,
        documents: Collection[int] = (),
    ) -> Self:
        """`questions`: the texts of each; `tasks`: the number of its task. `size`: words of an n-gram; a text that has
        fewer is one as a whole, if it has MIN_WORDS or `size`. An n-gram is of a template where more than `few` of a
        task's questions, and more than TEMPLATE_SHARE of them, have it. `documents`: tasks whose questions are whole
        documents, of which a document must have more than an n-gram, so that MOST of each stand for all."""
        question_of = np.repeat(np.arange(len(questions)), [len(texts) for texts in questions])
        data, starts = joined([plain(text) for texts in questions for text in texts])
        text, begins, ends, hashes, firsts = _bare(data, starts)
        most = np.where(np.isin(np.asarray(tasks, np.int64), list(documents)), MOST, np.iinfo(np.int64).max)
        places, sizes, text_of = _places(np.diff(firsts), firsts[:-1], size, most[question_of])
        slots = _power_of_two(_SLOTS * max(len(places), 1))
        keys, numbers = np.zeros(slots, np.uint64), np.zeros(slots, np.int32)
        ngram_of, found = np.empty(len(places), np.int64), np.empty((len(places), 2), np.int64)
        count = word_search.number_ngrams(text, begins, ends, hashes, places, sizes, keys, numbers, ngram_of, found)
        found = found[:count]
        kinds = np.unique(found[:, 1])
        bits = np.zeros(_power_of_two(_BITS * max(count, 4)) // 64, np.uint64)
        if count:
            word_search.mark_beginnings(hashes, found, kinds[0], bits)
        pairs = distinct(ngram_of, text_of)
        pairs = pairs[~_of_templates(pairs[:, 0], question_of[pairs[:, 1]], np.asarray(tasks, np.int64), few)]
        is_short = np.ones(len(questions), bool)
        is_short[question_of[text_of]] = False
        return cls(
            text=text,
            spans=np.stack([begins[found[:, 0]], ends[found[:, 0] + found[:, 1] - 1]], axis=1),
            sizes=kinds,
            bits=bits,
            keys=keys,
            numbers=numbers,
            pairs=pairs,
            question_of=question_of,
            ngrams_of=np.bincount(pairs[:, 1], minlength=len(question_of)),
            is_short=is_short,
        )

    def __len__(self) -> int:
        return len(self.spans)

    def hits(self, texts: Sequence[str]) -> Hits:
        """What stands in texts."""
        if not len(self):
            return Hits(*np.empty((4, 0), np.int64))
        data, starts = joined([plain(text) for text in texts])
        room = 1 << 12
        while True:
            out, seen = np.empty((room, 4), np.int64), np.zeros(len(self), np.int64)
            found = word_search.search(
                data, starts, CLASSES, self.sizes, self.bits, self.keys, self.numbers, self.text, self.spans, seen, out
            )
            if found <= room:
                number, ngram, begin, end = out[:found].T
                return Hits(number, ngram, begin - starts[number], end - starts[number])
            room = found

    def save(self, path: Path) -> None:
        """Write a .npz file."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def _bare(data: Array, starts: Array) -> tuple[Array, Array, Array, Array, Array]:
    """The bare words of texts; where each begins and ends there, its hash, and each text's first word."""
    room = len(data) + 1
    text, firsts = np.empty(2 * room, np.uint8), np.empty(len(starts), np.int64)
    begins, ends, hashes = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint64)
    words, used = word_search.bare_words(data, starts, CLASSES, text, begins, ends, hashes, firsts)
    return text[:used].copy(), begins[:words].copy(), ends[:words].copy(), hashes[:words].copy(), firsts


def _places(words: Array, firsts: Array, size: int, most: Array) -> tuple[Array, Array, Array]:
    """First word, size and text of every n-gram. `words`, `firsts`, `most`: how many words each text has, its first,
    and how many n-grams are taken, evenly spread."""
    sizes = np.minimum(words, size)
    counts = np.where(sizes >= min(MIN_WORDS, size), words - sizes + 1, 0)
    steps = np.maximum(1, -(-counts // most))
    counts = -(-counts // steps)
    text_of = np.repeat(np.arange(len(words)), counts)
    inside = np.arange(len(text_of)) - np.repeat(np.cumsum(counts) - counts, counts)
    return firsts[text_of] + inside * steps[text_of], sizes[text_of], text_of


def _of_templates(ngram: Array, question: Array, tasks: Array, few: int) -> Array:
    """Whether each pair of an n-gram and a question is one of too many of a task."""
    task = tasks[question]
    most = np.maximum(few, TEMPLATE_SHARE * np.bincount(tasks, minlength=1))
    once = distinct(ngram, question)
    width = len(most)
    kinds, times = np.unique(once[:, 0] * width + tasks[once[:, 1]], return_counts=True)
    return np.isin(ngram * width + task, kinds[times > most[kinds % width]])


def distinct(first: Array, second: Array) -> Array:
    """Pairs of numbers, each once and in order; shape (pairs, 2)."""
    width = int(second.max(initial=0)) + 1
    return np.stack(np.divmod(np.unique(first * width + second), width), axis=1)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
