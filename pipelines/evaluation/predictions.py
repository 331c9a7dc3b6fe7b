"""Scores of a classifier's or a regressor's logits, by the kind of its labels."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.data.labels import LabelKind
from pipelines.evaluation import classification, regression
from pipelines.evaluation.metrics import bootstrap

Statistic = Callable[[NDArray, NDArray], NDArray]

STATISTICS: Mapping[LabelKind, Mapping[str, Statistic]] = {
    "single_label": {
        "accuracy": classification.accuracy,
        "f1_macro": lambda predicted, given: classification.f1(predicted, given, average="macro"),
        "matthews_correlation": classification.matthews_correlation,
    },
    "multi_label": {
        "f1_micro": lambda predicted, given: classification.multilabel_f1(predicted, given, average="micro"),
        "f1_macro": lambda predicted, given: classification.multilabel_f1(predicted, given, average="macro"),
        "exact_match": classification.exact_match,
    },
    "regression": {"spearman": regression.spearman, "pearson": regression.pearson, "rmse": regression.rmse},
}
"""Name -> predictions and labels, (..., rows) or for several labels (..., rows, names), to a value."""


def predictions(logits: NDArray, kind: LabelKind) -> NDArray:
    """Of logits (rows, names): the likeliest class; 1 for each name more likely than not; the number."""
    if kind == "single_label":
        return logits.argmax(-1)
    return (logits > 0).astype(np.int64) if kind == "multi_label" else logits[:, 0].astype(np.float64)


def scores(logits: NDArray, labels: NDArray, kind: LabelKind) -> dict[str, float]:
    """Every score of this kind that is a number."""
    predicted, given = predictions(logits, kind), _given(labels, kind)
    found = {name: float(statistic(predicted, given)) for name, statistic in STATISTICS[kind].items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def scores_with_errors(
    logits: NDArray, labels: NDArray, kind: LabelKind, *, seed: int
) -> dict[str, tuple[float, float | None]]:
    """Score -> (value, standard error by a bootstrap over rows; None of a single row)."""
    predicted, given = predictions(logits, kind), _given(labels, kind)
    values = scores(logits, labels, kind)
    if len(predicted) < 2:
        return {name: (value, None) for name, value in values.items()}
    return {
        name: (value, bootstrap(STATISTICS[kind][name], [predicted, given], seed=seed, vectorised=True)[1])
        for name, value in values.items()
    }


def _given(labels: NDArray, kind: LabelKind) -> NDArray:
    return labels.astype(np.int64) if kind == "multi_label" else labels
