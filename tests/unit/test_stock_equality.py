"""Each style, built as a recipe builds it, is transformers' own class: logits and gradients, padded on either side,
step by step with a cache, and in bfloat16 as near as rounding allows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache, PreTrainedModel

from custom_models.stock import MAPS, to_stock, to_their_names
from pipelines.recipe.model import STYLE_ARCHITECTURES, ModelConfig
from pipelines.training.inputs import FAMILIES, Tokens, fresh_config

torch.set_num_threads(1)
pytestmark = pytest.mark.equality

RELATIVE = 1e-5
STOCK = {
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertForMaskedLM",
    "t5": "T5ForConditionalGeneration",
}
CACHED = [style for style in STOCK if style != "bert"]
SIDES = [None, "left", "right"]
LENGTHS = (12, 9, 4)
each = pytest.mark.parametrize("style", STOCK)
sides = pytest.mark.parametrize("side", SIDES)


def pair(style: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Our model and transformers', with the same weights, norms and biases among them drawn too: ones and noughts would
    hide mistakes."""
    model = ModelConfig(
        architecture=STYLE_ARCHITECTURES.get(style, "decoder"),
        style=style,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=24,
        **({} if style == "t5" else {"initializer_range": 0.2}),
    )
    config = fresh_config(model, Tokens(None, Path(), 97, 0, 2, 1, ()))  # the tokenizer itself is not asked
    torch.manual_seed(0)
    ours = FAMILIES[model.architecture][1](config).eval()
    for name, parameter in ours.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.2)
    theirs = to_stock(ours)
    assert type(theirs).__name__ == STOCK[style]
    return ours, theirs


def tokens(length: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 97, (len(LENGTHS), length), generator=torch.Generator().manual_seed(seed))


def padding(side: str | None) -> Tensor:
    """(rows, 12), 1 where a token is."""
    places, lengths = torch.arange(12), torch.tensor(LENGTHS)[:, None]
    if side is None:
        return torch.ones(3, 12, dtype=torch.long)
    return ((places >= 12 - lengths) if side == "left" else (places < lengths)).long()


def positions(style: str, mask: Tensor) -> dict[str, Tensor]:
    """The stock classes with learned positions count padding too unless they are told where tokens are."""
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if style in ("gpt2", "bert") else {}


def run(model: PreTrainedModel, mask: Tensor, **more: Any) -> tuple[Any, Tensor]:
    """Outputs with a loss, and the logits of tokens."""
    ids = tokens(12).masked_fill(mask == 0, 0)
    if model.config.is_encoder_decoder:
        labels = tokens(7, seed=2).masked_fill(torch.arange(7) >= torch.tensor([[7], [5], [2]]), -100)
        output = model(input_ids=ids, attention_mask=mask, labels=labels, **more)
        return output, output.logits
    # Nothing is guessed from padding, whose embedding has no gradient in stock classes.
    is_target = (mask * mask.roll(1, dims=-1)).bool() & (torch.arange(12) > 0)
    output = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(~is_target, -100), **more)
    return output, output.logits[mask.bool()]


def assert_same(found: Tensor, expected: Tensor, scale: Tensor | float | None = None, what: str = "") -> None:
    """Nowhere further apart than RELATIVE of the largest number expected, or of `scale`."""
    scale = float((expected if scale is None else torch.as_tensor(scale)).detach().abs().max())
    assert scale > 0 and expected.isfinite().all(), what
    torch.testing.assert_close(found, expected, atol=RELATIVE * scale, rtol=0.0, msg=what or None)


