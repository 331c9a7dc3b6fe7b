"""Deduplication: MB/s of one core, recall of planted near copies against the curve that is expected, false removals.

    python benchmarks/dedup.py                                    a text that is made here
    python benchmarks/dedup.py --data folder --sizes 10 100 1000  real text (.txt, .txt.gz), so many MB

Documents are 500 words each. For each Jaccard similarity some get a copy in which so many words are replaced that the
two have it; both stand in one dataset, which goes through the clean stage. So do texts with a run of 50 to 199 words of
another: they are what is to be cut, beside what near copies share. The similarity of each pair, and of each
removed row with what it is said to be like, is computed exactly. Where there is less text than asked for, its documents
come again with their words in another order. Seconds are of the processor. Prints one JSON object.
"""

import argparse
import contextlib
import gzip
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cleaning import near
from pipelines.data.row_writer import RowWriter
from pipelines.data.rows import read_rows
from pipelines.plan.jobs import CleanJob, Job
from pipelines.recipe.deduplicate import Deduplicate
from pipelines.stages import clean, clean_exact, clean_near, clean_spans
from pipelines.stages.base import StageContext

WORDS = 500
SIMILARITIES = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
PLANTED = 300
"""Pairs of each similarity, and texts with a repeated run of words."""
RUN = 50
"""Words of the shortest run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of .txt or .txt.gz, or one such file")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 30], help="MB of text")
    options = parser.parse_args()
    words = _words(options.data)
    with contextlib.redirect_stdout(sys.stderr):  # what stages say
        _timed(words, 1, planted=10)  # compiles
        found = {f"{size} MB": _timed(words, size, planted=PLANTED) for size in options.sizes}
    print(json.dumps({"expected": {s: round(_expected(s), 4) for s in SIMILARITIES}, **found}, indent=1))


def _expected(similarity: float) -> float:
    """Probability that two texts agree in a band."""
    return 1 - (1 - similarity**near.ROWS) ** near.BANDS


def _timed(words: list[str], size: int, *, planted: int) -> dict[str, Any]:
    documents, pairs = _with_copies(words, size * 1_000_000, planted)
    documents, rests = _with_runs(documents, planted)
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset"
        num_bytes = _write(dataset, documents)
        seconds = {name: _step(Path(folder), dataset, name) for name in ("exact", "near", "spans")}
        before = time.process_time()
        output, info = _clean(Path(folder) / "whole", dataset, Deduplicate())
        seconds["whole, without spans"] = time.process_time() - before
        kept = {row["text"] for batch in read_rows(output, "train") for row in batch}
        removed = {place for place, text in enumerate(documents) if text not in kept}
        del kept
        output, info = _clean(Path(folder) / "cut", dataset, Deduplicate(spans=RUN))
        cut = {row["text"] for batch in read_rows(output, "train") for row in batch} & {*rests}
    facts: dict[str, Any] = {"documents": len(documents), "megabytes": round(num_bytes / 1e6, 1)}
    facts["megabytes_per_second"] = {name: round(num_bytes / 1e6 / spent, 1) for name, spent in seconds.items()}
    facts["microseconds_per_document"] = {name: round(1e6 * t / len(documents), 1) for name, t in seconds.items()}
    facts["share_a_band"] = {similarity: _candidates(documents, some) for similarity, some in pairs.items()}
    facts["recall"] = {
        similarity: round(sum(copy in removed for _, copy in some) / len(some), 4) for similarity, some in pairs.items()
    }
    exact = {copy: _jaccard(documents[place], documents[copy]) for some in pairs.values() for place, copy in some}
    false = [place for place in removed if exact.get(place, 0.0) < Deduplicate().near]
    facts["removed_below_threshold"] = {
        "rows": len(false),
        "share": round(len(false) / len(documents), 6),
        "lowest_similarity": round(min((exact.get(place, 0.0) for place in false), default=1.0), 3),
    }
    facts["runs"] = {"planted": len(rests), "cut_whole": len(cut), "all": info["cut"]["runs"]}
    return facts


# --- documents --------------------------------------------------------------------------------------------------------


def _words(data: Path | None) -> list[str]:
    if data is None:
        names = random.Random(0)
        known = ["".join(names.choices("etaoinshrdlu", k=names.randint(2, 9))) for _ in range(20_000)]
        return names.choices(known, weights=[1 / rank for rank in range(1, len(known) + 1)], k=2_000_000)
    files = sorted([*data.glob("*.txt"), *data.glob("*.txt.gz")]) if data.is_dir() else [data]
    texts = [gzip.decompress(raw) if (raw := path.read_bytes())[:2] == b"\x1f\x8b" else raw for path in files]
    return " ".join(text.decode(errors="replace") for text in texts).split()


def _documents(words: list[str]) -> Iterator[str]:
    draw = random.Random(1)
    for again in range(10_000):
        for start in range(0, len(words) - WORDS, WORDS):
            some = words[start : start + WORDS]
            if again:
                draw.shuffle(some)
            yield " ".join(some)


def _with_copies(words: list[str], size: int, planted: int) -> tuple[list[str], dict[float, list[tuple[int, int]]]]:
    """Documents of about `size` bytes, then copies; of each similarity the numbers of a document and its copy."""
    documents, total = list[str](), 0
    for text in _documents(words):
        documents.append(text)
        total += len(text)
        if total >= size:
            break
    draw, pairs, places = random.Random(2), dict[float, list[tuple[int, int]]](), iter(range(len(documents)))
    planted = min(planted, len(documents) // len(SIMILARITIES))
    for similarity in SIMILARITIES:
        pairs[similarity] = []
        for place in (next(places) for _ in range(planted)):
            documents.append(_changed(documents[place], similarity, draw))
            pairs[similarity].append((place, len(documents) - 1))
    return documents, pairs


def _candidates(documents: list[str], pairs: list[tuple[int, int]]) -> float:
    """Share of pairs that agree in a band."""
    both, _ = near.signatures([documents[place] for pair in pairs for place in pair], 5, np.zeros(0, np.uint64))
    bands = both.view(np.uint64)
    return round(float((bands[::2] == bands[1::2]).any(axis=1).mean()), 4)


def _with_runs(documents: list[str], planted: int) -> tuple[list[str], list[str]]:
    """Documents, and then some that hold a run of words of one of these among their own; and these without the runs."""
    draw, found, rests = random.Random(3), list[str](), list[str]()
    for number in range(planted):
        length = draw.randrange(RUN, 4 * RUN)
        run = documents[number].split()[20 : 20 + length]
        own = [f"own{number}x{draw.randrange(1000)}" for _ in range(WORDS - length)]
        found.append(" ".join([*own[:100], *run, *own[100:]]))
        rests.append(" ".join(own))
    return [*documents, *found], rests


def _changed(text: str, similarity: float, draw: random.Random) -> str:
    """With words replaced one by one until the two are no more alike than that."""
    words, places = text.split(), list(range(2, WORDS, near.SHINGLE))
    draw.shuffle(places)
    most = round(WORDS * (1 - similarity) / (1 + similarity) / near.SHINGLE)
    for place in places[:most]:
        words[place] = f"changed{place}"
    return " ".join(words)


def _jaccard(one: str, other: str) -> float:
    first, second = (
        {tuple(words[at : at + near.SHINGLE]) for at in range(len(words) - near.SHINGLE + 1)}
        for words in (one.lower().split(), other.lower().split())
    )
    return len(first & second) / len(first | second)


# --- the stage --------------------------------------------------------------------------------------------------------


def _write(folder: Path, documents: list[str]) -> int:
    """A data artifact."""
    folder.mkdir()
    with RowWriter(folder, "train", "text") as writer:
        for text in documents:
            writer.append({"text": text})
    info = {"format": "text", "rows_in": writer.rows, "rows_used": writer.rows, "train": writer.rows}
    (folder / "info.json").write_text(json.dumps(info | {"holdout": 0, "bytes": writer.bytes, "dropped": {}}))
    return writer.bytes


def _context(workdir: Path, dataset: Path, config: Deduplicate) -> StageContext:
    job = Job(name="clean-x", stage="x", config=CleanJob(format="text", deduplicate=config), seed=None)
    ctx = StageContext(job=job, inputs={"dataset": dataset}, workdir=workdir)
    for folder in (ctx.output, ctx.checkpoints, ctx.record):
        folder.mkdir(parents=True)
    return ctx


def _step(folder: Path, dataset: Path, name: str) -> float:
    """Seconds of one step alone."""
    config = Deduplicate(spans=RUN)
    ctx = _context(folder / name, dataset, config)
    corpus, shards = clean.Corpus(ctx.inputs), clean.Shards(ctx)
    verdicts = clean.Verdicts(corpus.rows - corpus.own)
    before = time.process_time()
    if name == "exact":
        clean_exact.remove_duplicates(corpus, verdicts, shards, "text")
    elif name == "near":
        clean_near.remove_near_duplicates(corpus, verdicts, shards, "text", config)
    else:
        clean_spans.cut_repeated_spans(corpus, verdicts, shards, config)
    return time.process_time() - before


def _clean(workdir: Path, dataset: Path, config: Deduplicate) -> tuple[Path, dict[str, Any]]:
    ctx = _context(workdir, dataset, config)
    clean.run(ctx)
    return ctx.output, json.loads((ctx.output / "info.json").read_text())


if __name__ == "__main__":
    main()
