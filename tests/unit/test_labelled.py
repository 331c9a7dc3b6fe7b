"""Labelled rows: what their labels are, how two texts share a row, and what a batch of them holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_jobs import PAD, tokens_folder

from pipelines.data.collate import RowCount
from pipelines.data.labelled import LabelledCollator, LabelledRows
from pipelines.data.labels import check_labels, label_kind_of, label_names_of
from pipelines.data.tokens import TokenTable
from pipelines.errors import DataError

CLS, SEP, END = 90, 91, 92


def table(folder: Path, *rows: tuple[int, int, Any]) -> TokenTable:
    """Rows of so many tokens of text (from 10 on) and pair (from 50 on), with their labels."""
    made = [{"text_ids": [*range(10, 10 + a)], "pair_ids": [*range(50, 50 + b)], "label": y} for a, b, y in rows]
    return TokenTable.open(tokens_folder(folder, "labelled", made), "train")


def of_labels(folder: Path, *labels: Any) -> TokenTable:
    return table(folder, *((2, 0, label) for label in labels))


def rows_of(*tables: TokenTable, names: tuple[str, ...] = ("x", "y"), **fields: Any) -> LabelledRows:
    given = {"bos_id": CLS, "sep_id": SEP, "eos_id": END, "max_length": 12, "overlong": "drop"} | fields
    return LabelledRows(tables, label_names=names, **given)


def test_a_row_is_one_text_or_two_between_marks(tmp_path: Path) -> None:
    rows = rows_of(table(tmp_path / "t", (3, 0, "y"), (2, 3, "x")))
    assert rows[0]["input_ids"].tolist() == [CLS, 10, 11, 12, END]
    assert rows[0]["token_type_ids"].tolist() == [0] * 5
    assert rows[1]["input_ids"].tolist() == [CLS, 10, 11, SEP, 50, 51, 52, END]
    assert rows[1]["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [rows[i]["labels"] for i in range(2)] == [1, 0]
    assert rows.lengths.tolist() == rows.longest.tolist() == [5, 8]


def test_a_model_without_bos_starts_with_the_text(tmp_path: Path) -> None:
    rows = rows_of(table(tmp_path / "t", (2, 2, "y"), (2, 0, "x")), bos_id=None)
    assert [rows[i]["input_ids"].tolist() for i in range(2)] == [[10, 11, SEP, 50, 51, END], [10, 11, END]]
    assert rows.lengths.tolist() == [6, 3]


def test_batches_are_padded_and_have_token_types_only_when_asked(tmp_path: Path) -> None:
    rows = rows_of(table(tmp_path / "t", (3, 0, "y"), (2, 3, "x")))
    batch = LabelledCollator(PAD, with_token_type_ids=True)([rows[0], rows[1]])
    assert batch["input_ids"].tolist() == [[CLS, 10, 11, 12, END, PAD, PAD, PAD], [CLS, 10, 11, SEP, 50, 51, 52, END]]
    assert batch["attention_mask"].tolist() == [[1] * 5 + [0] * 3, [1] * 8]
    assert batch["token_type_ids"].tolist() == [[0] * 8, [0] * 4 + [1] * 4]
    assert batch["labels"].tolist() == [1, 0] and batch["labels"].dtype == torch.int64
    assert "token_type_ids" not in LabelledCollator(PAD, with_token_type_ids=False)([rows[0]])


@pytest.mark.parametrize(
    ("labels", "kind", "names", "batched", "dtype"),
    [
        (["b", "a", "b"], "single_label", ("a", "b"), [1, 0, 1], torch.int64),
        ([["c"], [], ["a", "c"]], "multi_label", ("a", "c"), [[0, 1], [0, 0], [1, 1]], torch.float32),
        ([1.5, -2.0, 0.0], "regression", (), [1.5, -2.0, 0.0], torch.float32),
    ],
)
def test_each_kind_of_label_becomes_what_its_loss_takes(
    labels: list[Any], kind: str, names: tuple[str, ...], batched: list[Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    made = of_labels(tmp_path / "t", *labels)
    assert label_names_of([made]) == (kind, names)
    rows = rows_of(made, names=names)
    found = LabelledCollator(PAD, with_token_type_ids=False)([rows[i] for i in range(3)])["labels"]
    assert found.tolist() == batched and found.dtype == dtype


def test_names_are_those_of_all_tables_and_their_order_does_not_matter(tmp_path: Path) -> None:
    one, two = of_labels(tmp_path / "1", "b", "c"), of_labels(tmp_path / "2", "10", "9", "b")
    assert label_names_of([one, two]) == label_names_of([two, one]) == ("single_label", ("10", "9", "b", "c"))
    assert label_names_of([of_labels(tmp_path / "3", "10", "9", "-1", "0")])[1] == ("-1", "0", "9", "10")
    assert label_names_of([of_labels(tmp_path / "4", "10", "9", "01")])[1] == ("01", "10", "9")
    # Equal as numbers: their order would be that of a set, another one in each process.
    for labels in (("1", "0", "-0"), ("-0", "0", "1")):
        assert label_names_of([of_labels(tmp_path / f"first {labels[0]}", *labels)])[1] == ("-0", "0", "1")


def test_labels_of_two_types_are_named_with_their_rows(tmp_path: Path) -> None:
    one, two = of_labels(tmp_path / "1", "4", "4"), of_labels(tmp_path / "2", "5", 4.5)
    with pytest.raises(DataError, match=r"'4' \(row 1 of train in .*1\) is single_label, 4.5 \(row 2 of .*2\) is regr"):
        label_kind_of([one, two])
    with pytest.raises(DataError, match=r"\['a'\] \(row 1 .* is multi_label, 'a' \(row 2 .* is single_label"):
        label_names_of([of_labels(tmp_path / "3", ["a"], "a")])
    with pytest.raises(DataError, match="no labelled row"):
        label_kind_of([TokenTable.open(tmp_path / "1", "holdout")])


@pytest.mark.parametrize(
    ("labels", "message"), [(["a", "a"], "the only label is 'a'; a classifier needs two"), ([[], []], "no row has any")]
)
def test_where_there_is_nothing_to_tell_apart_no_classifier_is_made(
    labels: list[Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        label_names_of([of_labels(tmp_path / "t", *labels)])


def test_a_holdout_has_no_label_that_training_lacks(tmp_path: Path) -> None:
    kind, names = label_names_of([of_labels(tmp_path / "train", "a", "b")])
    check_labels([of_labels(tmp_path / "1", "b", "b")], kind, names)
    with pytest.raises(DataError, match=r"no training row has: 'c' \(row 2 of .*\), 'd' \(row 4 of .*has 'a', 'b'"):
        check_labels([of_labels(tmp_path / "2", "a", "c", "c", "d")], kind, names)
    with pytest.raises(DataError, match=r"'g' \(row 5 .*\) and 2 more; training"):
        check_labels([of_labels(tmp_path / "3", *"cdefghi")], kind, names)
    with pytest.raises(DataError, match=r"label 1.5 \(row 1 .*\) is regression, but the training data's are single"):
        check_labels([of_labels(tmp_path / "4", 1.5)], kind, names)
    with pytest.raises(DataError, match="no training row has: 'c'"):
        check_labels([of_labels(tmp_path / "5", [], ["a", "c"])], "multi_label", names)


@pytest.mark.parametrize(
    ("overlong", "lengths", "count"),
    [
        ("drop", [12, 12], RowCount(rows_in=5, rows_used=2, dropped_overlong=3)),
        ("truncate", [12] * 5, RowCount(rows_in=5, rows_used=5, truncated=3)),
    ],
)
def test_texts_at_the_edge_of_max_length_are_counted(
    overlong: str, lengths: list[int], count: RowCount, tmp_path: Path
) -> None:
    """One text has room for 10 tokens, two have room for 9."""
    made = table(tmp_path / "t", (10, 0, "x"), (11, 0, "x"), (4, 5, "y"), (2, 9, "y"), (9, 9, "y"))
    rows = rows_of(made, overlong=overlong)
    assert rows.counts == [count] and rows.sizes == [count.rows_used] and len(rows) == count.rows_used
    assert rows.lengths.tolist() == lengths == [len(rows[i]["input_ids"]) for i in range(len(rows))]


def test_what_is_cut_is_the_end_of_the_longer_text(tmp_path: Path) -> None:
    rows = rows_of(table(tmp_path / "t", (20, 0, "x"), (2, 20, "x"), (20, 3, "x"), (9, 9, "x")), overlong="truncate")
    cut = [rows[i]["input_ids"].tolist() for i in range(4)]
    assert cut[0] == [CLS, *range(10, 20), END]
    assert cut[1] == [CLS, 10, 11, SEP, *range(50, 57), END]
    assert cut[2] == [CLS, *range(10, 16), SEP, 50, 51, 52, END]
    assert cut[3] == [CLS, *range(10, 15), SEP, *range(50, 54), END]


@pytest.mark.parametrize(("max_length", "used"), [(2, 0), (3, 1), (4, 1), (5, 2)])
def test_cut_or_not_every_text_keeps_a_token(max_length: int, used: int, tmp_path: Path) -> None:
    rows = rows_of(table(tmp_path / "t", (9, 0, "x"), (9, 9, "x")), max_length=max_length, overlong="truncate")
    assert rows.counts == [RowCount(rows_in=2, rows_used=used, dropped_overlong=2 - used, truncated=used)]
    for i in range(used):
        assert (rows[i]["input_ids"] < 90).sum() == max_length - 2 - i


def test_rows_of_several_tables_are_numbered_through(tmp_path: Path) -> None:
    one, two = table(tmp_path / "1", (1, 0, "x"), (50, 0, "x")), table(tmp_path / "2", (3, 0, "y"))
    rows = rows_of(one, two)
    assert rows.sizes == [1, 1] and [len(rows[i]["input_ids"]) for i in range(2)] == [3, 5]
    assert all(row["input_ids"].dtype == row["token_type_ids"].dtype == np.int64 for row in (rows[0], rows[1]))
