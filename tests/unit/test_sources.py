"""Files, the built-in world and the Hub give their rows, or say why not and where."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipelines.data import blocks
from pipelines.data.blocks import Item
from pipelines.data.files import read_file
from pipelines.data.sources import read, read_builtin, read_holdout, read_hub
from pipelines.errors import DataError, MachineError
from pipelines.recipe.data import Dataset

ROWS = [{"text": "one"}, {"text": "two"}, {"text": "drei, äöü"}]


def rows(path: Path, **options: Any) -> list[Any]:
    """Each row, or the reason why there is none with its line."""
    return [(item.reason, item.line) if item.row is None else item.row for item in read_file(path, **options)]


def texts(path: Path, separator: Any = None) -> list[str]:
    return [row["text"] for row in rows(path, separator=separator)]


def written(path: Path, content: bytes | str) -> Path:
    content = content.encode() if isinstance(content, str) else content
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = zstandard.compress(content)
    path.write_bytes(content)
    return path


def noise(lines: int) -> str:
    """Text that does not pack into a few bytes."""
    draw = random.Random(0)
    return "".join(f"{draw.random()}\n" for _ in range(lines))


def parquet(path: Path, table: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(table), path)
    return path


CONTENT: dict[str, Callable[[list[dict[str, str]]], str]] = {
    "a.jsonl": lambda table: "".join(json.dumps(row) + "\n" for row in table),
    "lines.json": lambda table: "\n".join(json.dumps(row, ensure_ascii=False) for row in table),
    "array.json": lambda table: json.dumps(table, indent=2),
    "wrapped.json": lambda table: json.dumps({"data": table}),
    "named.json": lambda table: json.dumps({"version": "1", "data": table}, indent=1),
    "a.csv": lambda table: 'text\n"one"\ntwo\n"drei, äöü"\n',
    "a.tsv": lambda table: "text\none\ntwo\ndrei, äöü\n",
    "a.txt": lambda table: "\n\n".join(row["text"] for row in table),
}


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", CONTENT)
def test_every_kind_of_file_gives_the_same_rows_plain_and_packed(name: str, packing: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"{name}{packing}", CONTENT[name](ROWS))
    assert rows(path, separator="blank_line") == ROWS


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_parquet_gives_the_same_rows_plain_and_packed(packing: str, tmp_path: Path) -> None:
    plain = parquet(tmp_path / "a.parquet", ROWS)
    assert rows(written(tmp_path / f"b.parquet{packing}", plain.read_bytes())) == ROWS


@pytest.mark.parametrize("name", CONTENT)
def test_a_byte_order_mark_and_windows_line_ends_are_no_text(name: str, tmp_path: Path) -> None:
    content = CONTENT[name](ROWS).replace("\n", "\r\n")
    assert rows(written(tmp_path / name, "\ufeff" + content), separator="blank_line") == ROWS


def test_utf_16_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="iconv"):
        rows(written(tmp_path / "a.jsonl", "{}".encode("utf-16")))


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "a\rb"])
def test_only_newlines_end_a_line(odd: str, tmp_path: Path) -> None:
    text = f"before{odd}after"
    raw = json.dumps({"text": text}, ensure_ascii=False) + "\n"
    assert texts(written(tmp_path / "a.jsonl", raw * 2)) == [text, text]
    assert texts(written(tmp_path / "a.txt", f"{text}\n{text}\n"), "line") == [text, text]
    assert texts(written(tmp_path / "a.csv", f'text\n"{text}"\n')) == [text]
    assert texts(written(tmp_path / "a.json", f"[{raw},{raw}]")) == [text, text]


def test_a_text_file_is_one_document_or_one_per_line_or_per_paragraph(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "a\nb\n\n \nc\n")
    assert texts(path) == ["a\nb\n\n \nc"]
    assert texts(path, "line") == ["a", "b", "c"]
    assert texts(path, "blank_line") == ["a\nb", "c"]
    assert [item.line for item in read_file(path, "blank_line")] == [1, 5]


@pytest.mark.parametrize("cell", ["null", "NA", "nan", "None", "", "1.50", "true", "00123", "2024-01-01"])
def test_csv_cells_stay_what_they_spell(cell: str, tmp_path: Path) -> None:
    assert rows(written(tmp_path / "a.csv", f"text,b\n{cell},x\n")) == [{"text": cell, "b": "x"}]


def test_csv_cells_may_hold_line_ends_quotes_and_separators(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'text,b\n"a, ""b""\nc",1\nd,2\n')
    assert [(item.row, item.line) for item in read_file(path)] == [
        ({"text": 'a, "b"\nc', "b": "1"}, 2),
        ({"text": "d", "b": "2"}, 4),
    ]


def test_bad_lines_of_a_table_are_counted_and_the_next_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b'text,b\nx\n"a"b,c\n\xff,1\nz,3,4\nfine,1\n')
    assert rows(path) == [
        ("wrong_number_of_cells", 2),
        ("invalid_csv", 3),
        ("not_utf8", 4),
        ("wrong_number_of_cells", 5),
        {"text": "fine", "b": "1"},
    ]


def test_a_quote_that_is_never_closed_cannot_swallow_the_rest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv:3: a quote"):
        rows(written(tmp_path / "a.csv", 'text\na\n"b\nc\nd\n'))


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'a' more than once"):
        rows(written(tmp_path / "a.csv", "a,b,a\n1,2,3\n"))
    table = pa.table([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="'a' more than once"):
        rows(tmp_path / "a.parquet")


def test_bad_lines_of_json_are_counted_and_the_next_is_read(tmp_path: Path) -> None:
    lines = [
        b'{"text": "a"',
        b"[1]",
        b'"a"',
        b'{"a": 1, "a": 2}',
        b'{"text": "\xff"}',
        b"",
        b"[" * 100_000,
        b'{"a": 1}',
    ]
    assert rows(written(tmp_path / "a.jsonl", b"\n".join(lines))) == [
        ("invalid_json", 1),
        ("not_an_object", 2),
        ("not_an_object", 3),
        ("duplicate_key", 4),
        ("not_utf8", 5),
        ("too_deep", 7),
        {"a": 1},
    ]


def test_elements_of_a_json_array_have_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 7)
    path = written(tmp_path / "a.json", '[\n {"a": 12345678},\n\n 17, {"b":\n [1, 2]},\n {"c": "x"}\n]\n')
    assert [(item.row or item.reason, item.line) for item in read_file(path)] == [
        ({"a": 12345678}, 2),
        ("not_an_object", 4),
        ({"b": [1, 2]}, 4),
        ({"c": "x"}, 6),
    ]


@pytest.mark.parametrize("block", [1, 2, 3, 5])
def test_a_number_that_goes_on_in_the_next_block_is_one_element(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    path = written(tmp_path / "a.json", '[1234567, {"a": 1}]')
    assert rows(path) == [("not_an_object", 1), {"a": 1}]


@pytest.mark.parametrize("content", ['[{"a": 1}, {"a": ', '[{"a": 1}, {"a": 2}', '[{"a": 1} {bad}]'])
def test_an_array_that_is_not_whole_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json:1: "):
        rows(written(tmp_path / "a.json", content))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.txt.gz"])
def test_an_empty_file_is_one_row_that_cannot_be_used(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    assert rows(tmp_path / name) == [("empty_file", 1)]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("cut", [1, 9, 200])
def test_a_packed_file_that_is_cut_off_is_refused(packing: str, cut: int, tmp_path: Path) -> None:
    path = written(tmp_path / f"a.txt{packing}", noise(5_000))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match="damaged or cut off"):
        rows(path, separator="line")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.parquet"])
def test_a_file_that_is_not_what_its_name_says_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"just some text, not packed at all")
    with pytest.raises(DataError, match="fetch it again"):
        rows(tmp_path / name)


def test_frames_and_members_may_follow_one_another(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b\n"))
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"a\n") + zstandard.compress(b"b\n"))
    assert texts(tmp_path / "a.txt.gz", "line") == texts(tmp_path / "a.txt.zst", "line") == ["a", "b"]


def test_huge_lines_are_dropped_without_being_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGEST_ROW", 100)
    monkeypatch.setattr(blocks, "BLOCK", 64)
    path = written(tmp_path / "a.txt", "a" * 100 + "\n" + "b" * 101 + "\n" + "c" * 1000 + "\nd\n")
    assert rows(path, separator="line") == [{"text": "a" * 100}, ("too_long", 2), ("too_long", 3), {"text": "d"}]
    assert rows(path) == [("too_long", 1)]
    path = written(tmp_path / "b.txt", "a" * 60 + "\n" + "b" * 60 + "\n\nc\n")
    assert rows(path, separator="blank_line") == [("too_long", 1), {"text": "c"}]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown kind of file"):
        rows(written(tmp_path / "a.docx", "x"))
    with pytest.raises(DataError, match="no such file"):
        rows(tmp_path / "a.txt")


def test_a_field_that_is_null_here_and_a_struct_there_is_no_fault(tmp_path: Path) -> None:
    one = parquet(tmp_path / "1.parquet", [{"text": "a", "extra": None}])
    two = parquet(tmp_path / "2.parquet", [{"text": "b", "extra": {"x": 1}}])
    dataset = Dataset(files=("*.parquet",))
    items = list(read(dataset, [one, two], tmp_path))
    assert [item.row for item in items] == [{"text": "a", "extra": None}, {"text": "b", "extra": {"x": 1}}]


def test_files_come_in_the_given_order_once_each_and_up_to_the_limit(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{name}.txt", f"{name}1\n{name}2\n") for name in "ba"]
    dataset = Dataset(files=("*.txt",), separator="line", limit=3)
    items = list(read(dataset, [*paths, paths[0]], tmp_path))
    assert [item.row for item in items] == [{"text": "b1"}, {"text": "b2"}, {"text": "a1"}]
    assert items[1] == Item({"text": "b2"}, None, str(paths[0]), 2)
    everything = read(dataset.model_copy(update={"limit": None}), [*paths, paths[0]], tmp_path)
    assert len(list(everything)) == 4


def test_reading_starts_before_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream: the first row of a file is there although its end is damaged."""
    monkeypatch.setattr(blocks, "BLOCK", 64)
    path = written(tmp_path / "a.txt.gz", noise(20_000))
    path.write_bytes(path.read_bytes()[:-9])
    assert next(read_file(path, "line")).line == 1


