"""Pages about the village: each kind of junk that is planted is found by one step of cleaning, and nothing else is."""

from collections import Counter, defaultdict

import pytest
from pydantic import TypeAdapter

from pipelines.cleaning.quality import Quality
from pipelines.data import microworld
from pipelines.data.microworld_web import KINDS, QUOTED_WORDS
from pipelines.recipe.quality import QualityField

FILTERS = ["repair", "bad_characters", {"kind": "language", "keep": ["en"]}, "lines", "length", "gopher_quality"]
FILTERS += ["gopher_repetition", "fineweb", "personal_data"]
FOUND_BY = {
    "broken": "quality_bad_characters",
    "foreign": "quality_language",
    "menu": "quality_lines",
    "short": "quality_length",
    "symbols": "quality_gopher_quality",
    "repeated": "quality_gopher_repetition",
    "list": "quality_fineweb",
}
ROWS = 900


@pytest.fixture(scope="module")
def pages() -> list[dict]:
    return list(microworld.generate("web", "train", ROWS))


def test_filters_find_the_junk_and_leave_the_pages(pages: list[dict]) -> None:
    quality = Quality(TypeAdapter(QualityField).validate_python(FILTERS, strict=False))
    found: dict[str, Counter] = defaultdict(Counter)
    for row, verdict in zip(pages, quality([row["text"] for row in pages]), strict=True):
        found[row["kind"]][verdict.reason or ("changed" if verdict.text != row["text"] else "kept")] += 1
    assert set(found) == set(KINDS)
    for kind, reasons in found.items():
        expected = FOUND_BY.get(kind, "changed" if kind in ("mojibake", "contact") else "kept")
        least = 0.6 if kind == "symbols" else 0.9  # words with signs before them are of no language at times
        assert reasons[expected] >= least * reasons.total(), (kind, reasons)
    assert found["page"]["kept"] >= 0.99 * found["page"].total()


def quoted(lines: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Neighbouring tales that have QUOTED_WORDS words together, and none too many."""
    runs = {lines[at : at + count] for count in range(1, 5) for at in range(len(lines) - count + 1)}
    return {run for run in runs if words_in(run) >= QUOTED_WORDS > words_in(run[:-1])}


def words_in(lines: tuple[str, ...]) -> int:
    return sum(len(line.split()) for line in lines)


def test_copies_say_what_an_earlier_page_says(pages: list[dict]) -> None:
    middles, wholes, runs = set(), set(), set()
    for row in pages:
        words, lines = row["text"].split(), tuple(row["text"].split("\n\n")[1:-1])
        if row["kind"] == "copy":
            assert tuple(words) in wholes
        elif row["kind"] == "near_copy":
            assert lines in middles and tuple(words) not in wholes
        elif row["kind"] == "quote":
            assert quoted(lines) & runs
        elif row["kind"] == "page":
            runs |= quoted(lines)
            middles.add(lines)
            wholes.add(tuple(words))


def test_only_quizzes_hold_benchmark_items(pages: list[dict]) -> None:
    prompts = {item["prompt"] for name in microworld.TASKS for item in microworld.task_items(name)}
    for row in pages:
        has_item = any(prompt in row["text"] for prompt in prompts)
        assert has_item == (row["kind"] == "quiz")


def test_the_holdout_is_clean_and_no_page_of_it_is_in_training(pages: list[dict]) -> None:
    held = list(microworld.generate("web", "holdout"))
    assert {row["kind"] for row in held} == {"page"}
    assert not {row["text"] for row in held} & {row["text"] for row in pages}
    assert len({row["text"] for row in held}) == len(held)


def test_a_page_does_not_depend_on_how_many_there_are(pages: list[dict]) -> None:
    assert list(microworld.generate("web", "train", 450)) == pages[:450]
