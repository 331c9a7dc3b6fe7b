"""Near copies: signatures estimate the Jaccard similarity, and rows go only where one near them stays."""

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
        made = near.signatures([one, two], 50, NONE)
        matches = float((made[0] == made[1]).mean())
        errors.append((matches - 1 / 256) / (1 - 1 / 256) - exact(one, two))
    assert abs(np.mean(errors)) < 0.01 and np.std(errors) < 0.04


def test_a_signature_knows_nothing_of_case_spaces_and_neighbours() -> None:
    text = tale(1)
    alone = near.signatures([text], 50, NONE)
    assert (near.signatures([tale(2), text.upper().replace(" ", "\n  "), ""], 50, NONE)[1] == alone[0]).all()


def test_a_short_text_is_only_like_itself() -> None:
    long, short = tale(1, 50), tale(1, 49)
    made = near.signatures([long, changed(long, 1), short, changed(short, 1), short.upper()], 50, NONE)
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
    rows, like = near.copies(pairs, table, own=0, threshold=0.8)
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
            "labelled": ["a", '[null, "1"]'],
            "pairs": ["a", "b"],
            "prompt": ["a", "{}"],
        }[format]
    )
    columns = near.band_columns(len(texts))
    assert len({*columns}) == 32 and {column // 32 for column in columns} == {*range(len(texts))}


def test_a_long_question_with_another_answer_is_another_conversation(tmp_path: Path) -> None:
    def chat(question: str, answer: str) -> dict[str, Any]:
        turns = (("user", question), ("assistant", answer))
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    rows = [chat(tale(1), "Yes."), chat(tale(1), "No."), chat(changed(tale(1), 2), "yes."), chat("Go on.", tale(2))]
    rows += [chat("Go on.", changed(tale(2), 2)), chat("Continue.", changed(tale(2), 2))]
    (found,) = run_clean(tmp_path, {"chats": {"format": "chat", "rows": rows}}).values()
    assert [row["messages"] for row in found.rows()] == [rows[place]["messages"] for place in (0, 1, 3, 5)]


def test_the_number_of_workers_changes_no_near_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_near, "MANY", 10)  # so that bands are parts of their own
    monkeypatch.setattr(clean_steps, "SMALL", 0)
    rows = [tale(number) for number in range(20)] + [changed(tale(number), number % 4) for number in range(20)]
    one, two = (run_clean(tmp_path / str(n), {"tales": {"rows": rows}}, workers=n)["tales"] for n in (1, 2))
    assert one.digests() == two.digests() and len(one.rows()) == 20
    monkeypatch.undo()
    assert run_clean(tmp_path / "whole", {"tales": {"rows": rows}})["tales"].digests() == one.digests()
