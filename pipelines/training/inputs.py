"""What a training stage starts from: tokenizer, model and token tables, each checked against the others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import custom_models
from pipelines.data.collate import MULTIPLE, padded_length
from pipelines.data.schedule import key
from pipelines.data.tokens import TokenTable
from pipelines.errors import ArtifactError, DataError, MachineError
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.own_model import OwnModel
from pipelines.recipe.training import FromModelStage, TrainStage
from pipelines.stages.base import StageContext
from pipelines.store.durable import MANIFEST
from pipelines.training.adapters import add_adapter, labels_of, merge_into, quantization_of
from pipelines.training.own_models import check_own_model, own_class


@dataclass(frozen=True)
class Source:
    """One mixed dataset."""

    name: str
    """Of the job that made it; for messages and metrics."""
    share: float
    train: TokenTable
    holdout: TokenTable
    later_shares: tuple[float, ...] = ()
    max_epochs: float | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """In each phase."""
        return (self.share, *self.later_shares)

    @property
    def mean_share(self) -> float:
        """What its holdout counts for among the others."""
        return sum(self.shares) / len(self.shares)


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
        facts = ctx.job.inputs[role]
        holdout = TokenTable.open(folder, "holdout")
        found.append(Source(name, share, train, holdout, facts.later_shares, facts.max_epochs))
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


def fresh_config(model: ModelConfig | OwnModel, tokens: Tokens) -> PreTrainedConfig:
    """The recipe's transformer. Fields of other architectures are at their defaults there."""
    if isinstance(model, OwnModel):
        own: Any = own_class(model)
        return own.config_class(**model.settings, **_given(tokens))
    config_class = FAMILIES[model.architecture][0]
    fields = model.model_dump(exclude={"architecture", "style"}, exclude_none=True)
    return config_class(
        **{name: value for name, value in fields.items() if name in config_class.__dataclass_fields__},
        **_given(tokens),
    )


def _given(tokens: Tokens) -> dict[str, Any]:
    """What the tokenizer decides of a model."""
    special = {"bos_token_id": tokens.bos_id, "eos_token_id": tokens.eos_id, "pad_token_id": tokens.pad_id}
    return {"vocab_size": tokens.vocab_size, **special}


def fresh_model(model: ModelConfig | OwnModel, tokens: Tokens, seed: int) -> PreTrainedModel:
    """The recipe's transformer with random weights, which depend on the seed alone."""
    config = fresh_config(model, tokens)
    model_class: Any = own_class(model) if isinstance(model, OwnModel) else FAMILIES[model.architecture][1]
    torch.manual_seed(key(seed, "weights") % 2**63)
    fresh = model_class(config)
    if isinstance(model, OwnModel):
        check_own_model(fresh)
    return fresh


DROPOUT = ("dropout", "attention_dropout")
"""Fields of our configurations; TRL's own switch only finds modules, and ours are functions."""


def causal_lm(folder: Path, tokens: Tokens, *, base: Path | None = None, dropout: bool = True) -> PreTrainedModel:
    """A causal language model of an earlier stage, in float32: the master weights. An adapter is merged into its
    `base`.

    Without dropout its config says so too: pass `dropout_of(folder)` when saving."""
    return pretrained(AutoModelForCausalLM, folder, tokens, base=base, dropout=dropout)


def pretrained(
    auto_class: Any, folder: Path, tokens: Tokens, *, base: Path | None = None, dropout: bool = True
) -> PreTrainedModel:
    """What one of transformers' Auto classes makes of an earlier stage, in float32."""
    model = _full_lm(base or folder, tokens, dropout=dropout, auto_class=auto_class)
    return model if base is None else merge_into(model, folder, base)


def _full_lm(
    folder: Path, tokens: Tokens, *, dropout: bool, quantization: Any = None, auto_class: Any = AutoModelForCausalLM
) -> PreTrainedModel:
    fields = {"quantization_config": quantization} if quantization else {}
    fields |= {} if dropout else dict.fromkeys(_dropout_in(folder), 0.0)
    model = auto_class.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, **fields)
    if tokens.vocab_size > model.config.vocab_size:
        raise ArtifactError(
            f"{folder}: its tokenizer knows {tokens.vocab_size} tokens, and the model has {model.config.vocab_size} "
            "embeddings; make the model again with this tokenizer"
        )
    return model


