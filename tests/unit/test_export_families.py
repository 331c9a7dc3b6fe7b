"""Encoders, encoder-decoders and classifiers leave as stock classes, which a process without our code reads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_recipe import chain, write
from tiny_subject import tiny_tokenizer
from transformers import AutoTokenizer, PreTrainedModel, T5ForConditionalGeneration

from custom_models.stock_fields import NoPlace
from pipelines.cli import main
from pipelines.recipe.model import ModelConfig
from pipelines.training.export import export_model
from pipelines.training.inputs import fresh_model, tokens_of
from pipelines.training.saving import save_model
from pipelines.training.starts import classifier, save_marks

torch.set_num_threads(1)
TEXT, OTHER = "Mia is in the garden.", "Ole bakes bread."
SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"max_position_embeddings": 64}
STYLES = {"llama": "decoder", "bert": "encoder", "t5": "encoder_decoder"}
ELSEWHERE = """
import sys
sys.modules["custom_models"] = sys.modules["pipelines"] = None  # importing them fails
import torch, transformers
folder, auto, out = sys.argv[1:4]
model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=False).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
batch = tokenizer(["Mia is in the garden.", "Ole bakes bread."], padding=True, return_tensors="pt")
extra, found = {}, {"class": type(model).__name__, "ids": batch["input_ids"], "mask": tokenizer.mask_token_id}
if model.config.is_encoder_decoder:
    extra["decoder_input_ids"] = torch.tensor([[0, 9, 8], [0, 7, 6]])
    found["generated"] = model.generate(**batch, max_new_tokens=6, do_sample=False)
    settings = model.generation_config
    found["generation"] = [settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id]
if auto.endswith("Classification"):
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    found["labels"] = [answer["label"] for answer in pipe(["Mia is in the garden.", "Ole bakes bread."])]
found |= {"logits": model(**batch, **extra).logits, "attended": batch["attention_mask"]}
torch.save(found, out)
"""


def made(folder: Path, style: str, *, labels: tuple[str, ...] = (), **blocks: Any) -> tuple[Path, PreTrainedModel]:
    """A stage's output with drawn weights, and its model."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    tiny_tokenizer(tokenizer)
    settings = tokenizer / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"mask_token": "<|im_start|>"}))
    tokens = tokens_of(tokenizer)
    config = ModelConfig.model_validate(SIZES | {"architecture": STYLES[style], "style": style} | blocks)
    if labels:
        model = classifier(None, config, tokens, "single_label", labels, seed=1)
    else:
        model = fresh_model(config, tokens, 1)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    save_model(model.eval(), tokenizer, folder / "output")
    if labels:
        save_marks(folder / "output", tokens, has_types=style == "bert")
    return folder / "output", model


def seen_elsewhere(folder: Path, auto: str) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder), auto, str(folder / "seen.pt")], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return torch.load(folder / "seen.pt", weights_only=True)


CASES = [
    ("bert", (), "AutoModelForMaskedLM", "BertForMaskedLM"),
    ("t5", (), "AutoModelForSeq2SeqLM", "T5ForConditionalGeneration"),
    ("bert", ("good", "bad", "odd"), "AutoModelForSequenceClassification", "BertForSequenceClassification"),
    ("llama", ("good", "bad"), "AutoModelForSequenceClassification", "LlamaForSequenceClassification"),
]


@pytest.mark.parametrize(("style", "labels", "auto", "name"), CASES, ids=[case[3] for case in CASES])
def test_a_model_leaves_as_a_stock_class(
    tmp_path: Path, style: str, labels: tuple[str, ...], auto: str, name: str
) -> None:
    source, model = made(tmp_path / "stage", style, labels=labels)
    done = export_model(source, tmp_path / "out", stock=True, facts={})
    assert done.class_name == name and done.largest_difference < 1e-5
    assert list((tmp_path / "out").glob("*.py")) == [] and "auto_map" not in (tmp_path / "out/config.json").read_text()
    seen = seen_elsewhere(tmp_path / "out", auto)
    assert seen["class"] == name and seen["mask"] == 3
    inputs = {"input_ids": seen["ids"], "attention_mask": seen["attended"]}
    if style == "t5":
        expected = model(**inputs, decoder_input_ids=torch.tensor([[0, 9, 8], [0, 7, 6]])).logits
        torch.testing.assert_close(seen["logits"], expected, atol=1e-5, rtol=0)
        assert seen["generation"] == [0, [1, 4], 2]
        assert torch.equal(seen["generated"], model.generate(**inputs, max_new_tokens=6, do_sample=False))
    else:
        real = slice(None) if labels else seen["attended"].bool()
        torch.testing.assert_close(seen["logits"][real], model(**inputs).logits[real], atol=1e-5, rtol=0)
    if labels:
        config = json.loads((tmp_path / "out/config.json").read_text())
        assert config["id2label"] == {str(number): label for number, label in enumerate(labels)}
        assert config["problem_type"] == "single_label_classification"
        best = model(**inputs).logits.argmax(-1).tolist()
        assert seen["labels"] == [labels[number] for number in best]


