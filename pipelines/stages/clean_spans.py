"""A step of cleaning: long runs of words that stood before, in the same text or in another, are cut out of texts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cleaning import spans
from pipelines.cleaning.verdicts import Verdicts
from pipelines.data.corpus import Corpus, read_part
from pipelines.recipe.deduplicate import Deduplicate
from pipelines.stages.clean_steps import Shards

REASON = "repeated_span"
AT_ONCE = 1 << 25
"""Fingerprints that are sorted together, about: 2 GB of memory, 2.5 GB of text."""


def cut_repeated_spans(corpus: Corpus, verdicts: Verdicts, shards: Shards, config: Deduplicate) -> None:
    """Of each run the first occurrence stays. 0.9 bytes on the disk for each byte of text of the corpus, and 8 bytes of
    memory for each row; fingerprints are compared some at once."""
    assert config.spans is not None
    parts = [part | {"spans": config.spans} for part in corpus.parts()]
    if not parts:
        return
    made = shards.make("words", _words, parts)
    (folder := shards.ctx.checkpoints / "spans").mkdir(exist_ok=True)
    words, starts = _joined(made, folder)
    stays = np.ones(corpus.rows, bool)
    stays[corpus.own :] = verdicts.kept
    np.save(folder / "stays.npy", stays)
    fingerprints = sum(json.loads((path / "size.json").read_text())["fingerprints"] for path in made)
    several = 1 + fingerprints // AT_ONCE
    common = {"folders": list(map(str, made)), "made": str(folder), "stays": verdicts.digest(), "own": corpus.own}
    ranges = [common | {"range": number, "of": several} for number in range(several)]
    pairs = np.concatenate([np.load(path / "pairs.npy") for path in shards.make("repeated", _repeated, ranges)])
    found = spans.runs(pairs[np.argsort(pairs[:, 0], kind="stable")], words, starts, config.spans)
    _judge(found, corpus, verdicts, np.diff(starts)[corpus.own :], config.spans_min_words)


def _judge(found: np.ndarray, corpus: Corpus, verdicts: Verdicts, sizes: np.ndarray, least: int) -> None:
    """Cut the runs; rows of which too little is left go."""
    rows, lengths = found[:, 0] - corpus.own, found[:, 2] - found[:, 1]
    left = sizes - np.bincount(rows, weights=lengths, minlength=len(sizes)).astype(np.int64)
    goes = left[rows] < least
    places, first = corpus.source_of(found[:, 3]), np.ones(len(rows), bool)
    first[1:] = rows[1:] != rows[:-1]
    for place in np.unique(places).tolist():
        name, of_it = corpus.sources[place].name, places == place
        some = of_it & ~goes
        verdicts.cut(np.stack([rows, found[:, 1], found[:, 2]], axis=1)[some], name)
        some = of_it & goes & first
        verdicts.remove(rows[some], REASON, name, found[some, 3])


# --- parts --------------------------------------------------------------------------------------------------------


def _words(part: Mapping[str, Any], folder: Path) -> None:
    """words.npy, sizes.npy and fingerprints.npy of a part; places are counted from its first word."""
    size, window = spans.sizes_of(part["spans"])
    words, sizes, found, before = list[np.ndarray](), list[np.ndarray](), list[np.ndarray](), 0
    for batch in read_part(part):
        some, counts, fingerprints = spans.words_of([row["text"] for row in batch], size, window)
        fingerprints["place"] += before
        before += len(some)
        words.append(some)
        sizes.append(counts)
        found.append(fingerprints)
    np.save(folder / "words.npy", np.concatenate(words))
    np.save(folder / "sizes.npy", np.concatenate(sizes))
    np.save(folder / "fingerprints.npy", together := np.concatenate(found))
    (folder / "size.json").write_text(json.dumps({"words": before, "fingerprints": len(together)}))


def _joined(folders: Sequence[Path], into: Path) -> tuple[np.ndarray, np.ndarray]:
    """(all words, mapped into memory; the place of each row's first word, and of the end)"""
    sizes = np.concatenate([np.load(folder / "sizes.npy") for folder in folders])
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    np.save(into / "starts.npy", starts)
    words = np.lib.format.open_memmap(into / "words.npy", mode="w+", dtype=np.uint32, shape=(max(1, int(starts[-1])),))
    place = 0
    for folder in folders:
        part = np.load(folder / "words.npy", mmap_mode="r")
        words[place : place + len(part)] = part
        place += len(part)
    words.flush()
    return words, starts


def _repeated(part: Mapping[str, Any], folder: Path) -> None:
    """pairs.npy of the fingerprints in a range of hashes, of rows that stay."""
    made = Path(part["made"])
    starts, stays, before, found = np.load(made / "starts.npy"), np.load(made / "stays.npy"), 0, list[np.ndarray]()
    for path in map(Path, part["folders"]):
        some = np.load(path / "fingerprints.npy")
        some = some[some["hash"] % np.uint64(part["of"]) == part["range"]]
        some["place"] += before
        before += json.loads((path / "size.json").read_text())["words"]
        found.append(some[stays[np.searchsorted(starts, some["place"], side="right") - 1]])
    np.save(folder / "pairs.npy", spans.repeated(np.concatenate(found), int(starts[part["own"]])))
