"""Standard errors, so that a difference between two models can be told from noise."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pipelines.data.schedule import key

MOST_ELEMENTS = 1 << 22
"""Elements of an array that a vectorised bootstrap draws at a time, 32 MB."""


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


def bootstrap(
    statistic: Callable[..., Any],
    items: Sequence[ArrayLike],
    *,
    samples: int = 1000,
    seed: int,
    confidence: float = 0.95,
    vectorised: bool = False,
) -> tuple[float, float, float, float]:
    """(value, its standard error, low and high end of its percentile interval), over resamples of the items.

    `items` are arrays whose first axis is the items, such as predictions and references, or two models' scores: one
    draw picks the same items of all, so that what is paired stays paired. `statistic` takes these arrays; a
    `vectorised` one takes arrays with an axis of resamples before the items, and gives a value for each.
    The draws depend on the seed and the number of items only. Resamples in which the statistic is NaN are left out.
    Efron and Tibshirani 1993, chapters 6 and 13.
    """
    arrays = [np.asarray(array) for array in items]
    count = len(arrays[0])
    if count < 2 or any(len(array) != count for array in arrays):
        raise ValueError(f"a bootstrap needs two items or more, the same number of each, not {list(map(len, arrays))}")
    rng = np.random.default_rng(key("bootstrap", seed))
    width = max(array.size for array in arrays)
    step = max(1, MOST_ELEMENTS // width) if vectorised else 1
    found: list[float] = []
    for start in range(0, samples, step):
        drawn = rng.integers(count, size=(min(step, samples - start), count))
        if vectorised:
            found += np.asarray(statistic(*(array[drawn] for array in arrays)), dtype=np.float64).tolist()
        else:
            found.append(float(statistic(*(array[drawn[0]] for array in arrays))))
    value = statistic(*(array[None] for array in arrays))[0] if vectorised else statistic(*arrays)
    low, high = np.nanquantile(found, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return float(value), float(np.nanstd(found, ddof=1)), low, high
