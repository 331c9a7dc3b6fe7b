"""A step of cleaning: rows that are nearly the same as one that stays go (MinHash with locality-sensitive hashing)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cleaning import near
from pipelines.cleaning.verdicts import Verdicts
from pipelines.data.corpus import Corpus, read_part
from pipelines.data.formats import Row, said
from pipelines.recipe.deduplicate import Deduplicate
from pipelines.stages.clean_steps import Shards

REASON = "near_duplicate"
SAMPLED, LEAST = 4_000, 50
"""Rows of each source, about, that are looked at for shingles of templates, and rows of all that one must be in."""
MANY = 200_000
"""Rows from which on bands are looked at in parts, and how many those are."""
PARTS = 8


def remove_near_duplicates(
    corpus: Corpus, verdicts: Verdicts, shards: Shards, format: str, config: Deduplicate
) -> None:
    """256 bytes on the disk for each text of each row of the corpus, and 60 bytes of memory; no pair of rows is looked
    at that agrees in no band."""
    common = _common(corpus, shards, format, config.template_share)
    print(f"{len(common):,} shingles are taken for those of templates", flush=True)
    (folder := shards.ctx.checkpoints / "near").mkdir(exist_ok=True)
    np.save(folder / "common.npy", common)
    settings = {"format": format, "min_words": config.near_min_words, "common": str(folder / "common.npy")}
    settings["common_digest"] = hashlib.sha256(common.tobytes()).hexdigest()
    made = shards.make("signatures", _signatures, [part | settings for part in corpus.parts()])
    table = _joined(made, folder / "table.npy", corpus.rows)
    if table is None:
        return
    stays = np.ones(corpus.rows, bool)
    stays[corpus.own :] = verdicts.kept
    np.save(folder / "stays.npy", stays)
    parts = PARTS if corpus.rows > MANY else 1
    bands = [
        {"folder": str(folder), "stays": verdicts.digest(), "own": corpus.own, "common": settings["common_digest"]}
        | {"bands": list(range(part, near.BANDS, parts)), "settings": [format, config.near_min_words, corpus.rows]}
        for part in range(parts)
    ]
    pairs = [np.load(folder / "pairs.npy") for folder in shards.make("bands", _bands, bands)]
    rows, like = near.copies(np.unique(np.concatenate(pairs)), table, corpus.own, config.near)
    places = corpus.source_of(like)
    for place in np.unique(places).tolist():
        of_it = places == place
        verdicts.remove(rows[of_it] - corpus.own, REASON, corpus.sources[place].name, like[of_it])


def texts_of(format: str, row: Row) -> list[str]:
    """The texts of a row that must each be near those of another: of a chat what the assistant says, and all else."""
    if format == "text":
        return [row["text"]]
    if format == "chat":
        sides = {True: list[str](), False: list[str]()}
        for turn in row["messages"]:
            sides[turn["role"] == "assistant"].append(turn["content"])
        return ["\n".join(sides[False]), "\n".join(sides[True])]
    if format == "preference":
        return ["\n".join(turn["content"] for turn in row[side]) for side in ("prompt", "chosen", "rejected")]
    if format == "labelled":
        return [row["text"], json.dumps([row["text_pair"], row["label"]])]
    if format == "pairs":
        return [row["source"], row["target"]]
    return ["\n".join(said(format, row)), row["columns"]]


# --- templates ----------------------------------------------------------------------------------------------------


def _common(corpus: Corpus, shards: Shards, format: str, share: float) -> np.ndarray:
    """Shingles of many rows, sorted: words of templates and page furniture, which make no two rows the same."""
    if share == 1:
        return np.zeros(0, np.uint64)
    steps = [1 + source.rows // SAMPLED for source in corpus.sources]
    parts = [part | {"format": format, "step": steps[part["source"]]} for part in corpus.parts()]
    folders, found = shards.make("sample", _sample, parts), [np.zeros(0, np.uint64)]
    for number, source in enumerate(corpus.sources):
        own = [folder for folder, part in zip(folders, parts, strict=True) if part["source"] == number]
        least = max(share * source.rows, LEAST) / steps[number]
        found.append(near.common_shingles([np.load(folder / "shingles.npy") for folder in own], least))
    return np.unique(np.concatenate(found))


def _sample(part: Mapping[str, Any], folder: Path) -> None:
    """shingles.npy of a part: the distinct ones of every so manieth row."""
    found, number = [np.zeros(0, np.uint64)], part["first"]
    for batch in read_part(part):
        some = batch[-number % part["step"] :: part["step"]]
        found.append(near.distinct_shingles(["\n".join(said(part["format"], row)) for row in some]))
        number += len(batch)
    np.save(folder / "shingles.npy", np.concatenate(found))


# --- signatures ---------------------------------------------------------------------------------------------------


def _signatures(part: Mapping[str, Any], folder: Path) -> None:
    """signatures.npy of a part: shape (rows, texts * 256), uint8."""
    common, found = np.load(part["common"]), list[np.ndarray]()
    for batch in read_part(part):
        columns = zip(*(texts_of(part["format"], row) for row in batch), strict=True)
        made = [near.signatures(column, part["min_words"], common) for column in columns]
        found.append(np.concatenate(made, axis=1))
    np.save(folder / "signatures.npy", np.concatenate(found))


def _joined(folders: Sequence[Path], path: Path, rows: int) -> np.ndarray | None:
    """The signatures of all parts in one file, mapped into memory; None where there is no row."""
    width = next((np.load(folder / "signatures.npy", mmap_mode="r").shape[1] for folder in folders), None)
    if width is None:
        return None
    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows, width))
    start = 0
    for folder in folders:
        part = np.load(folder / "signatures.npy", mmap_mode="r")
        table[start : start + len(part)] = part
        start += len(part)
    table.flush()
    return table


def _bands(part: Mapping[str, Any], folder: Path) -> None:
    """pairs.npy of some bands, distinct and sorted; 8 bytes of memory for each band and row."""
    made = Path(part["folder"])
    table, rows = np.load(made / "table.npy", mmap_mode="r"), np.flatnonzero(np.load(made / "stays.npy"))
    columns = [near.band_columns(table.shape[1] // near.SLOTS)[band] for band in part["bands"]]
    keys = table.view(np.uint64)[:, columns]
    found = [np.zeros(0, np.int64)]
    for place in range(len(columns)):
        found.append(near.candidates(keys[rows, place], rows, part["own"], len(table)))
    np.save(folder / "pairs.npy", np.unique(np.concatenate(found)))
