"""`inspect` says what data are, shows rows as a model would see them, and gives lines that `check` and `data` take."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import TEMPLATES

from pipelines.cli import main
from pipelines.data.inspection import find_files, settle
from pipelines.data.showing import inspect
from pipelines.data.sources import read_files
from pipelines.errors import DataError
from pipelines.recipe.load import find_problems, load_recipe
from pipelines.recipe.paths import expand

CHATS = [
    {"messages": [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": f"A number, {i}."}]}
    for i in range(30)
]


def look(data: Any, folder: Path) -> tuple[str, dict[str, Any]]:
    return inspect(str(data), folder, TEMPLATES / "chatml.jinja")


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


KINDS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "text": ([{"text": f"row {i}"} for i in range(9)], {"format": "text"}),
    "content": ([{"id": f"{i}", "content": f"row {i}"} for i in range(9)], {"columns": {"text": "content"}}),
    "longest": ([{"a": "x", "b": f"a longer text {i}"} for i in range(9)], {"columns": {"text": "b"}}),
    "messages": (CHATS, {"format": "chat"}),
    "dialog": ([{"dialog": row["messages"]} for row in CHATS], {"format": "chat", "columns": {"messages": "dialog"}}),
    "sharegpt": (
        [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
        {"format": "chat"},
    ),
    "alpaca": ([{"instruction": "a", "input": "", "output": "b"}], {"format": "chat", "columns": {}}),
    "questions": (
        [{"question": f"q{i}", "answer": "a"} for i in range(9)],
        {"format": "chat", "columns": {"prompt": "question", "completion": "answer"}},
    ),
    "preference": ([{"prompt": "q", "chosen": "a", "rejected": "b"}], {"format": "preference"}),
    "preferred": (
        [
            {
                "input": {"messages": [{"role": "user", "content": "q"}]},
                "preferred_output": [{"role": "assistant", "content": "a"}],
                "non_preferred_output": [{"role": "assistant", "content": "b"}],
            }
        ],
        {
            "format": "preference",
            "columns": {
                "prompt": "input.messages",
                "chosen": "preferred_output",
                "rejected": "non_preferred_output",
            },
        },
    ),
    "prompt": ([{"prompt": f"q{i}"} for i in range(3)], {"format": "prompt"}),
    "labelled": (
        [{"sentence": "a b", "label": i % 2} for i in range(9)],
        {"format": "labelled", "columns": {"text": "sentence"}},
    ),
    "two_texts": (
        [{"premise": "a", "hypothesis": "b", "label": i % 2} for i in range(9)],
        {"format": "labelled", "columns": {"text": "premise", "text_pair": "hypothesis"}},
    ),
    "pairs": ([{"source": "a", "target": "b"}], {"format": "pairs"}),
    "languages": ([{"en": "a", "de": "b"}], {"format": "pairs", "columns": {"source": "en", "target": "de"}}),
    "translation": (
        [{"id": 1, "translation": {"en": "a", "de": "b"}}],
        {"format": "pairs", "columns": {"source": "translation.en", "target": "translation.de"}},
    ),
    "tree": (
        [{"prompt": {"text": "q", "role": "prompter", "replies": [{"text": "a", "role": "assistant", "replies": []}]}}],
        {"format": "chat", "layout": "tree"},
    ),
    "flat_tree": (
        [
            {"message_id": "a", "parent_id": None, "text": "q", "role": "prompter"},
            {"message_id": "b", "parent_id": "a", "text": "q", "role": "assistant"},
        ],
        {"format": "chat", "layout": "tree"},
    ),
    "scored": (
        [{"prompt": f"q{i // 2}", "response": f"a{i}", "reward": i / 2} for i in range(8)],
        {"format": "preference", "layout": "scored", "columns": {"completion": "response", "score": "reward"}},
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_rows_are_is_told_and_the_lines_read_them(name: str, tmp_path: Path) -> None:
    rows, expected = KINDS[name]
    (tmp_path / f"{name}.jsonl").write_text(jsonl(rows))
    _, facts = look(f"{name}.jsonl", tmp_path)
    assert {field: facts.get(field) for field in expected if field != "columns"} == {
        field: value for field, value in expected.items() if field != "columns"
    }
    assert facts["usable"] > 0 and facts["dropped"] == {} and facts["rows"] == len(rows)
    (tmp_path / "r.yaml").write_text(f"name: r\n{facts['data']}\nstages: {{}}\n")
    problems = [problem for problem in find_problems(tmp_path / "r.yaml") if problem.path.startswith("data")]
    assert problems == []
    (told,) = _datasets(facts["data"], tmp_path)
    assert dict(told.columns) == expected.get("columns", {})
    found = expand(told.files, tmp_path)
    assert [item.row for item in read_files(found[told.files[0]], told)] == rows


@pytest.mark.parametrize("name", ["conversations", "dialogue"])
def test_a_few_bad_rows_do_not_hide_what_the_others_are(name: str, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows: list[dict[str, Any]] = [{name: 5, "system": "said"}, {name: "text"}, *({name: turns} for _ in range(30))]
    (tmp_path / "a.jsonl").write_text(jsonl(rows))
    _, facts = look("a.jsonl", tmp_path)
    assert (facts["format"], facts["usable"], facts["dropped"]) == ("chat", 30, {"no_messages": 2})
    assert facts["columns"][name] == "mixed"


def test_copies_of_rows_are_counted_and_a_line_takes_them_out(tmp_path: Path) -> None:
    rows = [{"text": text} for text in ("One tale.", "one  TALE.", "Two.", "Three.", "two.")]
    (tmp_path / "tales.jsonl").write_text(jsonl(rows))
    text, facts = look("tales.jsonl", tmp_path)
    assert facts["copies"] == 2 and "of them copies of others: 2" in text
    assert "# deduplicate: true  # of those looked at: copies 2" in facts["data"]
    (tmp_path / "tales.jsonl").write_text(jsonl(rows[1:4]))
    text, facts = look("tales.jsonl", tmp_path)
    assert facts["copies"] == 0 and "of them copies" not in text and "deduplicate" not in text


def _datasets(lines: str, folder: Path) -> list[Any]:
    """The entries of `data` that a recipe with these lines has."""
    path = folder / "whole.yaml"
    fields = "{builtin: microworld/text}"
    path.write_text(
        f"name: r\n{lines}\n  world: {fields}\nmodel: {{architecture: decoder, style: llama, hidden_size: 64, "
        "num_hidden_layers: 1, num_attention_heads: 2}\n"
        "stages:\n  tokenizer: {vocab_size: 300, data: world}\n"
    )
    data = load_recipe(path).recipe.data
    return [dataset for name, dataset in data.items() if name != "world"]


def test_conversations_are_shown_through_the_template_with_what_is_trained_on_marked(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl(CHATS))
    text, facts = look("a.jsonl", tmp_path)
    assert len(facts["rows_shown"]) == 10
    assert facts["rows_shown"][0] == (
        "<|im_start|>user\nWhat is 0?<|im_end|>\n<|im_start|>assistant\n⟦A number, 0.<|im_end|>⟧"
    )
    assert facts["rows_shown"][0].splitlines()[1] in text
    (tmp_path / "b.jsonl").write_text(jsonl([{"prompt": "q", "chosen": "a", "rejected": "b"}]))
    (row,) = look("b.jsonl", tmp_path)[1]["rows_shown"]
    assert row.endswith("<|im_start|>assistant\n\nchosen: ⟦a⟧\nrejected: ⟦b⟧")


def test_lengths_are_those_of_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl([{"text": "ä" * i} for i in range(1, 101)]))
    assert look("a.jsonl", tmp_path)[1]["lengths"] == {"median": 100, "95 %": 190, "max": 200}


def test_what_a_terminal_would_obey_is_spelled(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl([{"text": "a\x1b[2J\u202eb\rc" + "x" * 5_000}]))
    (row,) = look("a.jsonl", tmp_path)[1]["rows_shown"]
    assert "a\\x1b[2J\\u202eb\\rcxx" in row and "characters ..." in row and len(row) < 500


@pytest.mark.parametrize("name", ["a b", "a[1]", "a.b.c", "äöü", "a*b", "it's", 'say "hi"', "# no", "yes"])
def test_paths_of_any_name_are_given_as_a_recipe_needs_them(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name / "deep"
    folder.mkdir(parents=True)
    for file in ("1.txt", "2.txt.gz"):
        raw = b"one text\n"
        (folder / file).write_bytes(gzip.compress(raw) if file.endswith("gz") else raw)
    (folder / ".hidden.txt").write_text("not meant")
    for data in (name, f"{name}/deep/1.txt"):
        _, facts = look(data, tmp_path)
        (dataset,) = _datasets(facts["data"], tmp_path)
        paths = [path for found in expand(dataset.files, tmp_path).values() for path in found]
        assert sorted(map(str, paths)) == facts["files"] and len(paths) == (2 if data == name else 1)


def test_an_entry_is_named_after_its_file(tmp_path: Path) -> None:
    for name, entry in (("Über uns.txt", "uber-uns"), ("-_.txt", "mine"), ("a.b.txt", "a"), ("日本.txt", "mine")):
        (tmp_path / name).write_text("some text")
        assert look(name, tmp_path)[1]["data"].splitlines()[1] == f"  {entry}:"


def test_cells_without_a_header_and_with_bare_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("".join(f'"Hi {i}," he said.\tEr sagte: "Hallo" {i}.\n' for i in range(9)))
    (dataset,) = _datasets(look("a.tsv", tmp_path)[1]["data"], tmp_path)
    assert (dataset.column_names, dataset.quoting, dataset.format) == (("source", "target"), "none", "pairs")
    (tmp_path / "b.csv").write_text('text,label\n"a, ""b""",1\nc,0\n')
    (dataset,) = _datasets(look("b.csv", tmp_path)[1]["data"], tmp_path)
    assert (dataset.column_names, dataset.quoting, dataset.format) == ((), "minimal", "labelled")


