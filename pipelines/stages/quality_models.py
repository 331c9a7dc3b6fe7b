"""What quality filters take from other artifacts: made ready once by the data job, and used by all of its parts."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cleaning.kernels import joined
from pipelines.cleaning.ngrams import NgramModel
from pipelines.cleaning.quality import Batch, Judge
from pipelines.data.rows import read_rows
from pipelines.errors import DataError
from pipelines.recipe.quality import Classifier, Perplexity, Quality
from pipelines.recipe.quality_fits import label_fault
from pipelines.stages.base import StageContext

HELD_BYTES = 10_000_000
"""Of held-out texts of a reference that its percentiles are taken of, at most."""
SHOWN = (50, 90, 99)

Ready = Mapping[str, Any]
"""Filter -> what its judge is made of, as JSON: part of what decides a part."""


def prepare(ctx: StageContext, quality: Quality) -> Ready:
    """Train and find what the filters need. DataError where they cannot judge."""
    ready = {}
    if quality.perplexity:
        ready["perplexity"] = _perplexity(ctx, quality.perplexity)
    if quality.classifier:
        ready["classifier"] = _classifier(ctx, quality.classifier)
    return ready


def judges(ready: Ready) -> dict[str, Judge]:
    """The judges of these filters, in a worker."""
    found: dict[str, Judge] = {}
    if "perplexity" in ready:
        found["perplexity"] = _by_perplexity(ready["perplexity"])
    if "classifier" in ready:
        found["classifier"] = _by_classifier(ready["classifier"])
    return found


# --- perplexity -------------------------------------------------------------------------------------------------------


def _perplexity(ctx: StageContext, config: Perplexity) -> dict[str, Any]:
    folder, path = ctx.inputs["reference"], ctx.checkpoints / "ngrams.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    model = NgramModel.of(_texts(folder, "train", config.reference_size))
    model.save(path)
    limit = config.max_perplexity
    held = [model.perplexities(*joined(batch)) for batch in _texts(folder, "holdout", HELD_BYTES)]
    values = np.concatenate(held) if held else np.zeros(0)
    values = values[np.isfinite(values)]
    if config.percentile is not None:
        if not len(values):
            raise DataError(
                f"perplexity: dataset '{config.reference}' has no holdout to take a percentile of; give it a "
                "`holdout`, or max_perplexity in place of percentile"
            )
        limit = float(np.percentile(values, config.percentile))
    if len(values):
        shown = ", ".join(f"{share} % below {np.percentile(values, share):.0f}" for share in SHOWN)
        print(
            f"note: perplexity of held-out texts of '{config.reference}': {shown}; the limit is {limit:.4g}", flush=True
        )
    digest = hashlib.sha256(model.table.tobytes()).hexdigest()
    return {"path": str(path), "digest": digest, "most": limit, "least": config.min_perplexity}


def _texts(folder: Path, split: str, most: int) -> Iterator[list[str]]:
    """Batches of texts of a data artifact, up to a size in bytes."""
    left = most
    for batch in read_rows(folder, split):
        texts = []
        for row in batch:
            if left <= 0:
                break
            texts.append(row["text"])
            left -= len(row["text"].encode())
        yield texts
        if left <= 0:
            return


@lru_cache(maxsize=1)
def _ngrams(path: str, digest: str) -> NgramModel:
    """Once for all parts of a process."""
    return NgramModel.load(Path(path))


def _by_perplexity(ready: Mapping[str, Any]) -> Judge:
    model, least, most = _ngrams(ready["path"], ready["digest"]), ready["least"], ready["most"]

    def judge(batch: Batch) -> list[str | None]:
        return [_fault("perplexity", value, least, most) for value in model.perplexities(*batch.joined).tolist()]

    return judge


def _fault(name: str, value: float, least: float, most: float) -> str | None:
    if value > most:
        return f"{name} {value:.4g} > {most:.4g}"
    return f"{name} {value:.4g} < {least:g}" if value < least else None


# --- classifier -------------------------------------------------------------------------------------------------------


def _classifier(ctx: StageContext, config: Classifier) -> dict[str, Any]:
    base = ctx.inputs.get("classifier.base")
    folder = ctx.inputs.get("classifier") or Path(ctx.job.named_files["classifier.0"]).parent
    if base is None and (fault := label_fault(folder, str(config.label))):
        raise DataError(f"classifier: {fault}")
    ready = {"folder": str(folder), "base": str(base) if base else None, "label": str(config.label)}
    return ready | {"max_length": config.max_length, "least": config.min_probability}


@lru_cache(maxsize=1)
def _text_classifier(settings: str) -> Any:
    """Once for all parts of a process."""
    from pipelines.evaluation.text_classifier import TextClassifier  # torch takes seconds, and other data need none

    values = json.loads(settings)
    base = Path(values["base"]) if values["base"] else None
    return TextClassifier.load(Path(values["folder"]), base, values["label"], max_length=values["max_length"])


def _by_classifier(ready: Mapping[str, Any]) -> Judge:
    least = ready["least"]
    model = _text_classifier(json.dumps({name: value for name, value in ready.items() if name != "least"}))

    def judge(batch: Batch) -> list[str | None]:
        values = model.probabilities(batch.texts).tolist()
        return [_fault("probability", value, least, 1.0) for value in values]

    return judge
