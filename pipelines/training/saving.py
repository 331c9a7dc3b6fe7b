"""A trained model as a folder that loads anywhere: weights, code, tokenizer, stop tokens; read back once written."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import GenerationConfig, PreTrainedModel

from pipelines.training.sentinel import require_finite_weights

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "info.json",
)


def save_model(
    model: PreTrainedModel, tokenizer_folder: Path, output: Path, *, config_values: Mapping[str, Any] | None = None
) -> None:
    """Write `model` and its tokenizer into `output`; the main process writes, all wait for it.

    `config_values` are settings that training had changed (dropout), as they are to be saved. The folder is read back
    and must give the same logits."""
    state = PartialState()
    require_finite_weights(model)
    if state.is_main_process:
        _write(model, tokenizer_folder, output, dict(config_values or {}) | {"use_cache": True})
        _read_back(model, output)
    state.wait_for_everyone()


def _write(model: PreTrainedModel, tokenizer_folder: Path, output: Path, config_values: Mapping[str, Any]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    info = json.loads((tokenizer_folder / "info.json").read_text(encoding="utf-8"))
    before = {name: getattr(model.config, name) for name in config_values}  # trainers also switch use_cache off
    try:
        model.config.update(dict(config_values))
        if model.can_generate():
            model.generation_config = GenerationConfig(
                bos_token_id=info["bos_id"], eos_token_id=list(info["stop_ids"]), pad_token_id=info["pad_id"]
            )
        model.save_pretrained(output)
    finally:
        model.config.update(before)
    for name in _present(tokenizer_folder, TOKENIZER_FILES):
        shutil.copyfile(tokenizer_folder / name, output / name)


def _present(folder: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if (folder / name).exists()]


@torch.no_grad()
def _read_back(model: PreTrainedModel, output: Path) -> None:
    """Tied heads, buffers and names can be lost on the way to the disk; then these logits differ."""
    loaded: Any = type(model).from_pretrained(output, dtype=model.dtype, output_loading_info=True)
    again, loading = loaded
    odd = {name: sorted(keys) for name, keys in loading.items() if keys}
    if odd:
        raise RuntimeError(f"{output} does not hold the model that was saved: {odd}")
    device = next(model.parameters()).device
    ids = torch.arange(16).reshape(4, 4) % model.config.vocab_size
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    was_training = model.training
    model.eval()
    forward = type(model).forward  # not a trainer's wrapped one: autocast would round
    logits = forward(model, **{name: part.to(device) for name, part in inputs.items()}).logits.cpu()
    model.train(was_training)
    if not torch.allclose(logits, again.eval()(**inputs).logits, atol=1e-4):
        raise RuntimeError(f"{output}: the saved model gives other logits than the trained one")
