"""Every family of tokenizers: lossless where it says so, the same bytes every time, the asked size, the named cuts."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from data_jobs import run_data, run_tokenizer, run_tokens, write_jsonl
from tokenizers import Tokenizer

from pipelines.data.chat import ChatRenderer
from pipelines.data.fast_bpe import FastBpe
from pipelines.data.fast_chars import FastChars
from pipelines.errors import DataError
from pipelines.recipe.tokenizer import TokenizerStage
from pipelines.stages.tokenizer_families import train
from pipelines.stages.tokenizer_measures import any_text, cut, require_frequent_words, require_round_trip

FAMILIES = ("byte_level_bpe", "bpe", "unigram", "wordpiece", "word", "char", "byte")
SPECIAL = ["<|bos|>", "<|eos|>", "<mask>"]
WORDS = [f"{start}{end}" for start in ("kir", "zum", "kig", "mol", "ta") for end in ("ava", "o", "ise", "er", "ing")]
TEXTS = [
    f"The {word} of {other} is in 1{number}9 places,\n\tdoesn't {word.title()}.{other}(x_{number})?  Größe é"
    for number, (word, other) in enumerate((word, other) for word in WORDS for other in WORDS)
]
KEEPING: list[dict[str, Any]] = [
    {"algorithm": "byte_level_bpe"},
    {"algorithm": "byte_level_bpe", "pre_tokenizer": "gpt4"},
    {"algorithm": "byte_level_bpe", "pre_tokenizer": "gpt4o"},
    {"algorithm": "byte_level_bpe", "digits": "single", "whitespace": "single"},
    {"algorithm": "byte_level_bpe", "pre_tokenizer": "gpt4", "digits": "together", "whitespace": "single"},
    {"algorithm": "byte"},
    {"algorithm": "bpe"},
    {"algorithm": "bpe", "pre_tokenizer": "gpt4o"},
    {"algorithm": "unigram"},
    {"algorithm": "char"},
]


def stage(**given: Any) -> TokenizerStage:
    sized = {} if given["algorithm"] in ("byte", "char") else {"vocab_size": 420}
    return TokenizerStage(kind="tokenizer", data={"x": 1.0}, **(sized | given))


def made(**given: Any) -> Tokenizer:
    tokenizer = train(stage(**given), TEXTS, SPECIAL)
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    return run_data(folder / "data", [write_jsonl(folder / "a.jsonl", [{"text": text} for text in TEXTS])])[0]


ENGINES = {"byte_level_bpe": FastBpe, "byte": FastBpe, "char": FastChars}


def check_keeps(given: dict[str, Any], count: int, seed: int) -> None:
    """No text is lost, none becomes a control token, and the faster engine gives the same ids."""
    tokenizer, rng = made(**given), random.Random(seed)
    assert stage(**given).keeps_text
    control = set(tokenizer.get_added_tokens_decoder())
    fast = FastBpe.of(tokenizer) or FastChars.of(tokenizer)
    assert type(fast) is ENGINES.get(given["algorithm"], type(None))
    for start in range(0, count, 5_000):
        texts = [any_text(rng) for _ in range(min(5_000, count - start))]
        texts += ["", *SPECIAL, "<0x41> <unk> ▁ ⁀ ##a", *TEXTS[:20]] if start == 0 else []
        ids = [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        assert tokenizer.decode_batch(ids, skip_special_tokens=False) == texts
        assert not control & {number for row in ids for number in row}
        if fast is not None:
            assert fast.encode(texts, num_threads=1) == ids


@pytest.mark.parametrize("given", KEEPING, ids=str)
def test_no_text_of_any_plane_is_lost(given: dict[str, Any]) -> None:
    check_keeps(given, 3_000, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [given for given in KEEPING if given["algorithm"] in ("byte_level_bpe", "byte")], ids=str
)
def test_no_text_of_a_million_is_lost(given: dict[str, Any]) -> None:
    check_keeps(given, 1_000_000, seed=2)


def check_all_characters(given: dict[str, Any], last: int) -> None:
    tokenizer = made(**given)
    fast = FastBpe.of(tokenizer)
    assert fast is not None
    points = [point for point in range(last) if not 0xD800 <= point < 0xE000]
    characters = [f"a{chr(point)}1 {chr(point)}'{chr(point)}" for point in points]
    texts = ["".join(characters[start : start + 1000]) for start in range(0, len(characters), 1000)]
    slow = [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    assert fast.encode(texts, num_threads=1) == slow


def test_characters_that_are_unknown_are_so_to_the_table_too() -> None:
    tokenizer, rng = made(algorithm="char", byte_fallback=False), random.Random(3)
    fast = FastChars.of(tokenizer)
    assert fast is not None
    texts = [any_text(rng) for _ in range(500)] + [*SPECIAL, "", "<unk>", *TEXTS[:20]]
    ids = [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    assert fast.encode(texts, num_threads=1) == ids
    assert tokenizer.token_to_id("<unk>") in ids[0]
    assert fast.agrees(tokenizer, texts)
    assert not fast.agrees(made(algorithm="char", byte_fallback=False, character_coverage=0.9), texts)


CUTS = [given for given in KEEPING if given["algorithm"] == "byte_level_bpe"]


@pytest.mark.parametrize("given", CUTS, ids=str)
def test_common_characters_are_cut_the_same_way_by_both_engines(given: dict[str, Any]) -> None:
    check_all_characters(given, 0x3100)


@pytest.mark.slow
@pytest.mark.parametrize("given", CUTS, ids=str)
def test_every_character_is_cut_the_same_way_by_both_engines(given: dict[str, Any]) -> None:
    check_all_characters(given, 0x110000)


def test_the_same_text_gives_the_same_files_at_any_number_of_threads(text: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from data_jobs import run_tokenizer\n"
        f"for family in {FAMILIES}:\n"
        "    size = None if family in ('byte', 'char') else 420\n"
        "    run_tokenizer(Path(sys.argv[1]) / family, {Path(sys.argv[2]): 1.0}, algorithm=family, vocab_size=size)"
    )
    found = []
    for threads in ("1", "2", "4"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": threads}
        subprocess.run([sys.executable, "-c", script, tmp_path / threads, text], env=environment, check=True)
        folder = tmp_path / threads
        found.append({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert len(found[0]) == 5 * len(FAMILIES)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_and_our_renderer_give_the_same_ids(family: str, text: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    size = {} if family in ("byte", "char") else {"vocab_size": 450}
    output, metrics = run_tokenizer(
        tmp_path,
        {text: 1.0},
        **({"vocab_size": None} | size),
        algorithm=family,
        special_tokens=["<|tool|>"],
        num_reserved=2,
    )
    info = json.loads((output / "info.json").read_text())
    ours, theirs = ChatRenderer.load(output), AutoTokenizer.from_pretrained(output, trust_remote_code=False)
    assert len(theirs) == ours.vocab_size == metrics["vocab_size"] == (size.get("vocab_size") or metrics["vocab_size"])
    control = [theirs.convert_tokens_to_ids(token) for token in ("<|tool|>", "<|reserved_0|>", "<|reserved_1|>")]
    assert len({*control, info["bos_id"], info["eos_id"], info["pad_id"], info["end_of_turn_id"]}) == 7
    for one in TEXTS[:50]:
        assert theirs(one).input_ids == ours.document(one)[:-1]
        assert not set(control) & set(ours.encode_text(f"{one} <|tool|>"))
    assert info.get("changes_text", False) == (family in ("wordpiece", "word"))
    assert ("unk_token" in json.loads((output / "tokenizer_config.json").read_text())) == (
        family in ("wordpiece", "word", "unigram")
    )
    run_tokens(tmp_path / "tokens", text, output, "text")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm": "byte_level_bpe", "vocab_size": 260}, "vocab_size 260 .* at least 261"),
        ({"algorithm": "byte", "vocab_size": 300}, "vocab_size 300, but algorithm: byte has 261 entries"),
        ({"algorithm": "bpe", "vocab_size": 280}, "vocab_size 280 .* at least 3"),
        ({"algorithm": "unigram", "vocab_size": 280}, "vocab_size 280 .* at least 3"),
        ({"algorithm": "byte_level_bpe", "special_tokens": ["<|im_end|>"]}, "'<|im_end|>' is a token of the chat"),
    ],
)
def test_what_cannot_be_made_is_told_with_both_numbers(
    given: dict[str, Any], message: str, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message.replace("|", r"\|")):
        run_tokenizer(tmp_path, {text: 1.0}, **given)


@pytest.mark.parametrize("family", ["byte_level_bpe", "bpe", "unigram", "wordpiece", "word"])
def test_a_text_too_small_for_the_size_is_told_with_both_numbers(
    family: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, metrics = run_tokenizer(tmp_path, {text: 1.0}, algorithm=family, vocab_size=20_000)
    assert metrics["vocab_size"] < metrics["vocab_size_asked"] == 20_000  # type: ignore[operator]
    assert f"vocab_size 20000, but the text gave only {metrics['vocab_size']} entries" in capsys.readouterr().out


def test_digits_and_spaces_are_cut_as_the_recipe_says() -> None:
    text = "x 1234567    y"
    texts = [text] * 50

    def pieces(**given: Any) -> list[str]:
        config = TokenizerStage(kind="tokenizer", data={"x": 1.0}, vocab_size=300, **given)
        return cut(train(config, texts, []), text)

    assert pieces() == ["x", " 1234567", "   ", " y"]
    assert pieces(digits="three") == ["x", " ", "123", "456", "7", "   ", " y"]
    assert pieces(digits="single", whitespace="single") == ["x", " ", *"1234567", " ", " ", " ", " y"]
    assert pieces(pre_tokenizer="gpt4") == pieces(digits="three")
    assert pieces(pre_tokenizer="gpt4", digits="together") == pieces()


@pytest.mark.parametrize("family", ["byte_level_bpe", "bpe", "unigram", "wordpiece", "word"])
def test_words_that_stand_everywhere_are_one_token(family: str) -> None:
    texts = ["The kirava finds zumo here", "The molise finds kirava here"] * 50
    config = TokenizerStage(kind="tokenizer", data={"x": 1.0}, algorithm=family, vocab_size=340)  # type: ignore[arg-type]
    assert cut(train(config, texts, SPECIAL), texts[0]) == ["The", " kirava", " finds", " zumo", " here"]


def test_what_a_lossy_family_drops_is_only_what_it_says() -> None:
    plain = "The kirava of zumo is here"
    for family in ("wordpiece", "word"):
        kept = made(algorithm=family, vocab_size=420)
        assert kept.decode(kept.encode("The  zumo", add_special_tokens=False).ids) == "The  zumo"
        dropping = made(algorithm=family, vocab_size=420, pre_tokenizer="bert")
        assert dropping.decode(
            dropping.encode(plain, add_special_tokens=False).ids, skip_special_tokens=False
        ).startswith("The kirava of zumo is")
    lower = made(algorithm="byte_level_bpe", normalizer=("lowercase", "strip_accents"))
    assert lower.decode(lower.encode("GRÖSSE É", add_special_tokens=False).ids) == "grosse e"
    spaces = made(algorithm="unigram", pre_tokenizer="metaspace")
    assert spaces.decode(spaces.encode(" a  kirava", add_special_tokens=False).ids) == " a  kirava"


@pytest.mark.parametrize("family", ["byte_level_bpe", "bpe", "wordpiece"])
def test_a_vocabulary_without_the_most_frequent_words_is_refused(family: str) -> None:
    rng = random.Random(0)
    rare = ["".join(rng.choices("abcdefghijklmno", k=5)) for _ in range(3_000)]
    config = TokenizerStage(kind="tokenizer", data={"x": 1.0}, algorithm=family, vocab_size=2_000)  # type: ignore[arg-type]
    good = [f"the {word} the {word}" for word in rare]
    assert require_frequent_words(train(config, good, []), good)["tokens_per_frequent_word"] < 4
    without = train(config, [f"a t h e {word}" for word in rare], [])
    with pytest.raises(DataError, match=r"'the'.* stand so often in the text that a vocabulary of"):
        require_frequent_words(without, good)


def test_a_family_that_should_keep_text_and_does_not_stops_the_run() -> None:
    lossy = made(algorithm="byte_level_bpe", normalizer=("lowercase",))
    with pytest.raises(DataError, match="texts come back changed"):
        require_round_trip(lossy, TEXTS)
