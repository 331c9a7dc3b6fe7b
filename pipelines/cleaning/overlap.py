"""Which documents have which questions, by the n-grams that both have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipelines.cleaning.contamination import Hits, Ngrams

Array = np.ndarray


class Matches(NamedTuple):
    """Questions that stand in documents, by document and question; shapes (matches,)."""

    document: Array
    question: Array
    begin: Array
    """First byte of the first n-gram that they share, in the document's plain text."""
    end: Array


@dataclass(frozen=True)
class Judge:
    """Tells questions from phrases that many documents have."""

    ngrams: Ngrams
    is_common: Array
    """(n-grams,): whether so many documents have it that it says nothing."""
    min_share: Array
    """(questions,): of a text's n-grams that are not common, what a document must have; one n-gram at least."""

    @classmethod
    def of(cls, ngrams: Ngrams, hits: Hits, *, max_documents: int | None, min_share: Array) -> "Judge":
        """`hits`: those of all training documents. An n-gram that stands in more than `max_documents` is common."""
        times = np.bincount(hits.ngram, minlength=len(ngrams))
        common = np.zeros(len(ngrams), bool) if max_documents is None else times > max_documents
        return cls(ngrams, common, min_share)

    def matches(self, hits: Hits) -> Matches:
        """The questions that documents have."""
        kept = np.flatnonzero(~self.is_common[hits.ngram])
        hit, text = self._of_texts(kept, hits.ngram[kept])
        if not len(hit):
            return Matches(*np.empty((4, 0), np.int64))
        pairs = self.ngrams.pairs
        needed = np.bincount(pairs[~self.is_common[pairs[:, 0]], 1], minlength=len(self.ngrams.question_of))
        keys, first, times = np.unique(
            hits.text[hit] * len(needed) + text, return_index=True, return_counts=True
        )  # fmt: skip
        document, text = np.divmod(keys, len(needed))
        question = self.ngrams.question_of[text]
        whole = times / needed[text] >= self.min_share[question]
        document, question, hit = document[whole], question[whole], hit[first[whole]]
        width = len(self.ngrams.is_short)
        keys, first = np.unique(document * width + question, return_index=True)
        document, question = np.divmod(keys, width)
        return Matches(document, question, hits.begin[hit[first]], hits.end[hit[first]])

    def only_common(self, hits: Hits, found: Array) -> Array:
        """Questions that are not among those found, but have a common n-gram that stands in a document."""
        common = np.unique(hits.ngram[self.is_common[hits.ngram]])
        _, text = self._of_texts(common, common)
        return np.setdiff1d(self.ngrams.question_of[text], found)

    def _of_texts(self, hit: Array, ngram: Array) -> tuple[Array, Array]:
        """(hit, text of a question that has its n-gram) of all such texts."""
        has = self.ngrams.pairs[:, 0]
        begin, end = np.searchsorted(has, ngram, "left"), np.searchsorted(has, ngram, "right")
        counts = end - begin
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(hit, counts), self.ngrams.pairs[np.repeat(begin, counts) + inside, 1]


def together(parts: Sequence[tuple[Hits, int]]) -> Hits:
    """Hits of parts that follow each other, with how many documents each has."""
    first, whole = 0, [Hits(*np.empty((4, 0), np.int64))]
    for hits, documents in parts:
        whole.append(hits._replace(text=hits.text + first))
        first += documents
    return Hits(*(np.concatenate(column) for column in zip(*whole, strict=True)))
