"""Words in an embedding matrix: pieces, neighbours, similarity, analogies, isotropy, maps and exports."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from tiny_subject import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from pipelines.data.chat import ChatRenderer
from pipelines.errors import DataError
from pipelines.evaluation.embedding_task import describe_words, score_embeddings, word_vectors, write_words
from pipelines.evaluation.embeddings import (
    WordVectors,
    escaped,
    isotropy,
    mean_cosine,
    plane,
    unescaped,
    write_word2vec,
)
from pipelines.evaluation.subject import Subject
from pipelines.recipe.evaluation import TaskConfig
from pipelines.recipe.word_files import read_analogies, read_pairs

PIECES = ["[UNK]", "man", "king", "woman", "queen", "play", "##ing", "##er", "apple", ".", "king's"]
ROYAL = {"man": [1, 0, 0.1], "king": [1, 1, 0.1], "woman": [-1, 0, 0.1], "queen": [-1, 1, 0.2], "apple": [0.1, 0, -3]}


@pytest.fixture
def words() -> WordVectors:
    """Word pieces, whose analogies come out and whose last rows are padding."""
    tokenizer = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[UNK]"])
    matrix = np.random.default_rng(0).normal(size=(16, 3))
    for word, vector in ROYAL.items():
        matrix[PIECES.index(word)] = vector
    return WordVectors(matrix, tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def test_the_vector_of_a_word_is_the_mean_of_its_pieces(words):
    assert words.pieces(["playing", "king"]) == [[5, 6], [2]]
    assert words.vectors(["playing"])[0] == pytest.approx(words.matrix[[5, 6]].mean(0))
    assert len(words.matrix) == len(PIECES)
    with pytest.raises(DataError, match="makes nothing of the word ' '"):
        words.vectors(["king", " "])


def test_the_vocabulary_is_what_stands_alone_as_a_word(words):
    assert words.vocabulary == ("man", "king", "woman", "queen", "play", "apple")


def test_byte_level_words_are_read_as_inside_a_text(folder):
    tokens = ChatRenderer.load(folder)
    matrix = np.zeros((tokens.vocab_size, 2))
    made = WordVectors(matrix, tokens.tokenizer)
    assert made.pieces(["garden"]) == [tokens.encode_text(" garden")] != [tokens.encode_text("garden")]
    inner = {piece for piece in tokens.tokenizer.get_vocab() if piece.isascii() and piece.isalpha()}
    assert "uptown" in made.vocabulary and inner - set(made.vocabulary)
    assert all(len(ids) == 1 for ids in made.pieces(made.vocabulary))
    tokens.tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    assert WordVectors(matrix, tokens.tokenizer).pieces(["garden"]) == made.pieces(["garden"])


def test_neighbours_are_the_nearest_by_cosine_without_the_word_itself(words):
    (found,) = words.neighbours(["king"], count=3)
    cosines = {}
    for word in words.vocabulary:
        one, other = words.vectors(["king", word])
        cosines[word] = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    del cosines["king"]
    expected = sorted(cosines.items(), key=lambda item: -item[1])[:3]
    assert [word for word, _ in found] == [word for word, _ in expected]
    assert [cosine for _, cosine in found] == pytest.approx([cosine for _, cosine in expected])
    assert len(words.neighbours(["playing"], count=50)[0]) == len(words.vocabulary)


def test_a_row_of_zeros_is_at_cosine_zero_from_all(words):
    words.matrix[PIECES.index("apple")] = 0
    assert words.similarities([("apple", "king"), ("king", "king")]) == pytest.approx([0, 1])


def test_analogies_are_the_nearest_to_b_less_a_plus_c_and_never_an_input(words):
    assert words.analogies([("man", "king", "woman", "queen"), ("woman", "queen", "man", "king")]) == ["queen", "king"]
    # The nearest of all to b - a + c is here c itself.
    assert words.analogies([("king", "king", "man", "x")]) != ["man"]
    many = [("man", "king", "woman", "queen")] * 200
    assert words.analogies(many) == ["queen"] * 200


def test_the_mean_cosine_is_that_of_all_pairs_and_of_a_sample_of_them():
    rng = np.random.default_rng(1)
    matrix = rng.normal(0.5, 1, size=(40, 6))
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    all_pairs = [units[i] @ units[j] for i in range(40) for j in range(40) if i != j]
    assert mean_cosine(matrix) == pytest.approx(np.mean(all_pairs))
    drawn = rng.integers(40, size=(20_000, 2))
    drawn = drawn[drawn[:, 0] != drawn[:, 1]]
    assert mean_cosine(matrix) == pytest.approx((units[drawn[:, 0]] * units[drawn[:, 1]]).sum(1).mean(), abs=0.01)


def test_isotropy_is_one_where_all_directions_are_alike_and_falls_with_a_common_one():
    cross = np.concatenate([np.eye(4), -np.eye(4)])
    assert isotropy(cross) == pytest.approx(1)
    shifted = [isotropy(cross + size) for size in (0.1, 0.5, 2.0)]
    assert 1 > shifted[0] > shifted[1] > shifted[2] > 0
    matrix = np.random.default_rng(2).normal(size=(30, 5))
    directions = np.linalg.eigh(matrix.T @ matrix)[1].T
    sums = [np.exp(matrix @ c).sum() for direction in directions for c in (direction, -direction)]
    assert isotropy(matrix) == pytest.approx(min(sums) / max(sums))
    assert 0 <= isotropy(matrix * 1e3) < 1e-6  # no overflow


def test_a_map_is_the_two_widest_directions_and_has_one_orientation():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(12, 5)) * [9, 4, 1, 0.1, 0.1]
    drawn = plane(vectors)
    covariance = np.cov(vectors.T)
    values = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    assert drawn.points.var(0, ddof=1) == pytest.approx(values[:2])
    assert drawn.explained == pytest.approx(tuple(values[:2] / values.sum()))
    assert drawn.points.mean(0) == pytest.approx([0, 0], abs=1e-12)
    order = rng.permutation(12)
    assert plane(vectors[order]).points == pytest.approx(drawn.points[order])
    assert np.corrcoef(drawn.points[:, 0], vectors[:, 0])[0, 1] > 0.5  # its largest entry is positive
    assert plane(vectors[:1]).points.tolist() == [[0, 0]] and plane(vectors[:1]).explained == (0, 0)
    assert plane(vectors[:, :1]).points[:, 1].tolist() == [0] * 12


def test_an_export_is_read_back_by_word2vecs_format(tmp_path):
    names = ["plain", "two words", "Ġbyte", "tab\there", "back\\slash", "\\u0020", "ünï\u2028code", "nbsp\u00a0x"]
    matrix = np.random.default_rng(4).normal(size=(len(names), 5)).astype(np.float32)
    write_word2vec(tmp_path / "vectors.txt", names, matrix)
    head, *lines = (tmp_path / "vectors.txt").read_bytes().decode().split("\n")
    assert head == "8 5" and lines.pop() == ""
    parts = [line.rstrip().split(" ") for line in lines]
    assert all(len(part) == 6 and not any(map(str.isspace, part[0])) for part in parts)
    assert [unescaped(part[0]) for part in parts] == names
    assert (np.array([part[1:] for part in parts], dtype=np.float32) == matrix).all()
    for bad in (["a"], ["a"] * 7 + [""]):
        with pytest.raises(ValueError, match="each needs one, and none may be empty"):
            write_word2vec(tmp_path / "bad.txt", bad, matrix)


@given(st.text())
def test_an_escaped_word_has_no_space_and_comes_back(word):
    assert not any(map(str.isspace, escaped(word))) and unescaped(escaped(word)) == word


# --- files


def test_pairs_may_stand_between_tabs_commas_or_spaces_below_a_head(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("\ufeffWord 1,Word 2,Human (mean)\n# a note\nold,new,1.58\n\nice cream\tcold\t7\nbig large 9.5\n")
    assert read_pairs(path) == [("old", "new", 1.58), ("ice cream", "cold", 7.0), ("big", "large", 9.5)]


def test_analogies_are_word2vecs_questions(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text(": family\nman king woman queen\n\n: places\nParis France Rome Italy\n")
    assert read_analogies(path) == [("man", "king", "woman", "queen"), ("Paris", "France", "Rome", "Italy")]


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_pairs, b"a b 1\na b\n", ":2: needs a word, a word and a number"),
        (read_pairs, b"a b 1\na b nan\n", ":2: needs a word"),
        (read_pairs, b"a b 1\na b 2\n", "at least 3"),
        (read_pairs, b"a b 1\nc b 1\nd b 1\n", "the same score"),
        (read_pairs, b"\xff", "cannot be read"),
        (read_analogies, b": part\n", "has no analogies"),
        (read_analogies, b"a b c d\n\na b c d e\n", ":3: needs four words, .* not 5"),
    ],
)
def test_a_fault_in_a_file_is_told_with_its_line(tmp_path, read, text, message):
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(DataError, match="file.*" + message):
        read(tmp_path / "file")


# --- the task


def test_a_model_s_words_are_scored_and_described(folder, tmp_path):
    subject = Subject.load(folder)
    (tmp_path / "near.tsv").write_text("garden mill 1\ngarden cave 5\nred blue 3\nkite drum 4\nin the 2\n")
    (tmp_path / "family.txt").write_text("red blue garden mill\nin the red blue\n")
    rows = score_embeddings(subject, pairs=tmp_path / "near.tsv", analogies=tmp_path / "family.txt", seed=1)
    assert [(row["task"], row["metric"], row["n"], row["higher_is_better"]) for row in rows] == [
        ("embeddings", "mean_cosine", 400, None),
        ("embeddings", "isotropy", 400, None),
        ("embeddings/near", "similarity_spearman", 5, True),
        ("embeddings/family", "analogy_accuracy", 2, True),
    ]
    weight = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight.detach().double().numpy()
    vectors = word_vectors(subject)
    assert vectors.matrix == pytest.approx(weight)
    cosines = vectors.similarities([(one, other) for one, other, _ in read_pairs(tmp_path / "near.tsv")])
    assert rows[2]["value"] == pytest.approx(scipy.stats.spearmanr(cosines, [1, 5, 3, 4, 2]).statistic)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["metric"] for row in score_embeddings(subject, pairs=None, analogies=None, seed=1)] == [
        "mean_cosine",
        "isotropy",
    ]
    found = describe_words(subject, TaskConfig(name="embeddings", words=("garden", "drum", "ice cream")))
    assert list(found["points"]) == list(found["neighbours"]) == ["garden", "drum", "ice cream"]
    assert {len(near) for near in found["neighbours"].values()} == {10}
    assert json.loads(json.dumps(found, allow_nan=False))["points"] == found["points"]
    write_words(tmp_path / "word2vec.txt", subject, TaskConfig(name="embeddings", words=("ice cream",), word2vec=True))
    head, *lines = (tmp_path / "word2vec.txt").read_text().splitlines()
    assert head == f"{len(vectors.vocabulary) + 1} {weight.shape[1]}" and len(lines) == len(vectors.vocabulary) + 1
    word, *numbers = lines[-1].split(" ")
    assert unescaped(word) == "ice cream"
    assert [float(number) for number in numbers] == pytest.approx(vectors.vectors(["ice cream"])[0], rel=1e-6)


def test_pairs_that_a_model_cannot_tell_apart_are_an_error_of_the_data(folder, tmp_path):
    (tmp_path / "same.tsv").write_text("red red 1\nblue blue 2\nmill mill 3\n")
    with pytest.raises(DataError, match="equally near"):
        score_embeddings(Subject.load(folder), pairs=tmp_path / "same.tsv", analogies=None, seed=1)
