"""Markdown, web pages, Arrow files, cells without quotes, and folders that `datasets` saved."""

import bz2
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.data import blocks, documents
from pipelines.data.files import read_file
from pipelines.errors import DataError
from pipelines.recipe.load import find_problems

ROWS = [{"text": "one"}, {"text": "zwei, äöü"}]


def rows(path: Path, *options: Any) -> list[Any]:
    return [(item.reason, item.line) if item.row is None else item.row for item in read_file(path, *options)]


def written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- Markdown and web pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("# A\n\n*b*\n", "# A\n\n*b*"),
        ("---\ntitle: A\ntags:\n  - x\n---\nb\n", "b"),
        ("---\r\ntitle: A\r\n...\r\nb\r\n", "b"),
        ('+++\ntitle = "A"\n+++\nb', "b"),
        ("---\n# of YAML\n'a b': 1\n---\nb", "b"),
        ("---\nNot a field of anything.\n---\nb", "---\nNot a field of anything.\n---\nb"),
        ("---\ntitle: never closed\nb", "---\ntitle: never closed\nb"),
        ("a\n---\ntitle: A\n---\n", "a\n---\ntitle: A\n---"),
    ],
)
def test_markdown_is_text_without_its_front_matter(content: str, text: str, tmp_path: Path) -> None:
    assert rows(written(tmp_path / "a.md", content)) == [{"text": text}]


def test_markdown_has_documents_as_text_has(tmp_path: Path) -> None:
    path = written(tmp_path / "a.md", "---\nt: 1\n---\n# A\n\nb\n")
    assert [(item.row, item.line) for item in read_file(path, "blank_line")] == [
        ({"text": "# A"}, 4),
        ({"text": "b"}, 6),
    ]
    long = "---\na: 1\n" + "x: y\n" * 300 + "---\nb\n"
    assert rows(written(tmp_path / "b.md", long)) == [{"text": long.removesuffix("\n")}], "no front matter is so long"
    wide = f"---\na: {'x' * 100_000}\n---\nb"
    assert rows(written(tmp_path / "d.md", wide)) == [{"text": wide}], "nor so wide"
    assert rows(written(tmp_path / "c.md", "---\na: 1\n---\n")) == [("empty_file", 1)]


PAGE = """<html><head>{head}<title>Bread</title></head><body><nav><a href="/">Start</a> <a href="/b">Menu</a></nav>
<article><h1>Bread</h1><p>{one}</p><p>{two}</p></article><footer>All rights reserved</footer></body></html>"""
ONE = "Flour, water and salt are mixed, and the dough is left alone overnight in a cool place. " * 3
TWO = "On the next day it is shaped, covered with a cloth, and baked in a very hot oven — für eine Stunde. " * 3


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("", "utf-8"),
        ("", "utf-8-sig"),
        ("", "utf-16"),
        ('<meta charset="iso-8859-1">', "cp1252"),
        ('<meta charset="utf-16le">', "utf-8"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1252">', "cp1252"),
    ],
)
def test_the_main_text_of_a_page_is_read_by_its_own_encoding(head: str, encoding: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.html", PAGE.format(head=head, one=ONE, two=TWO).encode(encoding))
    (row,) = rows(path)
    assert ONE.strip() in row["text"] and TWO.strip() in row["text"]
    assert "Menu" not in row["text"] and "rights" not in row["text"] and "<" not in row["text"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html><head><title>a</title></head><body></body></html>", "no_main_text"),
        (b"no page at all", "no_main_text"),
        (b"<p>\xff" + b"some text " * 100, "not_utf8"),
        (b"<meta charset='klingon'><p>" + b"some text " * 100, "not_utf8"),
        (b"<meta charset='undefined'><p>" + b"some text " * 100, "not_utf8"),
        (b"<meta charset='rot13'><p>" + b"some text " * 100, "not_utf8"),
        (b"<p>\0" + b"some text " * 100, "nul"),
        (b"<div>" * 10_000 + b"x", "no_main_text"),
        (b"", "empty_file"),
    ],
)
def test_pages_without_a_text_are_counted(content: bytes, reason: str, tmp_path: Path) -> None:
    assert rows(written(tmp_path / "a.htm", content)) == [(reason, 1)]


def test_a_page_that_is_too_long_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LARGEST_PAGE", 100)
    assert rows(written(tmp_path / "a.html", b"<p>" + b"x" * 100)) == [("too_long", 1)]


