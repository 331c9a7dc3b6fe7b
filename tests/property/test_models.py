"""What holds for every chapter `model`: it trains and comes back from the disk, or it is a problem with its place."""

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from training_jobs import EXTRA, VOCAB, tokenizer_folder

from pipelines.recipe.load import find_problems, load_recipe
from pipelines.recipe.model import STYLE_ARCHITECTURES, ModelConfig
from pipelines.training.inputs import fresh_model, tokens_of
from pipelines.training.saving import save_model

# More examples: EXAMPLES=1000 pytest tests/property
often = settings(
    max_examples=int(os.environ.get("EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)

NUMBERS: dict[str, tuple[Any, ...]] = {
    "hidden_size": (8, 16, 24),
    "num_hidden_layers": (1, 2, 4),
    "num_encoder_layers": (None, 1, 3),
    "num_attention_heads": (1, 2, 4),
    "num_key_value_heads": (None, 1, 2),
    "head_dim": (None, 4, 6),
    "intermediate_size": (None, 8, 20),
    "max_position_embeddings": (16, 24, 32),
    "rope_theta": (500.0, 10_000.0),
    "partial_rotary_factor": (0.5, 1.0),
    "rope_scaling_factor": (1.0, 4.0),
    "original_max_position_embeddings": (None, 8),
    "relative_attention_num_buckets": (4, 32),
    "relative_attention_max_distance": (8, 128),
    "type_vocab_size": (0, 2),
    "norm_eps": (1e-6, 1e-5),
    "num_experts": (None, 2, 4),
    "num_experts_per_tok": (1, 2),
    "num_shared_experts": (0, 1),
    "moe_intermediate_size": (None, 8),
    "router_aux_loss_coef": (0.0, 0.01, 0.1),
    "router_z_loss_coef": (0.0, 0.01),
    "attention_scaling": (None, 0.3, 1.0),
    "attn_logit_softcapping": (None, 5.0),
    "final_logit_softcapping": (None, 5.0),
    "layer_types": (None, ["full_attention"], ["sliding_attention", "full_attention"], ["sliding_attention"]),
    "sliding_window": (None, 1, 4),
    "dropout": (0.0, 0.1),
    "attention_dropout": (0.0, 0.1),
    "stochastic_depth": (0.0, 0.1),
    "initializer_range": (0.02, 0.1),
}
"""Good alone; not all go together. The other fields are switches and choices."""
WRONG: tuple[Any, ...] = (None, 0, -1, 3, 7.5, 1e400, "llama", "", [], {}, [3], True, 10**30, {"a": 1})
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
OBJECTIVES = {"decoder": "causal_lm", "encoder": "masked_lm", "encoder_decoder": "span_corruption"}


def values_of(field: str) -> tuple[Any, ...]:
    """What a field may be, alone."""
    if field in NUMBERS:
        return NUMBERS[field]
    annotation = ModelConfig.model_fields[field].annotation
    if annotation is bool:
        return True, False
    choices = [value for part in (annotation, *get_args(annotation)) for value in get_args(part) or (part,)]
    return tuple(value for value in choices if isinstance(value, str)) + ((None,) if type(None) in choices else ())


@st.composite
def sections(draw: st.DrawFn) -> dict[str, Any]:
    """A few blocks chosen, the others those of a style."""
    style = draw(st.sampled_from(values_of("style")))
    architecture = STYLE_ARCHITECTURES.get(style) or draw(st.sampled_from(values_of("architecture")))
    blocks = [field for field in ModelConfig.model_fields if field not in ("style", "architecture")]
    chosen = draw(st.lists(st.sampled_from(blocks), max_size=8, unique=True))
    made = {field: draw(st.sampled_from(values_of(field))) for field in chosen}
    if "sliding_attention" in (made.get("layer_types") or ()):
        made.setdefault("sliding_window", 4)
    return {"architecture": architecture, "style": style, **SIZES, **made}


def written(path: Path, section: dict[str, Any]) -> Path:
    train = {"data": "village", "duration": "9 steps", "global_batch_size": 8, "learning_rate": 0.001}
    recipe = {
        "name": "tiny",
        "data": {"village": {"builtin": "microworld/text"}},
        "model": section,
        "stages": {
            "tokenizer": {"vocab_size": 600, "data": "village", "mask_token": True, "num_sentinels": 20},
            "pretrain": train | {"objective": OBJECTIVES[section["architecture"]]},
        },
    }
    path.write_text(json.dumps(recipe, indent=1))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tokenizer_folder(root / "tokenizer", EXTRA)
    return root


def test_every_field_of_the_chapter_is_drawn() -> None:
    for field in ModelConfig.model_fields:
        assert len(values_of(field)) > 1, field


@often
@given(section=sections())
def test_blocks_that_go_together_learn_and_come_back_from_the_disk(folder: Path, section: dict[str, Any]) -> None:
    path = written(folder / "r.yaml", section)
    assume(find_problems(path) == [])
    config = load_recipe(path).recipe.model
    tokens = tokens_of(folder / "tokenizer")
    model = fresh_model(config, tokens, seed=1).train()
    length = min(13, config.max_position_embeddings)
    ids = torch.arange(2 * length).reshape(2, length) * 7 % (VOCAB - 4) + 4
    is_token = torch.ones_like(ids)
    is_token[1, length - 3 :] = 0
    labels = ids.masked_fill(is_token == 0, -100)
    output = model(input_ids=ids, attention_mask=is_token, labels=labels)
    loss = output.loss + output.get("aux_loss", 0.0)
    loss.backward()
    assert loss.isfinite() and 0 < loss.item() < 100
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients) and any(gradient.any() for gradient in gradients)
    model.eval()
    decoded = {"decoder_input_ids": ids.flip(0)} if section["architecture"] == "encoder_decoder" else {}
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=is_token, **decoded).logits
        save_model(model, folder / "tokenizer", folder / "saved")
        again = type(model).from_pretrained(folder / "saved").eval()
        after = again(input_ids=ids, attention_mask=is_token, **decoded).logits
    assert before.isfinite().all() and torch.equal(before, after)


@often
@given(section=sections(), data=st.data())
def test_blocks_that_do_not_are_problems_with_their_places(
    folder: Path, section: dict[str, Any], data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from([name for name in ModelConfig.model_fields if name != "architecture"]))
    path = written(folder / "w.yaml", section | {field: data.draw(st.sampled_from(WRONG))})
    lines = path.read_text().splitlines()
    for problem in find_problems(path):
        assert problem.file == str(path) and problem.path and problem.message.strip()
        assert 1 <= problem.line <= len(lines) and 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert "\n" not in str(problem) and "Traceback" not in str(problem)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [({"head_dim": 5}, "head_dim"), ({"num_experts": 1}, "num_experts"), ({"sliding_window": 3}, "sliding_window")],
)
def test_a_problem_stands_at_its_own_line(folder: Path, wrong: dict[str, Any], key: str) -> None:
    path = written(folder / "one.yaml", SIZES | {"architecture": "decoder"} | wrong)
    (problem,) = find_problems(path)
    assert f'"{key}":' in path.read_text().splitlines()[problem.line - 1]
