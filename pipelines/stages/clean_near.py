"""A step of cleaning: rows that are nearly the same as one that stays go (MinHash with locality-sensitive hashing)."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cleaning import near
from pipelines.cleaning.exact import key_of
from pipelines.cleaning.verdicts import Verdicts
from pipelines.data.corpus import ANSWERS, Corpus, read_part
from pipelines.data.formats import CONTENT, Row, said
from pipelines.recipe.deduplicate import Deduplicate
from pipelines.stages.clean_steps import Shards

REASON = "near_duplicate"
SAMPLED, LEAST = 4_000, 50
"""Rows of each source, about, that are looked at for shingles of templates, and rows of all that one must be in."""
MANY = 200_000
"""Rows from which on bands are looked at in parts, and how many those are."""
PARTS = 8
PIECES = ("signatures", "long", "equal")
"""Files of a part, with what is known of each row."""


def remove_near_duplicates(
    corpus: Corpus, verdicts: Verdicts, shards: Shards, format: str, config: Deduplicate
) -> None:
    """256 bytes on the disk for each text of each row of the corpus, and 80 bytes of memory; no pair of rows is looked
    at that agrees in no band."""
    common = _common(corpus, shards, format, config.template_share)
    print(f"{len(common):,} shingles are taken for those of templates", flush=True)
    (folder := shards.ctx.checkpoints / "near").mkdir(exist_ok=True)
    np.save(folder / "common.npy", common)
    settings = {"format": format, "min_words": config.near_min_words, "common": str(folder / "common.npy")}
    settings["common_digest"] = hashlib.sha256(common.tobytes()).hexdigest()
    made = shards.make("signatures", _signatures, [part | settings for part in corpus.parts()])
    if not made:
        return
    table = _joined(made, folder, corpus.rows)
    bands = {"folder": str(folder), "own": corpus.own, "common": settings["common_digest"]}
    bands |= {"settings": [format, config.near_min_words, corpus.rows]}
    if format in ANSWERS:  # first what a holdout asks, whatever it answers
        asked = {"of": "holdout", "texts": len(CONTENT[format])}
        _remove(corpus, verdicts, shards, table, bands | asked, config.near)
    _remove(corpus, verdicts, shards, table, bands | {"of": "all", "texts": table.shape[1] // near.SLOTS}, config.near)


def _remove(
    corpus: Corpus, verdicts: Verdicts, shards: Shards, table: np.ndarray, part: Mapping[str, Any], threshold: float
) -> None:
    """The dataset's own rows that are near one that stays; `of`: one of a holdout, or any."""
    looked = np.ones(corpus.rows, bool)
    if part["of"] == "holdout":
        looked = np.repeat([source.split == "holdout" for source in corpus.sources], np.diff(corpus.starts))
    looked[corpus.own :] = verdicts.kept
    name, folder = f"bands-{part['of']}", Path(part["folder"])
    np.save(folder / f"looked-{part['of']}.npy", looked)
    parts = PARTS if corpus.rows > MANY else 1
    bands = [
        {**part, "looked": verdicts.digest(), "bands": list(range(number, near.BANDS, parts))}
        for number in range(parts)
    ]
    pairs = np.unique(np.concatenate([np.load(path / "pairs.npy") for path in shards.make(name, _bands, bands)]))
    if part["of"] == "holdout":
        pairs = pairs[pairs % corpus.rows < corpus.own]
    equal = np.load(folder / "equal.npy")[:, int(part["of"] == "holdout")]
    rows, like = near.copies(pairs, table, equal, corpus.own, threshold, part["texts"])
    places = corpus.source_of(like)
    for place in np.unique(places).tolist():
        of_it = places == place
        verdicts.remove(rows[of_it] - corpus.own, REASON, corpus.sources[place].name, like[of_it])


def texts_of(format: str, row: Row) -> list[str]:
    """The texts of a row that must each be near those of another, first those that it asks: of a chat what the
    assistant says, and all else."""
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
        return [row["text"], row["text_pair"] or ""]
    if format == "pairs":
        return [row["source"], row["target"]]
    return ["\n".join(said(format, row))]


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
    """Of the rows of a part: signatures.npy, shape (rows, texts * 256), uint8; long.npy, (rows,), uint8, with a bit for
    each long text; equal.npy, (rows, 2), uint64: what must be the same of all that a row says, and of what it asks."""
    format, common, found = part["format"], np.load(part["common"]), list[tuple[np.ndarray, ...]]()
    for batch in read_part(part):
        columns = zip(*(texts_of(format, row) for row in batch), strict=True)
        slots, long = zip(*(near.signatures(column, part["min_words"], common) for column in columns), strict=True)
        bits = sum(is_long.astype(np.uint8) << text for text, is_long in enumerate(long))
        asked = len(CONTENT[format]) if format in ANSWERS else len(slots)
        short = [np.where(is_long[:, None], 0, made[:, :8]) for made, is_long in zip(slots, long, strict=True)]
        said_short = map(bytes, np.stack(short, axis=1))
        equal = [_equal(format, row, one, asked) for row, one in zip(batch, said_short, strict=True)]
        found.append((np.concatenate(slots, axis=1), bits, np.frombuffer(b"".join(equal), np.uint64).reshape(-1, 2)))
    for name, arrays in zip(PIECES, zip(*found, strict=True), strict=True):
        np.save(folder / f"{name}.npy", np.concatenate(arrays))


def _equal(format: str, row: Row, short: bytes, asked: int) -> bytes:
    """16 bytes, of which the first 8 stand for the short texts of a row and its answer, the others for those that it
    asks. `short`: 8 bytes for each text, zeros where it is long."""
    answer = key_of(row[ANSWERS[format]]) if format in ANSWERS and format != "pairs" else b""
    return b"".join(hashlib.blake2b(said, digest_size=8).digest() for said in (short + answer, short[: 8 * asked]))


def _joined(folders: Sequence[Path], into: Path, rows: int) -> np.ndarray:
    """What all parts have of each row in one file each; returns the signatures, mapped into memory."""
    for name in PIECES:
        parts = [np.load(folder / f"{name}.npy", mmap_mode="r") for folder in folders]
        shape, start = (rows, *parts[0].shape[1:]), 0
        whole = np.lib.format.open_memmap(into / f"{name}.npy", mode="w+", dtype=parts[0].dtype, shape=shape)
        for part in parts:
            whole[start : start + len(part)] = part
            start += len(part)
        whole.flush()
    return np.load(into / f"{PIECES[0]}.npy", mmap_mode="r")


def _bands(part: Mapping[str, Any], folder: Path) -> None:
    """pairs.npy of some bands, distinct and sorted; 8 bytes of memory for each row beside them."""
    made = Path(part["folder"])
    table, long, equal = (np.load(made / f"{name}.npy", mmap_mode="r") for name in PIECES)
    looked, found = np.load(made / f"looked-{part['of']}.npy"), [np.zeros(0, np.int64)]
    keys = near.band_keys(table, equal[:, int(part["of"] == "holdout")], long, part["bands"], part["texts"])
    for rows, of_rows in keys:
        some = looked[rows]
        found.append(near.candidates(of_rows[some], rows[some], part["own"], len(table)))
    np.save(folder / "pairs.npy", np.unique(np.concatenate(found)))
