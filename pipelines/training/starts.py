"""Models that stage `finetune` starts from: a classifier with a fresh head, a model that writes targets."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from pipelines.data.labels import LabelKind
from pipelines.data.schedule import key
from pipelines.errors import ArtifactError
from pipelines.recipe.model import ModelConfig
from pipelines.recipe.own_model import OwnModel
from pipelines.stages.base import StageContext
from pipelines.training.adapters import add_adapter, merge_into
from pipelines.training.inputs import Tokens, fresh_config, fresh_model, starting_lm, starting_point


def classifier(
    folder: Path | None,
    model: ModelConfig | OwnModel | None,
    tokens: Tokens,
    kind: LabelKind,
    names: Sequence[str],
    *,
    seed: int,
) -> PreTrainedModel:
    """A head of one output per name (one for regression) drawn from the seed, over a language model's body, or over
    one that is drawn as well. Its config names the labels, so that transformers' pipelines do."""
    config: Any
    if folder is not None:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    else:
        assert model is not None
        config = fresh_config(model, tokens)
    config.num_labels = max(1, len(names))
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = kind if kind == "regression" else f"{kind}_classification"
    torch.manual_seed(key(seed, "weights") % 2**63)
    made: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    if folder is not None:
        body = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
        made.base_model.load_state_dict(body.state_dict())
    _require_embeddings(made, tokens)
    return made


def starting_classifier(ctx: StageContext, tokens: Tokens, kind: LabelKind, names: Sequence[str]) -> PreTrainedModel:
    """What `classifier` makes for this job; with `peft` its head and an adapter on the body are trainable, and that of
    a language model is gone on with. Without, such an adapter is merged."""
    seed = ctx.job.seed
    assert seed is not None
    if "model" not in ctx.inputs:
        return classifier(None, ctx.job.model, tokens, kind, names, seed=seed)
    config, folder, base = starting_point(ctx)
    made = classifier(base or folder, None, tokens, kind, names, seed=seed)
    if config.peft is not None:
        add_adapter(made, config.peft, seed, start=folder if base else None, base=base)
    elif base is not None:
        merge_into(made, folder, base)
    return made


def starting_writer(ctx: StageContext, tokens: Tokens) -> PreTrainedModel:
    """An encoder-decoder or a decoder with its head over the vocabulary, in float32; with `peft` an adapter on it."""
    if "model" not in ctx.inputs:
        assert ctx.job.model is not None and ctx.job.seed is not None
        return fresh_model(ctx.job.model, tokens, ctx.job.seed)
    return starting_lm(ctx, tokens, auto_class=writer_class(ctx.inputs.get("model.base", ctx.inputs["model"])))


def writer_class(folder: Path) -> Any:
    """The Auto class that reads a full model which writes targets."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def save_marks(output: Path, tokens: Tokens, *, has_types: bool) -> None:
    """Let the saved tokenizer put around texts what the classifier was trained with, for those who encode by it."""
    path = output / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    names = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    eos = names[tokens.eos_id]
    start = "" if tokens.first_id is None else f"{names[tokens.bos_id]} "
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}$A {eos}",
        pair=f"{start}$A {eos} $B:1 {eos}:1",
        special_tokens=[(names[token], token) for token in sorted({tokens.bos_id, tokens.eos_id})],
    )
    tokenizer.save(str(path))
    settings_path = output / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text(encoding="utf-8"))
    settings["model_input_names"] = ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
    settings_path.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _type(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]


def _require_embeddings(model: PreTrainedModel, tokens: Tokens) -> None:
    if tokens.vocab_size > model.config.vocab_size:
        raise ArtifactError(
            f"the tokenizer {tokens.folder} knows {tokens.vocab_size} tokens, and the model has "
            f"{model.config.vocab_size} embeddings; give both the same tokenizer"
        )