@pytest.mark.parametrize(
    ("texts", "separator"),
    [
        (["a\nb\n\n" * 9], "blank_line"),
        (["a\nb\n" * 20], "line"),
        (["one\ntext\n"], None),
        (["a\n\nb\n\nc\n" * 9] * 3, None),
    ],
)
def test_where_documents_end_is_found(texts: list[str], separator: str | None, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "d" / f"{number}.txt").write_text(text)
    (dataset,) = _datasets(look("d", tmp_path)[1]["data"], tmp_path)
    assert dataset.separator == separator and dataset.format == "text"


def test_encodings_and_line_ends_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffä\r\nb\r\n".encode() * 20)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    assert look("a.txt", tmp_path)[1]["encoding"] == "UTF-8, with a byte order mark, lines end with \\r\\n"
    text, facts = look("b.jsonl", tmp_path)
    assert facts["encoding"] == "UTF-8, but 1 rows are not UTF-8" and facts["dropped"] == {"not_utf8": 1}
    assert "dropped: not_utf8 1 (not UTF-8 text)" in text and "# max_dropped: 0.5" in text
    (tmp_path / "c.txt").write_bytes("ab".encode("utf-16"))
    with pytest.raises(DataError, match=r"c\.txt: is UTF-16"):
        look("c.txt", tmp_path)


