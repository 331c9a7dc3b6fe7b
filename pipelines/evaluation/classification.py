"""Classes predicted against classes given: accuracy, F1, Matthews correlation, one label or several per item.

Every function takes arrays of equal shape (..., items) and gives one value per leading index, so that a bootstrap asks
for all its resamples at once. Definitions are scikit-learn's, 0 where a share of nothing would be asked for.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Average = Literal["binary", "macro", "micro", "weighted"]
Array = NDArray[np.float64]


def accuracy(predictions: ArrayLike, references: ArrayLike) -> Array:
    """Share of items whose class is right."""
    predicted, given = _classes(predictions, references)
    return (predicted == given).mean(-1)


def confusion_matrix(
    predictions: ArrayLike, references: ArrayLike, *, num_labels: int | None = None
) -> NDArray[np.int64]:
    """Counts, (..., given class, predicted class). Default for `num_labels`: as many as there are up to the highest."""
    predicted, given = _classes(predictions, references)
    highest = int(max(predicted.max(), given.max()))
    size = highest + 1 if num_labels is None else num_labels
    if highest >= size:
        raise ValueError(f"class {highest} is none of {size} labels")
    rows = int(np.prod(given.shape[:-1]))
    cells = (given * size + predicted).reshape(rows, -1) + np.arange(rows)[:, None] * size * size
    counts = np.bincount(cells.ravel(), minlength=rows * size * size)
    return counts.reshape(*given.shape[:-1], size, size)


def f1(predictions: ArrayLike, references: ArrayLike, *, average: Average) -> Array:
    """Harmonic mean of precision and recall.

    binary: of class 1, where there are two; macro: the mean over classes that occur; weighted: that mean by how often
    a class is given; micro: over all decisions, which for one class per item is accuracy.
    """
    hits, predicted, given = _counts(predictions, references, at_least=2 if average == "binary" else 1)
    if average == "binary" and hits.shape[-1] > 2:
        raise ValueError(f"binary F1 needs classes 0 and 1, and there is a class {hits.shape[-1] - 1}")
    return _f1(hits, predicted, given, average)


def matthews_correlation(predictions: ArrayLike, references: ArrayLike) -> Array:
    """Correlation of predicted and given classes, two or more (Gorodkin 2004); 0 where one side is constant."""
    hits, predicted, given = (counts.astype(np.float64) for counts in _counts(predictions, references))
    count = given.sum(-1)
    covariance = hits.sum(-1) * count - (predicted * given).sum(-1)
    spread = (count**2 - (predicted**2).sum(-1)) * (count**2 - (given**2).sum(-1))
    return _share(covariance, np.sqrt(spread))


def confusion_table(matrix: ArrayLike, labels: Sequence[str]) -> list[list[str]]:
    """A confusion matrix as cells of a table: a head with the predicted classes, then a row per given class."""
    counts = np.asarray(matrix)
    if counts.shape != (len(labels), len(labels)):
        raise ValueError(f"{len(labels)} labels do not name a confusion matrix of shape {counts.shape}")
    rows = [[label, *(f"{count:,}" for count in row)] for label, row in zip(labels, counts.tolist(), strict=True)]
    return [["given \\ predicted", *labels], *rows]


def multilabel_f1(
    predictions: ArrayLike, references: ArrayLike, *, average: Literal["macro", "micro", "weighted"]
) -> Array:
    """F1 of arrays of 0 and 1, (..., items, labels). macro and weighted: the mean over labels."""
    predicted, given = _flags(predictions, references)
    return _f1((predicted & given).sum(-2), predicted.sum(-2), given.sum(-2), average, every_label=True)


def exact_match(predictions: ArrayLike, references: ArrayLike) -> Array:
    """Share of items, of arrays (..., items, labels), all of whose labels are right."""
    predicted, given = _flags(predictions, references)
    return (predicted == given).all(-1).mean(-1)


def _counts(
    predictions: ArrayLike, references: ArrayLike, *, at_least: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(right, predicted, given) per class, each (..., classes), of `at_least` so many classes.

    Not by way of the confusion matrix: of a thousand classes and resamples that is 8 GB."""
    predicted, given = _classes(predictions, references)
    size = max(at_least, int(max(predicted.max(), given.max())) + 1)
    rows = int(np.prod(given.shape[:-1]))
    starts = np.arange(rows).reshape(*given.shape[:-1], 1) * size

    def per_class(cells: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(cells.ravel(), minlength=rows * size).reshape(*given.shape[:-1], size)

    return per_class((given + starts)[predicted == given]), per_class(predicted + starts), per_class(given + starts)


def _f1(
    hits: NDArray[np.int64],
    predicted: NDArray[np.int64],
    given: NDArray[np.int64],
    average: Average,
    *,
    every_label: bool = False,
) -> Array:
    """From counts per label, each (..., labels)."""
    if average == "micro":
        return _share(2 * hits.sum(-1), predicted.sum(-1) + given.sum(-1))
    values = _share(2 * hits, predicted + given)
    if average == "binary":
        return values[..., 1]
    if average == "weighted":
        return _share((values * given).sum(-1), given.sum(-1))
    occurs = np.ones_like(given) if every_label else (predicted + given > 0)
    return _share((values * occurs).sum(-1), occurs.sum(-1))


def _share(part: ArrayLike, whole: ArrayLike) -> Array:
    """part / whole, and 0 where there is no whole."""
    numerator, denominator = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def _classes(predictions: ArrayLike, references: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    predicted, given = _integers(predictions, "predictions"), _integers(references, "references")
    _require_alike(predicted, given)
    if min(predicted.min(), given.min()) < 0:
        raise ValueError("classes are numbers from 0 on; leave out the items that have none")
    return predicted, given


def _flags(predictions: ArrayLike, references: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    predicted, given = _integers(predictions, "predictions"), _integers(references, "references")
    _require_alike(predicted, given)
    if predicted.ndim < 2 or not np.isin(predicted, (0, 1)).all() or not np.isin(given, (0, 1)).all():
        raise ValueError("several labels per item are a row of 0 and 1 for each item")
    return predicted, given


def _integers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} must be classes, whole numbers, not {array.dtype}; take the argmax of logits first")
    return array.astype(np.int64)


def _require_alike(predicted: NDArray[np.int64], given: NDArray[np.int64]) -> None:
    if predicted.shape != given.shape or not predicted.size:
        raise ValueError(f"predictions {predicted.shape} and references {given.shape} must be as many, and not none")
