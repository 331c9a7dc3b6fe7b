"""Near copies: signatures estimate the Jaccard similarity, and rows go only where one near them stays."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clean_jobs import run_clean

from pipelines.cleaning import near
from pipelines.stages import clean_near, clean_steps
from pipelines.stages.clean_near import texts_of

NONE = np.zeros(0, np.uint64)


def tale(number: int, words: int = 120) -> str:
    """A text whose words no other of another number has."""
    draw = random.Random(number)
    return " ".join(f"w{number}x{draw.randrange(40)}" for _ in range(words))


def changed(text: str, words: int) -> str:
    """With so many words replaced, far from each other."""
    parts = text.split()
    for place in range(words):
        parts[7 + 9 * place] = f"new{place}"
    return " ".join(parts)


def exact(one: str, other: str) -> float:
    first, second = (
        {tuple(words[at : at + 5]) for at in range(len(words) - 4)} for words in (one.split(), other.split())
    )
    return len(first & second) / len(first | second)


def test_signatures_estimate_the_similarity() -> None:
    errors = []
    for number in range(60):
        one, two = tale(number, 300), changed(tale(number, 300), 8)
        made, _ = near.signatures([one, two], 50, NONE)
        matches = float((made[0] == made[1]).mean())
        errors.append((matches - 1 / 256) / (1 - 1 / 256) - exact(one, two))
    assert abs(np.mean(errors)) < 0.01 and np.std(errors) < 0.04


def test_a_signature_knows_nothing_of_case_spaces_and_neighbours() -> None:
    text = tale(1)
    alone, _ = near.signatures([text], 50, NONE)
    assert (near.signatures([tale(2), text.upper().replace(" ", "\n  "), ""], 50, NONE)[0][1] == alone[0]).all()


def test_a_short_text_is_only_like_itself() -> None:
    long, short = tale(1, 50), tale(1, 49)
    made, is_long = near.signatures([long, changed(long, 1), short, changed(short, 1), short.upper()], 50, NONE)
    assert is_long.tolist() == [True, True, False, False, False]
    assert (made[0] == made[1]).mean() > 0.7
    assert (made[2] == made[3]).mean() < 0.05 and (made[2] == made[4]).all()


def test_candidates_of_a_crowded_band_are_two_for_each_row() -> None:
    keys, rows = np.array([7, 5, 7, 7, 5, 7], np.uint64), np.array([0, 1, 2, 4, 5, 9])
    pairs = near.candidates(keys, rows, own=2, total=10).tolist()
    assert [divmod(pair, 10) for pair in pairs] == [(2, 0), (4, 0), (4, 2), (5, 1), (9, 0), (9, 4)]


def test_a_row_goes_only_where_one_near_it_stays() -> None:
    """Each of a chain is near the one before it; the third is not near the first, so it stays, and takes the fourth."""
    base = np.arange(256, dtype=np.uint8)
    table = np.stack([np.where(np.arange(256) < 45 * step, 255 - base, base) for step in range(4)])
    pairs = np.array([1 * 4 + 0, 2 * 4 + 1, 3 * 4 + 2])
    rows, like = near.copies(pairs, table, np.zeros(4, np.uint64), own=0, threshold=0.8, texts=1)
    assert (rows.tolist(), like.tolist()) == ([1, 3], [0, 2])


def test_near_copies_go_and_the_first_source_wins(tmp_path: Path) -> None:
    books = [*(tale(number) for number in range(30)), changed(tale(3), 2)]
    web = [changed(tale(5), 2), tale(40), changed(tale(41), 2), tale(42), changed(tale(42), 8)]
    found = run_clean(tmp_path, {"books": {"rows": books}, "web": {"rows": web, "held": [tale(41)]}})
    assert found["books"].info["removed"] == {"near_duplicate": {"dataset": 1}}
    assert found["web"].info["removed"] == {"near_duplicate": {"dataset/holdout": 1, "earlier.0": 1}}
    assert found["web"].texts() == [tale(40), tale(42), changed(tale(42), 8)]
    assert [sample["of"] for sample in found["web"].samples] == ["books", "its holdout"]
    exactly = {"rows": web, "held": [tale(41)], "deduplicate": {"near": 1}}
    found = run_clean(tmp_path / "exact", {"books": {"rows": books}, "web": exactly})
    assert len(found["web"].rows()) == 5


def test_templated_rows_are_not_wiped_out(tmp_path: Path) -> None:
    """Sixty words that 80 rows share make no two of them the same; what each says of its own does."""
    template = tale(0, 60)
    rows = [f"{template} The answer is {number}." for number in range(80)]
    own = [f"{template} {tale(number)}" for number in range(1, 9)]
    copy = f"{template} {changed(tale(4), 2)}"
    (found,) = run_clean(tmp_path / "kept", {"tales": {"rows": [*rows, *own, copy]}}).values()
    assert found.texts() == [*rows, *own]
    without = {"rows": [*rows, *own, copy], "deduplicate": {"template_share": 1.0}}
    (found,) = run_clean(tmp_path / "gone", {"tales": without}).values()
    assert found.texts() == [rows[0], *own]


@pytest.mark.parametrize("format", ["chat", "preference", "labelled", "pairs", "prompt"])
def test_every_text_of_a_row_must_be_near(format: str) -> None:
    rows: dict[str, dict[str, Any]] = {
        "chat": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "preference": {side: [{"role": "user", "content": side}] for side in ("prompt", "chosen", "rejected")},
        "labelled": {"text": "a", "text_pair": None, "label": "1"},
        "pairs": {"source": "a", "target": "b"},
        "prompt": {"prompt": [{"role": "user", "content": "a"}], "columns": "{}"},
    }
    texts = texts_of(format, rows[format])
    assert (
        texts
        == {
            "chat": ["a", "b"],
            "preference": ["prompt", "chosen", "rejected"],
            "labelled": ["a", ""],
            "pairs": ["a", "b"],
            "prompt": ["a"],
        }[format]
    )


@pytest.mark.parametrize("long", [1, 2, 4, 3, 5, 7])
def test_all_bands_are_of_long_texts(long: int) -> None:
    table, bits = np.arange(3 * 256).astype(np.uint8)[None].repeat(2, axis=0), np.array([long, long], np.uint8)
    equal = np.zeros(2, np.uint64)
    before = [keys[0] for _, keys in near.band_keys(table, equal, bits, range(32), 3)]
    assert len(before) == 32
    changes = []
    for text in range(3):
        table[0, 256 * text : 256 * (text + 1)] += 1
        after = [keys[0] for _, keys in near.band_keys(table, equal, bits, range(32), 3)]
        changes.append(sum(one != other for one, other in zip(before, after, strict=True)))
        before = after
    share = 32 // long.bit_count()
    assert all(change in ((share, share + 1) if long >> text & 1 else (0,)) for text, change in enumerate(changes))
    assert sum(changes) == 32


def test_a_long_question_with_another_answer_is_another_conversation(tmp_path: Path) -> None:
    def chat(question: str, answer: str) -> dict[str, Any]:
        turns = (("user", question), ("assistant", answer))
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    rows = [chat(tale(1), "Yes."), chat(tale(1), "No."), chat(changed(tale(1), 2), "yes."), chat("Go on.", tale(2))]
    rows += [chat("Go on.", changed(tale(2), 2)), chat("Continue.", changed(tale(2), 2))]
    (found,) = run_clean(tmp_path, {"chats": {"format": "chat", "rows": rows}}).values()
    assert [row["messages"] for row in found.rows()] == [rows[place]["messages"] for place in (0, 1, 3, 5)]


@pytest.mark.parametrize("pair", [None, tale(2)])
def test_another_label_is_another_row_however_long_its_texts_are(tmp_path: Path, pair: str | None) -> None:
    def row(text: str, label: Any) -> dict[str, Any]:
        return {"text": text, "label": label} | ({"text_pair": pair} if pair else {})

    rows = [row(tale(1), label) for label in ("yes", "no", "maybe")] + [row(changed(tale(1), 2), "maybe")]
    (found,) = run_clean(tmp_path, {"marks": {"format": "labelled", "rows": rows}}).values()
    assert [json.loads(one["label"]) for one in found.rows()] == ["yes", "no", "maybe"]
    assert found.info["removed"] == {"near_duplicate": {"dataset": 1}}


@pytest.mark.parametrize("format", ["labelled", "pairs"])
def test_what_a_holdout_asks_goes_whatever_the_answer(tmp_path: Path, format: str) -> None:
    asked, answer = ("text", "label") if format == "labelled" else ("source", "target")
    held = [{asked: tale(1), answer: "yes"}]
    rows = [{asked: changed(tale(1), 2), answer: "no"}, {asked: tale(3), answer: "no"}]
    (found,) = run_clean(tmp_path, {"marks": {"format": format, "rows": rows, "held": held}}).values()
    assert [row[asked] for row in found.rows()] == [tale(3)]
    assert found.info["removed"] == {"near_duplicate": {"dataset/holdout": 1}}


def test_a_label_takes_no_bands_from_the_text(tmp_path: Path) -> None:
    """At similarity 0.76 half of the bands would miss a fifth of the copies."""
    texts = [(tale(number, 300), changed(tale(number, 300), 8)) for number in range(300)]
    assert abs(np.mean([exact(*pair) for pair in texts]) - 0.76) < 0.02
    rows = [{"text": text, "label": "same"} for side in zip(*texts, strict=True) for text in side]
    fields = {"rows": rows, "deduplicate": {"near": 0.7, "template_share": 1.0}}
    (found,) = run_clean(tmp_path / "marks", {"marks": fields | {"format": "labelled"}}).values()
    (plain,) = run_clean(tmp_path / "texts", {"texts": fields | {"rows": [row["text"] for row in rows]}}).values()
    assert len(found.rows()) == len(plain.rows())


def test_the_number_of_workers_changes_no_near_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_near, "MANY", 10)  # so that bands are parts of their own
    monkeypatch.setattr(clean_steps, "SMALL", 0)
    rows = [tale(number) for number in range(20)] + [changed(tale(number), number % 4) for number in range(20)]
    one, two = (run_clean(tmp_path / str(n), {"tales": {"rows": rows}}, workers=n)["tales"] for n in (1, 2))
    assert one.digests() == two.digests() and len(one.rows()) == 20
    monkeypatch.undo()
    assert run_clean(tmp_path / "whole", {"tales": {"rows": rows}})["tales"].digests() == one.digests()
