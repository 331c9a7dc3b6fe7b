"""Task `embeddings`: what the input embeddings of a model know of words, as scores, as neighbours and as a map."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from pipelines.errors import DataError
from pipelines.evaluation import metrics, regression
from pipelines.evaluation.directions import DIRECTIONS
from pipelines.evaluation.embeddings import WordVectors, isotropy, mean_cosine, plane, write_word2vec
from pipelines.evaluation.subject import Subject
from pipelines.recipe.evaluation import TaskConfig
from pipelines.recipe.word_files import read_analogies, read_pairs

Row = dict[str, Any]


def word_vectors(subject: Subject) -> WordVectors:
    """Of any model that has input embeddings."""
    weight = cast(Tensor, subject.model.get_input_embeddings().weight)
    return WordVectors(weight.detach().float().cpu().numpy(), subject.tokens.tokenizer)


def score_embeddings(subject: Subject, *, pairs: Path | None, analogies: Path | None, seed: int) -> list[Row]:
    """Two rows on the matrix, and one for each file. `seed` is the bootstrap's, of the correlation's standard error."""
    vectors = word_vectors(subject)
    rows = [
        _row(subject, "embeddings", "mean_cosine", mean_cosine(vectors.matrix), None, len(vectors.matrix)),
        _row(subject, "embeddings", "isotropy", isotropy(vectors.matrix), None, len(vectors.matrix)),
    ]
    if pairs is not None:
        asked = read_pairs(pairs)
        cosines = vectors.similarities([(one, other) for one, other, _ in asked])
        cosines = np.round(cosines, 12)  # equal ones share a rank, whatever the last digits are
        scores = np.array([score for _, _, score in asked])
        if np.isnan(regression.spearman(cosines, scores)):
            raise DataError(
                f"{pairs}: to this model all pairs are equally near, so nothing correlates with their scores"
            )
        value, stderr, _, _ = metrics.bootstrap(regression.spearman, [cosines, scores], seed=seed, vectorised=True)
        rows.append(_row(subject, f"embeddings/{pairs.stem}", "similarity_spearman", value, stderr, len(asked)))
    if analogies is not None:
        questions = read_analogies(analogies)
        answers = vectors.analogies(questions)
        hits = [float(answer == question[3]) for answer, question in zip(answers, questions, strict=True)]
        value, error = metrics.mean(hits)
        rows.append(_row(subject, f"embeddings/{analogies.stem}", "analogy_accuracy", value, error, len(hits)))
    return rows


def describe_words(subject: Subject, config: TaskConfig) -> dict[str, Any]:
    """Neighbours of the words of the task with their cosines, and where the words lie on a plane."""
    vectors, words = word_vectors(subject), list(config.words)
    drawn = plane(vectors.vectors(words))
    return {
        "neighbours": dict(zip(words, vectors.neighbours(words), strict=True)),
        "points": dict(zip(words, drawn.points.tolist(), strict=True)),
        "explained": drawn.explained,
    }


def write_words(path: Path, subject: Subject, config: TaskConfig) -> None:
    """The vectors of the words that are one entry of the vocabulary, and of the task's words, for other tools."""
    vectors = word_vectors(subject)
    words = list(dict.fromkeys([*vectors.vocabulary, *config.words]))
    write_word2vec(path, words, vectors.vectors(words))


def _row(subject: Subject, task: str, metric: str, value: float, stderr: float | None, count: int) -> Row:
    return {
        "task": task,
        "metric": metric,
        "value": value,
        "stderr": stderr,
        "higher_is_better": DIRECTIONS.get(metric),
        "version": 1,
        "num_fewshot": 0,
        "limit": None,
        "n": count,
        "apply_chat_template": False,
        "template_digest": None,
        "truncated": 0,
    } | subject.settings
