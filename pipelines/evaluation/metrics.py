"""Standard errors, so that a difference between two models can be told from noise."""

import math
from collections.abc import Sequence


def mean(values: Sequence[float]) -> tuple[float, float | None]:
    """(mean, its standard error); a single value has none."""
    count = len(values)
    average = math.fsum(values) / count
    if count < 2:
        return average, None
    variance = math.fsum((value - average) ** 2 for value in values) / (count - 1)
    return average, math.sqrt(variance / count)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float | None]:
    """(sum / sum, its standard error over the pairs, by linearisation)."""
    count, total = len(numerators), math.fsum(denominators)
    value = math.fsum(numerators) / total
    if count < 2:
        return value, None
    residuals = math.fsum((above - value * below) ** 2 for above, below in zip(numerators, denominators, strict=True))
    return value, math.sqrt(residuals * count / (count - 1)) / total
