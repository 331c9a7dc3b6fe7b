"""Spans of large files: whatever their size, read one after the other they are the file."""

import random
from pathlib import Path

import pytest
from data_jobs import run_data

from pipelines.data.blocks import Span
from pipelines.data.documents import Separator
from pipelines.data.files import read_file
from pipelines.data.spans import spans_of

PIECES = [b"one", b" two", b"\n", b"\n", b"\r\n", b"\n\n", b" \t\n", b"\n \r\n", b"\xff", b"\xc3\xa9", b"\xe2\x80\xa8"]
OBJECTS = [b'{"text": "a"}', b'{"text": "a\\n\\nb"}', b"{", b"", b" ", b"[1]"]


def same(path: Path, separator: Separator | None, most: int) -> list[Span]:
    spans = spans_of(path, separator, most)
    whole = list(read_file(path, separator))
    apart = [item for span in spans for item in read_file(span, separator)]
    assert apart == whole or not spans
    return spans


@pytest.mark.parametrize("separator", ["line", "blank_line"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_documents_of_spans_are_those_of_the_file(separator: Separator, bom: bytes, tmp_path: Path) -> None:
    rng, path, count = random.Random(2), tmp_path / "a.txt", 0
    for _ in range(300):
        path.write_bytes(bom + b"".join(rng.choice(PIECES) for _ in range(rng.randrange(60))))
        count += len(same(path, separator, rng.randrange(1, 60)))
    assert count > 500


def test_objects_of_spans_are_those_of_the_file(tmp_path: Path) -> None:
    rng, path = random.Random(2), tmp_path / "a.jsonl"
    for _ in range(100):
        path.write_bytes(b"\n".join(rng.choice(OBJECTS) for _ in range(rng.randrange(20, 40))))
        assert len(same(path, None, 50)) > 1


def test_spans_are_about_as_large_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"0123456\n\n" * 1_000)
    spans = spans_of(path, "blank_line", 900)
    assert len(spans) == 10
    assert max(span.stop - span.start for span in spans) < 920


@pytest.mark.parametrize("name", ["a.txt.gz", "a.csv", "a.md", "a.json", "a.parquet", "missing.txt"])
def test_other_files_are_read_whole(name: str, tmp_path: Path) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"a,b\n1,2\n" * 100)
    assert spans_of(tmp_path / name, "line", 10) == []


def test_a_text_that_is_one_document_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n\nb\n" * 100)
    assert spans_of(path, "file", 10) == spans_of(path, None, 10) == []


@pytest.mark.parametrize(("name", "separator"), [("a.txt", "line"), ("a.txt", "blank_line"), ("a.jsonl", None)])
def test_a_large_file_of_white_space_is_counted_as_empty(
    name: str, separator: Separator | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans_of, "__defaults__", (100,))
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + b" \r\n\n" * 100)
    (tmp_path / f"b{name}").write_text('{"text": "said"}\n')
    files = [tmp_path / name, tmp_path / f"b{name}"]
    _, metrics = run_data(tmp_path / "d", files, separator=separator, holdout=0.0, max_dropped=0.5)
    assert (metrics["rows_in"], metrics["dropped_empty_file"], metrics["train"]) == (2, 1, 1)
