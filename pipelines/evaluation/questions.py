"""The questions of benchmarks as texts: what a model is asked, what it should answer, and the parts of both."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from lm_eval.api.task import Task

from pipelines.cleaning.contamination import plain
from pipelines.data.formats import Row, said
from pipelines.data.rows import read_rows
from pipelines.errors import DataError
from pipelines.evaluation import bits, finetuned, masked, scoring
from pipelines.evaluation.harness import quiet, standard_task, task_file
from pipelines.evaluation.pseudo import read_minimal_pairs
from pipelines.evaluation.tasks import TaskFile
from pipelines.recipe.evaluation import TASKS
from pipelines.recipe.word_files import read_analogies, read_pairs

Texts = list[str]
"""What one question says, in several ways: a document that has any of them has the question."""

_LIMITS = {
    "bits_per_byte": bits.LIMIT,
    "masked_accuracy": masked.LIMIT,
    "pseudo_perplexity": masked.LIMIT,
    "reward": scoring.LIMIT,
    "seq2seq": finetuned.LIMIT,
    "classification": 10 * finetuned.LIMIT,
}
"""Rows of a holdout that are asked where the recipe names no limit."""
_LABEL = re.compile(r"^[ \t]*[A-Z]\w*:[ \t]*", re.MULTILINE)
"""`Question:` and `Answer:` at the beginning of a line, which a question of few words would not be found with."""
_WORDS = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Sources:
    """Where the questions of one task come from."""

    data: Path | None
    """The data artifact whose holdout it asks."""
    format: str | None
    """Of its rows."""
    named: Mapping[str, Path]
    """Field -> file, of what the task itself names: `file`, `pairs`, `analogies`."""
    files: Iterable[str]
    """Task files, among others."""
    scratch: Path
    """Where the `datasets` library may write."""


def questions_of(name: str, limit: int | None, sources: Sources) -> Iterator[Texts]:
    """Every question that a task asks, in its order. DataError where its data cannot be had."""
    if sources.data is not None and sources.format is not None:
        rows = (row for batch in read_rows(sources.data, "holdout") for row in batch)
        yield from (_of_row(sources.format, row) for row in islice(rows, limit or _LIMITS[name]))
    elif name == "minimal_pairs":
        yield from ([*pair] for pair in read_minimal_pairs(sources.named["file"])[:limit])
    elif name == "embeddings":
        if "pairs" in sources.named:
            yield from ([f"{one} {other}"] for one, other, _ in read_pairs(sources.named["pairs"]))
        if "analogies" in sources.named:
            yield from ([" ".join(words)] for words in read_analogies(sources.named["analogies"]))
    elif name not in TASKS:
        yield from _of_benchmark(name, limit, sources)


def label(name: str, dataset: str | None, named: Mapping[str, Path]) -> str:
    """What a task is called, as among the scores."""
    part = dataset or (named["file"].stem if "file" in named else None)
    return f"{name}/{part}" if part else name


def _of_row(format: str, row: Row) -> Texts:
    """All that a held-out row says, together and, where it is of several parts, each alone: a source without its
    target, one text of two."""
    parts = said(format, row)
    return _distinct([*parts, "\n".join(parts)])


def _of_benchmark(name: str, limit: int | None, sources: Sources) -> Iterator[Texts]:
    path = task_file(name, sources.files)
    with quiet():
        task = TaskFile.read(path).build(name, sources.scratch, limit=limit) if path else standard_task(name)
        for number, doc in task.doc_iterator(limit=limit):
            try:
                yield texts_of(task, number, doc)
            except TemplateError as error:
                raise DataError(f"{error}; its templates name what row {number} has not") from error


def texts_of(task: Task, number: int, doc: Any) -> Texts:
    """Of one row of an lm-eval task: the prompt, the prompt with each answer that is scored or wanted, those
    columns that stand in them, and the prompt without labels: no template must hide a question. Worked examples and the
    task's description are left out, which other questions share."""
    config: Any = task.config
    prompt: Any = task.doc_to_text(doc)
    if getattr(task, "multiple_input", None):
        prompt = task.doc_to_choice(doc)  # type: ignore[attr-defined]
    made = task.construct_requests(doc=doc, ctx=prompt, metadata=(config.task, number, 1))
    asked = [
        "".join(part for part in request.args[:2] if isinstance(part, str))
        for request in (made if isinstance(made, list) else [made])
    ]
    targets = [target for target in _strings(task.doc_to_target(doc)) if target.strip()]
    if isinstance(prompt, str):
        asked += [f"{prompt} {target}" for target in targets]
    shown = "\n".join(map(_bare, asked))
    columns = [value for value in _strings(doc) if (bare := _bare(value)) and bare in shown]
    prompts = _strings(prompt)
    return _distinct([*prompts, *asked, *columns, *(_LABEL.sub("", text) for text in prompts)])


def _strings(value: Any) -> list[str]:
    """All texts inside a value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _strings(inner)]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _strings(inner)]
    return []


def _bare(text: str) -> str:
    return " ".join(_WORDS.findall(plain(text)))


def _distinct(texts: Iterable[str]) -> Texts:
    return list(dict.fromkeys(text for text in texts if text and not text.isspace()))
