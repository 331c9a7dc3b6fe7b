"""The heap that benchmarks/better_data.py trains on: the same from the same seed, and with in it what it says."""

import base64
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("heap", Path(__file__).parents[2] / "benchmarks" / "heap.py")
assert _SPEC and _SPEC.loader
heap = importlib.util.module_from_spec(_SPEC)
sys.modules["heap"] = heap  # dataclasses look their module up
_SPEC.loader.exec_module(heap)

TEXTS = list(heap.documents(None, 400_000, seed=0))[heap.HELD :]
HEAP = heap.make_heap(TEXTS, heap.Recipe(), 0)


def unframed(document: heap.Document) -> str:
    return "\n".join(line for line in document.text.split("\n") if line not in document.boilerplate)


def of_kind(kind: str) -> list[heap.Document]:
    return [document for document in HEAP if document.kind == kind]


def test_the_same_seed_makes_the_same_heap() -> None:
    again = heap.make_heap(list(heap.documents(None, 400_000, seed=0))[heap.HELD :], heap.Recipe(), 0)
    assert again == HEAP
    assert heap.make_heap(TEXTS, heap.Recipe(), 1) != HEAP


def test_every_original_is_there_once() -> None:
    assert sorted(unframed(document) for document in of_kind("original")) == sorted(TEXTS)
    assert all(unframed(document) == TEXTS[document.of] for document in of_kind("original"))


def test_what_is_held_out_is_in_no_heap() -> None:
    held = set(list(heap.documents(None, 400_000, seed=0))[: heap.HELD])
    assert len(held) == heap.HELD
    assert not held & {unframed(document) for document in HEAP}


def test_some_originals_have_near_copies() -> None:
    families = Counter(document.of for document in of_kind("copy"))
    assert len(families) == round(0.06 * len(TEXTS)) > 5
    assert all(3 <= count <= 20 for count in families.values())
    texts = [unframed(document) for document in of_kind("copy")]
    assert len(set(texts) - set(TEXTS)) > 0.9 * len(texts)
    for document, text in zip(of_kind("copy"), texts, strict=True):
        mine, others = Counter(text.split()), Counter(TEXTS[document.of].split())
        assert (mine & others).total() > 0.8 * others.total()


def test_half_of_the_documents_have_boilerplate_before_and_behind() -> None:
    documents = of_kind("original") + of_kind("copy")
    framed = [document for document in documents if document.boilerplate]
    assert len(framed) == pytest.approx(len(documents) / 2, rel=0.25)
    for document in framed:
        first, *_, last = document.text.split("\n")
        assert first == document.boilerplate[0] and last == document.boilerplate[-1]
        assert "{" not in "".join(document.boilerplate)


def test_every_kind_of_junk_is_there_as_often() -> None:
    counts = [len(of_kind(kind)) for kind in heap.JUNK]
    assert sum(counts) == round(0.5 * len(TEXTS))
    assert max(counts) - min(counts) <= 1
    assert not any("\0" in document.text for document in HEAP)


def test_junk_is_what_its_name_says() -> None:
    for document in of_kind("encoded"):
        assert len(base64.b64decode(document.text)) > 500
    for document in of_kind("repeated_lines"):
        assert len(set(document.text.split("\n"))) == 1 < len(document.text.split("\n"))
    bags = {tuple(sorted(word.strip(".,;:!?\"'()").lower() for word in text.split())) for text in TEXTS}
    for document in of_kind("shuffled"):
        assert tuple(sorted(word.strip(".").lower() for word in document.text.split())) in bags
        assert document.text.lower() not in {text.lower() for text in TEXTS}
    for document in of_kind("mojibake"):
        assert not any("\u0400" <= character <= "\u04ff" for character in document.text)
        assert "Ð" in document.text


def test_shares_of_the_bytes_are_all_of_them() -> None:
    found = heap.composition(HEAP)
    assert sum(found["shares_of_bytes"].values()) == pytest.approx(1, abs=0.003)
    assert found["documents"] == len(HEAP)


@pytest.mark.parametrize("end", ["\n", "\n\n", "\r\n\r\n"])
def test_passages_lose_no_word(end: str) -> None:
    text = end.join(f"Paragraph {number} has some words that\nare wrapped." for number in range(1000))
    found = list(heap.passages(text if "\n\n" in end.replace("\r", "") else text.replace("\n", " \n")))
    assert all(heap.PASSAGE <= len(passage) < 2 * heap.PASSAGE for passage in found)
    words = text.split()
    assert " ".join(found).split() == words[: len(" ".join(found).split())]
    assert len(" ".join(found).split()) > len(words) - heap.PASSAGE