# --- cells --------------------------------------------------------------------------------------------------------


def test_without_quoting_a_quote_is_a_character(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", 'a\tb\n"Hi," he said\t6" nails\n\nlast "\ta\rb\nx\n')
    assert rows(path, None, (), "none") == [
        {"a": '"Hi," he said', "b": '6" nails'},
        {"a": 'last "', "b": "a\rb"},
        ("wrong_number_of_cells", 5),
    ]
    assert rows(path)[0] == ("invalid_csv", 2)
    named = written(tmp_path / "b.csv", b'"a,b"\n\xff,1\n')
    assert rows(named, None, ("x", "y"), "none") == [{"x": '"a', "y": 'b"'}, ("not_utf8", 2)]


def test_quoting_belongs_to_cells(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"quoting belongs to \.csv and \.tsv files"):
        rows(written(tmp_path / "a.jsonl", "{}"), None, (), "none")


# --- Arrow --------------------------------------------------------------------------------------------------------


def arrow(path: Path, kind: Any, table: list[dict[str, Any]] = ROWS) -> Path:
    made = pa.Table.from_pylist(table)
    with pa.OSFile(str(path), "wb") as file, kind(file, made.schema) as writer:
        writer.write_table(made)
    return path


@pytest.mark.parametrize("kind", [pa.ipc.new_stream, pa.ipc.new_file])
def test_both_kinds_of_arrow_files_plain_and_packed(kind: Any, tmp_path: Path) -> None:
    plain = arrow(tmp_path / "a.arrow", kind)
    packed = written(tmp_path / "b.arrow.bz2", bz2.compress(plain.read_bytes()))
    assert rows(plain) == rows(packed) == ROWS


@pytest.mark.parametrize("kind", [pa.ipc.new_stream, pa.ipc.new_file])
@pytest.mark.parametrize("cut", [1, 8, 100])
def test_an_arrow_file_that_is_cut_off_is_refused(kind: Any, cut: int, tmp_path: Path) -> None:
    path = arrow(tmp_path / "a.arrow", kind, ROWS * 1000)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"a\.arrow: no whole arrow file after row 0 \(.*\); fetch it again$"):
        rows(path)


def test_an_arrow_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    for content in (b"some text", b"x" * 100, b"ARROW1" + b"x" * 100, b"x" * 100 + b"\xff" * 4 + b"\0" * 4):
        with pytest.raises(DataError, match="no whole arrow file"):
            rows(written(tmp_path / "a.arrow", content))


def saved(tmp_path: Path) -> Path:
    """Two files in the order of state.json, which is not that of their names."""
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    arrow(folder / "b.arrow", pa.ipc.new_stream, ROWS[:1])
    arrow(folder / "a.arrow", pa.ipc.new_stream, ROWS[1:])
    names = [{"filename": "b.arrow"}, {"filename": "a.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": names}))
    (folder.parent / "dataset_dict.json").write_text('{"splits": ["train"]}')
    return folder.parent


def problems(tmp_path: Path, fields: str) -> list[str]:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: r\ndata:\n  d: {{{fields}}}\nstages:\n  tokenizer: {{vocab_size: 300, data: d}}\n")
    return [problem.message for problem in find_problems(recipe) if problem.path.startswith("data")]


def test_a_saved_dataset_is_named_by_its_folder(tmp_path: Path) -> None:
    from pipelines.recipe.paths import expand

    folder = saved(tmp_path)
    assert problems(tmp_path, "files: saved/train") == []
    found = expand(["saved/train"], tmp_path)["saved/train"]
    assert [path.name for path in found] == ["b.arrow", "a.arrow"]
    assert [row for path in found for row in rows(path)] == ROWS
    assert problems(tmp_path, "files: saved") == ["'saved' holds the splits train; name one, for example saved/train"]
    (folder / "train" / "state.json").write_text('{"_data_files": [{"filename": "../../x"}, 3]}')
    (told,) = problems(tmp_path, "files: saved/train")
    assert "is a folder" in told


