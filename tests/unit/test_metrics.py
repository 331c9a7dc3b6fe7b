"""Metrics against scikit-learn, SciPy and sacrebleu's command line, and what a bootstrap may depend on."""

import json
import subprocess
import sys
import tracemalloc

import evaluate
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation import classification, metrics, regression, translation
from pipelines.evaluation.directions import DIRECTIONS, best
from pipelines.evaluation.evaluate_metrics import F1, METRICS, Accuracy, Bleu, ChrF, MatthewsCorrelation
from pipelines.evaluation.predictions import scores_with_errors

RNG = np.random.default_rng(0)
SYSTEM = ["Mia is in the garden .", "  Tom has a  red kite!", "The mill (old) is 3.5 m high", "", "Ein Bär läuft."]
FIRST = ["Mia is in a garden.", "Tom had a red kite!", "The old mill is 3.5 m high", "Nothing here", "Ein Bär lief."]
SECOND = ["In the garden is Mia.", "Tom has a red kite", "The mill is old and 3.5 m high.", "no", "Der Bär läuft."]

ONE = [[text] for text in FIRST]
TWO = [list(texts) for texts in zip(FIRST, SECOND, strict=True)]

pairs_of_classes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)
pairs_of_numbers = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30)
quiet = pytest.mark.filterwarnings("ignore")  # scikit-learn and SciPy warn of what is undefined


@quiet
@given(pairs_of_classes)
def test_classes_are_scored_as_scikit_learn_scores_them(pairs):
    predicted, given_ = map(list, zip(*pairs, strict=True))
    assert classification.accuracy(predicted, given_) == pytest.approx(
        sklearn.metrics.accuracy_score(given_, predicted)
    )
    for average in ("macro", "micro", "weighted"):
        expected = sklearn.metrics.f1_score(given_, predicted, average=average, zero_division=0)
        assert classification.f1(predicted, given_, average=average) == pytest.approx(expected)
    expected = sklearn.metrics.matthews_corrcoef(given_, predicted)
    assert classification.matthews_correlation(predicted, given_) == pytest.approx(expected, abs=1e-9)
    expected = sklearn.metrics.confusion_matrix(given_, predicted, labels=range(5))
    assert (classification.confusion_matrix(predicted, given_, num_labels=5) == expected).all()


@quiet
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=20))
def test_binary_f1_is_that_of_class_one(pairs):
    predicted, given_ = map(list, zip(*pairs, strict=True))
    expected = sklearn.metrics.f1_score(given_, predicted, average="binary", zero_division=0)
    assert classification.f1(predicted, given_, average="binary") == pytest.approx(expected)


def test_f1_and_matthews_correlation_by_hand():
    predicted, given_ = [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]  # 2 hits of 3 predicted and of 3 given
    assert classification.f1(predicted, given_, average="binary") == pytest.approx(2 / 3)
    assert classification.matthews_correlation(predicted, given_) == pytest.approx((2 * 2 - 1 * 1) / 9)


@quiet
@given(st.lists(st.tuples(*[st.integers(0, 1)] * 6), min_size=1, max_size=20))
def test_several_labels_are_scored_as_scikit_learn_scores_them(rows):
    array = np.array(rows)
    predicted, given_ = array[:, :3], array[:, 3:]
    for average in ("macro", "micro", "weighted"):
        expected = sklearn.metrics.f1_score(given_, predicted, average=average, zero_division=0)
        assert classification.multilabel_f1(predicted, given_, average=average) == pytest.approx(expected)
    assert classification.exact_match(predicted, given_) == sklearn.metrics.accuracy_score(given_, predicted)


@quiet
@given(pairs_of_numbers)
def test_correlations_are_scipys_ties_and_constants_included(pairs):
    left, right = map(list, zip(*pairs, strict=True))
    assert regression.ranks(left).tolist() == scipy.stats.rankdata(left).tolist()
    for ours, theirs in ((regression.pearson, scipy.stats.pearsonr), (regression.spearman, scipy.stats.spearmanr)):
        assert ours(left, right) == pytest.approx(theirs(left, right).statistic, abs=1e-9, nan_ok=True)


def test_rmse_by_hand():
    assert regression.rmse([1.0, 2.0, 5.0], [1.0, 4.0, 1.0]) == pytest.approx((20 / 3) ** 0.5)


