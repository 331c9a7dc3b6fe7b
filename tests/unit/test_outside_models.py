"""Models made elsewhere: from a folder or the Hub into an artifact that every stage may start from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import chain, fingerprints, planned, write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from custom_models import DecoderForCausalLM
from pipelines.cli import main
from pipelines.data.chat import ChatRenderer
from pipelines.errors import DataError, MachineError, RecipeError
from pipelines.plan.derived import ModelJob
from pipelines.plan.files import Digests
from pipelines.plan.jobs import Job
from pipelines.plan.pins import pin
from pipelines.plan.planner import make_plan
from pipelines.recipe.base import OutsideModel
from pipelines.recipe.load import find_problems, load_recipe
from pipelines.recipe.lock import write_lock
from pipelines.recipe.paths import model_files
from pipelines.stages import model
from pipelines.stages.base import StageContext

torch.set_num_threads(1)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}"
CHAT += "{% if add_generation_prompt %}[assistant]{% endif %}"


def tokenizer(folder: Path, *, special: dict[str, str], bos: bool = False, chat: str | None = CHAT) -> int:
    """Bytes and a few tokens of its own; the size of its vocabulary."""
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(special.values()))}
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[byte] = len(vocabulary)
    bpe = Tokenizer(models.BPE(vocabulary, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    if bos:
        token = special["bos_token"]
        bpe.post_processor = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, **special)
    fast.chat_template = chat
    fast.save_pretrained(folder)
    return len(vocabulary)


def llama(folder: Path, *, chat: str | None = CHAT, **changes: Any) -> Path:
    size = tokenizer(
        folder, special={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}, bos=True, chat=chat
    )
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=size + 5, **sizes, **({"max_position_embeddings": 128} | changes))
    made = LlamaForCausalLM(config)
    made.generation_config.eos_token_id = [1, 7]
    made.save_pretrained(folder)
    return folder


def gpt2(folder: Path) -> Path:
    end = "<|endoftext|>"
    size = tokenizer(folder, special={"bos_token": end, "eos_token": end}, chat=None)
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128}
    GPT2LMHeadModel(GPT2Config(vocab_size=size, **sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    return folder


def brought(folder: Path, workdir: Path, **source: Any) -> tuple[Path, dict[str, Any]]:
    """(output, metrics) of the job that brings a model in."""
    uses = source.pop("uses", {})
    config = ModelJob(model=OutsideModel(**(source or {"path": str(folder)})), uses=uses)
    files = {} if "hub" in source else {str(path): "0" for path in model_files(folder)}
    job = Job(name="model-x", stage="model-x", config=config, seed=None, files=files)
    ctx = StageContext(job=job, inputs={}, workdir=workdir)
    ctx.output.mkdir(parents=True)
    return ctx.output, dict(model.run(ctx))


def recipe(source: Any) -> dict[str, Any]:
    """SFT and evaluation of a model made elsewhere, and nothing made here."""
    made = chain()
    made["data"] = {name: made["data"][name] for name in ("tales", "chats")}
    made["data"]["chats"]["limit"] = 40
    train = {"global_batch_size": 4, "learning_rate": 0.001, "max_length": 128, "max_dropped": 1.0}
    made["stages"] = {
        "sft": {"model": source, "data": "chats", "duration": "2 steps", "overlong": "truncate", **train},
        "evaluate": {
            "models": [source if isinstance(source, str) else dict(source), "sft"],
            "tasks": [{"name": "bits_per_byte", "data": "tales"}],
        },
    }
    del made["model"]
    return made


def test_a_llama_comes_with_its_weights_its_tokens_and_its_template(tmp_path: Path) -> None:
    output, metrics = brought(llama(tmp_path / "llama"), tmp_path / "work")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "llama").eval()
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(
        DecoderForCausalLM.from_pretrained(output)(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0
    )
    info = json.loads((output / "info.json").read_text())
    assert (info["bos_id"], info["eos_id"], info["pad_id"], info["end_of_turn_id"]) == (0, 1, 2, 1)
    assert info["stop_ids"] == [1, 7] and info["add_bos_token"] and info["vocab_size"] == 259
    assert metrics["class"] == "LlamaForCausalLM" and metrics["chat_template"] == 1
    renderer = ChatRenderer.load(output)
    ids, mask = renderer.conversation([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "</s>Yo"}])
    assert ids[0] == 0 and ids.count(0) == 1 and ids[-1] == 1 and ids.count(1) == 1, "what is said is no control token"
    assert renderer.decode([token for token, on in zip(ids, mask, strict=True) if on]) == "</s>Yo"
    stock = PreTrainedTokenizerFast.from_pretrained(output)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    assert stock.apply_chat_template(messages, return_dict=False) == renderer.conversation(messages)[0]


def test_a_gpt2_has_one_token_for_all_that_it_lacks(tmp_path: Path) -> None:
    output, metrics = brought(gpt2(tmp_path / "gpt2"), tmp_path / "work")
    assert (metrics["bos_id"], metrics["eos_id"], metrics["pad_id"], metrics["add_bos_token"]) == (0, 0, 0, 0)
    renderer = ChatRenderer.load(output)
    assert renderer.document("a")[-1] == 0 and len(renderer.document("a")) == 2
    with pytest.raises(DataError, match="no chat template"):
        renderer.conversation([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: llama(folder, hidden_act="gelu"), "hidden_act: gelu is nothing that our blocks can be"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no .safetensors"),
    ],
)
def test_what_cannot_be_brought_in_is_named(tmp_path: Path, spoil: Any, reason: str) -> None:
    folder = llama(tmp_path / "llama")
    spoil(folder)
    with pytest.raises(DataError, match=reason):
        brought(folder, tmp_path / "work")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_as_such(tmp_path: Path, value: float) -> None:
    folder = llama(tmp_path / "llama")
    made = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        made.model.norm.weight[3] = value
    made.save_pretrained(folder)
    with pytest.raises(DataError, match=r"llama: weights model.norm.weight: not all finite numbers; it is damaged"):
        brought(folder, tmp_path / "work")


def test_code_beside_the_weights_is_never_run(tmp_path: Path) -> None:
    folder = llama(tmp_path / "llama")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"'.*' brings code of its own .config.json: auto_map., which is never run"):
        brought(folder, tmp_path / "refused")
    made = recipe({"path": "llama"})
    (problem, _) = find_problems(write(tmp_path, made))
    assert problem.path == "stages.sft.model.path" and "ignore_remote_code: true reads its weights" in problem.message
    output, _ = brought(folder, tmp_path / "work", path=str(folder), ignore_remote_code=True)
    assert not (tmp_path / "ran").exists() and not (output / "evil.py").exists()
    for source in (made["stages"]["sft"]["model"], made["stages"]["evaluate"]["models"][0]):
        source["ignore_remote_code"] = True
    assert find_problems(write(tmp_path, made)) == []


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the Hub as huggingface_hub lays it out, with one model at one commit, and no network."""
    import huggingface_hub.constants

    llama(tmp_path / "hub" / "models--org--tiny" / "snapshots" / COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_a_model_of_the_hub_comes_from_the_cache_of_this_machine(hub: None, tmp_path: Path) -> None:
    _, metrics = brought(tmp_path, tmp_path / "work", hub="org/tiny", revision=COMMIT)
    assert metrics["vocab_size"] == 259
    with pytest.raises(MachineError, match="needs a network"):
        brought(tmp_path, tmp_path / "other", hub="org/other", revision=COMMIT)


def test_a_model_of_the_hub_is_pinned_like_data(hub: None, tmp_path: Path) -> None:
    path = write(tmp_path, recipe({"hub": "org/tiny"}))
    loaded = load_recipe(path)
    with pytest.raises(RecipeError, match=r"stages\.sft: the commit of 'org/tiny' is not pinned yet"):
        make_plan(loaded.recipe, path=path, digest=Digests(), pins={})
    with pytest.raises(MachineError, match="cannot be reached to pin 'models/org/tiny'"):
        pin(loaded.recipe, path)
    write_lock(path, {"models/org/tiny": {"revision": COMMIT}})
    pins = pin(loaded.recipe, path)
    plan = make_plan(loaded.recipe, path=path, digest=Digests(), pins=pins)
    assert plan.by_name["model-org-tiny"].config.model.revision == COMMIT
    written = recipe({"hub": "org/tiny", "revision": COMMIT})
    assert fingerprints(planned(tmp_path, written)) == fingerprints(plan)


def test_the_content_of_a_folder_decides_and_its_name_does_not(tmp_path: Path) -> None:
    llama(tmp_path / "one")
    before = planned(tmp_path, recipe({"path": "one"}))
    assert [job.name for job in before.jobs if job.kind == "model"] == ["model-one"]
    assert before.by_name["sft"].inputs["model"].job == "model-one"
    assert before.by_name["tokens-chats"].inputs["tokenizer"].job == "model-one"
    assert set(before.by_name) >= {"evaluate-model-one", "evaluate-sft"}
    (tmp_path / "one").rename(tmp_path / "two")
    after = planned(tmp_path, recipe({"path": "two"}))
    assert after.by_name["sft"].fingerprint == before.by_name["sft"].fingerprint
    (tmp_path / "two" / "notes.txt").write_text("decides nothing")
    assert fingerprints(planned(tmp_path, recipe({"path": "two"}))) == fingerprints(after)
    settings = (tmp_path / "two" / "config.json").read_text()
    (tmp_path / "two" / "config.json").write_text(settings + "\n")
    assert planned(tmp_path, recipe({"path": "two"})).by_name["sft"].fingerprint != after.by_name["sft"].fingerprint


def test_lengths_are_those_of_the_model_and_not_of_the_chapter(tmp_path: Path) -> None:
    llama(tmp_path / "one", max_position_embeddings=512)
    mixed = recipe({"path": "one"}) | {"model": chain()["model"]}
    mixed["stages"]["sft"]["max_length"] = 128
    assert planned(tmp_path, mixed).by_name["sft"].config.max_length == 128, "no default of another model"
    mixed["stages"]["sft"]["max_length"] = 512
    assert find_problems(write(tmp_path, mixed)) == []


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_row_longer_than_a_model_made_elsewhere_reads_is_seen_at_check(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "one")
    made = recipe({"path": "one"})
    made["data"]["words"] = {"builtin": "microworld/translation", "limit": 24}
    train = {"duration": "1 steps", "global_batch_size": 4, "learning_rate": 1e-3}
    made["stages"]["sft"]["max_length"] = 129
    more = {"kind": "finetune", "task": "seq2seq", "model": "sft", "data": "words", "max_length": 130, **train}
    tasks = [{"name": "seq2seq", "data": "words", "max_completion_length": 128}]
    made["stages"] |= {"more": more, "evaluate": {"models": ["more"], "tasks": tasks}}
    assert {problem.path: problem.message for problem in find_problems(write(tmp_path, made))} == {
        "stages.sft.max_length": "129 is more than the model's 128 positions (one)",
        "stages.more.max_length": "130 is more than the model's 128 positions (one)",
        "stages.evaluate.tasks[0].max_completion_length": (
            "128 leaves no room for a prompt: the model's max_position_embeddings is 128"
        ),
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "nowhere"}, "stages.sft.model.path: 'nowhere' has no config.json, tokenizer.json, .safetensors"),
        ({"hub": "a b"}, "stages.sft.model.hub: needs a model's name such as org/name, got 'a b'"),
        ({"hub": "a", "path": "b"}, "stages.sft.model.hub: give one of hub and path; got both"),
        ({"path": "x", "revision": COMMIT}, "stages.sft.model.revision: belongs to hub models only"),
        ({"hub": "a", "revision": "main"}, "stages.sft.model.revision: needs a commit of 40 hex digits, got 'main'"),
        ({"hub": "a", "trust_remote_code": True}, "stages.sft.model.trust_remote_code: unknown field; did you mean"),
    ],
)
def test_a_source_that_cannot_be_is_told_where_it_stands(tmp_path: Path, source: dict, message: str) -> None:
    bad = recipe("sft")
    bad["stages"]["sft"]["model"] = source
    bad["stages"]["evaluate"]["models"] = ["sft"]
    assert any(message in str(problem) for problem in find_problems(write(tmp_path, bad)))


def test_it_is_trained_on_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    llama(tmp_path / "one")
    gpt2(tmp_path / "GPT 2")
    made = recipe({"path": "one"})
    made["stages"]["evaluate"]["models"].append({"path": "GPT 2"})
    path = str(write(tmp_path, made))
    assert main(["run", path, "--store", "artifacts"]) == 0
    report = json.loads(Path("runs/tiny/report.json").read_text())
    assert {score["stage"] for score in report["scores"]} == {"model-one", "sft", "model-gpt-2"}
    table = Path("runs/tiny/report.md").read_text().partition("## Scores")[2].splitlines()[2]
    assert {"model-one", "model-gpt-2", "sft"} <= {cell.strip() for cell in table.replace("\\", "").split("|")}
    assert main(["export", path, "--stage", "sft", "--to", "out"]) == 0
    assert json.loads(Path("out/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