def test_the_built_in_world_has_its_own_splits() -> None:
    dataset = Dataset(builtin="microworld/text", limit=3)
    train = list(read_builtin(dataset, "train"))
    assert len(train) == 3
    assert train[0].row and set(train[0].row) == {"text"}
    assert next(read_builtin(dataset, "holdout")).row != train[0].row


# --- Hub -----------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub as huggingface_hub lays it out, with one dataset at one commit."""
    import datasets.config
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    snapshot = cache / "datasets--org--tiny" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (snapshot / "test.jsonl").write_text('{"text": "held out"}\n')
    refs = cache / "datasets--org--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return snapshot


def test_hub_rows_come_from_a_local_folder(hub_cache: Path, tmp_path: Path) -> None:
    items = read_hub("org/tiny", None, "train", revision=None, cache=tmp_path / "c", local=hub_cache)
    assert [(item.row, item.line) for item in items] == [(row, i) for i, row in enumerate(ROWS, 1)]


def test_hub_rows_come_from_the_cache_of_this_machine(hub_cache: Path, tmp_path: Path) -> None:
    items = list(read_hub("org/tiny", None, "test", revision=COMMIT, cache=tmp_path / "c"))
    assert items == [Item({"text": "held out"}, None, "hub:org/tiny/test", 1)]
    dataset = Dataset(hub="org/tiny", revision=COMMIT, holdout_split="test")
    assert list(read_holdout(dataset, [], tmp_path / "c")) == items


def test_a_hub_dataset_that_is_not_there_needs_a_network(hub_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="needs a network"):
        list(read_hub("org/other", None, "train", revision=COMMIT, cache=tmp_path / "c"))


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:7]])
def test_a_hub_dataset_without_a_commit_is_refused(revision: str | None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not pinned"):
        list(read_hub("org/tiny", None, "train", revision=revision, cache=tmp_path))


def test_a_split_that_is_not_there_is_named(hub_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        list(read_hub("org/tiny", None, "nowhere", revision=COMMIT, cache=tmp_path / "c"))