@each
@sides
def test_logits_loss_and_gradients_are_those_of_the_stock_class(style: str, side: str | None) -> None:
    (ours, theirs), mask = pair(style), padding(side)
    mine, logits = run(ours, mask)
    other, their_logits = run(theirs, mask, **positions(style, mask))
    assert_same(logits, their_logits)
    assert_same(mine.loss, other.loss)
    mine.loss.backward()
    other.loss.backward()
    stock = next(one for one in MAPS if one.name == STOCK[style])
    given = {name: one.grad for name, one in ours.named_parameters() if one.grad is not None}
    found = to_their_names(given, stock.names(ours.config))
    expected = {name: one.grad for name, one in theirs.named_parameters()}
    assert set(expected) <= set(found)
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        # What a key's bias adds is the same for all keys: its gradient is nought, and what is there is rounding.
        assert_same(found[name], gradient, max(gradient.abs().max(), 1e-2 * largest), name)


@pytest.mark.parametrize("style", ["llama", "gpt2"])
@sides
@torch.no_grad()
def test_with_a_cache_logits_are_those_of_the_stock_class_and_of_the_whole(style: str, side: str | None) -> None:
    (ours, theirs), mask = pair(style), padding(side)
    mask = torch.cat([mask, torch.ones(3, 4, dtype=torch.long)], dim=1)
    ids = tokens(16).masked_fill(mask == 0, 0)
    mine = other = None
    whole = ours(input_ids=ids, attention_mask=mask, use_cache=False).logits
    for start, stop in [(0, 12), *((place, place + 1) for place in range(12, 16))]:
        inputs = {"input_ids": ids[:, start:stop], "attention_mask": mask[:, :stop], "use_cache": True}
        told = {name: value[:, start:stop] for name, value in positions(style, mask[:, :stop]).items()}
        mine = ours(**inputs, past_key_values=mine and mine.past_key_values)
        other = theirs(**inputs, **told, past_key_values=other and other.past_key_values)
        assert mine.past_key_values.get_seq_length() == stop
        is_token = mask[:, start:stop].bool()
        assert_same(mine.logits[is_token], other.logits[is_token])
        assert_same(mine.logits[is_token], whole[:, start:stop][is_token])


@sides
@torch.no_grad()
def test_with_a_cache_what_t5_writes_has_the_logits_of_the_stock_class_and_of_the_whole(side: str | None) -> None:
    (ours, theirs), mask = pair("t5"), padding(side)
    source, target = {"input_ids": tokens(12).masked_fill(mask == 0, 0), "attention_mask": mask}, tokens(6, seed=2)
    whole, mine, other = ours(**source, decoder_input_ids=target, use_cache=False).logits, None, None
    for start, stop in [(0, 2), *((place, place + 1) for place in range(2, 6))]:
        inputs = {**source, "decoder_input_ids": target[:, start:stop], "use_cache": True}
        mine = ours(**inputs, past_key_values=mine and mine.past_key_values)
        other = theirs(**inputs, past_key_values=other and other.past_key_values)
        assert isinstance(mine.past_key_values, EncoderDecoderCache)
        assert mine.past_key_values.get_seq_length() == stop
        assert_same(mine.logits, other.logits)
        assert_same(mine.logits, whole[:, start:stop])


def rms(numbers: Tensor) -> float:
    return float(numbers.float().square().mean().sqrt())


@each
@sides
@torch.no_grad()
def test_in_bfloat16_logits_are_as_near_as_its_rounding(style: str, side: str | None) -> None:
    """The stock class's own rounding error is the yardstick: its logits in bfloat16 against those in float32 of the
    very same (rounded) weights. Ours may err as much, and half as much again for other orders of the same sums. Two
    such errors, were they independent, are the root of two apart."""
    (ours, theirs), mask = pair(style), padding(side)
    ours, theirs = ours.to(torch.bfloat16), theirs.to(torch.bfloat16)
    told = positions(style, mask)
    logits, their_logits = run(ours, mask)[1], run(theirs, mask, **told)[1]
    assert logits.dtype == their_logits.dtype == torch.bfloat16
    exact = run(theirs.float(), mask, **told)[1]
    error = rms(their_logits - exact)
    assert 1e-4 * rms(exact) < error < 0.05 * rms(exact), "the yardstick itself"
    assert rms(logits - exact) <= 1.5 * error
    assert rms(logits - their_logits) <= 2**0.5 * 1.25 * error