def test_a_stack_of_resamples_is_scored_as_each_alone():
    predicted, given_ = RNG.integers(3, size=(2, 7, 20)), RNG.integers(3, size=(2, 7, 20))
    numbers = RNG.integers(4, size=(2, 2, 7, 20))
    for measure in (
        classification.accuracy,
        classification.matthews_correlation,
        lambda p, g: classification.confusion_matrix(p, g, num_labels=3),
        lambda p, g: classification.f1(p, g, average="macro"),
        lambda p, g: classification.f1(p, g, average="weighted"),
    ):
        alone = [[measure(predicted[i, j], given_[i, j]) for j in range(7)] for i in range(2)]
        assert measure(predicted, given_) == pytest.approx(np.asarray(alone))
    for measure in (regression.pearson, regression.spearman, regression.rmse):
        alone = [[measure(numbers[0, i, j], numbers[1, i, j]) for j in range(7)] for i in range(2)]
        assert measure(numbers[0], numbers[1]) == pytest.approx(np.asarray(alone))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classification.accuracy([0.2, 0.8], [0, 1]), "take the argmax"),
        (lambda: classification.accuracy([0, 1], [0, -100]), "leave out the items"),
        (lambda: classification.accuracy([], []), "not none|whole numbers"),
        (lambda: classification.accuracy([0, 1, 1], [0, 1]), "as many"),
        (lambda: classification.f1([0, 2], [0, 1], average="binary"), "classes 0 and 1"),
        (lambda: classification.confusion_matrix([0, 2], [0, 1], num_labels=2), "class 2 is none of 2"),
        (lambda: classification.exact_match([[0, 2]], [[0, 1]]), "0 and 1"),
        (lambda: translation.bleu(["a"], ["a"]), "a list of texts"),
        (lambda: translation.bleu(["a", "b"], [["a"], ["b", "c"]]), "as many references"),
        (lambda: metrics.bootstrap(np.mean, [[1.0]], seed=0), "two items or more"),
        (lambda: metrics.bootstrap(np.mean, [[1.0, 2.0], [1.0]], seed=0), "the same number"),
    ],
)
def test_what_cannot_be_scored_is_an_error_that_says_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_confusion_matrix_is_a_table_of_given_and_predicted():
    matrix = classification.confusion_matrix([0, 1, 1, 1], [0, 0, 1, 1])
    assert classification.confusion_table(matrix, ["no", "yes"]) == [
        ["given \\ predicted", "no", "yes"],
        ["no", "1", "1"],
        ["yes", "0", "2"],
    ]
    with pytest.raises(ValueError, match="3 labels"):
        classification.confusion_table(matrix, ["a", "b", "c"])


# --- texts


