"""Low-rank adapters: put on a model, saved alone with the name of their base, and merged into it where read."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from pipelines.data.schedule import key
from pipelines.errors import ArtifactError, DataError, MachineError
from pipelines.recipe.peft import PeftConfig
from pipelines.store.durable import MANIFEST
from pipelines.training.saving import copy_tokenizer, require_same_logits
from pipelines.training.sentinel import require_finite_weights

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
NAME = "default"
"""Of the one adapter that a model carries."""
PREFIX = "base_model.model."
"""What peft's files put before every name."""
HEADS = ("score", "pooler")
"""What reward models and classifiers have beside a language model's body: drawn, trained and saved whole."""
TASK_TYPES: Mapping[str, str] = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
}
"""Ending of a class -> peft's word for what it does; all others are causal LMs."""
LABELS = ("id2label", "problem_type")
"""What a classifier's configuration says of its labels, and its base's does not."""

Model = TypeVar("Model", bound=PreTrainedModel)


def is_adapter(folder: Path) -> bool:
    """Whether an artifact is an adapter, which needs its base."""
    return (folder / CONFIG).exists()


def quantization_of(config: PeftConfig, device: str, *, bf16: bool) -> BitsAndBytesConfig | None:
    """How the frozen weights are held, None for float32; MachineError where four bits are asked for and not to be had.

    The four bits are QLoRA's: normal floats with quantised scales."""
    if config.quantization == "none":
        return None
    missing = [] if device == "gpu" and torch.cuda.is_available() else ["a GPU (launch.config)"]
    missing += [] if find_spec("bitsandbytes") else ["the package bitsandbytes (pip install '.[qlora]')"]
    if missing:
        raise MachineError(
            f"peft: quantization: 4bit needs {' and '.join(missing)}; provide that, or use quantization: none"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )


def add_adapter(
    model: PreTrainedModel, config: PeftConfig, seed: int, *, start: Path | None = None, base: Path | None = None
) -> None:
    """Freeze the model and put an adapter on it that changes nothing yet, or that of the artifact `start` on `base`.

    The layers are replaced in place and the class stays: nothing that trains or generates has to know. Heads that the
    base lacks are trained beside the adapter. Weights in four bits need nothing more (peft's
    prepare_model_for_kbit_training): all others are in float32 already. Raises DataError when target_modules names no
    linear layer."""
    targets = _targets(model, config)
    model.requires_grad_(False)
    torch.manual_seed(key(seed, "adapter") % 2**63)
    _inject(model, _lora_config(config, targets))
    if start is not None and base is not None:
        check_base(start, base)
        _load(model, start)
    for name in _heads(model):
        model.get_submodule(name).requires_grad_(True)


def _heads(model: nn.Module) -> list[str]:
    """Names of those that have weights."""
    return [name for name, part in model.named_children() if name in HEADS and any(True for _ in part.parameters())]


def _targets(model: PreTrainedModel, config: PeftConfig) -> list[str]:
    """Last parts of the names of the layers that get an adapter, sorted; the head is none of them."""
    linear = sorted({name.rpartition(".")[2] for name, part in model.base_model.named_modules() if _is_linear(part)})
    if config.target_modules == ("all-linear",):
        return linear
    unknown = [name for name in config.target_modules if name not in linear]
    if unknown:
        raise DataError(
            f"peft: target_modules: the model has no linear layer {', '.join(unknown)}; it has {', '.join(linear)}"
        )
    return sorted(config.target_modules)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _lora_config(config: PeftConfig, targets: list[str]) -> LoraConfig:
    """With everything set that peft would otherwise guess."""
    return LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        bias="none",
        init_lora_weights=True,
        modules_to_save=None,
        ensure_weight_tying=False,  # embeddings are no target, so tied ones stay as they are
    )


def _inject(model: PreTrainedModel, config: LoraConfig) -> None:
    inject_adapter_in_model(config, model, adapter_name=NAME)
    for parameter in model.parameters():
        if parameter.requires_grad:  # peft gives it the type in which a base of four bits computes
            parameter.data = parameter.data.float()
    del model.peft_config  # it would change what save_pretrained writes


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Names as in peft's files -> the adapter's tensors, and those of heads."""
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if f".{NAME}" in name and ".lora_" in name:
            found[PREFIX + name.replace(f".{NAME}", "")] = tensor
        elif name.partition(".")[0] in HEADS:
            found[PREFIX + name] = tensor
    return found


def _load(model: PreTrainedModel, folder: Path) -> None:
    """Strict, but that an adapter of a language model has no heads: those of `model` stay as they were drawn."""
    stored, wanted = load_file(folder / WEIGHTS), adapter_tensors(model)
    if task_type(folder) != "SEQ_CLS":
        heads = tuple(f"{PREFIX}{name}." for name in HEADS)
        wanted = {name: tensor for name, tensor in wanted.items() if not name.startswith(heads)}
    odd = sorted(
        name
        for name in {*stored, *wanted}
        if name not in stored or name not in wanted or stored[name].shape != wanted[name].shape
    )
    if odd:
        raise ArtifactError(f"{folder} does not fit this model ({', '.join(odd[:4])}); make it again")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])


def merge_into(model: Model, folder: Path, base: Path) -> Model:
    """The base's model with the adapter of `folder` added into its weights: of the plain layers it was made of."""
    check_base(folder, base)
    values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    _inject(model, LoraConfig(**{name: value for name, value in values.items() if name in _FIELDS}))
    _load(model, folder)
    return merge(model)


