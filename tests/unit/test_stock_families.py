"""Encoders are BERTs and encoder-decoders T5s where their blocks are: settings, weights and logits, both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, BertForMaskedLM, T5ForConditionalGeneration

from custom_models import (
    EncoderConfig,
    EncoderDecoderConfig,
    EncoderDecoderForConditionalGeneration,
    EncoderForMaskedLM,
)
from custom_models.stock import from_stock, left_out, obstacles, to_stock
from custom_models.stock_fields import NoPlace
from pipelines.recipe.model import STYLES

torch.set_num_threads(1)
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
IDS = torch.arange(2, 26).reshape(2, 12)
MASK = (torch.arange(12) < torch.tensor([[12], [7]])).long()


def bert(**changes: Any) -> EncoderForMaskedLM:
    torch.manual_seed(0)
    return randomised(EncoderForMaskedLM(EncoderConfig(**SMALL, **(STYLES["bert"] | changes))))


def t5(**changes: Any) -> EncoderDecoderForConditionalGeneration:
    torch.manual_seed(0)
    values = SMALL | {"intermediate_size": 48, "initializer_range": 0.02} | STYLES["t5"] | changes
    return randomised(EncoderDecoderForConditionalGeneration(EncoderDecoderConfig(**values)))


def randomised(model: Any) -> Any:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.2)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    extra = {"decoder_input_ids": IDS[:, :5]} if model.config.is_encoder_decoder else {}
    found = model(input_ids=IDS, attention_mask=MASK, **extra).logits
    return found if extra else found[MASK.bool()]


@pytest.mark.equality
@pytest.mark.parametrize(
    ("ours", "stock_class"),
    [
        (bert(), BertForMaskedLM),
        (bert(tie_word_embeddings=False), BertForMaskedLM),
        (t5(), T5ForConditionalGeneration),
        (t5(feed_forward="geglu", scale_head=False, num_encoder_layers=3), T5ForConditionalGeneration),
    ],
    ids=["bert", "bert untied", "t5", "t5 1.1, deeper encoder"],
)
def test_there_and_back(tmp_path: Path, ours: Any, stock_class: type) -> None:
    theirs = to_stock(ours)
    assert type(theirs) is stock_class
    torch.testing.assert_close(logits(theirs), logits(ours), **TOLERANCE)
    theirs.save_pretrained(tmp_path)
    auto = AutoModelForSeq2SeqLM if ours.config.is_encoder_decoder else AutoModelForMaskedLM
    torch.testing.assert_close(logits(auto.from_pretrained(tmp_path).eval()), logits(ours), **TOLERANCE)
    back = from_stock(tmp_path).eval()
    assert type(back) is type(ours) and torch.equal(logits(back), logits(ours))
    for name, weight in back.state_dict().items():
        assert torch.equal(weight, ours.state_dict()[name]), name
    same = {name for name in ours.config.to_dict() if getattr(ours.config, name) != getattr(back.config, name)}
    assert same <= {
        "initializer",
        "initializer_range",
        "pooler",
        "dtype",
        "transformers_version",
        "max_position_embeddings",
    }


@pytest.mark.parametrize(
    ("config", "name", "reasons"),
    [
        (bert(norm_placement="pre").config, "BertForMaskedLM", ["norm_placement: pre"]),
        (bert(feed_forward="gelu", qk_norm=True).config, "BertForMaskedLM", ["feed_forward: gelu", "qk_norm: True"]),
        (t5(attention_scaling=None).config, "T5ForConditionalGeneration", ["attention_scaling: None"]),
        (t5(share_embeddings=False).config, "T5ForConditionalGeneration", ["share_embeddings: False"]),
    ],
)
def test_what_is_in_the_way_is_named(config: Any, name: str, reasons: list[str]) -> None:
    found = obstacles(config)
    assert set(found) == {name}, "classes of other families are not offered"
    assert sorted(found[name]) == sorted(f"{reason} has no place in {name}" for reason in reasons)


def test_a_transformer_of_2017_has_no_class() -> None:
    values = SMALL | STYLES["transformer_2017"] | {"initializer_range": 0.02}
    model = EncoderDecoderForConditionalGeneration(EncoderDecoderConfig(**values))
    with pytest.raises(NoPlace, match="position_embedding: sinusoidal"):
        to_stock(model)


def test_dropout_is_told_as_left_out_where_theirs_is_one() -> None:
    assert "attention_dropout: 0.0" in left_out(t5(dropout=0.1).config, "T5ForConditionalGeneration")
    assert "attention_dropout: 0.1" not in left_out(
        t5(dropout=0.1, attention_dropout=0.1).config, "T5ForConditionalGeneration"
    )
