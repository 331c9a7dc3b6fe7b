"""Pairs of source and target: two rows for an encoder-decoder, one for a decoder, and batches of them."""

from pathlib import Path
from typing import Any

import pytest
from training_jobs import PAD, tokens_folder

from pipelines.data.collate import ChatCollator, RowCount
from pipelines.data.source_target import JoinedRows, SourceTargetCollator, SourceTargetRows
from pipelines.data.tokens import TokenTable

BOS, SEP, END = 90, 91, 92


def table(folder: Path, *rows: tuple[int, int]) -> TokenTable:
    """Pairs of so many tokens of source (from 10 on) and target (from 50 on)."""
    made = [{"source_ids": [*range(10, 10 + a)], "target_ids": [*range(50, 50 + b)]} for a, b in rows]
    return TokenTable.open(tokens_folder(folder, "pairs", made), "train")


def apart(*tables: TokenTable, max_length: int = 8, overlong: Any = "drop") -> SourceTargetRows:
    return SourceTargetRows(tables, eos_id=END, max_length=max_length, overlong=overlong)


def joined(*tables: TokenTable, bos_id: int | None = BOS, max_length: int = 12, overlong: Any = "drop") -> JoinedRows:
    return JoinedRows(tables, bos_id=bos_id, sep_id=SEP, eos_id=END, max_length=max_length, overlong=overlong)


def test_an_encoder_reads_the_source_and_a_decoder_says_the_target(tmp_path: Path) -> None:
    rows = apart(table(tmp_path / "t", (3, 2), (1, 4)))
    assert rows[0]["input_ids"].tolist() == [10, 11, 12, END] and rows[0]["labels"].tolist() == [50, 51, END]
    batch = SourceTargetCollator(PAD)([rows[0], rows[1]])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].tolist() == [[10, 11, 12, END] + [PAD] * 4, [10, END] + [PAD] * 6]
    assert batch["attention_mask"].tolist() == [[1] * 4 + [0] * 4, [1, 1] + [0] * 6]
    assert batch["labels"].tolist() == [[50, 51, END] + [-100] * 5, [50, 51, 52, 53, END] + [-100] * 3]
    assert rows.lengths.tolist() == [7, 7] and rows.longest.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("overlong", "count"),
    [
        ("drop", RowCount(rows_in=4, rows_used=1, dropped_overlong=3)),
        ("truncate", RowCount(rows_in=4, rows_used=4, truncated=3)),
    ],
)
def test_max_length_bounds_each_side(overlong: str, count: RowCount, tmp_path: Path) -> None:
    rows = apart(table(tmp_path / "t", (7, 7), (8, 1), (1, 8), (20, 20)), overlong=overlong)
    assert rows.counts == [count] and rows.sizes == [len(rows)] == [count.rows_used]
    sides = [(len(rows[i]["input_ids"]), len(rows[i]["labels"])) for i in range(len(rows))]
    assert sides == [(8, 8), (8, 2), (2, 8), (8, 8)][: len(rows)]
    assert rows.lengths.tolist() == [a + b for a, b in sides] and rows.longest.tolist() == [max(s) for s in sides]


def test_a_source_that_is_cut_ends_and_a_target_that_is_cut_does_not(tmp_path: Path) -> None:
    row = apart(table(tmp_path / "t", (20, 20)), overlong="truncate")[0]
    assert row["input_ids"].tolist() == [*range(10, 17), END]
    assert row["labels"].tolist() == [*range(50, 58)]
    assert apart(table(tmp_path / "u", (1, 1)), max_length=1, overlong="truncate").counts[0].dropped_overlong == 1


def test_a_decoder_is_trained_on_the_target_and_its_end(tmp_path: Path) -> None:
    rows = joined(table(tmp_path / "t", (2, 3)))
    batch = ChatCollator(PAD)([rows[0]])
    assert batch["input_ids"].tolist() == [[BOS, 10, 11, SEP, 50, 51, 52, END]]
    assert batch["labels"].tolist() == [[-100] * 4 + [50, 51, 52, END]]
    assert joined(table(tmp_path / "u", (2, 1)), bos_id=None)[0]["input_ids"].tolist() == [10, 11, SEP, 50, END]
    assert rows.lengths.tolist() == [8]


@pytest.mark.parametrize(
    ("overlong", "count"),
    [
        ("drop", RowCount(rows_in=5, rows_used=1, dropped_overlong=4)),
        ("truncate", RowCount(rows_in=5, rows_used=3, dropped_overlong=2, truncated=2)),
    ],
)
def test_a_joined_row_without_room_for_a_target_is_dropped(overlong: str, count: RowCount, tmp_path: Path) -> None:
    """The source and its marks may take 11 of 12 tokens."""
    rows = joined(table(tmp_path / "t", (5, 4), (5, 5), (9, 9), (10, 1), (30, 1)), overlong=overlong)
    assert rows.counts == [count] and rows.sizes == [len(rows)] == [count.rows_used]
    for i in range(len(rows)):
        assert len(rows[i]["input_ids"]) == rows.lengths[i] == 12
        assert (rows[i]["labels"] != -100).any() and (rows[i]["labels"][:7] == -100).all()
    if overlong == "truncate":
        assert rows[2]["labels"].tolist() == [-100] * 11 + [50]


def test_rows_of_several_tables_are_numbered_through(tmp_path: Path) -> None:
    tables = table(tmp_path / "1", (1, 1), (30, 1)), table(tmp_path / "2", (4, 1))
    for rows in (apart(*tables), joined(*tables)):
        assert rows.sizes == [1, 1]
        assert rows[1]["input_ids"].tolist().count(13) == 1
