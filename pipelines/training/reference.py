"""DPO's reference: the log-probabilities that the starting model gives to every pair in use, computed once."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors.numpy import load_file, save_file

from pipelines.data.collate import PairCollator
from pipelines.store import durable
from pipelines.training import checkpoints
from pipelines.training.holdout import completion_logps, fixed_batches, in_order, scoring

FOLDER, SCORES = "reference", "scores.safetensors"


def reference_scores(
    model: torch.nn.Module,
    rows: Any,
    used: np.ndarray,
    *,
    name: str,
    pad_id: int,
    folder: Path,
    identity: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """(chosen, rejected), float32, one number per row; NaN for rows that are not in `used`.

    Published under `folder` when it is complete, and read from there when a killed run goes on. Batches are the same
    for every number of processes, which take turns with them. The model must still be the one the run starts from."""
    final = folder / f"{FOLDER}-{name}"
    if not _is_there(final):
        table = _score(model, rows, used, pad_id)
        if PartialState().is_main_process:
            _publish(table, final, identity)
        PartialState().wait_for_everyone()
    checkpoints.check_identity(final, identity)
    stored = load_file(final / SCORES)
    scores = np.full((2, len(rows)), np.nan, np.float32)
    scores[:, stored["rows"]] = stored["scores"]
    return scores[0], scores[1]


def _is_there(final: Path) -> bool:
    found = [False]
    if PartialState().is_main_process and final.exists():
        try:
            durable.verify(final)
            found = [True]
        except durable.Damaged as error:
            print(f"damaged reference scores are computed again: {error}", flush=True)
    return bool(broadcast_object_list(found, from_process=0)[0])


def _score(model: torch.nn.Module, rows: Any, used: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    state, collator, parts = PartialState(), PairCollator(pad_id, with_completion_mask=True), []
    with scoring(model) as device:
        for number, batch in enumerate(fixed_batches(2 * rows.longest[used])):
            if number % state.num_processes == state.process_index:
                places = used[batch]
                moved = {key: value.to(device) for key, value in collator([rows[row] for row in places]).items()}
                both = completion_logps(model, moved).reshape(2, -1)
                parts.append((number, (places.tolist(), both.cpu().tolist())))
    scored = in_order(parts)
    return {
        "rows": np.concatenate([np.zeros(0), *(places for places, _ in scored)]).astype(np.int64),
        "scores": np.concatenate([np.zeros((2, 0)), *(both for _, both in scored)], axis=1).astype(np.float32),
    }


def _publish(table: dict[str, np.ndarray], final: Path, identity: Mapping[str, Any]) -> None:
    work = final.with_name(f".partial-{final.name}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    save_file(table, work / SCORES)
    durable.write_json(work / checkpoints.IDENTITY, dict(identity))
    durable.publish(work, final)