def test_parquet_says_how_many_rows_it_has_and_other_files_are_estimated(tmp_path: Path) -> None:
    rows = [{"text": f"row {i:06d}"} for i in range(50_000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(jsonl(rows))
    _, facts = look("a.parquet", tmp_path)
    assert facts["rows"] == 50_000 and facts["rows_exact"] and facts["rows_looked_at"] == 20_000
    text, facts = look("a.jsonl", tmp_path)
    assert abs(facts["rows"] - 50_000) < 100 and not facts["rows_exact"] and "rows       about 50,0" in text


def test_files_and_rows_of_any_size_are_looked_at_by_their_heads(tmp_path: Path) -> None:
    """Twenty gigabytes would take minutes, and a row of 12 MB is longer than the first look."""
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(jsonl([{"text": "x" * (12 << 20)}, {"text": "y"}]).encode())
        file.truncate(20 << 30)
    _, facts = look("a.jsonl", tmp_path)
    assert facts["usable"] == 2 and facts["lengths"]["max"] == 12 << 20
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(bytes(300 << 20), 1))
    found = find_files("b.txt.gz", tmp_path)
    _, sample = settle(found)
    assert sum(map(len, sample.heads)) < 1 << 20


def test_the_end_of_a_long_file_is_looked_at_too(tmp_path: Path) -> None:
    short, long = [{"text": "a" * 90}] * 60_000, [{"text": "b" * 900}] * 6_000
    (tmp_path / "a.jsonl").write_text(jsonl([*short, *long]))
    _, facts = look("a.jsonl", tmp_path)
    assert facts["lengths"] == {"median": 90, "95 %": 90, "max": 900} and facts["dropped"] == {}
    assert "b" * 100 in facts["rows_shown"][-1]


def test_folders_of_saved_datasets_and_of_other_things(tmp_path: Path) -> None:
    import datasets

    saved = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(CHATS), "test": datasets.Dataset.from_list(CHATS)}
    )
    saved.save_to_disk(str(tmp_path / "s"))
    _, facts = look("s", tmp_path)
    assert facts["format"] == "chat" and facts["rows"] == 30 and facts["not_read"] == [str(tmp_path / "s" / "test")]
    (dataset,) = _datasets(facts["data"], tmp_path)
    assert dataset.files == (str(tmp_path / "s" / "train"),)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.pdf").write_bytes(b"%PDF-1.4")
    for data, told in (
        ("nowhere", "no file is there"),
        ("d", r"holds \.pdf, but no file that is read"),
        ("d/a.pdf", "save its text as"),
    ):
        with pytest.raises(DataError, match=told):
            look(data, tmp_path)
    for name, content, told in (
        ("x.tar.gz", b"\x1f\x8b", "is an archive of files; unpack it"),
        ("x.docx", b"PK\x03\x04", "is a zip archive"),
        ("x.data", b' {"a": 1}', "looks like JSON; name it .jsonl"),
        ("x", b"some words", "is of no kind that is read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=told):
            look(name, tmp_path)
    (tmp_path / "d" / "b.txt").write_text("a")
    (tmp_path / "d" / "c.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"several kinds \(\.jsonl, \.pdf, \.txt\)"):
        look("d/*", tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n", '{"a": 1}\n', "[1]\n{"])
def test_data_without_usable_rows_end_with_what_to_do(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    text, facts = look("a.jsonl", tmp_path)
    assert facts["usable"] == 0 and facts["dropped"] and "For a recipe" not in text and "columns:" in text


def test_the_verb_prints_text_or_json_and_fails_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text(jsonl(CHATS))
    assert main(["inspect", "a.jsonl"]) == 0
    assert "format     chat: a list of messages in 'messages'" in capsys.readouterr().out
    assert main(["inspect", "a.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 30
    assert main(["inspect", "nowhere"]) == 3
    assert capsys.readouterr().err == "nowhere: no file is there\n"
    assert main(["inspect", ""]) == 3


def test_looking_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl(CHATS))
    code = (
        "import sys; from pipelines.cli import main; main(['inspect', sys.argv[1]]);"
        "assert not {'torch', 'transformers', 'numba', 'datasets'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.jsonl")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
