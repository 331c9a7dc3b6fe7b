"""What pretraining's objectives differ in: the rows, what is hidden in them, the loss, and the score of the holdout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel

from pipelines.data.collate import Batch, PackedCollator, PackedRows, padded_length
from pipelines.data.noise import MaskNoise, NoisedCollator, PrefixNoise, SpanNoise, Vocabulary
from pipelines.data.packing import Packing, cut_alone, pack_split, pack_whole
from pipelines.data.schedule import Noise, key
from pipelines.data.tokens import TokenTable
from pipelines.errors import ArtifactError, MachineError
from pipelines.recipe.spans import noise_lengths
from pipelines.recipe.stages import PretrainStage
from pipelines.training.holdout import (
    NoisedHoldout,
    Scores,
    TextHoldout,
    masked_sums,
    noised_scores,
    target_sums,
    text_scores,
    token_sums,
)
from pipelines.training.inputs import Source, Tokens
from pipelines.training.losses import aligned_outputs_loss, causal_outputs_loss, masked_outputs_loss

PACKERS = {"whole": pack_whole, "split": pack_split}
AUTO_CLASSES: Mapping[str, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "prefix_lm": AutoModelForCausalLM,
    "masked_lm": AutoModelForMaskedLM,
    "span_corruption": AutoModelForSeq2SeqLM,
}
"""What loads a model that an objective goes on with."""


@dataclass(frozen=True)
class Objective:
    """Everything that a trainer needs beside the schedule."""

    rows: PackedRows
    noise: Noise | None
    collator: Callable[[Sequence[Any]], Batch]
    loss: Callable[..., Tensor]
    """(outputs, labels, num_items_in_batch) -> sum of this micro batch over the targets of the whole step."""
    evaluate: Callable[[nn.Module], Scores] | None
    """None where nothing was held out."""


def objective_of(
    config: PretrainStage, model: PreTrainedModel, tokens: Tokens, mix: Sequence[Source], *, max_length: int, seed: int
) -> Objective:
    """MachineError or ArtifactError where tokenizer or model cannot serve it."""
    return OBJECTIVES[config.objective](config, model, tokens, mix, max_length, seed)


# --- the next token ---------------------------------------------------------------------------------------------------


def _causal_lm(
    config: PretrainStage, model: PreTrainedModel, tokens: Tokens, mix: Sequence[Source], max_length: int, seed: int
) -> Objective:
    holdouts = [TextHoldout.of(source.name, source.mean_share, source.holdout, max_length) for source in mix]
    found = [holdout for holdout in holdouts if holdout is not None]
    score = partial(text_scores, holdouts=found, pad_id=tokens.pad_id, eos_id=tokens.eos_id)
    rows = rows_of(config, mix, max_length, tokens.bos_id)
    return Objective(rows, None, PackedCollator(tokens.pad_id), causal_outputs_loss, score if found else None)


def _prefix_lm(
    config: PretrainStage, model: PreTrainedModel, tokens: Tokens, mix: Sequence[Source], max_length: int, seed: int
) -> Objective:
    rows = rows_of(config, mix, max_length, tokens.bos_id)
    whole = partial(_whole, max_length)
    return _noised(rows, mix, whole, PrefixNoise(seed), tokens, loss=causal_outputs_loss, sums=token_sums)


# --- what is hidden ---------------------------------------------------------------------------------------------------


def _masked_lm(
    config: PretrainStage, model: PreTrainedModel, tokens: Tokens, mix: Sequence[Source], max_length: int, seed: int
) -> Objective:
    if tokens.mask_id is None:
        raise ArtifactError(f"{tokens.folder}: has no mask token; make the tokenizer with mask_token: true")
    noise = MaskNoise(
        seed=seed,
        vocabulary=Vocabulary.of(tokens.tokenizer, tokens.vocab_size, _special_ids(tokens)),
        mask_id=tokens.mask_id,
        mlm_probability=config.mlm_probability,
        mask_replace_prob=config.mask_replace_prob,
        random_replace_prob=config.random_replace_prob,
        whole_word_mask=config.whole_word_mask,
        mean_span_length=config.mean_noise_span_length if config.span_mask else None,
    )
    rows = rows_of(config, mix, max_length, tokens.bos_id)
    whole = partial(_whole, max_length)
    return _noised(rows, mix, whole, noise, tokens, loss=masked_outputs_loss, sums=masked_sums)


def _span_corruption(
    config: PretrainStage, model: PreTrainedModel, tokens: Tokens, mix: Sequence[Source], max_length: int, seed: int
) -> Objective:
    _check_spans(config, model, tokens, max_length)
    noise = SpanNoise(
        seed=seed,
        sentinel_ids=tokens.sentinel_ids,
        eos_id=tokens.eos_id,
        decoder_start_id=model.config.decoder_start_token_id,
        noise_density=config.noise_density,
        mean_noise_span_length=config.mean_noise_span_length,
    )

    alone = partial(_alone, max_length, tokens.bos_id)
    return _noised(
        rows_of(config, mix, max_length, tokens.bos_id),
        mix,
        alone,
        noise,
        tokens,
        loss=aligned_outputs_loss,
        sums=target_sums,
    )


def _check_spans(config: PretrainStage, model: PreTrainedModel, tokens: Tokens, max_length: int) -> None:
    num_noise, needed = noise_lengths(max_length, config.noise_density, config.mean_noise_span_length)
    if needed > len(tokens.sentinel_ids):
        raise ArtifactError(
            f"a row of max_length {max_length} has up to {needed} spans, and the tokenizer has "
            f"{len(tokens.sentinel_ids)} sentinels; make it with num_sentinels: {needed}, or lower max_length"
        )
    longest = padded_length(max(max_length - num_noise, num_noise) + needed + 1)
    most = model.config.max_position_embeddings
    if longest > most:
        raise MachineError(
            f"a row of max_length {max_length} takes {longest} places with sentinels, end and padding, and the model "
            f"has {most} positions; lower max_length"
        )


# --- parts ------------------------------------------------------------------------------------------------------------


def rows_of(config: PretrainStage, mix: Sequence[Source], max_length: int, bos_id: int) -> PackedRows:
    """The documents of every dataset in rows, as the objective wants them; the same for every model."""
    if config.objective == "span_corruption":
        return PackedRows([(source.train, _alone(max_length, bos_id, source.train)) for source in mix])
    pack = PACKERS[config.packing]
    return PackedRows([(source.train, pack(source.train.lengths("input_ids"), max_length)) for source in mix])


def _alone(max_length: int, bos_id: int, table: TokenTable, documents: int | None = None) -> Packing:
    """Without bos and eos, which the rows get anew."""
    lengths = table.lengths("input_ids")[:documents]
    has_bos = len(lengths) and len(first := table.ids("input_ids", 0)) and int(first[0]) == bos_id
    return cut_alone(lengths, max_length, skipped=(int(bool(has_bos)), 1))


def _whole(max_length: int, table: TokenTable, documents: int | None = None) -> Packing:
    return pack_whole(table.lengths("input_ids")[:documents], max_length)


def _noised(
    rows: PackedRows,
    mix: Sequence[Source],
    pack: Callable[[TokenTable, int], Packing],
    noise: MaskNoise | PrefixNoise | SpanNoise,
    tokens: Tokens,
    *,
    loss: Callable[..., Tensor],
    sums: Callable[[nn.Module, Batch], Tensor],
) -> Objective:
    """Holdouts have the same noise in every run, whatever its seed."""
    fixed, collator = replace(noise, seed=key("holdout")), NoisedCollator(tokens.pad_id)
    holdouts = [NoisedHoldout.of(source.name, source.mean_share, source.holdout, pack, fixed) for source in mix]
    found = [holdout for holdout in holdouts if holdout is not None]
    score = partial(noised_scores, holdouts=found, collator=collator, sums=sums)
    return Objective(rows, noise, collator, loss, score if found else None)


def _special_ids(tokens: Tokens) -> list[int]:
    masks = [] if tokens.mask_id is None else [tokens.mask_id]
    return [tokens.pad_id, tokens.bos_id, tokens.eos_id, *tokens.stop_ids, *masks, *tokens.sentinel_ids]


OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "causal_lm": _causal_lm,
    "prefix_lm": _prefix_lm,
    "masked_lm": _masked_lm,
    "span_corruption": _span_corruption,
}
