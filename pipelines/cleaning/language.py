"""Which language a text is in, by py3langid (naive Bayes over byte n-grams, with its model inside the package)."""

from functools import cache
from typing import Any

from pipelines.recipe.quality import Language

SHOWN = 200
"""Characters that are looked at, from the middle of a text: the time grows with them, and so many are enough."""


@cache
def identifier() -> Any:
    """The package's model, read once in 0.4 s."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


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
