"""Which language a text is in, by py3langid (naive Bayes over byte n-grams, 97 languages, model inside the package)."""

from functools import cache
from typing import Any

from pipelines.errors import DataError
from pipelines.recipe.quality import Language

SHOWN = 200
"""Characters that are looked at, from the middle of a text: the time grows with them, and so many are enough."""


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Languages:
    """Keeps texts of the languages of a filter."""

    def __init__(self, config: Language):
        self.config = config
        unknown = sorted(set(config.keep) - set(_identifier().labels))
        if unknown:
            raise DataError(
                f"language: {', '.join(unknown)} is not known; choose from {', '.join(_identifier().labels)}"
            )

    def fault(self, text: str) -> str | None:
        """What is wrong with the text's language."""
        start = max(0, (len(text) - SHOWN) // 2)
        language, probability = _identifier().classify(text[start : start + SHOWN])
        if language not in self.config.keep:
            return f"language {language} ({probability:.2f})"
        if probability < self.config.min_probability:
            return f"probability of {language} {probability:.2f} < {self.config.min_probability:g}"
        return None