@pytest.mark.parametrize(
    ("arguments", "score"),
    [
        (["first", "-m", "bleu"], translation.bleu(SYSTEM, ONE)),
        (["first", "second", "-m", "bleu"], translation.bleu(SYSTEM, TWO)),
        (
            ["first", "-m", "bleu", "-lc", "-tok", "char"],
            translation.bleu(SYSTEM, ONE, tokenize="char", lowercase=True),
        ),
        (["first", "second", "-m", "chrf"], translation.chrf(SYSTEM, TWO)),
        (["first", "-m", "chrf", "--chrf-word-order", "2"], translation.chrf(SYSTEM, ONE, word_order=2)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_texts_are_scored_as_by_sacrebleus_command_line(tmp_path, arguments, score):
    for name, lines in (("system", SYSTEM), ("first", FIRST), ("second", SECOND)):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    line = [sys.executable, "-m", "sacrebleu", *arguments, "-i", "system", "-w", "12"]
    printed = json.loads(subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert (round(score.value, 12), score.signature) == (printed["score"], printed["signature"])
    assert 0 < score.value < 100


def test_a_corpus_score_has_a_standard_error_over_its_segments():
    plain, found = translation.bleu(SYSTEM, ONE), translation.bleu(SYSTEM, ONE, seed=1)
    assert (found.value, found.signature, plain.stderr) == (plain.value, plain.signature, None)
    assert found == translation.bleu(SYSTEM, ONE, seed=1) and 0 < found.stderr < 100
    texts, others = SYSTEM[:2] * 5, [["Mia is there."]] * 10
    drawn = [translation.chrf(texts, others, seed=seed).stderr for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


# --- the classes


EXAMPLES = {
    "accuracy": ([0, 1, 1], [0, 1, 0], {"accuracy": 2 / 3}),
    "f1": ([0, 1, 1], [0, 1, 0], {"f1_macro": 2 / 3}),
    "matthews_correlation": ([0, 1, 1], [0, 1, 0], {"matthews_correlation": 0.5}),
    "confusion_matrix": ([0, 1, 1], [0, 1, 0], {"confusion_matrix": [[1, 1], [0, 1]]}),
    "multi_label": ([[0, 1], [1, 1]], [[0, 1], [0, 1]], {"f1_micro": 0.8, "f1_macro": 0.5, "exact_match": 0.5}),
    "pearson": ([1.0, 2.0, 3.0], [1, 2, 3], {"pearson": 1.0}),
    "spearman": ([1.0, 2.0, 9.0], [3, 2, 1], {"spearman": -1.0}),
    "rmse": ([1.0, 2.0], [1, 4], {"rmse": 2**0.5}),
    "bleu": (["a b c d", "e f g h"], [["a b c d"], ["e f g h"]], {"bleu": 100.0}),
    "chrf": (["abcdef", "ghijkl"], [["abcdef"], ["ghijkl"]], {"chrf": 100.0}),
}


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """A HOME and a cache that nobody can write into."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "file" / "cache"))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_computes_in_memory_at_once_in_batches_and_again(name, no_home):
    predictions, references, expected = EXAMPLES[name]
    metric, drawn = METRICS[name](), np.random.get_state()[1].tolist()
    found = metric.compute(predictions=predictions, references=references)
    for prediction, reference in zip(predictions, references, strict=True):
        metric.add_batch(predictions=[prediction], references=[reference])
    assert metric.compute() == found
    signature = found.pop("signature", "")
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert np.asarray(found[key]) == pytest.approx(np.asarray(value))
    assert bool(signature) == (name in ("bleu", "chrf"))
    assert set(found) - {"confusion_matrix"} <= set(DIRECTIONS)
    assert np.random.get_state()[1].tolist() == drawn


def test_metrics_with_settings_combine(no_home):
    several = evaluate.combine([Accuracy(), F1("binary"), MatthewsCorrelation()])
    found = several.compute(predictions=[0, 1, 1], references=[0, 1, 0])
    assert found == pytest.approx({"accuracy": 2 / 3, "f1_binary": 2 / 3, "matthews_correlation": 0.5})
    settings = Bleu(tokenize="char", lowercase=True).compute(predictions=["A b"], references=[["a b"]])["signature"]
    assert "case:lc" in settings and "tok:char" in settings
    assert "nw:2" in ChrF(word_order=2).compute(predictions=["a"], references=[["a"]])["signature"]


def test_the_best_step_is_the_highest_or_the_lowest_and_of_equals_the_first():
    values = {30: 0.5, 10: 0.5, 20: 0.1, 5: float("nan")}
    assert (best(values, "f1_macro"), best(values, "rmse")) == (10, 20)
    with pytest.raises(ValueError, match="'lossy' is none of the metrics"):
        best(values, "lossy")
    with pytest.raises(ValueError, match="no step has a value"):
        best({5: float("nan")}, "rmse")


# --- bootstrap


def test_a_bootstrap_of_a_mean_agrees_with_the_formula():
    values = RNG.normal(3, 2, 400)
    value, stderr, low, high = metrics.bootstrap(np.mean, [values], seed=1, samples=2000)
    mean, expected = metrics.mean(values.tolist())
    assert value == pytest.approx(mean) and stderr == pytest.approx(expected, rel=0.08)
    assert (low, high) == pytest.approx((mean - 1.96 * expected, mean + 1.96 * expected), abs=0.03)


def test_a_bootstrap_depends_on_its_seed_alone_and_not_on_how_it_is_computed(monkeypatch):
    predicted, given_ = RNG.integers(3, size=(2, 50))
    once = metrics.bootstrap(classification.accuracy, [predicted, given_], seed=4, samples=200)
    np.random.seed(9)
    assert metrics.bootstrap(classification.accuracy, [predicted, given_], seed=4, samples=200) == once
    fast = metrics.bootstrap(classification.accuracy, [predicted, given_], seed=4, samples=200, vectorised=True)
    assert fast == pytest.approx(once, abs=1e-12)
    monkeypatch.setattr(metrics, "MOST_ELEMENTS", 350)  # 7 resamples at a time
    assert metrics.bootstrap(classification.accuracy, [predicted, given_], seed=4, samples=200, vectorised=True) == fast
    assert metrics.bootstrap(classification.accuracy, [predicted, given_], seed=5, samples=200) != once


def test_a_bootstrap_draws_the_same_items_of_both_sides():
    values = RNG.normal(0, 10, 100)
    value, stderr, low, high = metrics.bootstrap(lambda a, b: np.mean(a - b), [values + 1, values], seed=0)
    assert (value, low, high) == pytest.approx((1, 1, 1)) and stderr == pytest.approx(0, abs=1e-9)


def test_resamples_without_a_value_are_left_out():
    left, right = [0.0, 0.0, 1.0, 2.0], [1.0, 2.0, 3.0, 9.0]  # one resample in sixteen sees a single left value
    _, stderr, low, high = metrics.bootstrap(regression.pearson, [left, right], seed=0, vectorised=True)
    assert np.isfinite([stderr, low, high]).all()


def test_a_thousand_classes_are_scored_in_memory_of_a_laptop():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(1000, 1000)).astype(np.float32), np.arange(1000)
    tracemalloc.start()
    scores_with_errors(logits, labels, "single_label", seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500e6, "the matrices of all resamples at once are 8 GB"


def test_a_prediction_that_is_no_number_has_no_rank():
    assert np.isnan(regression.spearman([1.0, np.nan, 2.0], [1.0, 2.0, 3.0]))
    stacked = regression.spearman([[1.0, np.nan, 2.0], [1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]] * 2)
    assert np.isnan(stacked[0]) and stacked[1] == pytest.approx(1)
