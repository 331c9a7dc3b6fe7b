"""A configuration derives what was left open and refuses what no model could honour."""

import json

import pytest
import torch

from custom_models import DecoderConfig, DecoderForCausalLM

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"num_key_value_heads": 0}, "is not a multiple of num_key_value_heads 0"),
        ({"head_dim": 7}, "head_dim is 7; rope turns pairs"),
        ({"layer_types": ["sliding_attention"]}, "sliding layers need a window"),
        ({"sliding_window": 4}, "a window needs sliding layers"),
        ({"layer_types": ["sliding_attention"], "sliding_window": 0}, "sliding_window is 0"),
        ({"layer_types": ["linear_attention"]}, "it takes one or more of full_attention, sliding_attention"),
        ({"layer_types": []}, "it takes one or more of"),
        ({"layer_types": ["full_attention"] * 5}, "5 entries, more than num_hidden_layers 4"),
        ({"norm": "batch_norm"}, "norm is 'batch_norm'; it must be one of rms_norm, layer_norm"),
        ({"feed_forward": "silu"}, "must be one of swiglu, geglu, gelu, gelu_exact, relu, relu2"),
        ({"position_embedding": "rotary"}, "must be one of rope, learned, sinusoidal, alibi, relative_bias, none"),
        ({"norm_placement": "both"}, "must be one of pre, post, sandwich"),
        ({"partial_rotary_factor": 0.5, "position_embedding": "none"}, "partial_rotary_factor is 0.5; it belongs to"),
        ({"partial_rotary_factor": 0.0}, "above 0 and at most 1"),
        ({"partial_rotary_factor": 0.3}, "0.3 of it must be an even number"),
        ({"position_embedding": "sinusoidal", "hidden_size": 33, "head_dim": 8}, "come in pairs"),
        ({"attn_logit_softcapping": 0.0}, "attn_logit_softcapping is 0.0; it must be above 0"),
        ({"final_logit_softcapping": -1.0}, "final_logit_softcapping is -1.0; it must be above 0"),
        ({"stochastic_depth": 1.0}, "stochastic_depth is 1.0; it must be at least 0 and below 1"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be at least 1"),
    ],
)
def test_a_wrong_combination_is_refused_with_its_reason(changes, message):
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**changes)


@pytest.mark.parametrize(
    ("feed_forward", "hidden_size", "expected"),
    [("swiglu", 128, 344), ("swiglu", 384, 1024), ("gelu", 128, 512), ("geglu", 128, 344), ("relu2", 128, 512)],
)
def test_the_feed_forward_width_follows_from_the_hidden_size(feed_forward, hidden_size, expected):
    assert DecoderConfig(hidden_size=hidden_size, feed_forward=feed_forward).intermediate_size == expected


def test_what_is_left_open_is_derived_and_an_odd_head_is_fine_without_rope():
    config = DecoderConfig(hidden_size=128, num_attention_heads=4)
    assert (config.num_key_value_heads, config.head_dim, config.layer_types) == (4, 32, ["full_attention"] * 4)
    assert DecoderConfig(head_dim=7, position_embedding="learned").head_dim == 7


def test_one_period_of_layer_types_is_repeated_and_survives_being_saved(tmp_path):
    period = ("sliding_attention", "sliding_attention", "full_attention")
    config = DecoderConfig(layer_types=period, sliding_window=8, num_hidden_layers=5)
    assert config.layer_types == [*period, *period[:2]]
    config.save_pretrained(tmp_path)
    assert DecoderConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_a_saved_configuration_names_every_class_and_caches_again(tmp_path):
    config = DecoderConfig()
    config.use_cache = False  # as Trainer leaves it
    config.auto_map = {"AutoConfig": "configuration.DecoderConfig"}  # as a folder with one class only leaves it
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert config.use_cache is False
    assert saved["use_cache"] is True
    assert saved["auto_map"] == {
        "AutoConfig": "configuration.DecoderConfig",
        "AutoModel": "decoder.DecoderModel",
        "AutoModelForCausalLM": "decoder.DecoderForCausalLM",
        "AutoModelForSequenceClassification": "heads.DecoderForSequenceClassification",
    }
    assert all((tmp_path / f"{name.split('.')[0]}.py").exists() for name in saved["auto_map"].values())


def test_weights_start_as_the_configuration_says_and_the_seed_decides():
    config = DecoderConfig(vocab_size=500, initializer_range=0.1, attention_bias=True, norm="layer_norm")
    torch.manual_seed(3)
    model = DecoderForCausalLM(config)
    torch.manual_seed(3)
    again = DecoderForCausalLM(config)
    for (name, weight), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, other)
        if weight.ndim == 2:
            assert 0.095 < weight.std() < 0.105, name
        else:
            assert (weight == (1.0 if "norm" in name and name.endswith("weight") else 0.0)).all(), name
    assert not list(model.buffers())  # a buffer would have to be restored after loading on the meta device


def test_a_table_of_positions_has_places_for_the_padding() -> None:
    from pipelines.data.collate import MULTIPLE
    from pipelines.recipe.model import PADDED_TO

    assert PADDED_TO == MULTIPLE
