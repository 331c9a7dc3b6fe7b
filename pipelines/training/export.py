"""A finished model as a folder of its own: in a class of transformers that every tool reads, or in ours with code."""

import glob
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from custom_models.stock import left_out, to_stock
from pipelines.errors import ArtifactError
from pipelines.store.durable import sync_tree, write_json
from pipelines.training.adapters import task_type
from pipelines.training.inputs import pretrained, tokens_of, trained_classifier
from pipelines.training.own_models import register_own_code
from pipelines.training.saving import TOKENIZER_FILES
from pipelines.training.starts import save_marks, writer_class

MARK = "export.json"
"""Says whose folder it is: what was exported, and the files that came of it."""
AUTO_CLASSES: Mapping[str, Any] = {
    "ForCausalLM": AutoModelForCausalLM,
    "ForMaskedLM": AutoModelForMaskedLM,
    "ForConditionalGeneration": AutoModelForSeq2SeqLM,
    "ForSequenceClassification": AutoModelForSequenceClassification,
}
"""Ending of one of our classes -> what reads its folder, ours or a stock one."""
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


def export_model(
    source: Path, target: Path, *, stock: bool, facts: Mapping[str, Any], base: Path | None = None
) -> Exported:
    """Write the model in the folder `source` to `target`, whole or not at all, and read it back. An adapter is merged
    into the language model in `base`.

    With `stock` in the class of transformers that fits: NoPlace, with what is in the way, where none does. `facts` say
    whose it is. ArtifactError where `target` holds anything that no export wrote."""
    disable_progress_bar()
    require_replaceable(target)
    with _fresh_folder(target) as fresh:
        return _export(source, target, fresh, stock=stock, facts=facts, base=base)


def _export(
    source: Path, target: Path, fresh: Path, *, stock: bool, facts: Mapping[str, Any], base: Path | None
) -> Exported:
    register_own_code([base or source])
    model = _opened(source, base).eval()
    auto_class = _auto_class(type(model).__name__)
    exported = to_stock(model) if stock else model
    if stock and exported.can_generate() and model.config.is_encoder_decoder:
        # transformers makes a cache for as many layers as a T5's encoder has
        exported.generation_config.use_cache = model.config.num_hidden_layers <= model.config.num_encoder_layers
    exported.save_pretrained(fresh)
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, fresh / name)
    _mark(fresh, model)
    difference = _difference(model, fresh, type(exported), auto_class)
    files = sorted(path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file())
    write_json(fresh / MARK, {**facts, "class": type(exported).__name__, "files": files})
    sync_tree(fresh)
    _replace(target, fresh)
    lost = left_out(model.config, type(exported).__name__) if stock else []
    return Exported(type(exported).__name__, difference, lost)


def require_replaceable(target: Path) -> None:
    """ArtifactError unless there is nothing, an empty folder, or an earlier export and nothing else."""
    if Path.cwd().is_relative_to(target.resolve()):
        raise ArtifactError(f"{target}: a folder that you stand in cannot be replaced; name a new one")
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise ArtifactError(f"{target}: is no folder; choose another one to export to")
    try:
        written = {MARK, *json.loads((target / MARK).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        written = set()
    found = (path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir())
    if others := sorted(islice((name for name in found if name not in written), 4)):  # there may be millions
        more = ", ..." if len(others) > 3 else ""
        raise ArtifactError(
            f"{target}: holds what no export wrote ({', '.join(others[:3])}{more}); choose an empty or a new folder"
        )


@contextmanager
def _fresh_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside the target, gone again at the end; those that a killed export left go with it."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
    except OSError as error:
        message = f"{target}: nothing can be written there ({error.strerror}); choose another folder"
        raise ArtifactError(message) from None
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        for left in _left_behind(target):
            shutil.rmtree(left, ignore_errors=True)


def _left_behind(target: Path) -> Iterator[Path]:
    """Folders of exports to this target whose process is no more. What it replaced stays until there is another."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        found = re.fullmatch(r"\.([0-9]+)\.(tmp|old)", path.name.removeprefix(f".{target.name}"))
        is_spare = found is not None and (found[2] == "tmp" or target.exists())
        if found and is_spare and path.is_dir() and not path.is_symlink() and not _runs(int(found[1])):
            yield path


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _opened(source: Path, base: Path | None) -> PreTrainedModel:
    if base is None:
        name = json.loads((source / "config.json").read_text(encoding="utf-8"))["architectures"][0]
        model: PreTrainedModel = _auto_class(name).from_pretrained(source, dtype=torch.float32, trust_remote_code=False)
        return model
    if task_type(source) == "SEQ_CLS":
        return trained_classifier(source, base)
    return pretrained(writer_class(base), source, tokens_of(source), base=base)


def _auto_class(name: str) -> Any:
    return next(auto for ending, auto in AUTO_CLASSES.items() if name.endswith(ending))


def _mark(folder: Path, model: PreTrainedModel) -> None:
    """Let the tokenizer put around a text what the model was trained with: a decoder's own tokenizer does, and a
    classifier's; a masked LM reads `bos text eos`, and an encoder-decoder `source eos`."""
    if model.config.is_encoder_decoder:
        save_marks(folder, replace(tokens_of(folder), add_bos_token=False), has_types=False)
    elif type(model).__name__.endswith("ForMaskedLM"):
        save_marks(folder, tokens_of(folder), has_types=_has_types(model))


def _has_types(model: PreTrainedModel) -> bool:
    return model.config.model_type == "sourdough_encoder" and model.config.type_vocab_size > 1


@torch.no_grad()
def _difference(model: PreTrainedModel, folder: Path, expected: type[PreTrainedModel], auto_class: Any) -> float:
    """The largest between the logits of a model and of what was written of it, for rows of several lengths of ids from
    all over the vocabulary."""
    again, loading = auto_class.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    if type(again) is not expected or any(loading.values()):
        raise RuntimeError(f"{folder} is read back as {type(again).__name__}, {loading}")
    inputs, is_real = _probe(model)
    before, after = (one(**inputs).logits[is_real] for one in (model, again.eval()))
    difference = (before - after).abs().max().item()
    if not torch.allclose(before, after, atol=ATOL, rtol=RTOL):
        raise RuntimeError(f"{folder}: the exported model gives other logits, by {difference:.1e}")
    return difference


def _probe(model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """(inputs, which logits are those of tokens and not of padding)"""
    config, pad_id = model.config, model.config.pad_token_id
    width = min(32, config.max_position_embeddings)
    ids = (torch.arange(4 * width) * config.vocab_size // (4 * width)).reshape(4, width)
    ids[ids == pad_id] = (pad_id or 0) + 1 if (pad_id or 0) + 1 < config.vocab_size else 0
    is_token = torch.arange(width) < width - torch.arange(4)[:, None] * (width // 8)
    if pad_id is None:
        is_token[:] = True
    inputs = {"input_ids": ids.masked_fill(~is_token, pad_id or 0), "attention_mask": is_token.long()}
    if _has_types(model):
        inputs["token_type_ids"] = (torch.arange(width) % 2).expand(4, width).contiguous()
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.flip(0)
        is_token = torch.ones_like(is_token)
    is_row = type(model).__name__.endswith("ForSequenceClassification")
    return inputs, torch.ones(4, dtype=torch.bool) if is_row else is_token


def _replace(target: Path, fresh: Path) -> None:
    """Put a new folder where there may be an empty one or an earlier export."""
    if not target.exists():
        fresh.rename(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old)
