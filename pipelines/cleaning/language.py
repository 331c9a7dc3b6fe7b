"""Which language a text is in, by py3langid (naive Bayes over byte n-grams, with its model inside the package)."""

from functools import cache
from typing import Any

import numpy as np
from numba import njit
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from pipelines.recipe.quality import Language

SHOWN = 200
"""Characters that are looked at, from the middle of a text: the time grows with them, and so many are enough."""


class _Identifier(LanguageIdentifier):
    """The package's own, with its loop over bytes compiled and its table widened once instead of for each text."""

    __slots__ = ("_count", "_features", "_moves", "_of_state", "_rows", "_wide")

    def prepare(self) -> "_Identifier":
        """Itself, once its tables are as the compiled loop wants them."""
        self._moves, self._of_state = np.asarray(self.tk_nextmove), np.asarray(self.tk_output)
        self._rows = np.asarray(self._rowbase, np.int64)
        self._wide = self.nb_ptc.astype(np.float32)
        self._count = np.zeros(len(self._wide), np.float32)
        self._features = np.empty(16 * SHOWN, np.intp)
        return self

    def _raw_score(self, text: bytes) -> np.ndarray:
        if len(text) > len(self._features):
            return super()._raw_score(text)
        found = _visited(
            np.frombuffer(text, np.uint8), self._moves, self._rows, self._of_state, self._count, self._features
        )
        if not found:
            return super()._raw_score(text)
        features = self._features[:found]
        counts = self._count[features]
        self._count[features] = 0
        return np.log1p(counts) @ self._wide[features] + self.nb_pc


@njit(cache=True, nogil=True)
def _visited(text, moves, rows, of_state, count, features):
    """Features of a text in the order in which they come first, into `features`, and how often each, into `count`."""
    state, found = 0, 0
    for byte in text:
        state = moves[rows[state] + byte]
        feature = of_state[state]
        if feature >= 0:
            if count[feature] == 0:
                features[found] = feature
                found += 1
            count[feature] += 1
    return found


@cache
def identifier() -> Any:
    """The package's model, read once in 0.4 s."""
    return _Identifier.from_model_file(MODEL_FILE, norm_probs=True).prepare()


def language_of(text: str) -> tuple[str, float]:
    """(two letters of ISO 639, probability)"""
    start = max(0, (len(text) - SHOWN) // 2)
    language, probability = identifier().classify(text[start : start + SHOWN])
    return str(language), float(probability)


def language_fault(text: str, config: Language) -> str | None:
    """What is wrong with the text's language."""
    language, probability = language_of(text)
    if language not in config.keep:
        return f"language {language} ({probability:.2f})"
    if probability < config.min_probability:
        return f"probability of {language} {probability:.2f} < {config.min_probability:g}"
    return None
