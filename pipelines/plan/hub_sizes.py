"""What the Hub says of a dataset's size: from its card in this machine's cache, or from the Hub where it answers."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

from pipelines.plan.sizes import Source
from pipelines.recipe.data import Dataset

PATIENCE_SECONDS = 0.5
"""For all datasets together: whoever plans waits."""
UNKNOWN = Source("unknown until fetched")


def of_hub(datasets: Mapping[str, Dataset]) -> dict[str, Source]:
    """What is known of each dataset that lies on the Hub, by any names."""
    cards: dict[str, Any] = {name: _cached(dataset) for name, dataset in datasets.items()}
    waiting = []
    if not _is_offline():
        for name in [name for name, card in cards.items() if card is None]:
            thread = Thread(target=_ask, args=(datasets[name], cards, name), daemon=True)
            thread.start()
            waiting.append(thread)
    until = time.monotonic() + PATIENCE_SECONDS
    for thread in waiting:
        thread.join(max(0.0, until - time.monotonic()))
    return {name: _of_card(dataset, cards[name]) for name, dataset in datasets.items()}


def _is_offline() -> bool:
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def _cached(dataset: Dataset) -> Any:
    """The metadata at the top of the card, if the card is here."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    repo = cache / f"datasets--{(dataset.hub or '').replace('/', '--')}"
    try:
        text = (repo / "snapshots" / (dataset.revision or "") / "README.md").read_text(encoding="utf-8")
    except OSError:
        return None
    from ruamel.yaml import YAML, YAMLError

    top = text.removeprefix("﻿").split("\n---", 1)[0].removeprefix("---")
    try:
        return YAML(typ="safe", pure=True).load(top) or {}
    except YAMLError:
        return None


def _ask(dataset: Dataset, cards: dict[str, Any], name: str) -> None:
    """Without an account: what is not public stays unknown."""
    from urllib.request import urlopen  # it brings what encrypts, which takes a while

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    at = f"/revision/{dataset.revision}" if dataset.revision else ""
    try:
        with urlopen(f"{endpoint}/api/datasets/{dataset.hub}{at}", timeout=PATIENCE_SECONDS) as answer:
            cards[name] = json.loads(answer.read()).get("cardData") or {}
    except (OSError, ValueError):
        return


def _of_card(dataset: Dataset, card: Any) -> Source:
    info = _info(card, dataset.subset)
    try:
        splits = {split["name"]: split for split in info["splits"]}
        wanted = [splits[name] for name in (dataset.split, dataset.holdout_split) if name]
        whole = sum(split["num_bytes"] for split in splits.values())
        text, rows = (sum(int(split[field]) for split in wanted) for field in ("num_bytes", "num_examples"))
        fetched = int(info["download_size"]) * text / max(1, whole)
    except (KeyError, TypeError, ValueError):
        return UNKNOWN
    part = min(1.0, dataset.limit / rows) if dataset.limit and rows else 1.0
    return Source(
        basis="the Hub's card" + (f", for about {dataset.limit:,} rows" if part < 1 else ""),
        bytes_in=int(fetched * part),
        unpacked={"hub": int(text * part)},
        text=int(text * part),
        rows=round(rows * part),
    )


def _info(card: Any, subset: str | None) -> Mapping[str, Any]:
    """What the card says of one configuration."""
    found = card.get("dataset_info") if isinstance(card, Mapping) else None
    infos = [info for info in (found if isinstance(found, list) else [found]) if isinstance(info, Mapping)]
    named = [info for info in infos if info.get("config_name", "default") == (subset or "default")]
    return (named or (infos if len(infos) == 1 and subset is None else [{}]))[0]
