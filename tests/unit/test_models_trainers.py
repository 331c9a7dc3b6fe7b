"""PEFT wraps our models and TRL's trainers train them."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from custom_models import DecoderConfig, DecoderForCausalLM, DecoderForSequenceClassification

torch.set_num_threads(1)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1}
TEXTS = ["a b c d", "b c", "d a b", "c c a"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<pad>", "<eos>", *"abcd"])}, "<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def arguments(tmp_path, **changes) -> dict:
    return {
        "output_dir": str(tmp_path),
        "max_steps": 2,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 2,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **changes,
    }


def changed(before: dict[str, torch.Tensor], model: torch.nn.Module) -> set[str]:
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


def copy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def test_lora_adds_to_the_named_projections_and_trains_nothing_else():
    ids = torch.arange(6).view(1, 6)
    model = DecoderForCausalLM(DecoderConfig(vocab_size=6, **SMALL))
    before = model(ids).logits
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"]))
    torch.testing.assert_close(adapted(ids).logits, before)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 2  # layers, projections, A and B
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)
    adapted(ids, labels=ids).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in adapted.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding free"])
def test_trl_sft_trains_it_and_its_folder_caches_again(tmp_path, tokenizer, padding_free):
    model = DecoderForCausalLM(DecoderConfig(vocab_size=6, **SMALL))
    before = copy(model)
    trainer = SFTTrainer(
        model,
        SFTConfig(**arguments(tmp_path, padding_free=padding_free, max_length=None)),
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tokenizer,
    )
    trainer.train()
    assert changed(before, model) == set(before)
    trainer.save_model(str(tmp_path / "saved"))
    assert DecoderConfig.from_pretrained(tmp_path / "saved").use_cache


def test_trl_reward_training_changes_every_weight(tmp_path, tokenizer):
    model = DecoderForSequenceClassification(DecoderConfig(vocab_size=6, num_labels=1, **SMALL))
    before = copy(model)
    trainer = RewardTrainer(
        model,
        RewardConfig(**arguments(tmp_path)),
        train_dataset=Dataset.from_dict({"chosen": TEXTS, "rejected": TEXTS[::-1]}),
        processing_class=tokenizer,
    )
    trainer.train()
    assert changed(before, model) == set(before)
