"""BLEU and chrF by sacrebleu: the numbers and the signature of its command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from pipelines.evaluation.metrics import bootstrap

BleuTokenizer = Literal["13a", "intl", "char", "zh", "none"]
"""sacrebleu's tokenizers that need no download."""


@dataclass(frozen=True)
class TextScore:
    """A corpus score from 0 to 100."""

    value: float
    signature: str
    """How it was measured, in sacrebleu's words; scores of two signatures are not to be compared."""
    stderr: float | None = None
    """Over segments; None where it was not asked for."""


def bleu(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenize: BleuTokenizer = "13a",
    lowercase: bool = False,
    seed: int | None = None,
) -> TextScore:
    """Corpus BLEU (Papineni et al. 2002) as `sacrebleu -m bleu` prints it (arXiv 1804.08771).

    `references` holds the references of each prediction, as many for each. With a `seed`, a bootstrap over segments
    gives the standard error. Raises ValueError where texts and references do not fit.
    """
    return _score(BLEU(lowercase=lowercase, tokenize=tokenize), predictions, references, seed)


def chrf(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, word_order: int = 0, seed: int | None = None
) -> TextScore:
    """Character n-gram F2 (Popović 2015) as `sacrebleu -m chrf` prints it; `word_order: 2` is chrF++."""
    return _score(CHRF(word_order=word_order), predictions, references, seed)


def _score(
    metric: BLEU | CHRF, predictions: Sequence[str], references: Sequence[Sequence[str]], seed: int | None
) -> TextScore:
    texts = [text.rstrip() for text in predictions]  # as the command line reads its lines
    streams = _streams(len(texts), references)
    value = metric.corpus_score(texts, streams).score
    signature = metric.get_signature().format()
    if seed is None or len(texts) < 2:
        return TextScore(value, signature)
    counts = np.array(metric._extract_corpus_statistics(texts, streams))  # (segments, counts): they add up to a corpus

    def of_counts(chosen: np.ndarray) -> float:
        return metric._compute_score_from_stats(chosen.sum(0).tolist()).score

    return TextScore(value, signature, bootstrap(of_counts, [counts], seed=seed)[1])


def _streams(count: int, references: Sequence[Sequence[str]]) -> list[list[str]]:
    """sacrebleu's shape: one list per reference, each as long as the predictions."""
    if not count or len(references) != count:
        raise ValueError(f"{count} predictions and {len(references)} references must be as many, and not none")
    if any(isinstance(texts, str) for texts in references):
        raise ValueError("references: a list of texts for each prediction, also where there is only one")
    sizes = {len(texts) for texts in references}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"every prediction needs as many references; here they have {sorted(sizes)}")
    return [[texts[number].rstrip() for texts in references] for number in range(sizes.pop())]
