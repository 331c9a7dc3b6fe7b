"""Prefix LM: a prefix sees itself in both directions, what comes after it is causal, documents stay apart."""

import pytest
import torch
from torch import Tensor

from custom_models import DecoderConfig, DecoderForCausalLM

torch.set_num_threads(1)
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
KINDS = {
    "rope": {},
    "learned": {"position_embedding": "learned", "norm_placement": "post"},
    "relative": {"position_embedding": "relative_bias"},
    "sliding": {"layer_types": ["sliding_attention"], "sliding_window": 3},
}
LENGTH, SPLIT = 9, 5


def decoder(kernel: str = "sdpa", **fields) -> DecoderForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DecoderForCausalLM(DecoderConfig(**sizes, **fields)).eval()
    model.set_attn_implementation(kernel)
    return model


def document(seed: int = 1, length: int = LENGTH) -> Tensor:
    return torch.randint(4, 60, (1, length), generator=torch.Generator().manual_seed(seed))


def seen(model: DecoderForCausalLM, ids: Tensor, **inputs: Tensor) -> Tensor:
    """(tokens, tokens): whether a change of the second token changes the first one's logits."""
    before = model(input_ids=ids, **inputs).logits[0]
    rows = []
    for place in range(ids.shape[1]):
        changed = ids.clone()
        changed[0, place] = 60 - 1 - changed[0, place] % 50
        after = model(input_ids=changed, **inputs).logits[0]
        rows.append((after - before).abs().amax(-1) > 1e-6)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_token_sees_the_earlier_ones_and_in_a_prefix_the_later_ones_too(kind: str, kernel: str) -> None:
    model = decoder(kernel, **KINDS[kind])
    place = torch.arange(LENGTH)
    prefix = (place < SPLIT)[None]
    wanted = (place[:, None] >= place) | (prefix.T & prefix)
    if kind == "sliding":
        wanted &= (place[:, None] - place).abs() < 3
    assert torch.equal(seen(model, document(), prefix_mask=prefix), wanted)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_packed_documents_and_padding_make_no_difference(kind: str, kernel: str) -> None:
    model = decoder(kernel, **KINDS[kind])
    one, two = document(1), document(2, 6)
    masks = [torch.arange(LENGTH)[None] < 5, torch.arange(6)[None] < 2]
    alone = [model(input_ids=ids, prefix_mask=mask).logits for ids, mask in zip((one, two), masks, strict=True)]
    positions = torch.cat([torch.arange(LENGTH), torch.arange(6), torch.zeros(3, dtype=torch.long)])[None]
    packed = model(
        input_ids=torch.nn.functional.pad(torch.cat([one, two], 1), (0, 3)),
        prefix_mask=torch.nn.functional.pad(torch.cat(masks, 1), (0, 3)),
        position_ids=positions,
    ).logits
    torch.testing.assert_close(packed[:, :LENGTH], alone[0], **TOLERANCE)
    torch.testing.assert_close(packed[:, LENGTH:15], alone[1], **TOLERANCE)
    padded = model(
        input_ids=torch.nn.functional.pad(two, (0, 2)),
        prefix_mask=torch.nn.functional.pad(masks[1], (0, 2)),
        attention_mask=torch.tensor([[1] * 6 + [0] * 2]),
    ).logits
    torch.testing.assert_close(padded[:, :6], alone[1], **TOLERANCE)


@torch.no_grad()
def test_a_prefix_of_one_token_is_causal_and_generation_is_too() -> None:
    model, ids = decoder(), document()
    causal = model(input_ids=ids).logits
    torch.testing.assert_close(
        model(input_ids=ids, prefix_mask=torch.arange(LENGTH)[None] < 1).logits, causal, **TOLERANCE
    )
    said = model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert said[0, LENGTH] == causal[0, -1].argmax()


@torch.no_grad()
def test_a_prefix_beside_a_cache_and_a_kernel_without_masks_are_refused() -> None:
    model, ids, prefix = decoder(), document(), torch.ones(1, LENGTH, dtype=torch.bool)
    cache = model(input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="cannot be used with past_key_values"):
        model(input_ids=ids, prefix_mask=prefix, past_key_values=cache)
    assert model(input_ids=ids, prefix_mask=prefix, use_cache=True).past_key_values is None
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="prefixes need sdpa or eager attention"):
        model(input_ids=ids, prefix_mask=prefix)
