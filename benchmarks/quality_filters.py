"""All quality filters together, one after the other over documents of about 3 kB: megabytes in a second of processor.

    python benchmarks/quality_filters.py --data FOLDER --size 32M

Prints one JSON object, in megabytes for each second of processor time. `mb_per_cpu_second` is the chain of every filter
that needs nothing but a text, with thresholds that leave most of the text to the filters behind; `with_perplexity` the
same with that filter, whose model is learnt from the first half of the texts (`learning_perplexity`). `alone` is each
filter by itself."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import documents, num_bytes

from pipelines.cleaning.ngrams import NgramModel
from pipelines.cleaning.quality import Quality
from pipelines.data.rows import batches
from pipelines.recipe.data import Dataset
from pipelines.stages.quality_models import judges

KINDS = (
    *("repair", "bad_characters", "unwrap", "lines", "length", "gopher_quality", "gopher_repetition", "fineweb"),
    *("language", "personal_data"),
)
KEEP_ALL = {
    "lines": {"min_words": 0, "terminal_punctuation": False},
    "language": {"keep": ["en"], "min_probability": 0.0},
    "perplexity": {"reference": "texts", "max_perplexity": 1e9},
}
"""Where a filter's own defaults would leave the next ones less text, or none are."""


def chain(kinds: Sequence[str], perplexity: Mapping[str, Any] | None = None) -> Quality:
    """Filters with their defaults. `perplexity`: what that filter's judge is made of."""
    filters = [{"kind": kind, **KEEP_ALL.get(kind, {})} for kind in kinds]
    dataset = Dataset.model_validate({"builtin": "microworld/text", "quality": filters})
    assert dataset.quality is not None
    return Quality(dataset.quality, judges({"perplexity": perplexity} if perplexity else {}))


def learnt(texts: Sequence[str], folder: Path) -> tuple[dict[str, Any], float]:
    """(what the judge of the filter perplexity is made of, processor seconds of learning its model)"""
    NgramModel.of([texts[:10]])  # compiles
    started = time.process_time()
    model = NgramModel.of(batches(texts, size=len))
    seconds = time.process_time() - started
    model.save(folder / "ngrams.npz")
    return {"path": str(folder / "ngrams.npz"), "digest": "", "most": 1e9, "least": 0.0}, seconds


def cpu_seconds(quality: Quality, texts: Sequence[str]) -> float:
    """For all texts, in batches as the data stage makes them."""
    started = time.process_time()
    for batch in batches(texts, size=len):
        quality(batch)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a text file or a folder of .txt or .txt.gz")
    parser.add_argument("--size", default="8M", help="bytes of text")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    texts, size = [], 0
    for text in documents(options.data):
        if size >= num_bytes(options.size):
            break
        texts.append(text)
        size += len(text.encode())
    half = texts[: len(texts) // 2]
    with tempfile.TemporaryDirectory() as name:
        ready, seconds = learnt(half, Path(name))
        chains = {"all": chain(KINDS), "with_perplexity": chain([*KINDS, "perplexity"], ready)}
        chains |= {kind: chain([kind]) for kind in KINDS} | {"perplexity": chain(["perplexity"], ready)}
    for quality in chains.values():
        quality(texts[:100])  # compiles, and reads the model of languages
    speeds = {
        name: round(size / 1e6 / statistics.median(cpu_seconds(quality, texts) for _ in range(options.repeats)), 1)
        for name, quality in chains.items()
    }
    dropped = sum(verdict.reason is not None for verdict in chains["all"](texts))
    report = {"mb": round(size / 1e6, 1), "documents": len(texts), "dropped": dropped}
    report |= {"mb_per_cpu_second": speeds.pop("all"), "with_perplexity": speeds.pop("with_perplexity")}
    report["learning_perplexity"] = round(sum(len(text.encode()) for text in half) / 1e6 / seconds, 1)
    print(json.dumps(report | {"alone": speeds}))


if __name__ == "__main__":
    main()
