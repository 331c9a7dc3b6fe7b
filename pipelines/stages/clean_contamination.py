"""A step of cleaning: training rows that have questions of the recipe's benchmarks go, or are told."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cleaning.contamination import Hits, Ngrams, plain
from pipelines.cleaning.overlap import Judge, Matches, together
from pipelines.cleaning.question_files import Questions, holdout_digest
from pipelines.cleaning.verdicts import Verdicts
from pipelines.data.corpus import Corpus, read_part
from pipelines.data.formats import said
from pipelines.errors import DataError
from pipelines.recipe.decontaminate import Decontaminate
from pipelines.stages.clean_steps import CONTAMINATION, Shards

REASON = "contaminated"
SAMPLES, NGRAMS, HITS = "contamination.jsonl", "ngrams.npz", "hits.npz"
DOCUMENT_SHARE = 0.5
"""Of a held-out document's n-grams, what a row must have at least: one of so many is no sign, but a phrase of the same
author or book."""
SHOWN, BEFORE, AFTER = 20, 100, 300
"""Questions of each task in the record; characters of a passage around what is found."""


def remove_contaminated(corpus: Corpus, verdicts: Verdicts, shards: Shards, format: str, config: Decontaminate) -> None:
    """Writes contamination.json into the output, and what was found into the record."""
    found = _Search.over(shards, format, config, verdicts.kept)
    found.write()
    rows = np.unique(found.train.document) - found.corpus.own
    kept = int(verdicts.kept.sum())
    if len(rows) and len(rows) / kept > config.max_dropped:
        raise DataError(
            f"decontaminate: {len(rows):,} of {kept:,} training rows have questions of the benchmarks "
            f"({found.spoken()}), and max_dropped allows {config.max_dropped:.0%}. Look at "
            f"{shards.ctx.record / SAMPLES}; then raise max_dropped or min_share, or let it tell only"
        )
    found.note()
    document, first = np.unique(found.train.document, return_index=True)
    task = np.array(found.questions.task_of)[found.train.question[first]]
    for number, name in enumerate(found.questions.tasks):
        verdicts.remove(document[task == number] - found.corpus.own, REASON, name)


def tell_contaminated(shards: Shards, format: str, config: Decontaminate) -> None:
    """The same without removing anything."""
    found = _Search.over(shards, format, config, None)
    found.write()
    found.note()


@dataclass(frozen=True)
class _Search:
    """What the rows of a dataset have of the questions."""

    shards: Shards
    format: str
    config: Decontaminate
    corpus: Corpus
    """The dataset alone."""
    questions: Questions
    ngrams: Ngrams
    judge: Judge
    hits: Hits
    """In training rows that are still there."""
    train: Matches
    holdout: Matches

    @classmethod
    def over(cls, shards: Shards, format: str, config: Decontaminate, kept: np.ndarray | None) -> "_Search":
        """`kept`: mask of the training rows that are still there; None for all."""
        ctx = shards.ctx
        corpus, questions = Corpus({"dataset": ctx.inputs["dataset"]}), Questions.load(ctx.inputs["benchmarks"])
        few = config.max_documents or len(questions.texts)
        documents = [number for number, task in enumerate(questions.tasks) if task in questions.documents]
        ngrams = Ngrams.of(questions.texts, questions.task_of, size=config.ngram, few=few, documents=documents)
        ngrams.save(ctx.checkpoints / NGRAMS)
        common = {"ngrams": str(ctx.checkpoints / NGRAMS), "format": format}
        parts = [part | common for part in corpus.parts()]
        folders = shards.make("contamination", _part, parts)
        hits = together([_load(folder / HITS) for folder in folders])
        is_train = hits.text >= corpus.own
        if kept is not None:
            is_train[is_train] = kept[hits.text[is_train] - corpus.own]
        train, holdout = (Hits(*(column[mask] for column in hits)) for mask in (is_train, hits.text < corpus.own))
        judge = Judge.of(ngrams, train, max_documents=config.max_documents, min_share=_shares(questions, config))
        found = (judge.matches(train), judge.matches(holdout))
        return cls(shards, format, config, corpus, questions, ngrams, judge, train, *found)

    def write(self) -> None:
        """The facts into the output, and samples into the record."""
        ctx = self.shards.ctx
        (ctx.output / CONTAMINATION).write_text(json.dumps(self.facts, indent=1, ensure_ascii=False))
        self._write_samples(ctx.record / SAMPLES)

    def note(self) -> None:
        """A line for the terminal, where something is found."""
        if count := self.facts["contaminated"]:
            rows, it = ("row has", "it") if count == 1 else ("rows have", "they")
            verb = {"drop": "goes", "tell": "stays"} if count == 1 else {"drop": "go", "tell": "stay"}
            print(
                f"note: {count:,} training {rows} questions of the benchmarks, and {it} {verb[self.config.action]} "
                f"({self.spoken()}); passages: record/{SAMPLES}",
                flush=True,
            )

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the report shows."""
        task_of = np.array(self.questions.task_of, np.int64)
        phrases = self.judge.only_common(self.hits, self.train.question)
        tasks = []
        for number, (name, asked) in enumerate(self.questions.tasks.items()):
            train, holdout = (task_of[found.question] == number for found in (self.train, self.holdout))
            held = None if name in self._own else len(np.unique(self.holdout.document[holdout]))
            tasks.append(
                {
                    "task": name,
                    "questions": len(asked),
                    "too_short": int(self.ngrams.is_short[task_of == number].sum()),
                    "found": len(np.unique(self.train.question[train])),
                    "phrases": int((task_of[phrases] == number).sum()),
                    "documents": len(np.unique(self.train.document[train])),
                    "holdout_documents": held,
                }
            )
        return {
            "action": self.config.action,
            "ngram": self.config.ngram,
            "max_documents": self.config.max_documents,
            "contaminated": len(np.unique(self.train.document)),
            "tasks": tasks,
        }

    @cached_property
    def _own(self) -> set[str]:
        """Tasks that ask the holdout of this dataset."""
        own = holdout_digest(self.shards.ctx.inputs["dataset"])
        return {task for task, digest in self.questions.holdouts.items() if digest == own}

    def spoken(self) -> str:
        """How many rows have questions of each task."""
        counts = [(task["task"], task["documents"]) for task in self.facts["tasks"] if task["documents"]]
        return ", ".join(f"{name} {count:,}" for name, count in sorted(counts, key=lambda one: -one[1]))

    def _write_samples(self, path: Path) -> None:
        """Each question that is chosen with the first passage that has it, and the words that both share."""
        chosen = list(self._chosen())
        rows = self.corpus.rows_at({document for document, *_ in chosen})
        with path.open("w", encoding="utf-8") as file:
            for document, question, begin, end in chosen:
                data = _bytes("\n".join(said(self.format, rows[document])))
                sample = {
                    "task": list(self.questions.tasks)[self.questions.task_of[question]],
                    "question": max(self.questions.texts[question], key=len)[:AFTER],
                    "split": "train" if document >= self.corpus.own else "holdout",
                    "passage": data[max(0, begin - BEFORE) : end + AFTER].decode(errors="ignore"),
                    "shared": data[begin:end].decode(),
                }
                file.write(json.dumps(sample, ensure_ascii=False) + "\n")

    def _chosen(self) -> Iterator[tuple[int, int, int, int]]:
        """(document, question, first and last byte) of the first questions of each task that are found."""
        task_of, names, counts = self.questions.task_of, list(self.questions.tasks), Counter[str]()
        for found in (self.train, self.holdout):
            first = np.sort(np.unique(found.question, return_index=True)[1])
            for one in zip(*(column[first].tolist() for column in found), strict=True):
                name = names[task_of[one[1]]]
                if counts[name] < SHOWN and not (found is self.holdout and name in self._own):
                    counts[name] += 1
                    yield one


def _shares(questions: Questions, config: Decontaminate) -> np.ndarray:
    """Of each question's n-grams, what a row must have; shape (questions,)."""
    least = [DOCUMENT_SHARE if task in questions.documents else 0.0 for task in questions.tasks]
    return np.maximum(config.min_share, np.array(least)[np.array(questions.task_of, np.int64)])


def _bytes(text: str) -> bytes:
    """What places of hits refer to: the plain text, or the text itself where all its places are the same."""
    return (text if text.isascii() else plain(text)).encode()


def _part(part: Mapping[str, Any], folder: Path) -> None:
    """What stands in the rows of a part; all that a row says is one text."""
    ngrams, found, rows = Ngrams.load(Path(part["ngrams"])), [], 0
    for batch in read_part(part):
        found.append((ngrams.hits(["\n".join(said(part["format"], row)) for row in batch]), len(batch)))
        rows += len(batch)
    hits = together(found)
    np.savez(folder / HITS, rows=rows, **hits._asdict())


def _load(path: Path) -> tuple[Hits, int]:
    with np.load(path) as arrays:
        return Hits(*(arrays[name] for name in Hits._fields)), int(arrays["rows"])
