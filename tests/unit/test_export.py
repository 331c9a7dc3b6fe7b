"""A finished stage leaves as a folder that transformers reads without our code, or with it, and never over others."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import chain, write
from tiny_subject import tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from custom_models import DecoderConfig, DecoderForCausalLM
from pipelines.cli import main
from pipelines.errors import ArtifactError
from pipelines.plan.files import Digests
from pipelines.plan.planner import make_plan
from pipelines.recipe.load import load_recipe
from pipelines.store.artifacts import ArtifactStore
from pipelines.training.export import MARK, export_model, require_replaceable

torch.set_num_threads(1)
GPT2 = {"position_embedding": "learned", "norm": "layer_norm", "feed_forward": "gelu"}
GPT2 |= {"attention_bias": True, "mlp_bias": True}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def finished(folder: Path, *, model: dict[str, Any] | None = None, stages: tuple[str, ...] = ("pretrain",)) -> str:
    """A recipe whose stages are in the store, as far as they are named: their weights are random."""
    recipe = chain()
    recipe["model"] |= model or {}
    recipe["stages"]["gentle"] = recipe["stages"].pop("dpo") | {"kind": "dpo"}
    recipe["stages"]["harsh"] = {"like": "gentle", "beta": 0.5}
    path = write(folder, recipe)
    loaded = load_recipe(path)
    plan = make_plan(loaded.recipe, path=path, digest=Digests(), pins={}, position=loaded.place)
    store = ArtifactStore(folder / "artifacts")
    done: dict[str, Any] = {}
    for job in plan.jobs:
        if job.stage in loaded.recipe.stages and job.kind != "tokenizer" and job.name not in stages:
            continue
        if any(item.job not in done for item in job.inputs.values()):
            continue
        inputs = {role: done[item.job] for role, item in job.inputs.items()}
        output = store.prepare(job, inputs, {}) / "output"
        output.mkdir()
        (output / "anything").write_text(job.name)
        if job.name in stages:
            tiny_model(output, **(model or {}))
        done[job.name] = store.publish(job, inputs, {}, {})
    return str(path)


def tiny_model(folder: Path, **blocks: Any) -> Path:
    """A saved decoder with its tokenizer; every weight is drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder)
    vocab_size = json.loads((folder / "info.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 128}
    ids = {"bos_token_id": 0, "eos_token_id": [1, 4], "pad_token_id": 2}
    model = DecoderForCausalLM(DecoderConfig(vocab_size=vocab_size, **sizes, **ids, **blocks))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def export(recipe: str, *given: str, stage: str = "pretrain", to: str = "out") -> int:
    return main(["export", recipe, "--stage", stage, "--to", to, *given])


ELSEWHERE = """
import sys
sys.modules["custom_models"] = sys.modules["pipelines"] = None  # importing them fails
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("Mia is in the garden.", return_tensors="pt")["input_ids"]
chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
logits, stops = model.eval()(ids).logits, model.generation_config.eos_token_id
torch.save((type(model).__name__, ids, logits, chat, stops), sys.argv[2])
"""


@pytest.mark.parametrize(("model", "name"), [({}, "LlamaForCausalLM"), (GPT2, "GPT2LMHeadModel")])
def test_a_stage_leaves_as_a_stock_model_with_its_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: dict[str, Any], name: str
) -> None:
    recipe = finished(tmp_path, model=model)
    assert export(recipe) == 0
    shown = capsys.readouterr().out
    assert (
        shown.startswith(f"out: {name}; read back, its logits differ by at most ") and float(shown.split()[-1]) < 1e-5
    )
    assert list(Path("out").rglob("*.py")) == [] and "auto_map" not in Path("out/config.json").read_text()
    ended = subprocess.run([sys.executable, "-c", ELSEWHERE, "out", "seen.pt"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    class_name, ids, logits, chat, stops = torch.load("seen.pt", weights_only=True)
    (source,) = Path("artifacts").glob("pretrain-*/output")
    ours = DecoderForCausalLM.from_pretrained(source).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    assert class_name == name and stops == [1, 4]
    assert ids.tolist() == tokenizer("Mia is in the garden.", return_tensors="pt")["input_ids"].tolist()
    assert "<|im_start|>user" in chat
    torch.testing.assert_close(logits, ours(ids).logits, atol=1e-5, rtol=0)


def test_in_our_own_classes_it_takes_its_code_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = finished(tmp_path, model={"norm_placement": "sandwich"})
    assert export(recipe, "--format", "ours", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made == {"folder": "out", "class_name": "DecoderForCausalLM", "largest_difference": 0.0, "left_out": []}
    assert Path("out/decoder.py").exists()


def test_every_field_in_the_way_is_a_line_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = finished(tmp_path, model={"norm_placement": "sandwich", "scale_embeddings": True})
    assert export(recipe) == 2
    first, second, closing = capsys.readouterr().err.splitlines()
    hint = " has no place in LlamaForCausalLM; --format ours writes the model with its code"
    assert first.startswith(f"{recipe}:") and first.endswith(f": model.norm_placement: sandwich{hint}")
    assert second.endswith(f": model.scale_embeddings: True{hint}") and closing.startswith("2 problems")
    assert not Path("out").exists()


def test_dropout_stays_behind_and_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(finished(tmp_path, model={"dropout": 0.1})) == 0
    assert capsys.readouterr().out.startswith(
        "left out, a setting of training that LlamaForCausalLM does not know: dropout: 0.1\n"
    )


@pytest.mark.parametrize(
    ("stage", "code", "message"),
    [
        ("sft", 3, "'sft' is not finished as "),
        ("tokenizer", 2, "makes no model that can be exported"),
        ("evaluate", 2, "makes no model that can be exported"),
        ("dpo", 2, "is 2 stages (gentle, harsh); name one of them"),
        ("pretrian", 2, "did you mean 'pretrain'?"),
    ],
)
def test_what_cannot_be_exported_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, code: int, message: str
) -> None:
    assert export(finished(tmp_path), stage=stage) == code
    assert message in capsys.readouterr().err and not Path("out").exists()


def test_a_damaged_artifact_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = finished(tmp_path)
    (weights,) = Path("artifacts").glob("pretrain-*/output/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert export(recipe) == 3
    assert "model.safetensors: not the bytes that were written" in capsys.readouterr().err


def test_an_earlier_export_is_replaced_and_nothing_else_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = finished(tmp_path)
    Path("out").mkdir()
    assert export(recipe) == 0, "an empty folder is free"
    assert export(recipe, "--format", "ours") == 0 and Path("out/decoder.py").exists()
    assert export(recipe) == 0 and not Path("out/decoder.py").exists()
    assert json.loads(Path("out", MARK).read_text())["class"] == "LlamaForCausalLM"
    Path("out/notes.txt").write_text("mine")
    capsys.readouterr()
    assert export(recipe) == 3
    assert capsys.readouterr().err == ("out: holds what no export wrote (notes.txt); choose an empty or a new folder\n")
    assert Path("out/notes.txt").read_text() == "mine" and Path("out/model.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_files_and_folders_of_others_are_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.safetensors").write_text("theirs")
    (tmp_path / "marked").mkdir()
    (tmp_path / "marked" / MARK).write_text("[]")
    (tmp_path / "marked" / "a.txt").write_text("")
    for name in ("file", "link", "full", "marked"):
        with pytest.raises(ArtifactError, match="export"):
            require_replaceable(tmp_path / name)


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "source")
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.json").mkdir()
    with pytest.raises(IsADirectoryError):
        export_model(source, tmp_path / "out", stock=True, facts={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_what_a_killed_export_left_goes_with_the_next_one(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "source")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old = tmp_path / f".out.{ended.pid}.old"
    for left in (tmp_path / f".out.{ended.pid}.tmp", old, tmp_path / f".out.{os.getppid()}.tmp", tmp_path / ".out.me"):
        (left / "below").mkdir(parents=True)
    (source / "tokenizer.json").rename(source / "kept.json")
    (source / "tokenizer.json").mkdir()
    with pytest.raises(IsADirectoryError):
        export_model(source, tmp_path / "out", stock=True, facts={})
    assert old.exists(), "what the killed one had taken away is all there is"
    (source / "tokenizer.json").rmdir()
    (source / "kept.json").rename(source / "tokenizer.json")
    export_model(source, tmp_path / "out", stock=True, facts={})
    left = {path.name for path in tmp_path.iterdir()} - {"source", "out"}
    assert left == {f".out.{os.getppid()}.tmp", ".out.me"}, "a living process', and nobody's"


@pytest.mark.parametrize("to", ["/", ".", "..", "/proc/x", "/proc/x/y"])
def test_a_place_where_no_folder_can_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    recipe = finished(tmp_path)
    capsys.readouterr()
    assert export(recipe, to=to) == 3
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and re.match(rf"{to}: (nothing can be written|a folder that you stand in)", told), told


def test_a_stock_export_is_read_by_transformers_as_its_class(tmp_path: Path) -> None:
    made = export_model(tiny_model(tmp_path / "source"), tmp_path / "a" / "out", stock=True, facts={"stage": "x"})
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "out")
    assert type(model).__name__ == made.class_name == "LlamaForCausalLM"
    mark = json.loads((tmp_path / "a" / "out" / MARK).read_text())
    assert mark["stage"] == "x" and "model.safetensors" in mark["files"] and MARK not in mark["files"]


def test_nothing_is_exported_among_finished_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = finished(tmp_path)
    (source,) = Path("artifacts").glob("pretrain-*/output")
    for inside in (source / "mine", Path("artifacts/mine")):
        assert export(recipe, to=str(inside)) == 3 and not inside.exists()
        assert "which keeps finished work; choose a folder elsewhere" in capsys.readouterr().err
