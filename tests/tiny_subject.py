"""A model folder in miniature, with a real tokenizer, for tests of evaluation: weights are random or spelled out."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from custom_models import DecoderConfig, DecoderForCausalLM
from pipelines.data import microworld

SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(folder: Path, *, add_bos_token: bool = True, chat_template: str | None = CHATML) -> None:
    """Tokenizer files and info.json, trained on a little of the built-in world."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([row["text"] for row in microworld.generate("text", "train", 200)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>", chat_template=chat_template
    )
    tokenizer.save_pretrained(folder)
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)
    info = {"vocab_size": len(tokenizer), "bos_id": 0, "eos_id": 1, "pad_id": 2, "end_of_turn_id": 4}
    info |= {"stop_ids": [1, 4], "add_bos_token": add_bos_token, "chat_template_sha256": None}
    (folder / "info.json").write_text(json.dumps(info))


def tiny_model(folder: Path, *, seed: int = 0, max_length: int = 256, add_bos_token: bool = True, **tokenizer) -> Path:
    """A saved decoder of two layers with random, but not flat, predictions."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder, add_bos_token=add_bos_token, **tokenizer)
    vocab_size = json.loads((folder / "info.json").read_text())["vocab_size"]
    torch.manual_seed(seed)
    config = DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        bos_token_id=0,
        eos_token_id=[1, 4],
        pad_token_id=2,
    )
    model = DecoderForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder
