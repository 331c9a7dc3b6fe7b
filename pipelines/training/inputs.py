"""What a training stage starts from: tokenizer, model and token tables, each checked against the others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import custom_models
from pipelines.data.schedule import key
from pipelines.data.tokens import TokenTable
from pipelines.errors import ArtifactError, DataError, MachineError
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.training import TrainStage
from pipelines.stages.base import StageContext
from pipelines.store.durable import MANIFEST


@dataclass(frozen=True)
class Source:
    """One mixed dataset."""

    name: str
    """Of the job that made it; for messages and metrics."""
    share: float
    train: TokenTable
    holdout: TokenTable


def sources(ctx: StageContext, vocab_size: int) -> list[Source]:
    """The datasets of the mixture, in the order that decides. Every id fits the model, and there are rows."""
    found = []
    for role, share in ctx.job.mixture:
        name, folder = ctx.job.inputs[role].job, ctx.inputs[role]
        train = TokenTable.open(folder, "train")
        if train.info["vocab_size"] > vocab_size:
            raise ArtifactError(
                f"{name} was made with a vocabulary of {train.info['vocab_size']}, and the model has {vocab_size} "
                "embeddings; give both the same tokenizer"
            )
        if not len(train):
            raise DataError(f"{name} has no row to train on; see its data stage's report of dropped rows")
        found.append(Source(name, share, train, TokenTable.open(folder, "holdout")))
    return found


@dataclass(frozen=True)
class Tokens:
    """The tokenizer and its special ids."""

    tokenizer: PreTrainedTokenizerBase
    folder: Path
    vocab_size: int
    pad_id: int
    bos_id: int
    eos_id: int
    stop_ids: tuple[int, ...]
    add_bos_token: bool = True
    mask_id: int | None = None
    sentinel_ids: tuple[int, ...] = ()

    @property
    def first_id(self) -> int | None:
        """What every row starts with, if anything."""
        return self.bos_id if self.add_bos_token else None


def tokens_of(folder: Path) -> Tokens:
    """From a tokenizer's artifact, or a model's, which carries its tokenizer."""
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    return Tokens(
        tokenizer=AutoTokenizer.from_pretrained(folder),
        folder=folder,
        vocab_size=info["vocab_size"],
        pad_id=info["pad_id"],
        bos_id=info["bos_id"],
        eos_id=info["eos_id"],
        stop_ids=tuple(info["stop_ids"]),
        add_bos_token=info["add_bos_token"],
        mask_id=info.get("mask_id"),
        sentinel_ids=tuple(info.get("sentinel_ids", ())),
    )


FAMILIES: Mapping[str, tuple[type[custom_models.TransformerConfig], type[PreTrainedModel]]] = {
    "decoder": (custom_models.DecoderConfig, custom_models.DecoderForCausalLM),
    "encoder": (custom_models.EncoderConfig, custom_models.EncoderForMaskedLM),
    "encoder_decoder": (custom_models.EncoderDecoderConfig, custom_models.EncoderDecoderForConditionalGeneration),
}
"""Architecture -> what it is built of, with its head over the vocabulary."""


def fresh_config(model: ModelConfig, tokens: Tokens) -> custom_models.TransformerConfig:
    """The recipe's transformer. Fields of other architectures are at their defaults there."""
    config_class = FAMILIES[model.architecture][0]
    fields = model.model_dump(exclude={"architecture", "style"}, exclude_none=True)
    return config_class(
        **{name: value for name, value in fields.items() if name in config_class.__dataclass_fields__},
        vocab_size=tokens.vocab_size,
        bos_token_id=tokens.bos_id,
        eos_token_id=tokens.eos_id,
        pad_token_id=tokens.pad_id,
    )


def fresh_model(model: ModelConfig, tokens: Tokens, seed: int) -> PreTrainedModel:
    """The recipe's transformer with random weights, which depend on the seed alone."""
    config = fresh_config(model, tokens)
    torch.manual_seed(key(seed, "weights") % 2**63)
    return FAMILIES[model.architecture][1](config)


NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
"""Fields of our configurations; TRL's own switch only finds modules, and ours are functions."""


def causal_lm(folder: Path, tokens: Tokens, *, dropout: bool = True) -> PreTrainedModel:
    """A language model of an earlier stage, in float32: the master weights.

    Without dropout its config says so too: pass `dropout_of(folder)` when saving."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **({} if dropout else NO_DROPOUT))
    if tokens.vocab_size > model.config.vocab_size:
        raise ArtifactError(
            f"{folder}: its tokenizer knows {tokens.vocab_size} tokens, and the model has {model.config.vocab_size} "
            "embeddings; make the model again with this tokenizer"
        )
    return model


def dropout_of(folder: Path) -> dict[str, float]:
    """The dropout in a model's saved config."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {name: config[name] for name in NO_DROPOUT if name in config}


def reward_model(folder: Path, seed: int) -> PreTrainedModel:
    """The body of a language model with a fresh head of one score, drawn from the seed."""
    config = custom_models.DecoderConfig.from_pretrained(folder, num_labels=1)
    torch.manual_seed(key(seed, "weights") % 2**63)
    model = custom_models.DecoderForSequenceClassification(config)
    body = custom_models.DecoderModel.from_pretrained(folder, dtype=torch.float32)
    model.model.load_state_dict(body.state_dict())
    return model


def longest(config: TrainStage, model: PreTrainedModel) -> int:
    """The stage's max_length in tokens; refused when the model has fewer positions."""
    most = model.config.max_position_embeddings
    if config.max_length is not None and config.max_length > most:
        raise MachineError(f"max_length {config.max_length} is more than the model's {most} positions; lower it")
    return config.max_length or most


def check_batch(model: PreTrainedModel, rows: Any, places: Sequence[int]) -> None:
    """The first batch's ids have embeddings: a wrong table fails here, with its number, and not inside a kernel."""
    highest = max(int(np.max(part)) for place in places for part in _ids(rows[place]))
    if highest >= model.config.vocab_size:
        raise ArtifactError(f"token id {highest} has no embedding in a model of {model.config.vocab_size}")


def _ids(row: Any) -> list[np.ndarray]:
    parts = [row[name] for name in row if name.endswith("_ids")] if isinstance(row, dict) else row
    return [np.asarray(part) for part in parts if len(part)]


def identity(ctx: StageContext) -> dict[str, Any]:
    """Whose run a checkpoint belongs to: the job, and the bytes of everything it reads."""
    digests = {}
    for role, folder in ctx.inputs.items():
        manifest = folder.parent / MANIFEST
        if manifest.exists():
            digests[f"input {role}"] = json.loads(manifest.read_text(encoding="utf-8")).get("digest")
    return {"job": ctx.job.fingerprint, **digests}
