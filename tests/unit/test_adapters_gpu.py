"""QLoRA: the frozen weights in four bits. Needs a GPU, and the extra `qlora`."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_adapters import job, logits, losses, read
from training_jobs import run

from pipelines.stages.base import LaunchSettings
from pipelines.training.inputs import starting_lm, tokens_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not find_spec("bitsandbytes"), reason="needs the extra qlora: pip install '.[qlora]'"),
]
FOUR_BITS = {"r": 4, "lora_alpha": 8, "quantization": "4bit"}


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_in_four_bits_it_learns_and_merges_into_the_full_base(tmp_path: Path, kind: str) -> None:
    ctx = job(tmp_path, kind, peft=FOUR_BITS, mixed_precision="bf16", duration="20 steps", learning_rate=1e-2)
    ctx = replace(ctx, launch=LaunchSettings(threads=1, device="gpu"))
    model = starting_lm(ctx, tokens_of(ctx.inputs["model"]))
    settings = model.config.quantization_config
    assert settings.load_in_4bit and settings.bnb_4bit_quant_type == "nf4" and settings.bnb_4bit_use_double_quant
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    frozen = [p for name, p in model.named_parameters() if name.endswith("q_proj.base_layer.weight")]
    assert frozen and all(p.dtype == torch.uint8 for p in frozen)
    run(ctx)
    assert losses(ctx)[-1] < losses(ctx)[0]
    assert torch.isfinite(logits(read(ctx))).all()
    checkpoints = list(ctx.checkpoints.glob("checkpoint-*/model.safetensors"))
    assert all("lora_" in name for path in checkpoints for name in load_file(path))