def test_datasets_writes_what_is_read(tmp_path: Path) -> None:
    import datasets

    from pipelines.recipe.paths import expand, saved_splits

    made = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    made.save_to_disk(str(tmp_path / "s"))
    assert saved_splits(tmp_path / "s") == ["train"]
    (path,) = expand(["s/train"], tmp_path)["s/train"]
    assert rows(path) == ROWS


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("quoting: none", "belongs to .csv and .tsv files, and 'a.jsonl' is none"),
        ("separator: line", "belongs to .txt and .md files, and 'a.jsonl' is none"),
        ("column_names: [a]", "belongs to .csv and .tsv files, and 'a.jsonl' is none"),
    ],
)
def test_fields_of_other_files_are_told_at_once(field: str, told: str, tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", "{}")
    assert problems(tmp_path, f"files: a.jsonl, {field}") == [told]


# --- packing ------------------------------------------------------------------------------------------------------


def test_what_a_few_bytes_unpack_to_is_bounded(tmp_path: Path) -> None:
    """300 MB of zeros are 10 kB of zstd, and are never in memory together."""
    import zstandard

    path = written(tmp_path / "a.txt.zst", zstandard.compress(bytes(300 << 20)))
    sizes = [len(block) for block in blocks.unpacked(path)]
    assert sum(sizes) == 300 << 20 and max(sizes) <= blocks.BLOCK
    assert rows(path) == [("too_long", 1)]


def test_bzip2_streams_may_follow_one_another_and_must_be_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt.bz2", bz2.compress(b"a\n") + bz2.compress(b"b\n"))
    assert rows(path, "line") == [{"text": "a"}, {"text": "b"}]
    with pytest.raises(DataError, match="damaged or cut off"):
        rows(written(tmp_path / "b.txt.bz2", bz2.compress(b"some text")[:-3]))
    with pytest.raises(DataError, match="damaged or cut off"):
        rows(written(tmp_path / "c.txt.bz2", b"some text"))
    whole, damaged = bz2.compress(b"a\n" * 1_000_000), bytearray(bz2.compress(b"b\n"))
    assert len(rows(written(tmp_path / "d.txt.bz2", whole + bytes(9) + whole + bytes(9)), "line")) == 2_000_000
    damaged[0] ^= 1
    with pytest.raises(DataError, match="damaged or cut off"):
        rows(written(tmp_path / "e.txt.bz2", whole + damaged + whole))


def expanded(pattern: str, folder: Path) -> list[str]:
    from pipelines.recipe.paths import expand

    return [path.relative_to(folder).as_posix() for path in expand([pattern], folder)[pattern]]


def test_signs_of_patterns_in_the_names_of_folders_are_no_patterns(tmp_path: Path) -> None:
    for name in ("my [x] r*pe/data/a [1].txt", "my [x] r*pe/data/b.txt", "data/a.txt"):
        written(tmp_path / name, "text")
    assert expanded("my [x] r*pe/data/*.txt", tmp_path) == ["my [x] r*pe/data/a [1].txt", "my [x] r*pe/data/b.txt"]
    assert expanded("data/*.txt", tmp_path / "my [x] r*pe") == ["data/a [1].txt", "data/b.txt"]
    assert expanded("my [[]x] r*/d?ta/b.*", tmp_path) == ["my [x] r*pe/data/b.txt"]
    assert expanded(str(tmp_path / "data" / "*"), tmp_path) == ["data/a.txt"]
    assert expanded("my [x] r*pe/../data/*", tmp_path) == ["my [x] r*pe/../data/a.txt"]
    assert expanded("x" * 300 + "/*.txt", tmp_path) == []


def test_a_link_back_to_its_own_folder_gives_no_file_twice(tmp_path: Path) -> None:
    for name in ("d/z.txt", "d/a/b.txt"):
        written(tmp_path / name, "text")
    (tmp_path / "d" / "a" / "loop").symlink_to("..")
    (tmp_path / "d" / "link.txt").symlink_to("z.txt")
    assert expanded("d/**/*.txt", tmp_path) == ["d/a/b.txt", "d/link.txt", "d/z.txt"]
    (tmp_path / "d" / "a" / "again").symlink_to("..")  # two of them have 2 to the power of 40 paths
    (tmp_path / "d" / ".hidden").mkdir()
    written(tmp_path / "d" / ".hidden" / "x.txt", "text")
    for pattern in ("d/**/*.txt", "d/**", "**/*.txt", "d/**/**/*.txt"):
        assert expanded(pattern, tmp_path) == ["d/a/b.txt", "d/link.txt", "d/z.txt"], pattern
    assert expanded("d/**/a/*.txt", tmp_path) == expanded("**/a/**/b.*", tmp_path) == ["d/a/b.txt"]
