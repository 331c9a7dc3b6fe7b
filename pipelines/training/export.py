"""A finished model as a folder of its own: in a class of transformers that every tool reads, or in ours with code."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from custom_models.stock import left_out, to_stock
from pipelines.errors import ArtifactError
from pipelines.store.durable import sync_tree, write_json
from pipelines.training.saving import TOKENIZER_FILES

MARK = "export.json"
"""Says whose folder it is: what was exported, and the files that came of it."""
ATOL = RTOL = 1e-4
"""Most that logits may differ by after the way to the disk and back, in float32."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    class_name: str
    largest_difference: float
    """Between logits of the exported model, read back, and those of the stage."""
    left_out: list[str]
    """Settings of training that the class does not know, as `field: value`."""


def export_model(source: Path, target: Path, *, stock: bool, facts: Mapping[str, Any]) -> Exported:
    """Write the language model in the folder `source` to `target`, whole or not at all, and read it back.

    With `stock` in the class of transformers that fits: NoPlace, with what is in the way, where none does. `facts` say
    whose it is. ArtifactError where `target` holds anything that no export wrote."""
    disable_progress_bar()
    require_replaceable(target)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, trust_remote_code=False).eval()
    exported = to_stock(model) if stock else model
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        exported.save_pretrained(fresh)
        for name in TOKENIZER_FILES:
            if (source / name).exists():
                shutil.copyfile(source / name, fresh / name)
        difference = _difference(model, fresh, type(exported))
        files = sorted(path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file())
        write_json(fresh / MARK, {**facts, "class": type(exported).__name__, "files": files})
        sync_tree(fresh)
        _replace(target, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    lost = left_out(model.config, type(exported).__name__) if stock else []
    return Exported(type(exported).__name__, difference, lost)


def require_replaceable(target: Path) -> None:
    """ArtifactError unless there is nothing, an empty folder, or an earlier export and nothing else."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise ArtifactError(f"{target}: is no folder; choose another one to export to")
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    try:
        written = {MARK, *json.loads((target / MARK).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        written = set()
    if others := sorted(found - written):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ArtifactError(
            f"{target}: holds what no export wrote ({', '.join(others[:3])}{more}); choose an empty or a new folder"
        )


@torch.no_grad()
def _difference(model: PreTrainedModel, folder: Path, expected: type[PreTrainedModel]) -> float:
    """The largest between the logits of a model and of what was written of it, on ids from all over the vocabulary."""
    read: Any = AutoModelForCausalLM.from_pretrained
    again, loading = read(folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True)
    if type(again) is not expected or any(loading.values()):
        raise RuntimeError(f"{folder} is read back as {type(again).__name__}, {loading}")
    width = min(32, model.config.max_position_embeddings)
    ids = (torch.arange(4 * width) * model.config.vocab_size // (4 * width)).reshape(4, width)
    before, after = model(input_ids=ids).logits, again.eval()(input_ids=ids).logits
    difference = (before - after).abs().max().item()
    if not torch.allclose(before, after, atol=ATOL, rtol=RTOL):
        raise RuntimeError(f"{folder}: the exported model gives other logits, by {difference:.1e}")
    return difference


def _replace(target: Path, fresh: Path) -> None:
    """Put a new folder where there may be an empty one or an earlier export."""
    if not target.exists():
        fresh.rename(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old)
