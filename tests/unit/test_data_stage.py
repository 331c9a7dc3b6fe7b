"""The data stage: every row accounted for, a holdout by content, and a stop where too much is lost."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from data_jobs import run_data, write_jsonl

from pipelines.data.row_writer import RowWriter
from pipelines.data.rows import read_rows
from pipelines.errors import DataError


def split_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    return [row for batch in read_rows(folder, split) for row in batch]


def texts(folder: Path, split: str) -> list[str]:
    return [row["text"] for row in split_rows(folder, split)]


def numbered(path: Path, count: int = 1_000) -> Path:
    return write_jsonl(path, [{"text": f"row {i}"} for i in range(count)])


def test_rows_are_written_in_order_and_counted(tmp_path: Path) -> None:
    output, metrics = run_data(tmp_path / "d", [numbered(tmp_path / "a.jsonl", 50)], holdout=0.0)
    assert texts(output, "train") == [f"row {i}" for i in range(50)]
    assert texts(output, "holdout") == []
    size = sum(len(f"row {i}") for i in range(50))
    assert metrics == {"rows_in": 50, "rows_used": 50, "train": 50, "holdout": 0, "dropped": 0, "bytes": size}
    info = json.loads((output / "info.json").read_text())
    assert {name: info[name] for name in ("rows_in", "rows_used", "train", "holdout", "bytes")} == {
        name: metrics[name] for name in ("rows_in", "rows_used", "train", "holdout", "bytes")
    }


def test_bad_rows_are_counted_by_reason_with_their_places(tmp_path: Path) -> None:
    good = [json.dumps({"text": f"row {i}"}) for i in range(12)]
    lines = [*good[:6], "{", '{"text": ""}', '{"text": "a\\u0000"}', '{"text": "\\ud800"}', "[1]", "{", *good[6:]]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    output, metrics = run_data(tmp_path / "d", [path], holdout=0.0, max_dropped=0.5)
    reasons = {"invalid_json": 2, "empty": 1, "nul": 1, "lone_surrogate": 1, "not_an_object": 1}
    assert metrics["rows_in"] == 18 == metrics["rows_used"] + metrics["dropped"]  # type: ignore[operator]
    assert {name: metrics[f"dropped_{name}"] for name in reasons} == reasons
    info = json.loads((output / "info.json").read_text())
    assert info["dropped"] == reasons
    assert info["first_dropped"][0] == {"reason": "invalid_json", "file": str(path), "line": 7}
    kept = [json.loads(line) for line in (tmp_path / "d" / "record" / "dropped.jsonl").read_text().splitlines()]
    order = ["invalid_json", "empty", "nul", "lone_surrogate", "not_an_object", "invalid_json"]
    assert [(row["reason"], row["line"]) for row in kept] == list(zip(order, range(7, 13), strict=True))


def test_too_many_bad_rows_stop_the_job_with_reasons_counts_and_places(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}] * 98 + [{"text": ""}, {"text": None}])
    with pytest.raises(DataError) as error:
        run_data(tmp_path / "d", [path])
    assert "2 of 100 rows cannot be used (max_dropped allows 1.00%)" in str(error.value)
    assert f"empty: 2 (no text, first at {path}:99, {path}:100)" in str(error.value)
    assert run_data(tmp_path / "e", [path], max_dropped=0.02)[1]["dropped"] == 2
    path = write_jsonl(tmp_path / "b.jsonl", [{"text": "a"}] * 71 + [{"text": ""}] * 29)
    assert run_data(tmp_path / "f", [path], max_dropped=0.29)[1]["dropped"] == 29


def test_a_source_without_rows_or_usable_rows_stops_the_job(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="empty_file: 1"):
        run_data(tmp_path / "d", [tmp_path / "a.jsonl"])
    (tmp_path / "b.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="empty_file: 1"):
        run_data(tmp_path / "e", [tmp_path / "b.jsonl"], max_dropped=1.0)


def test_missing_columns_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "a", "answer": "b"}] * 300)
    for number, dataset in enumerate(({}, {"format": "chat"}, {"columns": {"text": "anwser"}})):
        with pytest.raises(DataError, match="rows have the columns 'question', 'answer'; needed: "):
            run_data(tmp_path / str(number), [path], max_dropped=1.0, **dataset)
    with pytest.raises(DataError, match=r"'anwser' \(for text\)"):
        run_data(tmp_path / "d", [path], columns={"text": "anwser"})
    output, _ = run_data(tmp_path / "e", [path], format="chat", columns={"prompt": "question", "completion": "answer"})
    assert split_rows(output, "train")[0]["messages"][1] == {"role": "assistant", "content": "b"}


def test_a_holdout_that_comes_to_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_data(tmp_path / "few", [numbered(tmp_path / "a.jsonl", 5)], holdout=0.001)
    assert "note: a holdout of 0.001 of 5 rows is none" in capsys.readouterr().out
    run_data(tmp_path / "none", [numbered(tmp_path / "b.jsonl", 5)], holdout=0.0)
    run_data(tmp_path / "many", [numbered(tmp_path / "c.jsonl", 200)], holdout=0.1)
    assert "note" not in capsys.readouterr().out


def test_the_holdout_depends_on_content_alone(tmp_path: Path) -> None:
    rows = [{"text": f"row {i % 700}", "id": i} for i in range(1_000)]
    one, _ = run_data(tmp_path / "1", [write_jsonl(tmp_path / "a.jsonl", rows)], holdout=0.1)
    two, _ = run_data(tmp_path / "2", [write_jsonl(tmp_path / "b.jsonl", rows[::-1] + rows[:50])], holdout=0.1)
    assert set(texts(one, "holdout")) == set(texts(two, "holdout"))
    assert not set(texts(one, "holdout")) & set(texts(one, "train"))
    assert 0.05 < len(set(texts(one, "holdout"))) / 700 < 0.15
    larger, _ = run_data(tmp_path / "3", [tmp_path / "a.jsonl"], holdout=0.2)
    assert set(texts(one, "holdout")) < set(texts(larger, "holdout"))


def test_the_limit_comes_before_the_holdout(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl")
    _, metrics = run_data(tmp_path / "d", [path], limit=200, holdout=0.1)
    assert metrics["rows_in"] == 200 == metrics["train"] + metrics["holdout"]  # type: ignore[operator]
    assert metrics["holdout"] > 0  # type: ignore[operator]


def test_a_document_that_falls_into_the_holdout_alone_is_no_training_data(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / "a.txt").write_text(f"document {i}")
        try:
            run_data(tmp_path / "d", [tmp_path / "a.txt"], holdout=0.4)
        except DataError as error:
            assert "fell into the holdout" in str(error)
            return
    raise AssertionError("one of a hundred documents falls into the holdout")


def test_labels_of_every_type_and_pairs_come_back_from_parquet(tmp_path: Path) -> None:
    labels = ["good", 3, True, ["b", "a"], [], 1.5]
    rows = [{"text": f"text {i}", "text_pair": None if i % 2 else "pair", "y": y} for i, y in enumerate(labels)]
    fields: dict[str, Any] = {"format": "labelled", "columns": {"label": "y"}, "holdout": 0.0}
    output, _ = run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", rows)], **fields)
    found = split_rows(output, "train")
    assert [json.loads(row["label"]) for row in found] == ["good", "3", "true", ["a", "b"], [], 1.5]
    assert [row["text_pair"] for row in found] == ["pair", None] * 3
    pairs = [{"source": f"a {i}", "target": f"b {i}"} for i in range(9)]
    output, metrics = run_data(tmp_path / "e", [write_jsonl(tmp_path / "b.jsonl", pairs)], format="pairs", holdout=0.0)
    assert split_rows(output, "train") == pairs and metrics["bytes"] == 9 * 6


def test_a_text_is_never_in_both_splits_whatever_its_label(tmp_path: Path) -> None:
    rows = [{"text": f"text {i % 100}", "label": i // 100} for i in range(300)]
    output, _ = run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", rows)], format="labelled", holdout=0.3)
    sides = [set(texts(output, split)) for split in ("train", "holdout")]
    assert sides[0] and sides[1] and not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("track", "columns"), [("sentiment", {"text", "text_pair", "label"}), ("translation", {"source", "target"})]
)
def test_tracks_of_the_world_with_labels_and_pairs_lose_no_row(track: str, columns: set[str], tmp_path: Path) -> None:
    output, metrics = run_data(tmp_path / "d", builtin=f"microworld/{track}", limit=300)
    assert (metrics["train"], metrics["holdout"], metrics["dropped"]) == (300, 800, 0)
    assert all(row.keys() == columns for row in split_rows(output, "holdout"))


def test_the_built_in_world_keeps_its_own_holdout(tmp_path: Path) -> None:
    output, metrics = run_data(tmp_path / "d", builtin="microworld/prompts", limit=30)
    assert metrics["train"] == 30
    assert metrics["holdout"] == 400
    shown = [json.dumps(row["prompt"]) for row in split_rows(output, "train")]
    assert not set(shown) & {json.dumps(row["prompt"]) for row in split_rows(output, "holdout")}
    _, none = run_data(tmp_path / "e", builtin="microworld/prompts", limit=30, holdout=0.0)
    assert none["holdout"] == 0


def test_rows_of_the_world_that_are_in_training_leave_the_holdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.data import microworld

    monkeypatch.setattr(
        microworld, "generate", lambda track, split, size=None: iter([{"text": "same"}, {"text": split}] * 50)
    )
    _, metrics = run_data(tmp_path, builtin="microworld/text", max_dropped=0.3)
    assert metrics["dropped_also_in_train"] == 50
    with pytest.raises(DataError, match="also_in_train"):
        run_data(tmp_path, builtin="microworld/text")


def test_large_rows_go_into_several_files_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowWriter, "BATCH_BYTES", 100)
    monkeypatch.setattr(RowWriter, "FILE_BYTES", 1_000)
    output, _ = run_data(tmp_path / "d", [numbered(tmp_path / "a.jsonl", 500)], holdout=0.0)
    files = sorted(output.glob("train-*.parquet"))
    assert len(files) > 2
    assert pq.ParquetFile(files[0]).num_row_groups > 2
    assert texts(output, "train") == [f"row {i}" for i in range(500)]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl")
    one, two = (run_data(tmp_path / name, [path])[0] for name in "de")
    assert all((one / file.name).read_bytes() == file.read_bytes() for file in two.iterdir())


def test_a_holdout_of_its_own_stays_whole_and_training_gives_way(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", [{"text": f"row {i}"} for i in range(200)])
    held = write_jsonl(tmp_path / "test.jsonl", [{"text": "row 7"}, {"text": "new"}])
    output, metrics = run_data(tmp_path / "d", [train], holdout_files=(str(held),))
    assert texts(output, "holdout") == ["row 7", "new"]
    assert texts(output, "train") == [f"row {i}" for i in range(200) if i != 7]
    assert metrics["dropped_also_in_holdout"] == 1
    assert metrics["rows_in"] == 202


def test_a_holdout_of_its_own_and_training_must_both_be_there(tmp_path: Path) -> None:
    rows = numbered(tmp_path / "a.jsonl", 5)
    empty = write_jsonl(tmp_path / "none.jsonl", [{"text": ""}])
    with pytest.raises(DataError, match="holdout_files: no row is left for the holdout beside training"):
        run_data(tmp_path / "d", [rows], holdout_files=(str(empty),), max_dropped=1.0)
    same = numbered(tmp_path / "b.jsonl", 5)
    with pytest.raises(DataError, match="holdout_files: no row is left for training beside holdout"):
        run_data(tmp_path / "e", [rows], holdout_files=(str(same),), max_dropped=1.0)


def test_files_without_a_header_line_are_given_one(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("Run!\tLauf!\nGo.\tGeh.\nGo.\n")
    dataset = {"format": "pairs", "column_names": ("source", "target"), "holdout": 0.0, "max_dropped": 0.5}
    output, metrics = run_data(tmp_path / "d", [tmp_path / "a.tsv"], **dataset)
    assert split_rows(output, "train") == [
        {"source": "Run!", "target": "Lauf!"},
        {"source": "Go.", "target": "Geh."},
    ]
    assert metrics["dropped_wrong_number_of_cells"] == 1
    with pytest.raises(DataError, match=r"column_names belongs to \.csv and \.tsv files"):
        run_data(tmp_path / "e", [numbered(tmp_path / "a.jsonl", 3)], column_names=("text",))


def test_quality_filters_count_what_they_take_and_change(tmp_path: Path) -> None:
    rows = [{"text": f"The old man and the {n} boats went to the river."} for n in range(700)]
    rows[3] = {"text": "1 2 3 4 5 6 7 8 9 10"}
    rows[600] = {"text": "Write to me@example.org about the boats and the river."}
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    quality = {"filters": [{"kind": "gopher_quality", "min_stop_words": 1}, "personal_data"]}
    output, metrics = run_data(tmp_path / "d", [path], holdout=0.0, max_dropped=0.0, quality=quality)
    assert (metrics["rows_in"], metrics["rows_used"], metrics["filtered"], metrics["changed"]) == (700, 699, 1, 1)
    assert metrics["filtered_quality_gopher_quality"] == 1
    kept = texts(output, "train")
    assert kept[:3] == [row["text"] for row in rows[:3]] and kept[3] == rows[4]["text"]
    assert kept[599] == "Write to someone@example.com about the boats and the river."
    (told,) = map(json.loads, (tmp_path / "d" / "record" / "dropped.jsonl").read_text().splitlines())
    assert (told["reason"], told["line"], told["detail"]) == ("quality_gopher_quality", 4, "words_with_letter 0 < 0.8")
    dry, counted = run_data(tmp_path / "e", [path], holdout=0.0, quality=quality | {"dry_run": True})
    assert texts(dry, "train") == [row["text"] for row in rows]
    assert (counted["filtered"], counted["changed"], counted["rows_used"]) == (1, 1, 700)
    assert json.loads((dry / "info.json").read_text())["dry_run"] is True


def test_filters_that_nothing_passes_stop_the_job(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing passes the filters \(quality_length 50\)"):
        run_data(tmp_path / "d", [numbered(tmp_path / "a.jsonl", 50)], quality="length")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, "1", "2"], r'two ways, 1 \(.*a.jsonl:1\) and "1" \(.*a.jsonl:3\); write it in one\none label'),
        (["a", "b", " a", "a "], r'"a" \(.*a.jsonl:1\) and " a" \(.*a.jsonl:3\); write it in one$'),
        ([True, "true"], r'true \(.*a.jsonl:1\) and "true" \(.*a.jsonl:2\); write it in one$'),
        ([["x", 1], ["1 "]], r'1 \(.*a.jsonl:1\) and "1 " \(.*a.jsonl:2\); write it in one$'),
        ([1, 2, "other", "A", "a", " b", None], None),
        ([["x", "y"], [], ["y"]], None),
        ([1.0, 1.5, -2.0], None),
    ],
)
def test_one_label_written_in_two_ways_is_told_with_both_rows(labels: list[Any], message: str, tmp_path: Path) -> None:
    rows = [{"text": f"{number}", "is": {"y": label}} for number, label in enumerate(labels)]
    data = {"format": "labelled", "columns": {"label": "is.y"}, "holdout": 0.0, "max_dropped": 0.5}
    if message is None:
        _, metrics = run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", rows)], **data)
        assert metrics["rows_used"] == len([label for label in labels if label is not None])
        return
    with pytest.raises(DataError, match=message):
        run_data(tmp_path / "d", [write_jsonl(tmp_path / "a.jsonl", rows)], **data)


def test_a_holdout_of_its_own_writes_labels_as_training_does(tmp_path: Path) -> None:
    for name, label in (("a", "1"), ("b", 1)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name, "label": label}])
    with pytest.raises(DataError, match=r'1 \(.*b.jsonl:1\) and "1" \(.*a.jsonl:1\); write it in one'):
        held = (str(tmp_path / "b.jsonl"),)
        run_data(tmp_path / "d", [tmp_path / "a.jsonl"], format="labelled", holdout_files=held)
