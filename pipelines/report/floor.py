"""The entropy of the built-in text: what no model gets below, since every text comes from known draws."""

import math
from functools import cache

from pipelines.data import microworld
from pipelines.report.collect import Report

BUILTIN = "microworld/text"
MOST_TEXTS = 500
"""Texts whose cost is added up, at most: a thousand take seconds."""


def bits_per_byte(report: Report, dataset: str, texts: int, *, with_end: bool) -> float | None:
    """Of the first texts of a dataset's holdout; None where they are not the built-in ones."""
    if report.resolved["data"].get(dataset, {}).get("builtin") != BUILTIN:
        return None
    return _nats_per_byte(min(texts, MOST_TEXTS), with_end) / math.log(2)


@cache
def _nats_per_byte(texts: int, with_end: bool) -> float:
    return microworld.floor_nats_per_byte(texts, with_end=with_end)
