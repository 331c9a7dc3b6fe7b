"""The faster engine of byte-level BPE: the very same ids, and no engine where it could give others."""

import json
import random
from collections.abc import Sequence

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipelines.data.chat import ChatRenderer
from pipelines.data.fast_bpe import END, FastBpe
from pipelines.stages.tokenizer_families import byte_level_bpe as train

TEXTS = [
    "Mia sees 12 bright kites, doesn't she?\n\n  Yes: she DOES.\t(It's  1999.)",
    "Grüße aus Köln — 東京 привет 🙂",
] * 50
SPECIAL = ("<|bos|>", "<|eos|>", "<|pad|>")


def trained(vocab_size: int = 400) -> Tokenizer:
    tokenizer = train(iter(TEXTS), vocab_size=vocab_size, special_tokens=SPECIAL)
    tokenizer.encode_special_tokens = True
    return tokenizer


def slowly(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [one.ids for one in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def any_text(rng: random.Random) -> str:
    """Characters of all planes, with plain ones between them."""
    tops = rng.choices((0x80, 0x300, 0x3000, 0x110000), (5, 2, 1, 2), k=rng.randrange(12))
    points = [rng.randrange(top) for top in tops]
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def test_all_texts_get_the_ids_of_the_tokenizer() -> None:
    tokenizer, rng = trained(), random.Random(0)
    fast = FastBpe.of(tokenizer)
    assert fast is not None
    texts = ["", *TEXTS[:2], *SPECIAL, "x <|eos|> y", *(any_text(rng) for _ in range(30_000))]
    expected = slowly(tokenizer, texts)
    assert fast.encode(texts, num_threads=1) == expected
    assert fast.encode(texts, num_threads=2) == expected
    assert fast.agrees(tokenizer, texts)


def test_texts_are_encoded_as_if_alone_however_they_are_joined() -> None:
    tokenizer = trained()
    fast = FastBpe.of(tokenizer)
    assert fast is not None
    texts = [" ", "a ", " b", "", "x\n", "\n", "1", "2", f"a{END} b", END, "end "] * 3
    expected = slowly(tokenizer, texts)
    for chosen, ids in ((texts, expected), (texts[:8], expected[:8])):
        for num_threads in (1, 2):
            assert fast.rows(chosen, num_threads=num_threads).tolist() == ids
        between = fast.rows(chosen, num_threads=1).between([7, 8], 9).tolist()
        assert between == [[7, 8, *one, 9] for one in ids]
    assert fast.rows([], num_threads=1).between([7], 9).tolist() == []


def test_every_character_is_of_the_same_kind_to_both() -> None:
    """Whether a character is a letter, a number or a space decides where a text is cut."""
    tokenizer = trained(300)
    fast = FastBpe.of(tokenizer)
    assert fast is not None
    characters = [f"{chr(point)}1 {chr(point)}" for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    texts = ["".join(characters[start : start + 1000]) for start in range(0, len(characters), 1000)]
    assert fast.encode(texts, num_threads=1) == slowly(tokenizer, texts)


def test_ids_that_do_not_stand_in_a_row_are_looked_up() -> None:
    tokenizer = trained()
    vocabulary = {token: number + 7 * (number > 300) for token, number in tokenizer.get_vocab(False).items()}
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    moved = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    moved.pre_tokenizer = tokenizer.pre_tokenizer
    fast = FastBpe.of(moved)
    assert fast is not None
    assert fast.encode(TEXTS, num_threads=1) == slowly(moved, TEXTS)
    assert max(map(max, slowly(moved, TEXTS))) > 307


def test_the_ids_of_bytes_may_stand_behind_those_of_merges() -> None:
    tokenizer = trained()
    order = sorted(tokenizer.get_vocab(False).items(), key=lambda item: (len(item[0]) == 1, item[1]))
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    moved = Tokenizer(models.BPE(vocab={token: number for number, (token, _) in enumerate(order)}, merges=merges))
    moved.pre_tokenizer = tokenizer.pre_tokenizer
    fast = FastBpe.of(moved)
    assert fast is not None
    texts = [*TEXTS, "".join(TEXTS).replace(" ", "") * 20]
    assert fast.encode(texts, num_threads=1) == slowly(moved, texts)


def test_a_vocabulary_that_tiktoken_would_read_otherwise_has_no_engine() -> None:
    """`abc` is made of a and bc, but ab comes first, and nothing joins ab and c: tiktoken would."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, "ab", "bc", "abc"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("b", "c"), ("a", "bc")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert slowly(tokenizer, ["abc"]) == [[vocabulary["ab"], vocabulary["c"]]]
    assert FastBpe.of(tokenizer) is None


def test_other_ways_to_cut_a_text() -> None:
    tokenizer = trained()
    cut = pre_tokenizers.Split(Regex(r"\p{N}|[^\p{N}]+"), "isolated")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, last])
    fast = FastBpe.of(tokenizer)
    assert fast is not None
    assert fast.agrees(tokenizer, TEXTS)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), last])
    assert FastBpe.of(tokenizer) is None


@pytest.mark.parametrize(
    "change", ["normalizer", "added", "prefix", "truncation", "ignore_merges", "pattern", "unigram"]
)
def test_what_tiktoken_does_not_know_has_no_engine(change: str) -> None:
    tokenizer = trained()
    if change == "normalizer":
        tokenizer.normalizer = normalizers.Lowercase()
    elif change == "added":
        tokenizer.add_tokens([AddedToken("kites", special=False)])
    elif change == "truncation":
        tokenizer.enable_truncation(8)
    elif change == "ignore_merges":
        tokenizer.model.ignore_merges = True
    elif change == "pattern":  # of the library behind tokenizers, not of tiktoken's
        cut = pre_tokenizers.Split(Regex(r"\X"), "isolated")
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, last])
    elif change == "prefix":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=300, show_progress=False))
    assert FastBpe.of(tokenizer) is None


def test_a_renderer_gives_the_same_ids_for_one_text_and_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = trained()
    ids = {"bos_id": 0, "eos_id": 1, "pad_id": 2, "end_of_turn_id": 1, "stop_ids": [1]}
    renderer = ChatRenderer(tokenizer, None, {**ids, "vocab_size": 400, "add_bos_token": True})
    texts = [any_text(random.Random(number)) for number in range(1000)]
    many = renderer.documents(texts).tolist()
    assert renderer._fast
    assert many == [renderer.document(text) for text in texts]
    long = ChatRenderer(tokenizer, None, {**ids, "vocab_size": 400, "add_bos_token": True})
    assert long.documents(["".join(texts) * 100]).tolist() == [renderer.document("".join(texts) * 100)]
    assert long._fast
    other = ChatRenderer(tokenizer, None, {**ids, "vocab_size": 400, "add_bos_token": True})
    monkeypatch.setattr(FastBpe, "agrees", lambda *_: False)
    assert other.documents(texts).tolist() == many
    assert other._fast is False
