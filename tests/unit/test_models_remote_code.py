"""A saved folder holds the whole model: it reloads bit for bit here, and alone in a process without this package."""

import os
import subprocess
import sys

import pytest
import torch

from custom_models import DecoderConfig, DecoderForCausalLM, DecoderForSequenceClassification

torch.set_num_threads(1)
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "initializer_range": 0.2,
    "num_key_value_heads": 2,
}
IDS = torch.arange(1, 19).view(2, 9)

ELSEWHERE = """
import sys
sys.modules["custom_models"] = None  # importing it fails
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

torch.set_num_threads(1)
language, reward, again, results = sys.argv[1:]
ids = torch.arange(1, 19).view(2, 9)
model, report = AutoModelForCausalLM.from_pretrained(language, trust_remote_code=True, output_loading_info=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
assert not report["missing_keys"] and not report["unexpected_keys"], report
scorer = AutoModelForSequenceClassification.from_pretrained(reward, trust_remote_code=True)
body = AutoModel.from_pretrained(language, trust_remote_code=True)
assert AutoConfig.from_pretrained(language, trust_remote_code=True).model_type == "sourdough_decoder"
with torch.no_grad():
    found = {
        "logits": model(ids).logits,
        "scores": scorer(ids, attention_mask=torch.ones_like(ids)).logits,
        "states": body(ids).last_hidden_state,
        "generated": model.generate(ids, max_new_tokens=4, do_sample=False),
    }
    model.save_pretrained(again)
    resaved = AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True)
    found["resaved"] = resaved(ids).logits
torch.save(found, results)
"""


@pytest.mark.parametrize("resized_to", [None, 128], ids=["as built", "resized"])
@pytest.mark.parametrize("max_shard_size", ["20KB", "1GB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("parts", [{}, {"position_embedding": "learned", "norm": "layer_norm", "feed_forward": "gelu"}])
def test_a_saved_model_reloads_whole_and_bit_for_bit(tmp_path, parts, is_tied, dtype, max_shard_size, resized_to):
    model = DecoderForCausalLM(DecoderConfig(**SMALL, **parts, tie_word_embeddings=is_tied)).eval().to(dtype)
    if resized_to:
        model.resize_token_embeddings(resized_to, mean_resizing=False)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    num_files = len(list(tmp_path.glob("*.safetensors")))
    assert (num_files > 1) == (max_shard_size == "20KB")
    reloaded, report = DecoderForCausalLM.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
    assert not any(report.values()), report
    assert (reloaded.lm_head.weight is reloaded.model.embed_tokens.weight) == is_tied
    assert reloaded.lm_head.weight.shape[0] == (resized_to or 97)
    assert torch.equal(model(IDS).logits, reloaded.eval()(IDS).logits)


def test_the_folder_holds_the_modules_it_needs_and_no_others(tmp_path):
    DecoderForCausalLM(DecoderConfig(**SMALL)).save_pretrained(tmp_path)
    modules = {file.stem for file in tmp_path.glob("*.py")}
    shared = {"configuration", "positions", "layers", "attention", "embeddings", "masks", "moe", "feed_forward"}
    assert modules == {*shared, "decoder", "heads", "initializers"}


def test_a_folder_loads_alone_in_a_process_without_this_package(tmp_path):
    torch.manual_seed(0)
    model = DecoderForCausalLM(DecoderConfig(**SMALL)).eval()
    reward = DecoderForSequenceClassification(DecoderConfig(**SMALL, num_labels=1, pad_token_id=0)).eval()
    model.save_pretrained(tmp_path / "language")
    reward.save_pretrained(tmp_path / "reward")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    folders = [str(tmp_path / name) for name in ("language", "reward", "again", "results.pt")]
    command = [sys.executable, "-c", ELSEWHERE, *folders]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    found = torch.load(tmp_path / "results.pt")
    tolerance = {"atol": 1e-6, "rtol": 0.0}
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], model(IDS).logits, **tolerance)
        torch.testing.assert_close(found["resaved"], model(IDS).logits, **tolerance)
        torch.testing.assert_close(found["states"], model.model(IDS).last_hidden_state, **tolerance)
        torch.testing.assert_close(
            found["scores"], reward(IDS, attention_mask=torch.ones_like(IDS)).logits, **tolerance
        )
        assert torch.equal(found["generated"], model.generate(IDS, max_new_tokens=4, do_sample=False))
