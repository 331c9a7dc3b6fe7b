"""Our decoder and transformers' own classes are the same models: settings, weights, logits, gradients, both ways."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    PreTrainedModel,
)

from custom_models import DecoderConfig, DecoderForCausalLM, DecoderForSequenceClassification
from custom_models.stock import MAPS, from_stock, left_out, obstacles, to_stock, to_their_names
from custom_models.stock_classifiers import CLASSIFIERS
from custom_models.stock_fields import NoPlace

torch.set_num_threads(1)
VOCAB_SIZE = 97
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
GPT2 = {
    "position_embedding": "learned",
    "norm": "layer_norm",
    "feed_forward": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
    "num_key_value_heads": 4,
    "norm_eps": 1e-4,
}
WINDOW = {"layer_types": ["sliding_attention"], "sliding_window": 3}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3}
BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {}),
    "llama_untied": ("LlamaForCausalLM", {"tie_word_embeddings": False}),
    "llama_biases": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True, "feed_forward": "geglu"}),
    "llama_linear": ("LlamaForCausalLM", {"rope_scaling_type": "linear", "rope_scaling_factor": 2.0}),
    "llama_yarn": (
        "LlamaForCausalLM",
        {"rope_scaling_type": "yarn", "rope_scaling_factor": 4.0, "original_max_position_embeddings": 6},
    ),
    "llama_rope": ("LlamaForCausalLM", {"rope_theta": 500.0, "head_dim": 16, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3ForCausalLM", {"qk_norm": True, "attention_bias": True, **MIXED}),
    "mistral": ("MistralForCausalLM", WINDOW),
    "stablelm": ("StableLmForCausalLM", {"norm": "layer_norm", "partial_rotary_factor": 0.5}),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2_untied_relu": ("GPT2LMHeadModel", GPT2 | {"tie_word_embeddings": False, "feed_forward": "relu"}),
}
each = pytest.mark.parametrize("blocks", BLOCKS)


def config(**changes: Any) -> DecoderConfig:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    small |= {"vocab_size": VOCAB_SIZE, "initializer_range": 0.2, "max_position_embeddings": 24}
    return DecoderConfig(**(small | changes))


def decoder(blocks: str) -> DecoderForCausalLM:
    torch.manual_seed(0)
    model = DecoderForCausalLM(config(**BLOCKS[blocks][1])).eval()
    return with_every_weight_of_its_own(model)


def with_every_weight_of_its_own(model: PreTrainedModel) -> Any:
    """Norms of one and biases of nought would hide mistakes."""
    for name, parameter in model.named_parameters():
        if "norm" in name or "ln_" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.2)
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(1, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(1))


def padding_mask(side: str | None) -> Tensor | None:
    if side is None:
        return None
    num_padded, index = torch.arange(3)[:, None], torch.arange(12)
    return ((index >= num_padded) if side == "left" else (index < 12 - num_padded)).long()


def logits_and_gradients(model: PreTrainedModel, mask: Tensor | None, **inputs: Any) -> tuple[Tensor, dict]:
    ids = tokens(3, 12)
    labels = ids if mask is None else ids.masked_fill(mask == 0, -100)
    output = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, **inputs)
    output.loss.backward()
    is_token = slice(None) if mask is None else mask.bool()
    return output.logits[is_token], {name: one.grad for name, one in model.named_parameters()}


@pytest.mark.equality
@each
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_logits_and_gradients_are_those_of_the_stock_model(blocks: str, side: str | None) -> None:
    ours, mask = decoder(blocks), padding_mask(side)
    theirs, name = to_stock(ours), BLOCKS[blocks][0]
    assert type(theirs).__name__ == name
    positions = None if mask is None or name != "GPT2LMHeadModel" else (mask.cumsum(-1) - 1).clamp(min=0)
    logits, gradients = logits_and_gradients(ours, mask)
    their_logits, their_gradients = logits_and_gradients(theirs, mask, position_ids=positions)
    torch.testing.assert_close(logits, their_logits, **TOLERANCE)
    stock = next(one for one in MAPS if one.name == name)
    mapped = to_their_names(gradients, stock.names(ours.config))
    assert set(mapped) == set(their_gradients)
    for parameter, gradient in mapped.items():
        torch.testing.assert_close(gradient, their_gradients[parameter], **TOLERANCE, msg=parameter)


@pytest.mark.equality
@each
@torch.no_grad()
def test_cached_logits_are_those_of_the_stock_model(blocks: str) -> None:
    ours, ids = decoder(blocks), tokens(2, 9)
    theirs = to_stock(ours)
    mine, other = ours(ids[:, :5], use_cache=True), theirs(ids[:, :5], use_cache=True)
    for step in range(5, 9):
        mine = ours(ids[:, step : step + 1], past_key_values=mine.past_key_values)
        other = theirs(ids[:, step : step + 1], past_key_values=other.past_key_values)
        torch.testing.assert_close(mine.logits, other.logits, **TOLERANCE)


@each
def test_there_and_back_is_bit_for_bit_the_same(blocks: str) -> None:
    ours = decoder(blocks)
    ours.generation_config.eos_token_id = [3, 5]
    state = torch.get_rng_state()
    back = from_stock(to_stock(ours))
    assert torch.equal(torch.get_rng_state(), state)
    assert back.config.to_diff_dict() == ours.config.to_diff_dict()
    assert back.generation_config.eos_token_id == [3, 5]
    before, after = ours.state_dict(), back.state_dict()
    assert list(before) == list(after)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not {one.data_ptr() for one in ours.parameters()} & {one.data_ptr() for one in back.parameters()}
    assert back.config.tie_word_embeddings == (back.lm_head.weight is back.model.embed_tokens.weight)


@each
def test_a_saved_stock_model_is_read_without_this_package(blocks: str, tmp_path: Path) -> None:
    ours = decoder(blocks)
    to_stock(ours).save_pretrained(tmp_path)
    assert list(tmp_path.glob("*.py")) == [] and "auto_map" not in (tmp_path / "config.json").read_text()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False).eval()
    torch.testing.assert_close(theirs(tokens(2, 9)).logits, ours(tokens(2, 9)).logits, **TOLERANCE)
    again = from_stock(tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(again.parameters(), ours.parameters(), strict=True))


def test_our_own_folder_is_read_too(tmp_path: Path) -> None:
    decoder("qwen3").save_pretrained(tmp_path)
    assert torch.equal(from_stock(tmp_path)(tokens(1, 5)).logits, decoder("qwen3")(tokens(1, 5)).logits)


def test_weights_keep_their_precision_between_models_and_become_float32_from_a_folder(tmp_path: Path) -> None:
    theirs = to_stock(decoder("llama").to(torch.bfloat16))
    assert theirs.dtype == torch.bfloat16 and from_stock(theirs).dtype == torch.bfloat16
    theirs.save_pretrained(tmp_path)
    again = from_stock(tmp_path)
    assert again.dtype == torch.float32
    assert torch.equal(again.lm_head.weight.to(torch.bfloat16), theirs.lm_head.weight)


@pytest.mark.parametrize("stock", (*MAPS, *CLASSIFIERS), ids=lambda stock: stock.name)
def test_every_setting_of_both_sides_is_in_one_part_of_a_map(stock: Any) -> None:
    base = {"model_type", "auto_classes", "is_encoder_decoder", *DecoderConfig.__mro__[2].__annotations__}
    ours = {field.name for field in fields(stock.our_config)}
    mine = [name for part in stock.parts for name in part.ours]
    assert sorted(mine) == sorted(ours - base)
    theirs = [name for part in stock.parts for name in part.theirs]
    declared = {field.name for field in fields(stock.config_class)} - {
        field.name for field in fields(DecoderConfig.__mro__[2])
    }
    assert len(theirs) == len(set(theirs)) and declared - {*theirs, *stock.unused} == set()


@pytest.mark.equality
@pytest.mark.parametrize("blocks", ["llama", "qwen3", "mistral", "gpt2"])
@torch.no_grad()
def test_a_classifier_is_the_stock_one_and_comes_back(blocks: str) -> None:
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "eos_token_id": 1, "num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}}
    ours = with_every_weight_of_its_own(DecoderForSequenceClassification(config(**BLOCKS[blocks][1], **special)).eval())
    theirs, mask = to_stock(ours), padding_mask("right")
    assert type(theirs).__name__ == BLOCKS[blocks][0].replace("ForCausalLM", "").replace("LMHeadModel", "") + (
        "ForSequenceClassification"
    )
    ids = tokens(3, 12).masked_fill(mask == 0, 0)
    scores = ours(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(theirs(input_ids=ids, attention_mask=mask).logits, scores, **TOLERANCE)
    back = from_stock(theirs)
    assert torch.equal(back(input_ids=ids, attention_mask=mask).logits, scores)
    assert back.config.id2label == theirs.config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize("pad", [None, 1])
def test_a_classifier_without_padding_of_its_own_scores_another_token_there(pad: int | None) -> None:
    model = DecoderForSequenceClassification(config(pad_token_id=pad, eos_token_id=[1, 4]))
    with pytest.raises(NoPlace, match=f"pad_token_id: {pad} .which is no padding of its own. has no place in Llama"):
        to_stock(model)


@pytest.mark.parametrize(
    ("changes", "name", "reasons"),
    [
        ({"norm_placement": "sandwich"}, "LlamaForCausalLM", ["norm_placement: sandwich"]),
        ({"feed_forward": "relu2"}, "LlamaForCausalLM", ["feed_forward: relu2"]),
        ({"qk_norm": True, "scale_embeddings": True}, "LlamaForCausalLM", ["scale_embeddings: True", "qk_norm: True"]),
        ({"final_logit_softcapping": 30.0}, "Qwen3ForCausalLM", ["final_logit_softcapping: 30.0", "qk_norm: False"]),
        ({"attention_output_gate": True}, "LlamaForCausalLM", ["attention_output_gate: True"]),
        ({"attn_logit_softcapping": 9.0}, "LlamaForCausalLM", ["attn_logit_softcapping: 9.0"]),
        ({"partial_rotary_factor": 0.5}, "LlamaForCausalLM", ["partial_rotary_factor: 0.5"]),
        ({"position_embedding": "none"}, "LlamaForCausalLM", ["position_embedding: none"]),
        (MIXED, "MistralForCausalLM", ["layer_types: [sliding_attention, full_attention]"]),
        (WINDOW, "LlamaForCausalLM", ["layer_types: [sliding_attention]"]),
        ({**GPT2, "num_key_value_heads": 2}, "GPT2LMHeadModel", ["num_key_value_heads: 2"]),
        ({**GPT2, "head_dim": 16}, "GPT2LMHeadModel", ["head_dim: 16"]),
        ({**GPT2, "mlp_bias": False}, "GPT2LMHeadModel", ["mlp_bias: False"]),
        ({**GPT2, "position_embedding": "sinusoidal"}, "GPT2LMHeadModel", ["position_embedding: sinusoidal"]),
    ],
)
def test_every_field_in_the_way_is_named(changes: dict, name: str, reasons: list[str]) -> None:
    assert obstacles(config(**changes))[name] == [f"{reason} has no place in {name}" for reason in reasons]
    with pytest.raises(NoPlace):
        to_stock(DecoderForCausalLM(config(**changes)), name)


def test_where_no_class_fits_the_closest_one_says_why() -> None:
    with pytest.raises(NoPlace) as refused:
        to_stock(DecoderForCausalLM(config(norm_placement="sandwich")))
    assert refused.value.reasons == ["norm_placement: sandwich has no place in LlamaForCausalLM"]


def test_dropout_is_in_nobodys_way_and_what_is_lost_is_said() -> None:
    ours = config(dropout=0.1, attention_dropout=0.2, stochastic_depth=0.3)
    assert obstacles(ours)["LlamaForCausalLM"] == []
    assert left_out(ours, "LlamaForCausalLM") == ["stochastic_depth: 0.3", "dropout: 0.1"]
    assert left_out(config(**GPT2, dropout=0.1), "GPT2LMHeadModel") == []


LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 97}


def llama(**changes: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**(LLAMA | {"max_position_embeddings": 32} | changes)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "gelu"}, "hidden_act: gelu"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type: dynamic"),
        ({"rope_interleaved": True}, "rope_interleaved: True"),
        ({"logit_scale": 0.5}, "logit_scale: 0.5"),
    ],
)
def test_a_stock_setting_that_no_block_knows_is_named_with_its_value(changes: dict, reason: str) -> None:
    with pytest.raises(NoPlace, match=reason):
        from_stock(llama(**changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: True"),
        ({"activation_function": "gelu"}, "activation_function: gelu"),
        ({"resid_pdrop": 0.0}, "resid_pdrop: 0.0; embd_pdrop: 0.1"),
    ],
)
def test_a_gpt2_that_is_not_ours_is_refused(changes: dict, reason: str) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 97, "n_positions": 16}
    with pytest.raises(NoPlace, match=reason):
        from_stock(GPT2LMHeadModel(GPT2Config(**sizes, **changes)))


def test_settings_of_old_and_idle_names_are_no_hindrance() -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 97, "n_positions": 16}
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, n_ctx=16, task_specific_params={"a": 1}, n_inner=48, my_flag=False))
    assert from_stock(theirs).config.intermediate_size == 48


def test_a_folder_of_another_class_is_refused(tmp_path: Path) -> None:
    LlamaForTokenClassification(LlamaConfig(**LLAMA)).save_pretrained(tmp_path)
    with pytest.raises(NoPlace, match=r"LlamaForTokenClassification \(there are maps for LlamaForCausalLM, "):
        from_stock(tmp_path)


def test_a_folder_with_weights_too_few_is_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"attention_bias": True}))
    with pytest.raises(NoPlace, match=r"missing keys: model\.layers\.0\.self_attn\.k_proj\.bias"):
        from_stock(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        from_stock(tmp_path)
