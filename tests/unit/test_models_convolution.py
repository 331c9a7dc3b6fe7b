"""The short convolution over embeddings: documents apart, padding apart, cached as uncached."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from custom_models import DecoderConfig, DecoderForCausalLM

PAD = 0


@pytest.fixture(scope="module")
def model() -> DecoderForCausalLM:
    torch.manual_seed(0)
    config = DecoderConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        short_convolution=3,
        initializer_range=0.2,
        pad_token_id=PAD,
        eos_token_id=1,
    )
    return DecoderForCausalLM(config).eval()


def ids(length: int, seed: int) -> torch.Tensor:
    return torch.randint(2, 64, (1, length), generator=torch.Generator().manual_seed(seed))


def logits(model: DecoderForCausalLM, **inputs: object) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def test_it_adds_shares_of_the_embeddings_before(model: DecoderForCausalLM) -> None:
    embeddings = torch.randn(1, 5, 32)
    mixed = model.model.convolution(embeddings, None)
    weight = model.model.convolution.weight[:, 0]
    by_hand = embeddings.clone()
    for place in range(5):
        for tap in range(1, 4):
            if place >= tap:
                by_hand[0, place] += weight[:, tap - 1] * embeddings[0, place - tap]
    torch.testing.assert_close(mixed, by_hand)
    assert (weight == 0.5).all()


@pytest.mark.parametrize("use_cache", [None, False])
def test_packed_documents_do_not_see_each_other(model: DecoderForCausalLM, use_cache: bool | None) -> None:
    first, second = ids(4, 1), ids(6, 2)
    packed = torch.cat([first, second], dim=1)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])
    together = logits(model, input_ids=packed, position_ids=positions, use_cache=use_cache)
    torch.testing.assert_close(together[:, 4:], logits(model, input_ids=second), atol=1e-5, rtol=0)
    torch.testing.assert_close(together[:, :4], logits(model, input_ids=first), atol=1e-5, rtol=0)


def test_left_padding_changes_nothing(model: DecoderForCausalLM) -> None:
    row, padding = ids(5, 3), torch.full((1, 3), PAD)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    padded = logits(model, input_ids=torch.cat([padding, row], dim=1), attention_mask=mask)
    torch.testing.assert_close(padded[:, 3:], logits(model, input_ids=row), atol=1e-5, rtol=0)


@pytest.mark.parametrize("with_config", [True, False])
def test_cached_equals_uncached(model: DecoderForCausalLM, with_config: bool) -> None:
    row = ids(9, 4)
    cache = DynamicCache(config=model.config) if with_config else DynamicCache()
    parts = []
    for start, stop in ((0, 2), (2, 3), (3, 7), (7, 8), (8, 9)):
        parts.append(logits(model, input_ids=row[:, start:stop], past_key_values=cache, use_cache=True))
    torch.testing.assert_close(torch.cat(parts, dim=1), logits(model, input_ids=row), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_with_left_padding_equals_generation_alone(model: DecoderForCausalLM, num_beams: int) -> None:
    short, long = ids(3, 5), ids(7, 6)
    mask = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [1] * 7])
    batch = torch.cat([torch.cat([torch.full((1, 4), PAD), short], dim=1), long])
    settings = {"max_new_tokens": 6, "do_sample": False, "num_beams": num_beams, "eos_token_id": 1, "pad_token_id": PAD}
    together = model.generate(input_ids=batch, attention_mask=mask, **settings)[:, 7:]
    alone = model.generate(input_ids=short, attention_mask=torch.ones_like(short), **settings)[:, 3:]
    assert together[0, : alone.shape[1]].tolist() == alone[0].tolist()
    uncached = model.generate(input_ids=long, attention_mask=mask[1:], use_cache=False, **settings)[:, 7:]
    assert together[1, : uncached.shape[1]].tolist() == uncached[0].tolist()


def test_a_reloaded_model_has_its_shares(model: DecoderForCausalLM, tmp_path: object) -> None:
    with torch.no_grad():
        model.model.convolution.weight += 0.1
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again.model.convolution.weight, model.model.convolution.weight)
    with torch.no_grad():
        model.model.convolution.weight -= 0.1


def test_a_static_cache_is_refused(model: DecoderForCausalLM) -> None:
    with pytest.raises(ValueError, match="DynamicCache"):
        model.generate(input_ids=ids(3, 7), cache_implementation="static", max_new_tokens=2, eos_token_id=1)
