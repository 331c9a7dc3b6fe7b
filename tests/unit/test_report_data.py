"""What the report says of data: rows by reason with examples, lengths, and mixtures as planned and as drawn."""

from pathlib import Path

import pytest
from fake_run import RECIPE, fake_plan, fake_report, fake_run, read_report

from pipelines.report.collect import write_report
from pipelines.report.data_plots import data_plots, draw_plots
from pipelines.report.figures import count_text, share_text, size_text
from pipelines.store.artifacts import ArtifactStore

QUALITY = "village: {{builtin: microworld/text, quality: [repair, {{kind: length, min_words: 3}}, fineweb]}}"
MIXED = """pretrain: {{data: {{village: 0.5, books: 0.5}}, max_epochs: {{books: 2}},
    phases: [{{start: 75%, data: {{village: 0.5, books: 0.5}}}}],"""


def mixed() -> str:
    """Two datasets, of which the second has been taken as often as it may be before the end."""
    recipe = RECIPE.replace("village: {{builtin: microworld/text}}", QUALITY, 1)
    recipe = recipe.replace("data:\n", "data:\n  books: {{builtin: microworld/reviews}}\n", 1)
    return recipe.replace("pretrain: {{data: village,", MIXED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_report(tmp_path_factory.mktemp("mixed"), mixed())


def test_every_filter_is_named_in_its_order_with_examples(folder: Path) -> None:
    (village,) = (data for data in read_report(folder).data if data.name == "village")
    found = [(reason.by, reason.reason, reason.rows, len(reason.excerpts)) for reason in village.reasons]
    expected = [("reader", "empty text ", 2, 1), ("quality", "repair", 0, 0), ("quality", "length", 10, 3)]
    assert found == [*expected, ("quality", "fineweb", 0, 0), ("layout", "unranked", 3, 0)]
    first = village.reasons[2].excerpts[0]
    assert first.text.startswith("Today Mia\nis in the mill.") and first.place == "b.txt:1"
    assert first.why == "words 3 < 50" and len(first.text) <= 400
    assert sum(reason.rows for reason in village.lost) == village.dropped == 12
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert (
        '<small class="narrow">quality filters</small>repair</th>' in page
        and "<cite>b.txt:1 · words 3 &lt; 50</cite>" in page
    )


def test_what_cleaning_does_is_shown_with_examples(tmp_path: Path) -> None:
    books = "data:\n  books: {{builtin: microworld/reviews, deduplicate: true}}"
    recipe = RECIPE.replace("microworld/text}", "microworld/text, deduplicate: {{spans: 50}}}").replace(
        "data:", books, 1
    )
    recipe = recipe.replace("{{village: 0.7, chats: 0.3}}", "{{village: 0.5, books: 0.2, chats: 0.3}}")
    report = read_report(fake_report(tmp_path, recipe))
    village = next(data for data in report.data if data.name == "village")
    found = {(reason.by, reason.reason): (reason.rows, reason.excerpts) for reason in village.reasons}
    rows, (copy,) = found["cleaning", "duplicate of books"]
    assert (rows, copy.text, copy.why) == (30, "A copy", "like: One")
    assert found["cleaning", "duplicate of its holdout"] == (2, [])
    rows, (run,) = found["cut", "runs of words that stood before"]
    assert (rows, run.text) == (5, "Once more") and village.changed == 12
    assert sum(reason.rows for reason in village.lost) == village.dropped == 44
    assert village.records == ["data-village/record", "clean-village/record"]


def test_lengths_and_fates_are_drawn(folder: Path) -> None:
    report = read_report(folder)
    (village,) = (data for data in report.data if data.name == "village")
    assert village.lengths is not None and village.lengths.rows == [0, 900, 3]
    assert [plot.title for plot in data_plots(report)] == ["used, and why not", "training rows by their tokens"]
    assert all(plot.svg.startswith("<svg") and "currentColor" in plot.svg for plot in data_plots(report))


def test_shares_of_every_phase_are_shown_as_planned_and_as_drawn(folder: Path) -> None:
    report = read_report(folder)
    mixture = next(one for one in report.mixtures if one.stage == "pretrain")
    village, books = sorted(mixture.uses, key=lambda use: use.data == "books")
    first, second = (village, books) if village.drawn[0] == 0.875 else (books, village)  # in the order of fingerprints
    assert (mixture.unit, mixture.steps, mixture.starts) == ("tokens", 900, [0.0, 0.75])
    assert first.planned == second.planned == [0.5, 0.5]
    assert first.drawn == [0.875, pytest.approx(2 / 3)] and second.drawn == [0.125, pytest.approx(1 / 3)]
    assert (first.total, second.total) == (900.0, 200.0) and books.cap == 2
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "from 75 % on" in page and '<span class="off">87.5 %</span><small>50.0 % planned</small>' in page
    assert list(draw_plots(report)) == ["pretrain"] and page.count("tokens drawn of each dataset") == 1
    assert "What each stage takes" in page  # those of one dataset


def test_a_dataset_that_is_at_its_cap_is_told() -> None:
    from pipelines.report.mixtures import MixtureFacts, PartFacts, UseFacts

    use = {"stage": "pretrain", "share": 0.5, "rows_in": 1, "rows_used": 1, "tokens": 1}
    uses = [UseFacts(data="web", **use), UseFacts(data="books", cap=1.5, **use)]
    parts = [(0, 0.0, [0.5, 0.5]), (0, 0.4, [1.0, 0.0]), (1, 0.8, [0.5, 0.5]), (2, 0.9, [1.0, 0.0])]
    found = [PartFacts(phase=phase, start=start, shares=shares) for phase, start, shares in parts]
    (note,) = MixtureFacts(stage="pretrain", parts=found, uses=uses).notes
    assert note.startswith("From 40.0 % on books") and "1.5 epochs" in note


def test_a_run_of_an_older_program_has_its_counts(tmp_path: Path) -> None:
    plan, store = fake_plan(tmp_path / "recipes"), ArtifactStore(tmp_path / "artifacts")
    fake_run(plan, store)
    for name in ("dropped.jsonl", "lengths.json", "mixture.json"):
        for path in (tmp_path / "artifacts").rglob(name):
            path.unlink()
    report = read_report(write_report(plan, store, tmp_path / "runs").parent)
    village = next(data for data in report.data if data.name == "village")
    assert village.dropped == 12 and village.lengths is not None and village.lengths.rows == []
    assert all(one.starts == [] and one.uses[0].rows_in == 30_000 for one in report.mixtures)


def test_data_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><svg onload=alert(2)>\u202e{{ 7*7 }}"
    page = (fake_report(tmp_path, mixed(), evil=evil) / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<svg onload" not in page and "\u202e" not in page
    assert "is&lt;script&gt;alert(1)" in page and "⟨U+202E⟩{{ 7*7 }}" in page


def test_figures_are_written_as_people_read_them() -> None:
    assert [share_text(share) for share in (0, 0.0001, 0.01, 0.123, 0.9999, 1)] == [
        "0 %", "< 0.1 %", "1.0 %", "12.3 %", "> 99.9 %", "100 %"
    ]  # fmt: skip
    assert [size_text(size) for size in (12, 1_500, 2_100_000, 3.4e9, 5e12)] == [
        "12 B", "1.5 kB", "2.1 MB", "3.4 GB", "5.0 TB"
    ]  # fmt: skip
    assert [count_text(number) for number in (7, 9_999_999, 12_345_678)] == ["7", "9,999,999", "12.3M"]
