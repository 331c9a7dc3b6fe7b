"""Numbers predicted against numbers given: root mean squared error, Pearson and Spearman correlation.

Every function takes arrays of equal shape (..., items) and gives one value per leading index.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def rmse(predictions: ArrayLike, references: ArrayLike) -> Array:
    """Root of the mean squared error, in the unit of the references."""
    predicted, given = _numbers(predictions, references)
    return np.sqrt(((predicted - given) ** 2).mean(-1))


def pearson(predictions: ArrayLike, references: ArrayLike) -> Array:
    """Linear correlation; NaN where one side is constant, as in SciPy."""
    predicted, given = _numbers(predictions, references)
    left, right = _centred(predicted), _centred(given)
    size = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    together = (left * right).sum(-1)
    found = np.divide(together, size, out=np.full_like(together, np.nan), where=size > 0)
    return np.clip(found, -1.0, 1.0)


def spearman(predictions: ArrayLike, references: ArrayLike) -> Array:
    """Pearson correlation of ranks; equal values share their mean rank. NaN where any value is."""
    predicted, given = _numbers(predictions, references)
    has_nan = np.isnan(predicted).any(-1) | np.isnan(given).any(-1)  # what is no number has no rank
    return np.where(has_nan, np.nan, pearson(ranks(predicted), ranks(given)))


def ranks(values: ArrayLike) -> Array:
    """Ranks from 1 on along the last axis; equal values share the mean of the ranks that they take."""
    array = np.asarray(values, dtype=np.float64)
    order = np.argsort(array, axis=-1, kind="stable")
    ordered = np.take_along_axis(array, order, -1)
    place = np.broadcast_to(np.arange(array.shape[-1]), array.shape)
    is_new = np.ones(array.shape, dtype=bool)
    is_new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    is_last = np.ones(array.shape, dtype=bool)
    is_last[..., :-1] = is_new[..., 1:]
    first = np.maximum.accumulate(np.where(is_new, place, 0), axis=-1)
    last = np.minimum.accumulate(np.where(is_last, place, array.shape[-1])[..., ::-1], axis=-1)[..., ::-1]
    found = np.empty(array.shape)
    np.put_along_axis(found, order, (first + last) / 2 + 1, -1)
    return found


def _centred(values: Array) -> Array:
    """Less the mean; exactly 0 where all are equal, whatever their mean rounds to."""
    centred = values - values.mean(-1, keepdims=True)
    constant = (values == values[..., :1]).all(-1, keepdims=True)
    return np.where(constant, 0.0, centred)


def _numbers(predictions: ArrayLike, references: ArrayLike) -> tuple[Array, Array]:
    predicted, given = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if predicted.shape != given.shape or not predicted.size:
        raise ValueError(f"predictions {predicted.shape} and references {given.shape} must be as many, and not none")
    return predicted, given
