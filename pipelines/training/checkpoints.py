"""What a checkpoint holds: weights, optimizer and schedule as safetensors and JSON, and whose run it belongs to."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipelines.errors import ArtifactError
from pipelines.store import durable

Tensors = dict[str, torch.Tensor]

WEIGHTS, STATE_TENSORS, STATE, IDENTITY = "model.safetensors", "state.safetensors", "state.json", "identity.json"


def save(folder: Path, model: torch.nn.Module, state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Write a checkpoint's files into `folder`, which must not exist; publishing it is the caller's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights(model).items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    inside: Tensors = {}
    tree = pack(dict(state), inside)
    save_file(inside, folder / STATE_TENSORS)
    (folder / STATE).write_text(json.dumps(tree), encoding="utf-8")
    durable.write_json(folder / IDENTITY, identity)


def load_state(folder: Path) -> dict[str, Any]:
    """The `state` that `save` was given, equal in types and bits."""
    tree = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return unpack(tree, load_file(folder / STATE_TENSORS))


def check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise ArtifactError, naming what differs, unless the checkpoint belongs to this very run."""
    stored = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    now = json.loads(json.dumps(dict(identity)))
    changed = [
        f"{name}: {stored.get(name)!r} -> {now.get(name)!r}"
        for name in sorted({*stored, *now})
        if stored.get(name) != now.get(name)
    ]
    if changed:
        raise ArtifactError(
            f"{folder} belongs to another run ({'; '.join(changed)}); remove {folder.parent} to start afresh"
        )


def weights(model: torch.nn.Module) -> Tensors:
    """Every trainable parameter and persistent buffer once (tied ones under their first name).

    Frozen parameters come again from the run's inputs, so an adapter's checkpoint holds the adapter only. So do the
    scales of weights in four bits, which a state dict shows and which are neither parameters nor buffers."""
    kept = {id(p) for p in model.parameters() if p.requires_grad} | {id(buffer) for buffer in model.buffers()}
    once: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in kept:
            once.setdefault(id(tensor), (name, tensor))
    return {name: tensor.detach() for name, tensor in once.values()}


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Strict: the same names, shapes and types, or ArtifactError. Nothing is left at its initial value."""
    stored, wanted = load_file(folder / WEIGHTS), weights(model)
    odd = sorted(str(item) for item in _signature(stored) ^ _signature(wanted))
    if odd:
        raise ArtifactError(
            f"{folder} does not fit this model ({', '.join(odd[:4])}); remove {folder.parent} to start afresh"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])


def _signature(tensors: Tensors) -> set[tuple[str, tuple[int, ...], torch.dtype]]:
    return {(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def pack(value: Any, tensors: Tensors) -> Any:
    """A JSON tree for `value`; its tensors go into `tensors`. `unpack` gives back equal types and bits."""
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[pack(k, tensors), pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [pack(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be stored without pickle")


def unpack(tree: Any, tensors: Tensors) -> Any:
    """The value that `pack` was given."""
    if isinstance(tree, list):
        return [unpack(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in content)
    return {unpack(k, tensors): unpack(v, tensors) for k, v in content}
