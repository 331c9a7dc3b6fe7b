"""Tasks `classification` and `seq2seq`: what a fine-tuned model does with the holdout of its kind of data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

import custom_models  # noqa: F401  (registers the classes that a model folder names)
from pipelines.data.labelled import LabelledCollator, LabelledRows
from pipelines.data.labels import LabelKind, check_labels
from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError
from pipelines.evaluation import metrics, predictions, translation
from pipelines.evaluation.classification import confusion_matrix
from pipelines.evaluation.directions import DIRECTIONS
from pipelines.recipe.evaluation import TaskConfig
from pipelines.training.holdout import row_logits
from pipelines.training.inputs import Tokens, pretrained, tokens_of, trained_classifier
from pipelines.training.starts import writer_class
from pipelines.training.writing import fitted, texts, write

LIMIT = 1000
"""Pairs translated, and ten times as many texts classified, where the recipe names no limit."""
SAMPLES = 3

Rows = list[dict[str, Any]]
Samples = list[dict[str, str]]


@dataclass(frozen=True)
class FirstOf:
    """The first rows, numbered as before."""

    rows: Any
    count: int

    @property
    def longest(self) -> np.ndarray:
        return self.rows.longest[: self.count]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Any:
        return self.rows[row]


def score_row(task: TaskConfig, tokens: Tokens, metric: str, value: float, stderr: float | None, n: int) -> dict:
    """What every score of scores.json has."""
    return {
        "task": task.name if task.data is None else f"{task.name}/{task.data}",
        "metric": metric,
        "value": value,
        "stderr": stderr,
        "higher_is_better": DIRECTIONS[metric],
        "version": 1,
        "num_fewshot": 0,
        "limit": task.limit,
        "n": n,
        "apply_chat_template": False,
        "template_digest": None,
        "truncated": 0,
        "bos_policy": "bos" if tokens.add_bos_token else "none",
        "dtype": "float32",
    }


def load(auto_class: Any, folder: Path, *, device: str) -> Any:
    """The weights in float32, in evaluation mode, on this process' own device."""
    return placed(auto_class.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False), device=device)


def placed(model: Any, *, device: str) -> Any:
    """In evaluation mode, on this process' own device."""
    return model.to(PartialState(cpu=device == "cpu").device).eval()


def score_classification(
    model_folder: Path, task: TaskConfig, data: Path, *, device: str, seed: int, base: Path | None = None
) -> tuple[Rows, Samples]:
    """A row per score that fits the kind of labels; accuracy's also holds the confusion matrix. An adapter is merged
    into its `base`."""
    model, tokens = placed(trained_classifier(model_folder, base), device=device), tokens_of(model_folder)
    kind: LabelKind = model.config.problem_type.removesuffix("_classification")
    names = [] if kind == "regression" else [model.config.id2label[number] for number in range(model.config.num_labels)]
    table = _holdout(data, task)
    check_labels([table], kind, names)
    rows = LabelledRows(
        [table],
        label_names=names,
        bos_id=tokens.first_id,
        sep_id=tokens.eos_id,
        eos_id=tokens.eos_id,
        max_length=model.config.max_position_embeddings,
        overlong="truncate",
    )
    first = FirstOf(rows, min(len(rows), task.limit or 10 * LIMIT))
    has_types = "token_type_ids" in tokens.tokenizer.model_input_names
    logits, labels = row_logits(model, first, LabelledCollator(tokens.pad_id, with_token_type_ids=has_types))
    found = predictions.scores_with_errors(logits, labels, kind, seed=seed)
    made = [
        score_row(task, tokens, metric, value, stderr, len(first)) | {"truncated": rows.counts[0].truncated}
        for metric, (value, stderr) in found.items()
    ]
    if kind == "single_label":
        counts = confusion_matrix(predictions.predictions(logits, kind), labels, num_labels=len(names))
        made[0]["confusion_matrix"] = {"labels": names, "counts": counts.tolist()}
    return made, []


def score_pairs(
    model_folder: Path, task: TaskConfig, data: Path, *, device: str, seed: int, base: Path | None = None
) -> tuple[Rows, Samples]:
    """chrF and BLEU by sacrebleu, and the share of targets written exactly; the first few as samples. An adapter is
    merged into its `base`."""
    tokens = tokens_of(model_folder)
    model = placed(pretrained(writer_class(base or model_folder), model_folder, tokens, base=base), device=device)
    table = _holdout(data, task)
    places = range(min(len(table), task.limit or LIMIT))
    prompts, cut = zip(
        *(
            fitted(table.ids("source_ids", row).tolist(), model, tokens, max_new_tokens=task.max_completion_length)
            for row in places
        ),
        strict=True,
    )
    found = write(
        model,
        prompts,
        tokens,
        max_new_tokens=task.max_completion_length,
        num_beams=task.num_beams,
        length_penalty=task.length_penalty,
    )
    sources, wanted = (texts([table.ids(side, row) for row in places], tokens) for side in ("source_ids", "target_ids"))
    said = texts(found, tokens)
    settings = {
        "num_beams": task.num_beams,
        "length_penalty": task.length_penalty,
        "max_completion_length": task.max_completion_length,
        "truncated": sum(cut),
    }
    made = [
        score_row(task, tokens, metric, value, stderr, len(places)) | settings | signature
        for metric, value, stderr, signature in _text_scores(said, wanted, seed)
    ]
    samples = zip(sources[:SAMPLES], said[:SAMPLES], strict=True)
    return made, [{"kind": "pairs", "prompt": source, "completion": text} for source, text in samples]


def _text_scores(
    said: Sequence[str], wanted: Sequence[str], seed: int
) -> list[tuple[str, float, float | None, dict[str, str]]]:
    """(metric, value, standard error, signature where there is one)"""
    references = [[text] for text in wanted]
    exact, stderr = metrics.mean([float(one == other) for one, other in zip(said, wanted, strict=True)])
    found: list[tuple[str, float, float | None, dict[str, str]]] = []
    for name, measure in (("chrf", translation.chrf), ("bleu", translation.bleu)):
        score = measure(said, references, seed=seed)
        found.append((name, score.value, score.stderr, {"signature": score.signature}))
    return [*found, ("exact_match", exact, stderr, {})]


def _holdout(data: Path, task: TaskConfig) -> TokenTable:
    table = TokenTable.open(data, "holdout")
    if not len(table):
        raise DataError(f"task {task.name}: dataset '{task.data}' has no holdout; give it `holdout: 0.05`")
    return table
