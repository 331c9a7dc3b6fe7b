"""Questions in documents: what is found, against a slow search, and what is taken for a phrase of the language."""

import random
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cleaning.contamination import MIN_WORDS, Hits, Ngrams, plain
from pipelines.cleaning.overlap import Judge, together

QUESTION = "Which of the two rivers that meet below the old town of Passau carries more water in the spring?"
PROSE = "The miller went home in the evening and nobody in the village knew why he had left the well so early that day."


def words_of(text: str) -> list[str]:
    """As slowly as it can be said."""
    spaced = ""
    for char in plain(text):
        code = ord(char)
        is_word = unicodedata.category(char)[0] in "LMN" if code < 0x10000 else code < 0x1D000 or code >= 0x20000
        is_alone = code >= 0x20000 or any(
            first <= code <= last for first, last in ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))
        )
        spaced += f" {char} " if is_word and is_alone else char if is_word else " "
    return spaced.split()


def ngrams_of(text: str, size: int) -> set[tuple[str, ...]]:
    words = words_of(text)
    if len(words) < min(size, MIN_WORDS):
        return set()
    size = min(size, len(words))
    return {tuple(words[place : place + size]) for place in range(len(words) - size + 1)}


def made(
    *questions: str | Sequence[str],
    tasks: Sequence[int] = (),
    size: int = 13,
    few: int = 10,
    documents: Sequence[int] = (),
) -> Ngrams:
    texts = [[question] if isinstance(question, str) else question for question in questions]
    return Ngrams.of(texts, tasks or [0] * len(texts), size=size, few=few, documents=documents)


def matched(ngrams: Ngrams, *documents: str, most: int | None = 10, share: float = 0.0) -> set[tuple[int, int]]:
    hits = ngrams.hits(documents)
    shares = np.full(len(ngrams.is_short), share)
    found = Judge.of(ngrams, hits, max_documents=most, min_share=shares).matches(hits)
    return set(zip(found.document.tolist(), found.question.tolist(), strict=True))


LETTERS = st.sampled_from("aAbé漢字かک\u0301 ,.-\n’\U0001f600\U00020000\U00010330１")
TEXT = st.text(LETTERS, max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=4), st.integers(2, 9))
def test_hits_are_those_of_a_slow_search(questions: list[str], documents: list[str], size: int) -> None:
    ngrams = made(*questions, size=size)
    hits = ngrams.hits(documents)
    wanted = set()
    for number, document in enumerate(documents):
        words = words_of(document)
        for question, text in enumerate(questions):
            for one in ngrams_of(text, size):
                if any(tuple(words[at : at + len(one)]) == one for at in range(len(words))):
                    wanted.add((number, question, one))
    found = set()
    for number, ngram, begin, end in zip(*(column.tolist() for column in hits), strict=True):
        shown = tuple(words_of(plain(documents[number]).encode()[begin:end].decode()))
        for _, text in ngrams.pairs[ngrams.pairs[:, 0] == ngram].tolist():
            found.add((number, int(ngrams.question_of[text]), shown))
    assert found == wanted


@settings(max_examples=50, deadline=None)
@given(st.integers(0), st.integers(8, 60))
def test_a_planted_question_is_found_and_nothing_in_other_words(seed: int, length: int) -> None:
    rng = random.Random(seed)
    ours, theirs = ([f"{letter}{number}" for number in range(500)] for letter in "qd")
    questions = [" ".join(rng.choices(ours, k=length)) for _ in range(20)]
    documents = [" ".join(rng.choices(theirs, k=rng.randint(0, 200))) for _ in range(30)]
    ngrams = made(*questions)
    assert matched(ngrams, *documents) == set()
    place, asked = rng.randrange(30), rng.randrange(20)
    planted = questions[asked].upper().replace(" ", rng.choice([" ", ", ", "\n", " -- "]))
    documents[place] = f"{documents[place][:50]}\n{planted}? {documents[place][50:]}"
    assert (place, asked) in matched(ngrams, *documents)


def test_case_punctuation_and_line_ends_do_not_hide_a_question() -> None:
    written = (
        "**WHICH** of the two rivers,\n\nthat meet below: the old town of “Passau”, carries more water in the SPRING"
    )
    assert matched(made(QUESTION), f"{PROSE}\n{written}", PROSE) == {(0, 0)}


def test_thirteen_words_of_it_are_enough_and_twelve_are_not() -> None:
    words = words_of(QUESTION)
    assert matched(made(QUESTION), " ".join(words[3:16]), " ".join(words[3:15])) == {(0, 0)}


def test_a_short_question_is_looked_for_as_a_whole_and_a_shorter_one_not_at_all() -> None:
    nine, seven = "how many legs has a spider in the barn", "how many legs has a spider then"
    ngrams = made(nine, seven)
    assert matched(ngrams, f"so: {nine}, said he", f"so: {seven}, said he", nine[:-5]) == {(0, 0)}
    assert ngrams.is_short.tolist() == [False, True]


