"""Finished tokenizers: of a folder or a file of ranks, with our control tokens and templates; and beside others."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from data_jobs import TEMPLATES, run_data, run_tokenizer, run_tokens, write_jsonl
from tokenizers import AddedToken, Tokenizer

from pipelines.data.chat import ChatRenderer
from pipelines.data.fast_bpe import FastBpe, bytes_of_characters
from pipelines.errors import DataError, RecipeError
from pipelines.plan.files import Digests
from pipelines.plan.jobs import Job
from pipelines.plan.planner import make_plan
from pipelines.recipe.load import load_recipe
from pipelines.recipe.stages import TokenizerStage
from pipelines.recipe.tokenizer import Reference, TokenizerSource
from pipelines.stages import tokenizer as tokenizer_stage
from pipelines.stages import vocabulary
from pipelines.stages.base import StageContext
from pipelines.stages.tokenizer_families import byte_level_bpe, train
from pipelines.stages.tokenizer_source import finished, from_ranks

TEXTS = [f"The red drum of Mia is in {number} places,  doesn't it?\n\tkite_{number}" for number in range(300)]
CHAT = [{"role": "user", "content": "Where is <|im_end|> it?"}, {"role": "assistant", "content": "In the barn."}]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    rows = [{"text": text} for text in TEXTS]
    return run_data(folder / "data", [write_jsonl(folder / "a.jsonl", rows)], holdout=0.1)[0]


def gpt2_like(folder: Path, **settings: Any) -> Path:
    """A folder as GPT-2's: one token that begins and ends texts, none that pads."""
    folder.mkdir()
    made = byte_level_bpe(TEXTS, vocab_size=320, special_tokens=["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def ranks_of(path: Path, vocab_size: int = 320) -> tuple[Path, Tokenizer]:
    """A .tiktoken file, and the tokenizer that it is of."""
    made = byte_level_bpe(TEXTS, vocab_size=vocab_size, special_tokens=[])
    byte_of = bytes_of_characters()
    lines = [
        f"{base64.b64encode(bytes(byte_of[character] for character in token)).decode()} {rank}"
        for token, rank in sorted(made.get_vocab().items(), key=lambda item: item[1])
    ]
    path.write_text("\n".join(lines) + "\n")
    return path, made


def taken(workdir: Path, source: TokenizerSource, **stage: Any) -> tuple[Path, Any]:
    """(output, metrics) of a tokenizer job with a source."""
    template = TEMPLATES / f"{stage.pop('chat_template', 'chatml')}.jinja"
    config = TokenizerStage(kind="tokenizer", source=source, **stage)
    job = Job(name="tokenizer", stage="tokenizer", config=config, seed=None, files={str(template): "0"})
    ctx = StageContext(job=job, inputs={}, workdir=workdir)
    return ctx.output, tokenizer_stage.run(ctx)


def test_a_folder_keeps_its_ids_and_gets_our_control_tokens_behind_them(text: Path, tmp_path: Path) -> None:
    folder = gpt2_like(tmp_path / "gpt2")
    output, metrics = taken(
        tmp_path / "t", TokenizerSource(path=str(folder)), special_tokens=("<|tool|>",), mask_token=True, num_reserved=1
    )
    before, after = Tokenizer.from_file(str(folder / "tokenizer.json")), ChatRenderer.load(output)
    assert after.encode_texts(TEXTS) == [one.ids for one in before.encode_batch(TEXTS)]
    assert (after.bos_id, after.eos_id) == (0, 0)
    new = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<mask>", "<|tool|>", "<|reserved_0|>"]
    assert sorted(after.tokenizer.token_to_id(token) for token in new) == list(range(320, 326))
    assert metrics == {"vocab_size": 326, "changes_text": 0}
    ids, mask = after.conversation(CHAT)
    assert [on for one, on in zip(ids, mask, strict=True) if one == after.end_of_turn_id] == [0, 1]
    run_tokens(tmp_path / "tokens", text, output, "text")


def test_transformers_loads_what_was_taken_over(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for add_bos_token in (True, False):
        source = TokenizerSource(path=str(gpt2_like(tmp_path / f"gpt2-{add_bos_token}")))
        output, _ = taken(tmp_path / str(add_bos_token), source, add_bos_token=add_bos_token, chat_template="plain")
        theirs, ours = AutoTokenizer.from_pretrained(output), ChatRenderer.load(output)
        assert theirs(TEXTS[0]).input_ids == ours.document(TEXTS[0])[:-1]
        assert (theirs.pad_token, len(theirs)) == ("<|pad|>", ours.vocab_size)


def test_its_own_chat_template_is_used_where_the_recipe_says_so(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|endoftext|>{% endfor %}" \
        "{% if add_generation_prompt %}assistant: {% endif %}"  # fmt: skip
    source = TokenizerSource(path=str(gpt2_like(tmp_path / "g", chat_template=template)), own_chat_template=True)
    output, metrics = taken(tmp_path / "t", source)
    assert (output / "chat_template.jinja").read_text().endswith(template)
    assert metrics["vocab_size"] == 321  # a token that pads
    assert ChatRenderer.load(output).end_of_turn_id == 0
    none = TokenizerSource(path=str(gpt2_like(tmp_path / "h")), own_chat_template=True)
    with pytest.raises(DataError, match="brings no chat template"):
        taken(tmp_path / "u", none)


def test_a_tokenizer_that_changes_text_is_known_to(text: Path, tmp_path: Path) -> None:
    made = run_tokenizer(tmp_path / "a", {text: 1.0}, algorithm="wordpiece", vocab_size=320, pre_tokenizer="bert")[0]
    output, metrics = taken(tmp_path / "t", TokenizerSource(path=str(made)), add_bos_token=False)
    assert metrics["changes_text"] == 1 and json.loads((output / "info.json").read_text())["changes_text"]
    run_tokens(tmp_path / "tokens", text, output, "text")


def test_a_file_of_ranks_gives_the_ids_of_the_tokenizer_and_of_tiktoken(tmp_path: Path) -> None:
    path, made = ranks_of(tmp_path / "own.tiktoken")
    read = finished(Reference(path=str(path), pre_tokenizer="gpt2")).tokenizer
    assert json.loads(read.to_str())["model"]["merges"] == json.loads(made.to_str())["model"]["merges"]
    read.encode_special_tokens = True
    fast = FastBpe.of(read)
    assert fast is not None and fast.agrees(read, TEXTS)
    assert [one.ids for one in read.encode_batch(TEXTS)] == [one.ids for one in made.encode_batch(TEXTS)]
    output, metrics = taken(tmp_path / "t", TokenizerSource(path=str(path), pre_tokenizer="gpt4"))
    assert metrics["vocab_size"] == 325 and ChatRenderer.load(output).bos_id >= 320


def test_a_token_of_ranks_that_no_merge_makes_is_found_whole(tmp_path: Path) -> None:
    path, made = ranks_of(tmp_path / "own.tiktoken")
    with path.open("a") as file:
        file.write(f"{base64.b64encode(b' zzzyyy').decode()} 320\n")
    read = from_ranks(path, "gpt2")
    assert read.encode(" zzzyyy").ids == [320] and len(made.encode(" zzzyyy").ids) > 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("?? 3", ":321: needs a token in base64"),
        ("eno= 5", "gives one rank to two tokens"),
        ("eno= -1", ":321: a rank is from 0 to 9,999,999, and this is -1"),
        ("eno= 99999999999", ":321: a rank is from 0 to 9,999,999, and this is 99,999,999,999"),
        ("eno= 320\neno= 321", ":322: gives a second rank to one token"),
    ],
)
def test_a_damaged_file_of_ranks_is_refused(line: str, message: str, tmp_path: Path) -> None:
    path, _ = ranks_of(tmp_path / "own.tiktoken")
    path.write_text(path.read_text() + line)
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        from_ranks(path, "gpt2")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no tokenizer"):
        finished(Reference(path=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        finished(Reference(path=str(tmp_path)))


# --- beside others ----------------------------------------------------------------------------------------------------


RECIPE = """\
name: t
data:
  text: {{files: a.jsonl, holdout: 0.1}}
stages:
  tokenizer: {{{tokenizer}}}
"""


def jobs(folder: Path, tokenizer: str) -> dict[str, Job]:
    path = folder / "t.yaml"
    path.write_text(RECIPE.format(tokenizer=tokenizer))
    recipe = load_recipe(path).recipe
    return {job.name: job for job in make_plan(recipe, path=path, digest=Digests()).jobs}


def test_what_a_tokenizer_is_compared_with_does_not_make_it_again(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    gpt2_like(tmp_path / "gpt2")
    alone = jobs(tmp_path, "vocab_size: 300, data: text")
    one = jobs(tmp_path, "vocab_size: 300, data: text, compare: {path: gpt2}")
    two = jobs(tmp_path, "vocab_size: 300, data: text, compare: {path: gpt2}, sweep: [300, 1k]")
    assert "vocabulary-tokenizer" not in alone
    assert {plan["tokenizer"].fingerprint for plan in (alone, one, two)} == {alone["tokenizer"].fingerprint}
    assert one["vocabulary-tokenizer"].fingerprint != two["vocabulary-tokenizer"].fingerprint
    (tmp_path / "gpt2" / "tokenizer_config.json").write_text("{}")
    changed = jobs(tmp_path, "vocab_size: 300, data: text, compare: {path: gpt2}")
    assert changed["vocabulary-tokenizer"].fingerprint != one["vocabulary-tokenizer"].fingerprint


def test_a_size_may_be_written_in_thousands(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    written = [jobs(tmp_path, f"vocab_size: {size}, data: text")["tokenizer"] for size in ("16k", 16_000)]
    assert written[0].fingerprint == written[1].fingerprint and written[0].config.vocab_size == 16_000


def test_a_source_decides_the_fingerprint_by_its_content(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    gpt2_like(tmp_path / "gpt2").rename(tmp_path / "other")
    first = jobs(tmp_path, "source: {path: other}")["tokenizer"]
    (tmp_path / "other").rename(tmp_path / "moved")
    assert jobs(tmp_path, "source: {path: moved}")["tokenizer"].fingerprint == first.fingerprint
    with_data = jobs(tmp_path, "source: {path: moved}, data: text")
    assert with_data["tokenizer"].fingerprint == first.fingerprint and "vocabulary-tokenizer" in with_data
    made = Tokenizer.from_file(str(tmp_path / "moved" / "tokenizer.json"))
    made.add_tokens([AddedToken("kite_1")])
    made.save(str(tmp_path / "moved" / "tokenizer.json"))
    assert jobs(tmp_path, "source: {path: moved}")["tokenizer"].fingerprint != first.fingerprint


def test_a_tokenizer_of_the_hub_needs_its_commit(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(RECIPE.replace("files: a.jsonl, holdout: 0.1", "builtin: microworld/text").format(
        tokenizer="source: {hub: org/name}, data: text, compare: {hub: org/other}"))  # fmt: skip
    recipe = load_recipe(path).recipe
    with pytest.raises(RecipeError, match="the commit of 'org/name' is not pinned yet"):
        make_plan(recipe, path=path, digest=Digests(), pins={})
    pins = {f"models/org/{name}": {"revision": digit * 40} for name, digit in (("name", "1"), ("other", "2"))}
    plan = make_plan(recipe, path=path, digest=Digests(), pins=pins)
    assert plan.by_name["tokenizer"].config.source.revision == "1" * 40  # type: ignore[union-attr]
    assert plan.by_name["vocabulary-tokenizer"].config.compare[0].revision == "2" * 40  # type: ignore[union-attr]


def test_others_and_other_sizes_are_measured_on_the_same_text(text: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    gpt2_like(tmp_path / "gpt2")
    ranks_of(tmp_path / "own.tiktoken", vocab_size=340)
    compare = "[{path: gpt2}, {path: own.tiktoken, pre_tokenizer: gpt4}]"
    job = jobs(tmp_path, f"vocab_size: 400, data: text, compare: {compare}, sweep: [300, 280]")["vocabulary-tokenizer"]
    trained, _ = run_tokenizer(tmp_path / "t", {text: 1.0}, vocab_size=400)
    inputs = {"tokenizer": trained, "data.0": text}
    ctx = StageContext(job=job, inputs=inputs, workdir=tmp_path / "v")
    metrics = vocabulary.run(ctx)
    facts = json.loads((ctx.output / "vocabulary.json").read_text())
    assert [one["name"] for one in facts["compare"]] == ["gpt2", "own.tiktoken"]
    assert [one["vocab_size"] for one in facts["compare"]] == [320, 340]
    assert [one["asked"] for one in facts["sweep"]] == [280, 300]
    assert facts["sweep"][0]["bytes_per_token"] < facts["sweep"][1]["bytes_per_token"] < facts["own"]["bytes_per_token"]
    assert {one["bytes"] for one in (facts["own"], *facts["compare"], *facts["sweep"])} == {facts["own"]["bytes"]}
    assert metrics["bytes_per_token_gpt2"] == facts["compare"][0]["bytes_per_token"]


@pytest.mark.parametrize("algorithm", ["byte_level_bpe", "bpe"])
def test_a_smaller_vocabulary_is_the_beginning_of_a_larger_one(algorithm: str) -> None:
    def trained(size: int) -> Tokenizer:
        config = TokenizerStage(kind="tokenizer", data={"x": 1.0}, algorithm=algorithm, vocab_size=size)  # type: ignore[arg-type]
        return train(config, TEXTS, [])

    large = trained(400)
    for size in (399, 350, 310):
        small = vocabulary.shrunk(large, size)
        assert small is not None and small.to_str() == trained(size).to_str()
    assert vocabulary.shrunk(large, 200) is None
