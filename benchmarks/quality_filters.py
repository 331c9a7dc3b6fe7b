"""All quality filters together, one after the other over documents of about 3 kB: megabytes in a second of processor.

    python benchmarks/quality_filters.py --data FOLDER --size 32M

Prints one JSON object. `mb_per_cpu_second` is that of the chain with every filter that there is, in `dry` mode: no text
is left out by an earlier filter, so that all of them see all texts. `alone` is the speed of each filter by itself."""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import documents, num_bytes

from pipelines.cleaning.quality import Quality
from pipelines.data.rows import batches
from pipelines.recipe.data import Dataset

KINDS = (
    *("repair", "bad_characters", "lines", "length", "gopher_quality", "gopher_repetition", "fineweb", "language"),
    "personal_data",
)
KEEP_ALL = {
    "lines": {"min_words": 0, "terminal_punctuation": False},
    "language": {"keep": ["en"], "min_probability": 0.0},
}
"""Where a filter's own defaults would leave the next ones less text, or none are."""


def chain(kinds: Sequence[str]) -> Quality:
    """Filters with their defaults."""
    filters = [{"kind": kind, **KEEP_ALL.get(kind, {})} for kind in kinds]
    dataset = Dataset.model_validate({"builtin": "microworld/text", "quality": filters})
    assert dataset.quality is not None
    return Quality(dataset.quality)


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
    chains = {"all": chain(KINDS)} | {kind: chain([kind]) for kind in KINDS}
    for quality in chains.values():
        quality(texts[:100])  # compiles, and reads the model of languages
    speeds = {
        name: round(size / 1e6 / statistics.median(cpu_seconds(quality, texts) for _ in range(options.repeats)), 1)
        for name, quality in chains.items()
    }
    dropped = sum(verdict.reason is not None for verdict in chains["all"](texts))
    report = {"mb": round(size / 1e6, 1), "documents": len(texts), "dropped": dropped}
    print(json.dumps(report | {"mb_per_cpu_second": speeds.pop("all"), "alone": speeds}))


if __name__ == "__main__":
    main()
