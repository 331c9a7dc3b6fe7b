"""Repeated runs of words: all that are long enough are found, whole, and only later ones are cut."""

import random
from pathlib import Path

import numpy as np
import pytest
from clean_jobs import run_clean

from pipelines.cleaning import spans
from pipelines.stages import clean_spans, clean_steps


def prose(number: int, words: int) -> str:
    draw = random.Random(number)
    return " ".join(f"{draw.choice('abcdefgh')}{draw.randrange(10**6)}" for _ in range(words))


def found_in(texts: list[str], least: int, own: int = 0) -> list[tuple[int, int, int, int]]:
    """(row, first word, behind the last, row where it stood) of runs of so many words."""
    words, counts, fingerprints = spans.words_of(texts, *spans.sizes_of(least))
    starts = np.concatenate([[0], np.cumsum(counts)])
    pairs = spans.repeated(fingerprints, int(starts[own]))
    found = spans.runs(pairs[np.argsort(pairs[:, 0], kind="stable")], words, starts, least)
    return [tuple(run) for run in found.tolist()]


@pytest.mark.parametrize("least", [20, 21, 50])
def test_every_run_that_is_long_enough_is_found_whole(least: int) -> None:
    """Wherever it stands; one word less is none."""
    for shift in range(30):
        run = prose(1, least)
        first = f"{prose(2, 40 + shift)} {run} {prose(3, 30)}"
        second = f"{prose(4, shift)} {run.upper()} {prose(5, 64 - shift)}".strip()
        assert found_in([first, second], least) == [(1, shift, shift + least, 0)]
        shorter = second.replace(run.upper(), run.split(" ", 1)[1])
        assert found_in([first, shorter], least) == []


def test_runs_within_a_text_keep_their_first_occurrence() -> None:
    run = prose(1, 60)
    text = f"start {run} middle {run} {run} end"
    assert found_in([text], 50) == [(0, 62, 122, 0), (0, 122, 182, 0)]
    assert spans.without(text, [(62, 122), (122, 182)]) == f"start {run} middle end"
    assert found_in(["word " * 200], 50) == [(0, 1, 200, 0)]


def test_rows_before_the_dataset_are_never_cut() -> None:
    run = prose(1, 60)
    texts = [run, f"a {run}", f"b c {run}"]
    assert found_in(texts, 50, own=2) == [(2, 2, 62, 0)]


def test_runs_side_by_side_from_two_texts_are_cut_once_each() -> None:
    one, two = prose(1, 55), prose(2, 70)
    assert found_in([one, two, f"x {one} {two} y"], 50) == [(2, 1, 56, 0), (2, 56, 126, 1)]


def test_a_run_that_is_found_in_two_texts_is_cut_as_far_as_either_has_it() -> None:
    """Whichever of them its fingerprints lead to first."""
    for number in range(40):
        whole = prose(number, 120).split()
        part = [*prose(900, 10).split(), *whole[5:60], *prose(901, 60).split()]
        texts = [" ".join(words) for words in (part, whole, [*prose(902, 3).split(), *whole, "end"])]
        covered = {word for row, start, stop, _ in found_in(texts, 50) if row == 2 for word in range(start, stop)}
        assert covered == {*range(3, 123)}


def test_a_run_is_found_though_a_part_of_it_stands_in_a_text_above_both() -> None:
    """Where all that both texts share of fingerprints leads to the first of three, which has too few of the words."""
    for number in range(40):
        whole = [*prose(number, 12).split(), *prose(900, 34).split(), *prose(number + 100, 12).split()]
        texts = [f"{prose(901, 20)} {prose(900, 34)} {prose(902, 20)}", " ".join(whole), " ".join(["x", *whole, "y"])]
        assert found_in(texts, 50) == [(2, 1, 59, 1)]


def test_a_cut_takes_the_white_space_behind_it_and_spares_the_characters_around() -> None:
    text = "Äpfel und\n\nNüsse  und Birnen.\n\nEnde… 👍"
    assert spans.without(text, [(2, 5)]) == "Äpfel und\n\nEnde… 👍"
    assert spans.without(text, [(0, 2)]) == "Nüsse  und Birnen.\n\nEnde… 👍"
    assert spans.without(text, [(1, 2), (5, 7)]) == "Äpfel Nüsse  und Birnen."
    assert spans.part_of(text, 2, 5) == "Nüsse  und Birnen."


def test_repeated_runs_are_cut_across_sources_and_what_is_left_short_goes(tmp_path: Path) -> None:
    notice = prose(1, 60)
    books = [f"{prose(2, 90)}\n\n{notice}", f"{prose(3, 80)}\n{notice}\nThe end."]
    web = [f"{notice}\n\n{prose(4, 70)}", f"A few words. {notice}", prose(5, 70)]
    asked = {"near": 1, "spans": 50}
    rows = {"books": {"rows": books, "deduplicate": asked}, "web": {"rows": web, "deduplicate": {**asked}}}
    found = run_clean(tmp_path, rows)
    assert found["books"].texts() == [books[0], f"{prose(3, 80)}\nThe end."]
    assert found["web"].texts() == [prose(4, 70), prose(5, 70)]
    assert found["web"].info["removed"] == {"repeated_span": {"earlier.0": 1}}
    assert found["web"].info["cut"] == {"rows": 1, "runs": 1, "words": {"earlier.0": 60}}
    assert found["books"].metrics["cut_words"] == 60
    (line,) = (found["web"].record / "cut.jsonl").read_text().splitlines()
    assert f'"of": "books", "cut": "{notice}"' in line
    size = sum(len(text) for text in found["books"].texts())
    assert found["books"].metrics["bytes"] == size


def test_the_number_of_workers_and_of_ranges_changes_no_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_steps, "SMALL", 0)
    draw = random.Random(0)
    pieces = [prose(number, draw.randrange(30, 90)) for number in range(25)]
    rows = [" ".join(draw.choices(pieces, k=4)) for _ in range(40)]
    asked = {"tales": {"rows": rows, "deduplicate": {"near": 1, "spans": 50}}}
    one, two = (run_clean(tmp_path / str(n), asked, workers=n)["tales"] for n in (1, 2))
    assert one.digests() == two.digests() and one.info["cut"]["runs"] > 30
    monkeypatch.setattr(clean_spans, "AT_ONCE", 40)
    assert run_clean(tmp_path / "ranges", asked)["tales"].digests() == one.digests()
