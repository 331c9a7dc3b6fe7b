"""The project's metrics as `evaluate.Metric` classes, which combine and take batches: no download, no file, no lock.

Each gives a mapping of names whose direction `pipelines.evaluation.directions` knows, and beside them, where there is
more to say, a `signature` or a `confusion_matrix`. In several processes, gather predictions first.
"""

from collections.abc import Mapping
from typing import Any

import evaluate
from datasets import Features, Sequence, Value

from pipelines.evaluation import classification, regression, translation
from pipelines.evaluation.classification import Average
from pipelines.evaluation.translation import BleuTokenizer

Scores = dict[str, Any]

CLASSES = Features({"predictions": Value("int64"), "references": Value("int64")})
FLAGS = Features({"predictions": Sequence(Value("int64")), "references": Sequence(Value("int64"))})
NUMBERS = Features({"predictions": Value("float64"), "references": Value("float64")})
TEXTS = Features({"predictions": Value("string"), "references": Sequence(Value("string"))})


class InMemoryMetric(evaluate.Metric):
    """A metric that keeps what it is given in memory, until `compute`."""

    FEATURES: Features
    """One prediction and one reference, as `datasets` writes them."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True, seed=0)

    def _build_data_dir(self) -> str:
        return ""  # the library makes a folder below HOME, also where nothing is kept in it

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "", citation="", inputs_description="", features=self.FEATURES
        )


class Accuracy(InMemoryMetric):
    """`accuracy`: share of items whose class is right."""

    FEATURES = CLASSES

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        return {"accuracy": float(classification.accuracy(predictions, references))}


class F1(InMemoryMetric):
    """`f1_<average>`: harmonic mean of precision and recall."""

    FEATURES = CLASSES

    def __init__(self, average: Average = "macro"):
        self.average = average
        super().__init__()

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        return {f"f1_{self.average}": float(classification.f1(predictions, references, average=self.average))}


class MatthewsCorrelation(InMemoryMetric):
    """`matthews_correlation` of predicted and given classes."""

    FEATURES = CLASSES

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        return {"matthews_correlation": float(classification.matthews_correlation(predictions, references))}


class ConfusionMatrix(InMemoryMetric):
    """`confusion_matrix`: counts as rows of given classes, columns of predicted ones."""

    FEATURES = CLASSES

    def __init__(self, num_labels: int | None = None):
        self.num_labels = num_labels
        super().__init__()

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        matrix = classification.confusion_matrix(predictions, references, num_labels=self.num_labels)
        return {"confusion_matrix": matrix.tolist()}


class MultiLabel(InMemoryMetric):
    """`f1_micro`, `f1_macro` and `exact_match` of items that may have several labels, as rows of 0 and 1."""

    FEATURES = FLAGS

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        return {
            "f1_micro": float(classification.multilabel_f1(predictions, references, average="micro")),
            "f1_macro": float(classification.multilabel_f1(predictions, references, average="macro")),
            "exact_match": float(classification.exact_match(predictions, references)),
        }


class Pearson(InMemoryMetric):
    """`pearson`: linear correlation; NaN where one side is constant."""

    FEATURES = NUMBERS

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        return {"pearson": float(regression.pearson(predictions, references))}


class Spearman(InMemoryMetric):
    """`spearman`: correlation of ranks; NaN where one side is constant."""

    FEATURES = NUMBERS

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        return {"spearman": float(regression.spearman(predictions, references))}


class RootMeanSquaredError(InMemoryMetric):
    """`rmse`, in the unit of the references."""

    FEATURES = NUMBERS

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        return {"rmse": float(regression.rmse(predictions, references))}


class Bleu(InMemoryMetric):
    """`bleu` by sacrebleu, from 0 to 100, with its `signature`; each prediction has a list of references."""

    FEATURES = TEXTS

    def __init__(self, tokenize: BleuTokenizer = "13a", lowercase: bool = False):
        self.tokenize, self.lowercase = tokenize, lowercase
        super().__init__()

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        found = translation.bleu(predictions, references, tokenize=self.tokenize, lowercase=self.lowercase)
        return {"bleu": found.value, "signature": found.signature}


class ChrF(InMemoryMetric):
    """`chrf` by sacrebleu, from 0 to 100, with its `signature`; each prediction has a list of references."""

    FEATURES = TEXTS

    def __init__(self, word_order: int = 0):
        self.word_order = word_order
        super().__init__()

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        found = translation.chrf(predictions, references, word_order=self.word_order)
        return {"chrf": found.value, "signature": found.signature}


METRICS: Mapping[str, type[InMemoryMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
    "confusion_matrix": ConfusionMatrix,
    "multi_label": MultiLabel,
    "pearson": Pearson,
    "spearman": Spearman,
    "rmse": RootMeanSquaredError,
    "bleu": Bleu,
    "chrf": ChrF,
}
"""By the name that a recipe could give."""
