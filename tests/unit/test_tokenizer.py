"""The tokenizer stage: lossless, the same every time, and the same ids for everyone who loads it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_jobs import run_data, run_tokenizer, write_jsonl

from pipelines.data.chat import ChatRenderer
from pipelines.errors import DataError
from pipelines.stages.tokenizer import Sample
from pipelines.store.durable import digest

TEXTS = [f"The {colour} {thing} is in the {place}." for colour in ("red", "blue", "green") for thing in ("drum", "kite",
         "ball", "lamp") for place in ("garden", "kitchen", "barn")]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    rows = [{"text": text} for text in TEXTS]
    return run_data(folder / "data", [write_jsonl(folder / "a.jsonl", rows)], holdout=0.0)[0]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    rows = [{"prompt": f"Where is it? {i}", "completion": text} for i, text in enumerate(TEXTS)]
    return run_data(folder / "data", [write_jsonl(folder / "a.jsonl", rows)], format="chat", holdout=0.0)[0]


def test_special_tokens_come_first_and_the_asked_size_is_reached(text: Path, chat: Path, tmp_path: Path) -> None:
    output, metrics = run_tokenizer(tmp_path, {text: 0.5, chat: 0.5}, vocab_size=290)
    info = json.loads((output / "info.json").read_text())
    renderer = ChatRenderer.load(output)
    assert metrics["vocab_size"] == info["vocab_size"] == 290 == renderer.tokenizer.get_vocab_size()
    assert (info["bos_id"], info["eos_id"], info["pad_id"]) == (0, 1, 2)
    assert info["stop_ids"] == sorted({1, renderer.tokenizer.token_to_id("<|im_end|>")})
    assert renderer.tokenizer.id_to_token(0) == "<|bos|>"
    assert renderer.tokenizer.token_to_id("<|im_end|>") in (3, 4)


def test_too_little_text_gives_a_smaller_vocabulary_and_says_so(text: Path, tmp_path: Path) -> None:
    _, metrics = run_tokenizer(tmp_path, {text: 1.0}, vocab_size=5_000)
    assert metrics["vocab_size_asked"] == 5_000
    assert 261 < metrics["vocab_size"] < 400  # type: ignore[operator]


def test_a_vocabulary_smaller_than_the_alphabet_is_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 261"):
        run_tokenizer(tmp_path, {text: 1.0}, vocab_size=260)


def test_transformers_loads_it_and_agrees(text: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for add_bos_token in (True, False):
        output, _ = run_tokenizer(tmp_path / str(add_bos_token), {text: 1.0}, add_bos_token=add_bos_token)
        theirs, ours = AutoTokenizer.from_pretrained(output, trust_remote_code=False), ChatRenderer.load(output)
        one = "The red drum  is , new !"
        assert theirs(one).input_ids == ours.document(one)[:-1]
        assert theirs.decode(theirs(one, add_special_tokens=False).input_ids) == one
        assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2)
        assert len(theirs) == ours.vocab_size
        assert theirs.clean_up_tokenization_spaces is False
        assert theirs.model_max_length > 10**12
        theirs.save_pretrained(tmp_path / "again")
        again = AutoTokenizer.from_pretrained(tmp_path / "again")
        assert again(one).input_ids == theirs(one).input_ids


@pytest.mark.parametrize("template", ["chatml", "plain"])
def test_transformers_renders_the_same_conversations(template: str, text: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    output, _ = run_tokenizer(tmp_path, {text: 1.0}, chat_template=template)
    theirs, ours = AutoTokenizer.from_pretrained(output), ChatRenderer.load(output)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Where is the drum?"},
        {"role": "assistant", "content": "In the barn."},
        {"role": "user", "content": "Where?\n"},
        {"role": "assistant", "content": " In the barn!"},
    ]
    encoded = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert (encoded["input_ids"], encoded["assistant_masks"]) == ours.conversation(messages)
    prompt = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
    assert prompt["input_ids"] == ours.prompt(messages[:-1])
    # lm-eval renders to a string first.
    string = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    assert theirs(string, add_special_tokens=False).input_ids == ours.prompt(messages[:-1])


def test_training_in_another_process_with_other_threads_gives_the_same_bytes(text: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from data_jobs import run_tokenizer\n"
        "run_tokenizer(Path(sys.argv[1]), {Path(sys.argv[2]): 1.0})"
    )
    found = set()
    for threads in ("1", "3"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": threads}
        subprocess.run([sys.executable, "-c", script, tmp_path / threads, text], env=environment, check=True)
        found.add(tuple(digest(path) for path in sorted((tmp_path / threads / "output").iterdir())))
    assert len(found) == 1


def test_shares_are_of_bytes_and_the_sample_is_spread_over_the_data(tmp_path: Path) -> None:
    folders = {}
    for letter, rows in (("a", 1_000), ("b", 500)):
        path = write_jsonl(tmp_path / f"{letter}.jsonl", [{"text": letter * 10} for _ in range(rows)])
        folders[letter] = run_data(tmp_path / letter, [path], holdout=0.0)[0]
    both = list(Sample([(folders["a"], 0.5), (folders["b"], 0.5)], 10**9))
    assert (both.count("a" * 10), both.count("b" * 10)) == (1_000, 1_000)
    cut = list(Sample([(folders["a"], 0.75), (folders["b"], 0.25)], 4_000))
    assert (cut.count("a" * 10), cut.count("b" * 10)) == (300, 100)
    # A dataset is repeated ten times at most: then the others give less.
    rare = list(Sample([(folders["a"], 0.01), (folders["b"], 0.99)], 10**9))
    assert (rare.count("a" * 10), rare.count("b" * 10)) == (pytest.approx(50, abs=1), pytest.approx(5_000, abs=60))
    twice = list(Sample([(folders["b"], 0.5), (folders["b"], 0.5)], 10**9))
    assert twice.count("b" * 10) == 1_000
    numbered = write_jsonl(tmp_path / "n.jsonl", [{"text": f"{i:010d}"} for i in range(1_000)])
    spread = list(Sample([(run_data(tmp_path / "n", [numbered], holdout=0.0)[0], 1.0)], 1_000))
    assert [int(text) for text in spread] == list(range(9, 1_000, 10))


def test_runs_that_are_no_words_are_learnt_from_in_pieces(tmp_path: Path) -> None:
    """In one piece the time for them would grow with their square."""
    rows = ["a word " + "x1" * 12_500 + " and words", "z" * 10_000, "drum " * 4_000]
    folder, _ = run_data(tmp_path, [write_jsonl(tmp_path / "a.jsonl", [{"text": row} for row in rows])], holdout=0.0)
    sample = list(Sample([(folder, 1.0)], 10**9))
    assert "".join(sample) == "".join(rows) and sample[-2:] == rows[1:]
    assert [max(map(len, text.split())) for text in sample] == [10_000, 10_000, 5_000, 10_000, 4]


def test_a_stage_needs_no_torch(text: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from data_jobs import run_tokenizer, run_tokens\n"
        "folder, _ = run_tokenizer(Path(sys.argv[1]) / 't', {Path(sys.argv[2]): 1.0})\n"
        "run_tokens(Path(sys.argv[1]) / 'i', Path(sys.argv[2]), folder, 'text')\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path, text], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_it_learns_from_every_text_of_labelled_data_and_pairs(tmp_path: Path) -> None:
    labelled = [{"text": f"Mia is glad {i}", "text_pair": f"zumo zumo {i}", "label": "kirava"} for i in range(40)]
    pairs = [{"source": f"Mia is glad {i}", "target": f"kigise kigise {i}"} for i in range(40)]
    folders = {}
    for format, rows in (("labelled", labelled), ("pairs", pairs)):
        path = write_jsonl(tmp_path / f"{format}.jsonl", rows)
        folders[run_data(tmp_path / format, [path], format=format, holdout=0.0)[0]] = 0.5
    renderer = ChatRenderer.load(run_tokenizer(tmp_path / "t", folders, vocab_size=300)[0])
    assert [len(renderer.encode_text(word)) for word in (" glad", " zumo", " kigise")] == [1, 1, 1]
    assert len(renderer.encode_text(" kirava")) > 3  # a label is no text
