"""Bits per byte on the holdout of a text dataset: the one loss that no tokenizer can flatter."""

import math
from pathlib import Path
from typing import Any

from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError
from pipelines.evaluation import metrics
from pipelines.evaluation.subject import Request, Subject
from pipelines.recipe.stages import TaskConfig

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


def score_bits(subject: Subject, config: TaskConfig, folder: Path) -> list[dict[str, Any]]:
    """One row. The end token of each document counts, as it did in training; its bytes are those of the text."""
    table = TokenTable.open(folder, "holdout")
    limit = config.limit or LIMIT
    documents = [table.row(row) for row in range(min(len(table), limit))]
    documents = [row for row in documents if row["num_bytes"] and len(row["input_ids"]) > 1]
    if not documents:
        raise DataError(f"task bits_per_byte: dataset '{config.data}' has no holdout; give it `holdout: 0.01`")
    parts = [chunks(row["input_ids"].tolist(), subject.max_length) for row in documents]
    found = iter(subject.log_likelihoods([part for document in parts for part in document]))
    bits = [-sum(next(found)[0] for _ in document) / math.log(2) for document in parts]
    value, stderr = metrics.ratio(bits, [row["num_bytes"] for row in documents])
    return [
        {
            "task": f"bits_per_byte/{config.data}",
            "metric": "bits_per_byte",
            "value": value,
            "stderr": stderr,
            "higher_is_better": False,
            "version": 1,
            "num_fewshot": 0,
            "limit": config.limit,
            "n": len(documents),
            "bytes": sum(row["num_bytes"] for row in documents),
            "apply_chat_template": False,
            "template_digest": None,
            "truncated": 0,
        }
        | subject.settings
    ]
