"""Cleaning a dataset: exact copies go, the first source wins, holdouts stay, and every row is counted."""

from pathlib import Path

import numpy as np
import pytest
from clean_jobs import run_clean
from tiny_recipe import chain, only_data, planned

from pipelines.cleaning.exact import first_with, key_of, normalised
from pipelines.errors import DataError
from pipelines.stages import clean_steps


def test_copies_differ_in_case_white_space_and_unicode_form() -> None:
    assert normalised(" The\u00a0Miller\n\twent ﬁrst. ") == "the miller went first."
    assert normalised("It costs 3 pounds.") != normalised("It costs 4 pounds.")
    said = b"".join(key_of(value) for value in ("One  two", "three", "one two", ["three"], "three"))
    keys = np.frombuffer(said, np.uint64).reshape(-1, 2)
    assert first_with(keys).tolist() == [0, 1, 0, 3, 1]


def test_the_first_source_wins_and_holdouts_are_not_trained_on(tmp_path: Path) -> None:
    books = {"rows": ["One tale.", "Two tales.", "one  TALE.", "Held of web.", "Its own."], "held": ["its own."]}
    web = {"rows": ["Three tales.", "two tales.", "Its own.", "Four."], "held": ["held of web."]}
    found = run_clean(tmp_path, {"books": books, "web": web})
    assert found["books"].texts() == ["One tale.", "Two tales."]
    assert found["web"].texts() == ["Three tales.", "Four."]
    assert [found[name].texts("holdout") for name in found] == [["its own."], ["held of web."]]
    assert found["books"].info["removed"] == {"duplicate": {"dataset": 1, "dataset/holdout": 1, "later.0/holdout": 1}}
    assert found["web"].info["removed"] == {"duplicate": {"earlier.0": 1, "earlier.0/holdout": 1}}
    sample = next(sample for sample in found["web"].samples if sample["of"] == "books")
    assert sample == {
        "reason": "duplicate",
        "of": "books",
        "removed": '{"text": "two tales."}',
        "kept": '{"text": "Two tales."}',
    }
    facts = {name: found["web"].metrics[name] for name in ("rows_in", "rows_used", "train_in", "train", "holdout")}
    assert facts == {"rows_in": 5, "rows_used": 3, "train_in": 4, "train": 2, "holdout": 1}
    assert found["web"].metrics["bytes"] == len("Three tales.Four.held of web.")


def test_a_label_makes_two_rows_but_not_in_a_holdout(tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in [("Good.", 1), ("good.", 1), ("Good.", 0), ("Held.", 1)]]
    sentiment = {"format": "labelled", "rows": rows, "held": [{"text": "held.", "label": 0}]}
    (found,) = run_clean(tmp_path, {"sentiment": sentiment}).values()
    assert [(row["text"], row["label"]) for row in found.rows()] == [("Good.", '"1"'), ("Good.", '"0"')]


def test_much_that_is_removed_is_said_and_nothing_left_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["The same.", *["the same."] * 3, "Another."]
    run_clean(tmp_path / "some", {"tales": {"rows": rows, "deduplicate": {"warn_above": 0.7}}})
    assert "note:" not in capsys.readouterr().out
    run_clean(tmp_path / "much", {"tales": {"rows": rows}})
    assert "note: 60.0% of 5 training rows are removed (duplicate of itself 3)" in capsys.readouterr().out
    with pytest.raises(DataError, match="no training row is left: duplicate of books 2"):
        run_clean(tmp_path / "all", {"books": {"rows": rows}, "tales": {"rows": rows[-1:] + rows[:1]}})


def test_only_what_asks_for_it_is_cleaned_and_its_data_job_stays(tmp_path: Path) -> None:
    recipe = only_data()
    before = planned(tmp_path, recipe).by_name
    recipe["data"]["tales"]["deduplicate"] = False
    assert planned(tmp_path, recipe).by_name.keys() == before.keys()
    recipe["data"]["tales"]["deduplicate"] = True
    after = planned(tmp_path, recipe).by_name
    assert after["data-tales"].fingerprint == before["data-tales"].fingerprint
    assert after["tokenizer"].inputs["data.0"].job == "clean-tales"
    assert after["tokenizer"].fingerprint != before["tokenizer"].fingerprint
    recipe["data"]["tales"]["deduplicate"] = {"warn_above": 0.9}
    assert planned(tmp_path, recipe).by_name["clean-tales"].fingerprint == after["clean-tales"].fingerprint


def test_datasets_are_compared_with_those_of_their_format_that_are_used(tmp_path: Path) -> None:
    recipe = chain()
    for dataset in recipe["data"].values():
        dataset["deduplicate"] = True
    recipe["data"]["unused"] = {"files": "tales.txt", "deduplicate": True}
    jobs = planned(tmp_path, recipe).by_name
    sources = {name: [item.job for item in jobs[name].inputs.values()] for name in ("clean-tales", "clean-more")}
    assert sources == {"clean-tales": ["data-tales", "data-more"], "clean-more": ["data-more", "clean-tales"]}
    assert jobs["clean-chats"].inputs.keys() == {"dataset"} and "data-unused" not in jobs
    assert jobs["tokens-more"].inputs["dataset"].job == "clean-more"


def test_the_number_of_workers_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_steps, "SMALL", 0)
    datasets = {
        name: {"rows": [f"Tale {row % size} of them." for row in range(40)], "held": [f"tale {size - 1} of them."]}
        | {"deduplicate": {"near": 1}}
        for name, size in (("books", 20), ("web", 30))
    }
    one, two = (run_clean(tmp_path / str(workers), datasets, workers=workers) for workers in (1, 2))
    assert {name: found.digests() for name, found in one.items()} == {
        name: found.digests() for name, found in two.items()
    }
    assert len(one["web"].rows()) == 9