def test_an_adapter_leaves_merged_and_a_reward_model_as_a_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = chain()
    recipe["data"] = {name: recipe["data"][name] | {"limit": 8} for name in ("chats", "pairs")} | {
        name: recipe["data"][name] for name in ("tales", "more")
    }
    recipe["stages"] = {name: recipe["stages"][name] for name in ("tokenizer", "pretrain", "sft", "reward")}
    for stage in ("sft", "reward"):
        recipe["stages"][stage] |= {"max_dropped": 1.0, "overlong": "truncate"}
    recipe["stages"]["sft"]["peft"] = {"r": 2}
    path = str(write(tmp_path, recipe))
    assert main(["run", path, "--store", "artifacts"]) == 0
    for stage, name in (("sft", "LlamaForCausalLM"), ("reward", "LlamaForSequenceClassification")):
        assert main(["export", path, "--stage", stage, "--to", stage, "--store", "artifacts"]) == 0
        assert json.loads(Path(stage, "config.json").read_text())["architectures"] == [name]
    (base,) = Path("artifacts").glob("pretrain-*/output/model.safetensors")
    before, after = load_file(base), load_file("sft/model.safetensors")
    assert set(before) == set(after)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[name], after[name]), "what the adapter learnt is in the weights"


def test_a_t5_whose_decoder_is_deeper_writes_the_same(tmp_path: Path) -> None:
    source, model = made(tmp_path / "stage", "t5", num_encoder_layers=1)
    export_model(source, tmp_path / "out", stock=True, facts={})
    theirs, ids = T5ForConditionalGeneration.from_pretrained(tmp_path / "out").eval(), torch.tensor([[9, 30, 31, 1]])
    expected = model.generate(ids, max_new_tokens=6, do_sample=False)
    assert torch.equal(theirs.generate(ids, max_new_tokens=6, do_sample=False), expected)


@pytest.mark.parametrize(
    ("style", "labels", "first", "types"),
    [
        ("bert", (), [0], True),
        ("t5", (), [], False),
        ("bert", ("a", "b"), [0], True),
        ("llama", ("a", "b"), [0], False),
    ],
)
def test_its_tokenizer_marks_texts_as_training_did(
    tmp_path: Path, style: str, labels: tuple[str, ...], first: list[int], types: bool
) -> None:
    source, _ = made(tmp_path / "stage", style, labels=labels)
    export_model(source, tmp_path / "out", stock=True, facts={})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    bare = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    encoded = tokenizer(TEXT, OTHER)
    assert tokenizer(TEXT)["input_ids"] == [*first, *bare, 1]
    assert encoded["input_ids"][: len(bare) + len(first) + 1] == [*first, *bare, 1]
    assert ("token_type_ids" in encoded) == types and (not types or encoded["token_type_ids"][-1] == 1)


@pytest.mark.parametrize(
    ("style", "blocks", "labels", "reason"),
    [
        ("bert", {"pooler": False}, ("a", "b"), "pooler: False has no place in BertForSequenceClassification"),
        ("bert", {"qk_norm": True}, (), "qk_norm: True has no place in BertForMaskedLM"),
        ("t5", {"position_embedding": "alibi"}, (), "position_embedding: alibi has no place in T5ForConditionalGen"),
        ("llama", {"norm_placement": "sandwich"}, ("a", "b"), "norm_placement: sandwich has no place in Llama"),
    ],
)
def test_the_field_in_the_way_is_named_and_ours_is_written_all_the_same(
    tmp_path: Path, style: str, blocks: dict[str, Any], labels: tuple[str, ...], reason: str
) -> None:
    source, model = made(tmp_path / "stage", style, labels=labels, **blocks)
    with pytest.raises(NoPlace, match=reason):
        export_model(source, tmp_path / "out", stock=True, facts={})
    assert not (tmp_path / "out").exists()
    done = export_model(source, tmp_path / "out", stock=False, facts={})
    assert (done.class_name, done.largest_difference) == (type(model).__name__, 0.0)
    assert (tmp_path / "out/configuration.py").exists()
