"""Bits per byte on the holdout of a text dataset: the one loss that no tokenizer can flatter that keeps text.

As lm-eval's rolling log-likelihoods, it counts the text and not the token that ends a document: whether a document ends
here is a matter of format, and the first thing that fine-tuning on conversations changes.
"""

import math
from pathlib import Path
from typing import Any

from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError
from pipelines.evaluation import metrics
from pipelines.evaluation.subject import Request, Subject
from pipelines.recipe.evaluation import TaskConfig

CHANGED = " of changed text"
"""Stands in the name of a score whose tokenizer has `<unk>` or changes text: it says less than the text does, so it
stands in no row with others."""
LIMIT = 1000
"""Documents scored where the recipe names no limit."""


def chunks(ids: list[int], max_length: int) -> list[Request]:
    """A document as requests that score each token but the first exactly once.

    A document longer than the model is cut into neighbouring chunks; a later chunk sees one token of the chunk before
    it. The first token is only ever context: it is BOS where training put one, and free where it did not.
    """
    return [
        Request([ids[start]], ids[start + 1 : start + 1 + max_length]) for start in range(0, len(ids) - 1, max_length)
    ]


def without_end(ids: list[int], eos_id: int) -> list[int]:
    return ids[:-1] if ids[-1:] == [eos_id] else ids


def document_bits(subject: Subject, config: TaskConfig, folder: Path) -> tuple[list[float], list[int]]:
    """(bits, bytes) of each document of a tokens artifact's holdout that is scored."""
    table = TokenTable.open(folder, "holdout")
    rows = [table.row(row) for row in range(min(len(table), config.limit or LIMIT))]
    documents = [(without_end(row["input_ids"].tolist(), subject.tokens.eos_id), row["num_bytes"]) for row in rows]
    documents = [(ids, num_bytes) for ids, num_bytes in documents if num_bytes and len(ids) > 1]
    if not documents:
        raise DataError(
            f"nothing of dataset '{config.data}' is held out; raise its holdout, a share of its rows, or split the "
            "text into more rows (separator: blank_line, for example)"
        )
    parts = [chunks(ids, subject.max_length) for ids, _ in documents]
    found = iter(subject.log_likelihoods([part for document in parts for part in document]))
    bits = [-sum(next(found)[0] for _ in document) / math.log(2) for document in parts]
    return bits, [num_bytes for _, num_bytes in documents]


def score_bits(subject: Subject, config: TaskConfig, folder: Path) -> list[dict[str, Any]]:
    """One row."""
    bits, sizes = document_bits(subject, config, folder)
    value, stderr = metrics.ratio(bits, sizes)
    return [
        {
            "task": f"bits_per_byte/{config.data}" + CHANGED * subject.tokens.changes_text,
            "metric": "bits_per_byte",
            "value": value,
            "stderr": stderr,
            "higher_is_better": False,
            "version": 2,
            "num_fewshot": 0,
            "limit": config.limit,
            "n": len(bits),
            "bytes": sum(sizes),
            "apply_chat_template": False,
            "template_digest": None,
            "truncated": 0,
        }
        | subject.settings
    ]
