"""Settings of our configurations in the words of transformers' own, and back: what the maps of `stock` are made of."""
# mypy: no-strict-optional

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

Values = dict[str, Any]


class NoPlace(ValueError):
    """Settings that the other side has no words for: `reasons` are `field: value`."""

    def __init__(self, reasons: Iterable[str]):
        self.reasons = list(reasons)
        super().__init__("; ".join(self.reasons))


@dataclass(frozen=True)
class Part:
    """Some fields of both sides that mean the same together; `write` and `read` raise NoPlace where they cannot."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    write: Callable[[PreTrainedConfig], Values]
    """Our configuration -> their settings."""
    read: Callable[[PreTrainedConfig], Values]
    """Their configuration -> our settings."""


@dataclass(frozen=True)
class Rename:
    """A parameter of theirs and those of ours that it holds, one under the other; transposed where they say so."""

    theirs: str
    ours: tuple[str, ...]
    is_transposed: bool = False


def joined(translate: Iterable[Callable[[PreTrainedConfig], Values]], config: PreTrainedConfig) -> Values:
    """What all parts say together; NoPlace with the reasons of all."""
    values: Values = {}
    reasons: list[str] = []
    for one in translate:
        try:
            values |= one(config)
        except NoPlace as error:
            reasons += error.reasons
    if reasons:
        raise NoPlace(reasons)
    return values


def same(our: str, their: str | None = None) -> Part:
    """One setting under two names, or one."""
    name = their or our
    return Part(
        (our,),
        (name,),
        write=lambda config: {name: getattr(config, our)},
        read=lambda config: {our: getattr(config, name)},
    )


def special(name: str) -> Part:
    """A token's id; some of their classes lack the field (T5 has no bos)."""
    return Part(
        (name,),
        (name,),
        write=lambda config: {name: getattr(config, name)},
        read=lambda config: {name: getattr(config, name, None)},
    )


def choice(our: str, their: str, names: Mapping[str, tuple[str, ...]]) -> Part:
    """One setting whose values have other names there; of several names the first is written."""

    def write(config: PreTrainedConfig) -> Values:
        value = getattr(config, our)
        if value not in names:
            raise NoPlace([f"{our}: {value}"])
        return {their: names[value][0]}

    def read(config: PreTrainedConfig) -> Values:
        value = getattr(config, their)
        for name, known in names.items():
            if value in known:
                return {our: name}
        raise NoPlace([f"{their}: {value}"])

    return Part((our,), (their,), write, read)


def only(our: str, value: Any) -> Part:
    """What their class always is, in our words."""
    return Part((our,), (), write=lambda config: _require(config, our, value), read=lambda config: {our: value})


def always(their: str, value: Any) -> Part:
    """What our blocks always are, in their words."""
    return Part((), (their,), write=lambda config: {their: value}, read=lambda config: _require(config, their, value))


def where_said(their: str, value: Any) -> Part:
    """A setting that old folders have and their class no longer reads."""

    def read(config: PreTrainedConfig) -> Values:
        return _require(config, their, value) if hasattr(config, their) else {}

    return Part((), (their,), write=lambda config: {}, read=read)


def start_or_padding() -> Part:
    """The decoder's first input, which is padding where a folder does not say it, as T5's own are."""

    def read(config: PreTrainedConfig) -> Values:
        start = getattr(config, "decoder_start_token_id", None)
        return {"decoder_start_token_id": config.pad_token_id if start is None else start}

    name = "decoder_start_token_id"
    return Part((name,), (name,), write=lambda config: {name: getattr(config, name)}, read=read)


def unread(*ours: str) -> Part:
    """Fields that decide nothing with the other values of the class."""
    return Part(ours, (), write=lambda config: {}, read=lambda config: {})


def _require(config: PreTrainedConfig, name: str, value: Any) -> Values:
    if getattr(config, name) != value:
        raise NoPlace([f"{name}: {getattr(config, name)}"])
    return {}


def rope(*, may_be_partial: bool = False) -> Part:
    """Angles by position alone, of the whole head, or also of its first part where the class can."""

    def write(config: PreTrainedConfig) -> Values:
        kind = config.rope_scaling_type
        angles: Values = {"rope_type": kind or "default", "rope_theta": float(config.rope_theta)}
        if kind is not None:
            angles["factor"] = float(config.rope_scaling_factor)
        if kind == "yarn":
            angles["original_max_position_embeddings"] = config.original_max_position_embeddings
        if may_be_partial:
            angles["partial_rotary_factor"] = float(config.partial_rotary_factor)
        else:
            _require(config, "partial_rotary_factor", 1)
        return {"rope_parameters": angles}

    def read(config: PreTrainedConfig) -> Values:
        angles = dict(config.rope_parameters)
        theta, share = angles.pop("rope_theta"), angles.pop("partial_rotary_factor", 1.0)
        kind = angles.pop("rope_type", "default")
        if kind not in ("default", "linear", "yarn"):
            raise NoPlace([f"rope_parameters.rope_type: {kind}"])
        values = {"rope_theta": float(theta), "partial_rotary_factor": float(share)}
        if kind != "default":
            values |= {"rope_scaling_type": kind, "rope_scaling_factor": float(angles.pop("factor"))}
        if kind == "yarn":
            values["original_max_position_embeddings"] = angles.pop("original_max_position_embeddings")
        if not may_be_partial and share != 1:
            angles["partial_rotary_factor"] = share
        if angles:
            raise NoPlace(f"rope_parameters.{name}: {value}" for name, value in angles.items())
        return values

    scaling = ("rope_scaling_type", "rope_scaling_factor", "original_max_position_embeddings")
    return Part(("rope_theta", "partial_rotary_factor", *scaling), ("rope_parameters",), write, read)


