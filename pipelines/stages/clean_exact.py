"""A step of cleaning: rows that say what another says go, whatever their case, white space and Unicode form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cleaning.exact import first_with
from pipelines.cleaning.verdicts import Verdicts
from pipelines.data.corpus import Corpus, read_part, row_keys
from pipelines.stages.clean_steps import Shards

REASON = "duplicate"


def remove_duplicates(corpus: Corpus, verdicts: Verdicts, shards: Shards, format: str) -> None:
    """First what a holdout asks, then what stood before in training. 128 bytes of memory for each row of the corpus."""
    parts = [part | {"format": format} for part in corpus.parts()]
    folders = shards.make("keys", _part, parts)
    keys = np.concatenate([np.zeros((0, 4), np.uint64), *(np.load(folder / "keys.npy") for folder in folders)])
    is_held = np.repeat([source.split == "holdout" for source in corpus.sources], np.diff(corpus.starts))
    own = np.arange(corpus.own, corpus.rows)
    _remove(np.concatenate([np.flatnonzero(is_held), own]), keys[:, 2:], is_held, corpus, verdicts)
    _remove(np.flatnonzero(~is_held), keys[:, :2], ~is_held, corpus, verdicts)


def _remove(rows: np.ndarray, keys: np.ndarray, wins: np.ndarray, corpus: Corpus, verdicts: Verdicts) -> None:
    """The dataset's own rows among these that have the key of one before them, where that is one that `wins`."""
    like = rows[first_with(keys[rows])]
    found = (rows >= corpus.own) & (like < rows) & wins[like]
    rows, like = rows[found], like[found]
    places = corpus.source_of(like)
    for place in np.unique(places).tolist():
        of_it = places == place
        verdicts.remove(rows[of_it] - corpus.own, REASON, corpus.sources[place].name, like[of_it])


def _part(part: Mapping[str, Any], folder: Path) -> None:
    """keys.npy of a part: of all that rows say, and of what they ask; shape (rows, 4), uint64."""
    keys = [b"".join(row_keys(part["format"], row)) for batch in read_part(part) for row in batch]
    np.save(folder / "keys.npy", np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 4))
