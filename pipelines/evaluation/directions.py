"""Which way each measured value is better: the one place that choosing the best checkpoint asks."""

import math
from collections.abc import Mapping

DIRECTIONS: Mapping[str, bool] = {
    "loss": False,
    "accuracy": True,
    "exact_match": True,
    "f1_binary": True,
    "f1_macro": True,
    "f1_micro": True,
    "f1_weighted": True,
    "matthews_correlation": True,
    "pearson": True,
    "spearman": True,
    "rmse": False,
    "bleu": True,
    "chrf": True,
    "masked_accuracy": True,
    "minimal_pair_accuracy": True,
    "pseudo_perplexity": False,
    "similarity_spearman": True,
    "analogy_accuracy": True,
}
"""Name of a value -> whether more of it is better."""


def best(values: Mapping[int, float], metric: str) -> int:
    """The step with the best value; of equals the earliest. A value that is not a number is never the best.

    Raises ValueError for a metric without a direction, and where no value is a number.
    """
    if metric not in DIRECTIONS:
        raise ValueError(f"'{metric}' is none of the metrics that have a direction: {', '.join(DIRECTIONS)}")
    numbers = {step: value for step, value in sorted(values.items()) if not math.isnan(value)}
    if not numbers:
        raise ValueError(f"{metric}: no step has a value to compare")
    return (max if DIRECTIONS[metric] else min)(numbers, key=lambda step: numbers[step])