def test_each_text_of_a_question_counts() -> None:
    ngrams = made(["what is it", f"what is it? {PROSE}"], QUESTION)
    assert matched(ngrams, PROSE, QUESTION) == {(0, 0), (1, 1)}
    assert not ngrams.is_short.any()


def test_what_many_documents_have_is_a_phrase() -> None:
    ngrams = made(PROSE, QUESTION)
    documents = [f"{number} {PROSE}" for number in range(11)] + [QUESTION]
    assert matched(ngrams, *documents) == {(11, 1)}
    assert matched(ngrams, *documents[1:]) == {(10, 1)} | {(number, 0) for number in range(10)}
    assert len(matched(ngrams, *documents, most=None)) == 12
    hits = ngrams.hits(documents)
    judge = Judge.of(ngrams, hits, max_documents=10, min_share=np.zeros(2))
    assert judge.only_common(hits, judge.matches(hits).question).tolist() == [0]


def test_what_many_questions_have_is_their_template() -> None:
    template = "Read the passage and then choose the one answer of the four below that fits it best:"
    asked = [f"{template} a{number} b{number} c{number} d{number} e{number}" for number in range(12)]
    ngrams = made(*asked)
    documents = [template, asked[3]]
    assert matched(ngrams, *documents) == {(1, 3)}
    assert (0, 0) in matched(made(*asked[:10]), *documents), "ten may share a passage"
    assert (0, 0) in matched(made(*asked, tasks=[0] * 6 + [1] * 6), *documents), "of two tasks"
    many = [f"{QUESTION} {number % 200}" for number in range(2000)]
    assert matched(made(*many[:12], *map(str, range(2000))), QUESTION), "few of a large task share a passage too"


def test_a_share_of_the_question_may_be_asked_for() -> None:
    words = words_of(f"{QUESTION} {PROSE}")
    part = " ".join(words[:20])
    assert matched(made(" ".join(words)), part) == {(0, 0)}
    assert matched(made(" ".join(words)), part, share=0.5) == set()
    assert matched(made(" ".join(words)), " ".join(words[:30]), share=0.5) == {(0, 0)}
    numbered = [f"w{number}" for number in range(112)]  # 100 n-grams, and 0.55 times 100 is more than 55 to a computer
    question, row = (" ".join(numbered[:count]) for count in (112, 67))
    assert matched(made(question), row, share=0.55) == {(0, 0)} and matched(made(question), row, share=0.56) == set()


def test_of_a_whole_document_some_ngrams_stand_for_all() -> None:
    words = [f"w{number}" for number in range(2500)]
    book = " ".join(words)
    ngrams = made(book, book, tasks=[0, 1], documents=[1])
    assert ngrams.ngrams_of.tolist() == [2488, 830]
    assert len(ngrams.hits([" ".join(words[:1700])]).ngram) == 1688
    parts = [" ".join(words[:1300]), " ".join(words[1000:2000]), " ".join(words[700:])]
    assert matched(ngrams, *parts, share=0.5) == {(0, 0), (0, 1), (2, 0), (2, 1)}


def test_a_hash_is_never_enough() -> None:
    ngrams = made(QUESTION)
    other = replace(ngrams, text=np.frombuffer(ngrams.text.tobytes().replace(b"water", b"metal"), np.uint8))
    assert len(ngrams.hits([QUESTION]).ngram) == 7
    assert len(other.hits([QUESTION]).ngram) == 3, "those without the word"


def test_it_can_be_kept_in_a_file(tmp_path: Path) -> None:
    ngrams = made(QUESTION, PROSE)
    ngrams.save(tmp_path / "ngrams.npz")
    again = Ngrams.load(tmp_path / "ngrams.npz")
    assert [column.tolist() for column in again.hits([PROSE])] == [column.tolist() for column in ngrams.hits([PROSE])]
    assert matched(again, PROSE) == {(0, 1)}


def test_parts_together_are_the_whole() -> None:
    ngrams, documents = made(QUESTION, PROSE), [PROSE, "", QUESTION, f"{QUESTION} {PROSE}"]
    parts = [(ngrams.hits(documents[:2]), 2), (ngrams.hits(documents[2:]), 2)]
    for one, other in zip(together(parts), ngrams.hits(documents), strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize("questions", [[], ["too short"]])
def test_nothing_to_look_for_finds_nothing(questions: list[str]) -> None:
    ngrams = made(*questions)
    assert len(ngrams) == 0 and matched(ngrams, QUESTION, "") == set()


def test_more_hits_than_there_is_room_for_are_all_told() -> None:
    words = [f"w{number}" for number in range(6000)]
    hits = made(" ".join(words)).hits([" ".join(words)])
    assert len(hits.ngram) == 6000 - 12 and np.array_equal(np.unique(hits.ngram), np.arange(6000 - 12))
    assert isinstance(hits, Hits)