def starting_lm(
    ctx: StageContext, tokens: Tokens, *, dropout: bool = True, auto_class: Any = AutoModelForCausalLM
) -> PreTrainedModel:
    """The language model that a stage starts from, all of it trainable, or with `peft` an adapter on it alone."""
    config, folder, base = starting_point(ctx)
    if config.peft is None:
        return pretrained(auto_class, folder, tokens, base=base, dropout=dropout)
    quantization = quantization_of(config.peft, ctx.launch.device, bf16=config.mixed_precision == "bf16")
    model = _full_lm(base or folder, tokens, dropout=dropout, quantization=quantization, auto_class=auto_class)
    assert ctx.job.seed is not None
    if quantization:
        model._hf_peft_config_loaded = True  # else Trainer refuses frozen weights in four bits
    add_adapter(model, config.peft, ctx.job.seed, start=folder if base else None, base=base)
    return model


def starting_point(ctx: StageContext) -> tuple[FromModelStage, Path, Path | None]:
    """(config, model, its base where it is an adapter). It says so where that is merged."""
    config = ctx.job.config
    assert isinstance(config, FromModelStage)
    if config.peft is None:
        say_if_merged(ctx)
    return config, ctx.inputs["model"], ctx.inputs.get("model.base")


def say_if_merged(ctx: StageContext) -> None:
    """For a stage that trains all weights: a line where it starts from an adapter."""
    if "model.base" in ctx.inputs and PartialState().is_main_process:
        name = ctx.job.inputs["model"].job
        print(f"note: the adapter of {name} is merged into its base, and all weights are trained", flush=True)


def dropout_of(ctx: StageContext) -> dict[str, float]:
    """The dropout in the saved config of the model that a stage starts from."""
    return _dropout_in(ctx.inputs.get("model.base", ctx.inputs["model"]))


def _dropout_in(folder: Path) -> dict[str, float]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {name: config[name] for name in DROPOUT if name in config}


def starting_reward_model(ctx: StageContext) -> PreTrainedModel:
    """The stage's language model with a fresh head of one score; with `peft` that head and an adapter are trainable."""
    config, folder, base = starting_point(ctx)
    seed = ctx.job.seed
    assert seed is not None
    model = reward_model(base or folder, seed)
    if config.peft is not None:
        add_adapter(model, config.peft, seed, start=folder if base else None, base=base)
    elif base is not None:
        merge_into(model, folder, base)
    return model


def reward_model(folder: Path, seed: int) -> PreTrainedModel:
    """The body of a language model with a fresh head of one score, drawn from the seed."""
    config: Any = AutoConfig.from_pretrained(folder, num_labels=1, trust_remote_code=False)
    torch.manual_seed(key(seed, "weights") % 2**63)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    body = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    model.base_model.load_state_dict(body.state_dict())
    return model


def trained_classifier(folder: Path, base: Path | None) -> PreTrainedModel:
    """A classifier with the labels of its training, or a reward model, in float32. An adapter is merged into its
    `base`, a language model."""
    if base is None:
        return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    config: Any = AutoConfig.from_pretrained(base, trust_remote_code=False)
    config.update(labels_of(folder))
    model = AutoModelForSequenceClassification.from_pretrained(
        base, config=config, dtype=torch.float32, trust_remote_code=False
    )
    return merge_into(model, folder, base)


def longest(config: TrainStage, model: PreTrainedModel) -> int:
    """The stage's max_length in tokens; refused when the model has fewer positions."""
    most = model.config.max_position_embeddings
    if config.max_length is not None and config.max_length > most:
        raise MachineError(f"max_length {config.max_length} is more than the model's {most} positions; lower it")
    length = config.max_length or most
    # A model of the researcher's own may have a table as well.
    has_table = getattr(model.config, "position_embedding", "learned") == "learned"
    if has_table and padded_length(length) > most:
        whole = most // MULTIPLE * MULTIPLE
        raise MachineError(
            f"rows of {length} tokens are padded to {padded_length(length)}, and the model has {most} positions; set "
            f"max_length: {whole}"
        )
    return length


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
