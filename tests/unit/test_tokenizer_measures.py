"""What is measured of a tokenizer, on a few texts whose counts are known."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from data_jobs import run_data, run_tokenizer, run_tokens, write_jsonl
from tokenizers import Tokenizer

from pipelines.data.chat import ChatRenderer
from pipelines.errors import DataError
from pipelines.recipe.tokenizer import TokenizerStage
from pipelines.stages.tokenizer_families import train
from pipelines.stages.tokenizer_measures import by_language, cut, lengths, longest, measured, unknown_share, usage
from pipelines.stages.tokenizer_sample import Sample, thinned

ENGLISH = "The old miller went down to the river this morning because the wheel had stopped turning again."
GERMAN = "Der alte Müller ging heute Morgen zum Fluss hinunter, weil sich das Rad schon wieder nicht mehr drehte."


def made(algorithm: str, texts: list[str], **given: Any) -> Tokenizer:
    config = TokenizerStage(kind="tokenizer", algorithm=algorithm, data={"x": 1.0}, **given)  # type: ignore[arg-type]
    tokenizer = train(config, texts, ["<|eos|>"])
    tokenizer.encode_special_tokens = True
    return tokenizer


def test_bytes_and_tokens_are_counted() -> None:
    tokenizer = made("byte", [])
    assert lengths(tokenizer, ["ab cd", "é"]) == {"bytes": 7, "bytes_per_token": 1.0, "tokens_per_word": 2.3333}
    used = usage(tokenizer, ["a" * 20, "bb"])
    assert used == {"size": 22, "tokens": 22, "unused_share": round(254 / 256, 4), "rare_share": round(1 / 256, 4)}


def test_unknown_tokens_are_counted_and_longest_ones_are_shown() -> None:
    tokenizer = made("word", ["one two", "one three"], vocab_size=300)
    assert unknown_share(tokenizer, ["one four two five"]) == 0.5
    assert longest(tokenizer) == [" three", " two", "one"]
    assert cut(tokenizer, "one two") == ["one", " two"]
    assert unknown_share(made("byte", []), ["one"]) == 0.0


def test_languages_have_rows_of_their_own_where_there_are_several() -> None:
    tokenizer = made("byte_level_bpe", [ENGLISH] * 20, vocab_size=340)
    assert by_language(tokenizer, [ENGLISH] * 10) == {}
    both = by_language(tokenizer, [ENGLISH] * 10 + [GERMAN] * 8 + ["東京都"] * 2)
    assert list(both) == ["en", "de"]
    assert both["en"]["bytes_per_token"] > 1.5 * both["de"]["bytes_per_token"]
    assert both["de"]["bytes"] == 8 * len(GERMAN.encode())


def test_failures_are_counted_and_examples_are_cut() -> None:
    facts = measured(made("byte_level_bpe", [ENGLISH], vocab_size=300, normalizer=("lowercase",)), [ENGLISH, "low"], {
        "data.0": ["some text"], "data.1": ["more"]})  # fmt: skip
    assert (facts["failures"], facts["texts"]) == (1, 2)
    assert {role: found["bytes"] for role, found in facts["sources"].items()} == {"data.0": 9, "data.1": 4}
    assert facts["bytes"] == 13
    assert "".join(facts["examples"]["code"]).startswith("def area(self")


def test_a_part_of_a_sample_is_spread_and_keeps_the_shares(tmp_path: Path) -> None:
    folders = {}
    for letter, length, rows in (("a", 10, 4_000), ("b", 40_000, 5)):
        path = write_jsonl(tmp_path / f"{letter}.jsonl", [{"text": letter * (length + i)} for i in range(rows)])
        folders[letter] = run_data(tmp_path / letter, [path], holdout=0.0)[0]
    sample = Sample([(folders["a"], 0.5), (folders["b"], 0.5)], 200_000)
    part = "".join(sample.part(40_000))
    assert part.count("a") == pytest.approx(20_000, rel=0.11) and part.count("b") == pytest.approx(20_000, rel=0.11)
    assert {len(set(text)) for text in thinned(["ab"] * 100, 0.5)} == {2} and list(thinned(["ab"] * 4, 9.0)) == [
        "ab"
    ] * 4


def test_a_control_token_that_is_also_a_word_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"miller miller {number}"} for number in range(50)])
    data = run_data(tmp_path / "d", [path], holdout=0.0)[0]
    with pytest.raises(DataError, match="'miller' is also learnt as text"):
        run_tokenizer(tmp_path / "t", {data: 1.0}, vocab_size=290, special_tokens=("miller",))
    run_tokenizer(tmp_path / "u", {data: 1.0}, vocab_size=290, special_tokens=("<|miller|>",))


def test_what_was_measured_is_kept_beside_the_artifact(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [{"text": " ".join(rng.choices(ENGLISH.split(), k=30))} for _ in range(200)]
    data = run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", rows)], holdout=0.2)[0]
    output, metrics = run_tokenizer(tmp_path / "t", {data: 1.0}, vocab_size=320, max_bytes=8_000)
    facts = json.loads((output.parent / "record" / "tokenizer.json").read_text())
    assert facts["bytes_per_token"] == metrics["bytes_per_token"] > 2
    assert (facts["asked"], facts["failures"], metrics["round_trip_failures"]) == (320, 0, 0)
    assert metrics["bytes"] == 8_000 < metrics["bytes_available"]  # type: ignore[operator]
    assert sorted(file.name for file in output.iterdir()) == [
        "chat_template.jinja", "info.json", "tokenizer.json", "tokenizer_config.json"]  # fmt: skip


@pytest.mark.parametrize("family", ["wordpiece", "word"])
def test_conversations_in_a_family_that_changes_text_are_checked_by_their_turns(family: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"Where is it {i}?", "completion": f"In the barn, é{i * 7919}."} for i in range(60)]
    chat = run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", rows)], format="chat", holdout=0.0)[0]
    sizes: dict[str, Any] = {"wordpiece": {"vocab_size": 300, "character_coverage": 0.9}, "word": {"vocab_size": 260}}
    output, _ = run_tokenizer(tmp_path / "t", {chat: 1.0}, algorithm=family, **sizes[family])
    renderer = ChatRenderer.load(output)
    assert renderer.tokenizer.token_to_id("<unk>") in renderer.encode_text("東")
    assert run_tokens(tmp_path / "i", chat, output, "chat")[1]["rows"] == 60