_FIELDS = ("r", "lora_alpha", "target_modules", "use_dora", "use_rslora")
"""What of a saved configuration decides the weights."""


def merge(model: Model) -> Model:
    """Add the adapter that a model carries into its weights, in place."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)  # type: ignore[operator]
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, layer.get_base_layer())
    return model.requires_grad_(True)


def task_type(folder: Path) -> str:
    """peft's word for what the model of an adapter does."""
    return str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["task_type"])


def labels_of(folder: Path) -> dict[str, Any]:
    """Fields of the configuration of an adapter's classifier, or reward model, that its base's has not."""
    found: dict[str, Any] | None = json.loads((folder / BASE).read_text(encoding="utf-8")).get("labels")
    if found is None:  # a reward model's adapter of before
        return {"num_labels": 1}
    names = {int(number): name for number, name in found["id2label"].items()}
    return found | {"id2label": names, "label2id": {name: number for number, name in names.items()}}


def check_base(folder: Path, base: Path) -> None:
    """Raise ArtifactError unless `base` holds the bytes that the adapter was trained on."""
    recorded = json.loads((folder / BASE).read_text(encoding="utf-8"))["digest"]
    if recorded != _digest(base):
        raise ArtifactError(f"{folder} was trained on another base than {base}; make it again")


def _digest(artifact: Path) -> str | None:
    manifest = artifact.parent / MANIFEST
    return json.loads(manifest.read_text(encoding="utf-8"))["digest"] if manifest.exists() else None


def save_adapter(
    model: PreTrainedModel, config: PeftConfig, output: Path, *, base: Path, fingerprint: str, tokenizer_folder: Path
) -> None:
    """Write the adapter alone with the name of its base, and the tokenizer; the main process writes, all wait for it.

    `adapter_config.json` names the base by its path from `output`, as both lie in one store. The folder is read back
    and must give the same logits."""
    require_finite_weights(model)
    if PartialState().is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_tensors(model).items()}
        save_file(tensors, output / WEIGHTS, {"format": "pt"})
        kinds = (word for ending, word in TASK_TYPES.items() if type(model).__name__.endswith(ending))
        kind = next(kinds, "CAUSAL_LM")  # GPT2LMHeadModel has a name of its own
        lora = {
            **_lora_config(config, _targets_of(model)).to_dict(),
            "target_modules": _targets_of(model),
            "task_type": kind,
            "modules_to_save": _heads(model) or None,
            "base_model_name_or_path": f"../../{base.parent.name}/{base.name}",
            "inference_mode": True,
        }
        _write_json(output / CONFIG, {name: lora[name] for name in lora if name != "peft_version"})
        facts: dict[str, Any] = {"artifact": base.parent.name, "fingerprint": fingerprint, "digest": _digest(base)}
        if kind == "SEQ_CLS":
            facts |= {"labels": {name: getattr(model.config, name, None) for name in LABELS}}
        _write_json(output / BASE, facts)
        copy_tokenizer(tokenizer_folder, output)
        if config.quantization == "none":  # else the merged weights are others than the rounded ones
            settings = type(model.config).from_pretrained(base, num_labels=model.config.num_labels)
            again = type(model).from_pretrained(base, config=settings, dtype=torch.float32)
            require_same_logits(model, merge_into(again, output, base), output)
    PartialState().wait_for_everyone()


def _targets_of(model: nn.Module) -> list[str]:
    return sorted({name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


class StartingPoint:
    """The adapter as it was: a frozen reference at the price of the adapter, with no second copy of the base."""

    def __init__(self, model: nn.Module):
        self._now = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._then = [parameter.detach().clone() for parameter in self._now]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The model is the one it started from; afterwards it is again what it was. No gradients inside."""
        now = [parameter.data for parameter in self._now]
        try:
            for parameter, then in zip(self._now, self._then, strict=True):
                parameter.data = then.to(parameter.device)
            yield
        finally:
            for parameter, data in zip(self._now, now, strict=True):
                parameter.data = data


def num_trainable(model: nn.Module) -> int:
    """Weights that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
