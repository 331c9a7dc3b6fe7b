"""The maps between our classifiers and transformers' own: those of language models with another head."""
# mypy: no-strict-optional

from dataclasses import replace
from typing import Any

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2ForSequenceClassification,
    LlamaForSequenceClassification,
    MistralForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3ForSequenceClassification,
)

from .encoder import EncoderForSequenceClassification
from .heads import DecoderForSequenceClassification
from .stock_fields import NoPlace, Part, Rename, Values, only, unread
from .stock_maps import BERT, BERT_UNUSED, MAPS, StockMap, bert_names


def _labels() -> Part:
    """What the scores are called, and which loss they were trained with."""

    def copied(config: PreTrainedConfig) -> Values:
        return {
            "id2label": dict(config.id2label),
            "label2id": {name: number for number, name in config.id2label.items()},
            "problem_type": config.problem_type,
        }

    return Part((), (), write=copied, read=copied)


def _own_padding() -> Part:
    """Their classes score the last token that is not `pad_token_id`, so no text may end with that one."""

    def write(config: PreTrainedConfig) -> Values:
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        if config.pad_token_id is None or config.pad_token_id in ends:
            raise NoPlace([f"pad_token_id: {config.pad_token_id} (which is no padding of its own)"])
        return {}

    return Part((), (), write=write, read=lambda config: {})


def _of_decoder(name: str, model_class: type[PreTrainedModel]) -> StockMap:
    """The map of a language model, whose head is replaced."""
    language_model = next(one for one in MAPS if one.name == name)

    def names(config: Any) -> list[Rename]:
        body = [rename for rename in language_model.names(config) if rename.theirs != "lm_head.weight"]
        return [*body, Rename("score.weight", ("score.weight",))]

    return replace(
        language_model,
        our_model=DecoderForSequenceClassification,
        model_class=model_class,
        parts=(*language_model.parts, _labels(), _own_padding()),
        names=names,
    )


def _bert_classifier_names(config: Any) -> list[Rename]:
    return bert_names(config, {"bert.pooler.dense": "pooler.dense", "classifier": "score"})


CLASSIFIERS: tuple[StockMap, ...] = (
    _of_decoder("LlamaForCausalLM", LlamaForSequenceClassification),
    _of_decoder("MistralForCausalLM", MistralForSequenceClassification),
    _of_decoder("Qwen3ForCausalLM", Qwen3ForSequenceClassification),
    _of_decoder("GPT2LMHeadModel", GPT2ForSequenceClassification),
    StockMap(
        EncoderForSequenceClassification,
        BertConfig,
        BertForSequenceClassification,
        (
            *BERT,
            unread("head_transform", "head_bias"),
            only("pooler", True),
            only("classifier_pooling", "cls"),
            _labels(),
        ),
        _bert_classifier_names,
        unused=BERT_UNUSED,
    ),
)