WINDOW = ("layer_types", "sliding_window")


def no_window() -> Part:
    """Every layer sees everything."""

    def write(config: PreTrainedConfig) -> Values:
        if config.sliding_window is not None:
            raise NoPlace([_layers(config)])
        return {}

    return Part(WINDOW, (), write, read=lambda config: {"layer_types": None, "sliding_window": None})


def one_window() -> Part:
    """All layers see everything, or all have the window."""

    def write(config: PreTrainedConfig) -> Values:
        if len(set(config.layer_types)) > 1:
            raise NoPlace([_layers(config)])
        return {"sliding_window": config.sliding_window}

    def read(config: PreTrainedConfig) -> Values:
        window = config.sliding_window
        return {"layer_types": None if window is None else ["sliding_attention"], "sliding_window": window}

    return Part(WINDOW, ("sliding_window",), write, read)


def windows_by_layer() -> Part:
    """Each layer has the window or has none."""

    def write(config: PreTrainedConfig) -> Values:
        window = config.sliding_window
        return {"layer_types": list(config.layer_types), "sliding_window": window, "use_sliding_window": bool(window)}

    def read(config: PreTrainedConfig) -> Values:
        types = list(config.layer_types)
        return {"layer_types": types, "sliding_window": config.sliding_window if "sliding_attention" in types else None}

    return Part(WINDOW, (*WINDOW, "use_sliding_window", "max_window_layers"), write, read)


def _layers(config: PreTrainedConfig) -> str:
    """One period of the layers, as a recipe says it."""
    types = list(config.layer_types)
    period = next(n for n in range(1, len(types) + 1) if types == (types[:n] * len(types))[: len(types)])
    return f"layer_types: [{', '.join(types[:period])}]"


def head_dim_by_width() -> Part:
    """All query heads together are as wide as the residual stream."""

    def write(config: PreTrainedConfig) -> Values:
        return _require(config, "head_dim", config.hidden_size // config.num_attention_heads)

    return Part(("head_dim",), (), write, read=lambda config: {"head_dim": None})


def ungrouped() -> Part:
    """As many key and value heads as query heads."""

    def write(config: PreTrainedConfig) -> Values:
        return _require(config, "num_key_value_heads", config.num_attention_heads)

    return Part(("num_key_value_heads",), (), write, read=lambda config: {"num_key_value_heads": None})


def in_training_only(our: str, *theirs: str) -> Part:
    """A kind of dropout, under one or several names there, or none: without it the same is computed."""

    def read(config: PreTrainedConfig) -> Values:
        values = [getattr(config, name) for name in theirs]
        if len(set(values)) > 1:
            raise NoPlace(f"{name}: {value}" for name, value in zip(theirs, values, strict=True))
        return {our: values[0] if values else 0.0}

    return Part((our,), theirs, write=lambda config: dict.fromkeys(theirs, getattr(config, our)), read=read)


def feed_forward_width(their: str) -> Part:
    """None there: four times the residual stream."""

    def read(config: PreTrainedConfig) -> Values:
        width = getattr(config, their)
        return {"intermediate_size": 4 * config.hidden_size if width is None else width}

    return Part(("intermediate_size",), (their,), write=lambda config: {their: config.intermediate_size}, read=read)


def one_dropout(their: str) -> Part:
    """One probability there for the residual stream and for attention; here they may differ in training only."""
    return Part(
        ("dropout", "attention_dropout"),
        (their,),
        write=lambda config: {their: config.dropout},
        read=lambda config: {"dropout": getattr(config, their), "attention_dropout": getattr(config, their)},
    )


def scaled_head() -> Part:
    """T5Config says it by an argument that it then forgets: tied embeddings mean a scaled head, untied ones do not."""
    return Part(
        ("scale_head",),
        ("scale_decoder_outputs",),
        write=lambda config: {"tie_word_embeddings": config.scale_head},
        read=lambda config: {"scale_head": bool(config.scale_decoder_outputs)},
    )
