"""The report: the same facts as JSON, page, Markdown and table, whatever part of a run is there."""

import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fake_run import RECIPE, VALUES, fake_plan, fake_report, fake_run, read_report
from rich.console import Console

from pipelines.data import microworld
from pipelines.report import collect, lineage
from pipelines.report.collect import ScoreFacts, write_report
from pipelines.report.figures import seconds_text, short, thinned
from pipelines.report.plots import Series, curves, plots
from pipelines.report.table import difference, mark, tables
from pipelines.report.terminal import print_summary
from pipelines.report.text import visible
from pipelines.store.artifacts import ArtifactStore

EVIL = (
    "<script>alert(1)</script></style></pre><svg onload=alert(2)>\" onclick='x' "
    "\u202eevil\u202c\x1b[31m {{ 7*7 }} &amp; |"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_report(tmp_path_factory.mktemp("whole"))


def text(folder: Path, suffix: str) -> str:
    return (folder / f"report.{suffix}").read_text(encoding="utf-8")


def score(stage: str, value: float, *, stderr: float | None = 0.02, better: bool = True, **settings) -> ScoreFacts:
    settings = {"num_fewshot": 0, "dtype": "float32"} | settings
    return ScoreFacts(
        stage=stage,
        evaluation="evaluate",
        task="t",
        metric="acc",
        value=value,
        stderr=stderr,
        n=400,
        higher_is_better=better,
        settings=settings,
    )


def test_the_json_has_what_others_build_on(whole):
    facts = json.loads(text(whole, "json"))
    pretrain = next(stage for stage in facts["stages"] if stage["name"] == "pretrain")
    assert pretrain["kind"] == "pretrain" and pretrain["state"] == "complete"
    assert pretrain["wall_seconds"] > 0 and pretrain["tokens_per_second"] == 13_700.5
    assert pretrain["metrics"]["parameters"] == 856_576 and len(pretrain["fingerprint"]) == 64
    assert len(facts["scores"]) == 4 * len(VALUES)
    assert {"stage", "task", "metric", "value", "stderr", "n"} <= set(facts["scores"][0])
    assert {score["stage"] for score in facts["scores"]} == {"pretrain", "sft", "dpo", "ppo"}
    assert {"source": "sft", "target": "dpo", "role": "model"} in facts["lineage"]
    village = next(data for data in facts["data"] if data["name"] == "village")
    assert village["rows_in"] == village["rows_used"] + village["dropped"]
    assert village["dropped_by_reason"]["quality_length"] == 10
    assert (village["changed"], village["would_drop"]) == (7, {})
    assert village["tokens"] == 2_043_525
    assert village["left_over"] == {"unranked": 3} and '<small class="narrow">left over</small>unranked</th>' in text(
        whole, "html"
    )
    assert facts["resolved"]["stages"]["sft"]["overlong"] == "drop"


def test_what_cleaning_removed_is_told_by_the_dataset_of_today_that_it_is_like(tmp_path):
    books = "data:\n  books: {{builtin: microworld/reviews, deduplicate: true}}"
    recipe = RECIPE.replace("microworld/text}", "microworld/text, deduplicate: true}").replace("data:", books, 1)
    recipe = recipe.replace("{{village: 0.7, chats: 0.3}}", "{{village: 0.5, books: 0.2, chats: 0.3}}")
    plan, store = fake_plan(tmp_path / "recipes", recipe=recipe), ArtifactStore(tmp_path / "artifacts")
    fake_run(plan, store)
    write_report(plan, store, tmp_path / "runs")
    facts = json.loads((tmp_path / "runs/report.json").read_text())
    village = next(data for data in facts["data"] if data["name"] == "village")
    assert village["dropped_by_reason"]["duplicate of books"] == 30
    assert village["dropped_by_reason"]["duplicate of its holdout"] == 2
    assert village["rows_in"] == village["rows_used"] + village["dropped"]
    assert village["tokens"] == 2_043_525
    assert 'duplicate of books</th><td class="number">30</td>' in (tmp_path / "runs/report.html").read_text()


@pytest.mark.parametrize(("action", "fate"), [("drop", "dropped"), ("tell", "told")])
def test_questions_of_benchmarks_in_training_data_are_told(tmp_path, action, fate):
    recipe = RECIPE.replace("microworld/text}", f"microworld/text, decontaminate: {action}}}")
    plan, store = fake_plan(tmp_path / "recipes", recipe=recipe), ArtifactStore(tmp_path / "artifacts")
    fake_run(plan, store, evil=EVIL)
    folder = write_report(plan, store, tmp_path / "runs").parent
    (facts,) = read_report(folder).contamination
    assert (facts.data, facts.action, facts.contaminated) == ("village", action, 12)
    assert (facts.tasks[0].found, facts.tasks[0].questions, facts.tasks[0].holdout_documents) == (7, 400, 0)
    page = text(folder, "html")
    assert "<script>" not in page and "1.8 %" in page and f">{fate}<" in page
    assert "Too short to be looked for: 3 of 400 questions of microworld/generation" in page
    assert f"| 7 of 400 | 3 | 12 ({fate}) |" in text(folder, "md")
    assert "0 of 9" in text(folder, "md")


def test_a_report_of_the_same_artifacts_is_not_made_again(tmp_path, monkeypatch):
    plan, store = fake_plan(tmp_path / "recipes"), ArtifactStore(tmp_path / "artifacts")
    fake_run(plan, store, leave_out=("evaluate-ppo",))
    page = write_report(plan, store, tmp_path / "runs")
    made = page.stat().st_mtime_ns
    monkeypatch.setattr(collect, "collect", lambda *_: pytest.fail("made again"))
    assert write_report(plan, store, tmp_path / "runs").stat().st_mtime_ns == made
    monkeypatch.undo()
    fake_run_rest(plan, store)
    assert write_report(plan, store, tmp_path / "runs").stat().st_mtime_ns != made
    (tmp_path / "runs" / "report.md").unlink()
    write_report(plan, store, tmp_path / "runs")
    assert (tmp_path / "runs" / "report.md").exists()


def fake_run_rest(plan, store) -> None:
    import shutil

    for artifact in store.artifacts():
        shutil.rmtree(artifact)
    fake_run(plan, store)


@pytest.mark.parametrize("leave_out", [("evaluate-ppo",), ("sft",), ("pretrain",), ("tokenizer", "data-prompts")])
def test_a_run_that_is_not_finished_is_reported_as_far_as_it_is(tmp_path, leave_out):
    folder = fake_report(tmp_path, leave_out=leave_out)
    report = read_report(folder)
    for name in leave_out:
        assert report.stage(name).state == "absent"
        assert re.search(rf"{name}.*not run", text(folder, "html"))
        assert re.search(rf"{name}.*not run", text(folder, "md"))
    print_summary(report, Console(quiet=True))


def test_an_empty_store_has_a_report_too(tmp_path):
    plan = fake_plan(tmp_path / "recipes")
    page = write_report(plan, ArtifactStore(tmp_path / "artifacts"), tmp_path / "runs")
    assert "No scores yet" in page.read_text()


def test_plain_and_templated_scores_are_tables_of_their_own(whole):
    plain, templated = tables(read_report(whole))
    assert [row.task for row in plain.rows] == [task for task, row in VALUES.items() if not row[2]]
    assert [row.task for row in templated.rows] == [task for task, row in VALUES.items() if row[2]]
    assert plain.columns == ["pretrain", "sft", "dpo", "ppo"]


def test_a_mark_stands_only_where_a_difference_is_beyond_noise(whole):
    marks = {row.task: [cell.mark for cell in row.cells] for table in tables(read_report(whole)) for row in table.rows}
    assert marks["microworld/comprehension"] == ["", "", "", ""]
    assert marks["microworld/generation"] == ["", "", "", "▼"]
    assert marks["bits_per_byte/village"] == ["", "▼", "", ""]
    assert marks["reward/prompts"] == ["", "▲", "▲", "▲"]


def test_one_task_asked_in_several_ways_has_a_row_for_each_that_says_which(whole):
    report = read_report(whole)
    asked = [score("sft", 0.5), score("dpo", 0.6), score("sft", 0.7, num_fewshot=5), score("sft", 0.8, limit=100)]
    (table,) = tables(report.model_copy(update={"scores": asked}))
    assert [row.task for row in table.rows] == ["t", "t (5-shot)", "t (limit 100)"]
    assert [[cell and cell.text for cell in row.cells] for row in table.rows] == [
        ["0.500", "0.600"],
        ["0.700", None],
        ["0.800", None],
    ]
    shown = Console(record=True, width=100, file=io.StringIO())
    print_summary(report.model_copy(update={"scores": asked}), shown)
    assert "t (5-shot)  acc" in shown.export_text()


@pytest.mark.parametrize(
    ("before", "after", "better", "expected"),
    [
        (0.5, 0.5 + 3 * 0.0282, True, ""),
        (0.5, 0.59, True, "▲"),
        (0.59, 0.5, True, "▼"),
        (0.5, 0.59, False, "▼"),
        (0.59, 0.5, False, "▲"),
    ],
)
def test_three_standard_errors_of_the_difference_are_noise(before, after, better, expected):
    assert mark(score("a", before, better=better), score("b", after, better=better)) == expected


def test_without_a_standard_error_nothing_is_claimed():
    assert mark(score("a", 0.0, stderr=None), score("b", 1.0)) == ""


@pytest.mark.parametrize("setting", [{"num_fewshot": 5}, {"dtype": "bfloat16"}, {"template_digest": "x"}])
def test_scores_of_unequal_settings_are_never_compared(setting):
    with pytest.raises(ValueError, match="unequal settings"):
        difference(score("a", 0.1), score("b", 0.2, **setting))


class Page(HTMLParser):
    """Elements and attributes of a page, and the text of its cells."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_needs_nothing_and_runs_nothing(whole):
    source = text(whole, "html")
    page = Page(source)
    assert len(source.encode()) < 1_000_000
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "img", "base", "form"}
    csp = next(attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    assert csp == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    outside = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("href", "src", "xlink:href")]
    assert all(value.startswith("#") for value in outside)
    assert "@import" not in source and not re.search(r"url\((?!#)", source)


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_text_of_data_and_models_cannot_become_markup(tmp_path, whole, suffix):
    folder = fake_report(tmp_path, evil=EVIL)
    source = text(folder, suffix)
    for char in ("\u202e", "\u202c", "\x1b"):
        assert char not in source
    assert "⟨U+202E⟩" in source
    if suffix == "md":
        assert "<script" not in source.replace("\\<", "")
        assert all(line.count("|") == line.count(r"\|") + 7 + 1 for line in source.splitlines() if r"\|" in line)
        return
    evil, clean = Page(source), Page(text(whole, "html"))
    assert len(evil.tags) == len(clean.tags)
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in clean.tags]
    assert not any(key.startswith("on") for _, attrs in evil.tags for key in attrs)
    assert any("<script>alert(1)</script>" in part for part in evil.texts)
    assert any("{{ 7*7 }}" in part for part in evil.texts)


def test_the_table_in_a_terminal_steers_nothing(tmp_path):
    console = Console(record=True, width=200, file=io.StringIO())
    print_summary(read_report(fake_report(tmp_path, evil="[bold]" + EVIL)), console)
    shown = console.export_text()
    assert "[bold]" in shown and "\x1b" not in shown and "\u202e" not in shown


@pytest.mark.parametrize("char", [*"\x00\x07\x1b\x7f\u200b\u200e\u202a\u202e\u2066\u2069\ufeff\u2028\ue000\ud800"])
def test_what_steers_a_reader_is_shown_as_a_code_point(char):
    assert visible(f"a{char}b\n") == f"a⟨U+{ord(char):04X}⟩b\n"


def test_curves_are_drawn_of_every_stage_and_a_torn_last_line_is_passed_over(whole):
    drawn = [(plot.stage, plot.title.split(",")[0]) for plot in plots(read_report(whole))]
    assert ("pretrain", "loss") in drawn and ("ppo", "mean reward of a rollout") in drawn
    assert ("dpo", "share of pairs told apart") in drawn
    for plot in plots(read_report(whole)):
        assert plot.svg.startswith("<svg") and "<metadata" not in plot.svg and "currentColor" in plot.svg


def test_the_entropy_of_the_built_in_text_is_drawn_where_nothing_else_was_read(whole):
    with_floor = [plot.stage for plot in plots(read_report(whole)) if "entropy of the text" in plot.svg]
    assert with_floor == ["pretrain"]


def test_the_entropy_of_the_built_in_text_stands_beside_its_bits_per_byte(whole):
    report = read_report(whole)
    notes = {row.task: row.note for table in tables(report) for row in table.rows}
    expected = microworld.floor_nats_per_byte(500, with_end=False) / math.log(2)  # of its first texts
    assert notes["bits_per_byte/village"] == f"1,000 items, entropy {expected:.3f}"
    assert [task for task, note in notes.items() if "entropy" in note] == ["bits_per_byte/village"]
    texts = [row["text"] for row in microworld.generate("text", "holdout", 3)]
    assert texts == [microworld._story("holdout", 0, number).text for number in range(3)]


def test_the_lineage_goes_from_left_to_right(whole):
    report = read_report(whole)
    picture = lineage.picture(report)
    places = {box.name: box.x for box in picture.boxes}
    assert places["tokenizer"] < places["pretrain"] < places["sft"] < places["dpo"] == places["ppo"]
    assert all(
        box.x + lineage.WIDTH <= picture.width and box.y + lineage.HEIGHT <= picture.height for box in picture.boxes
    )


def test_a_renamed_stage_keeps_its_scores_under_its_new_name(tmp_path):
    from fake_run import RECIPE

    plan, store = fake_plan(tmp_path / "recipes"), ArtifactStore(tmp_path / "artifacts")
    fake_run(plan, store)
    renamed = RECIPE.replace("  sft:", "  chatty: {{kind: sft, ").replace(
        "chatty: {{kind: sft,  {{", "chatty: {{kind: sft, "
    )
    renamed = renamed.replace("model: sft", "model: chatty").replace("[pretrain, sft,", "[pretrain, chatty,")
    write_report(fake_plan(tmp_path / "recipes", recipe=renamed), store, tmp_path / "runs")
    assert {score.stage for score in read_report(tmp_path / "runs").scores} == {"pretrain", "chatty", "dpo", "ppo"}


def test_reports_import_neither_torch_nor_datasets():
    code = (
        "import sys; import pipelines.report.collect, pipelines.report.html, pipelines.report.card, "
        "pipelines.report.terminal; "
        "print(*[m for m in ('torch', 'transformers', 'datasets', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""


def test_numbers_are_written_as_people_read_them():
    assert [seconds_text(s) for s in (None, 0.42, 12.4, 59.7, 185, 7800)] == [
        "", "0.4 s", "12 s", "1 min 00 s", "3 min 05 s", "2 h 10 min"
    ]  # fmt: skip
    assert [short(n) for n in (None, 12, 13_700, 856_576, 2_043_525)] == ["", "12", "13.7k", "857k", "2.0M"]
    assert thinned(range(1000), 3) == [0, 500, 999]


def test_curves_say_nothing_of_a_home_that_is_read_only(tmp_path: Path) -> None:
    script = "from pipelines.report.plots import _svg; _svg([], xlabel='step')"
    home = {"HOME": "/proc/nowhere", "TMPDIR": str(tmp_path), "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", script], env=home, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_words_are_drawn_as_a_map_beside_their_neighbours(tmp_path):
    evil = "<script>$x$\u202e&"
    plan, store = fake_plan(tmp_path / "recipes"), ArtifactStore(tmp_path / "artifacts")
    plain = fake_run_page(plan, store, tmp_path / "plain", None)
    assert "<h2>Words</h2>" not in plain
    words = {"neighbours": {evil: [["near" + evil, 0.75]]}, "points": {evil: [0.5, -1.0]}, "explained": [0.625, 0.25]}
    page = fake_run_page(plan, ArtifactStore(tmp_path / "others"), tmp_path / "drawn", words)
    assert page.count("words by their embeddings") == 4 and page.count("<h2>Words</h2>") == 1
    assert "62% of the variance" in page and "0.75" in page
    assert "<script" not in page and "\u202e" not in page
    drawn = page[page.index("words by their embeddings") :]
    assert "&lt;script&gt;$x$⟨U+202E⟩&amp;</text>" in drawn[: drawn.index("</svg>")]
    assert "near&lt;script&gt;$x$⟨U+202E⟩&amp;" in page


def fake_run_page(plan, store, folder, words) -> str:
    fake_run(plan, store, words=words)
    return write_report(plan, store, folder).read_text(encoding="utf-8")


def test_a_tokenizer_is_shown_with_what_it_costs_and_how_it_cuts(whole):
    (facts,) = read_report(whole).tokenizers
    (own,) = facts.vocabularies
    assert sorted(facts.datasets) == ["chats", "village"]
    assert own.embedding_parameters == 500 * 128
    page, card = text(whole, "html"), text(whole, "md")
    assert "<h2>Tokenizer</h2>" in page and "512 asked" in page and "bytes per token by dataset" in page
    assert "<span>·12</span><span>34</span><span>⏎</span>" in page and "·kindergarten" in page
    assert "| tokenizer | 500 (512 asked) | 4.63 | 1.26 | 25% | 0 of 400 | 64,000 |" in card


def test_a_tokenizer_is_shown_beside_others_and_other_sizes(tmp_path):
    from fake_run import RECIPE, measures

    beside = RECIPE.replace(
        "chats: 0.3}}", "chats: 0.3}}, compare: {{hub: org/evil, revision: " + "a" * 40 + "}}, sweep: 4k"
    )
    plan, store = fake_plan(tmp_path / "recipes", recipe=beside), ArtifactStore(tmp_path / "artifacts")
    evil = "<script>$x$\u202e"
    sweep = [
        {"asked": size, "vocab_size": size, "bytes_per_token": value} for size, value in ((300, 2.5), (4_000, 3.5))
    ]
    others = {"own": measures(), "compare": [{"name": "org/" + evil} | measures()], "sweep": sweep}
    fake_run(plan, store, vocabulary=others)
    write_report(plan, store, tmp_path / "runs")
    (facts,) = read_report(tmp_path / "runs").tokenizers
    assert [one.name for one in facts.vocabularies] == ["tokenizer", "org/" + evil]
    assert [size.bytes_per_token for size in facts.sweep] == [2.5, 3.5]
    page = text(tmp_path / "runs", "html")
    assert "bytes per token by vocabulary size" in page and "bytes per token by dataset" in page
    assert "<script" not in page and "\u202e" not in page


def test_a_tokenizer_that_nobody_measured_leaves_no_section(tmp_path):
    plan, store = fake_plan(tmp_path / "recipes"), ArtifactStore(tmp_path / "artifacts")
    fake_run(plan, store)
    (store.find(plan.by_name["tokenizer"]).record / "tokenizer.json").unlink()
    write_report(plan, store, tmp_path / "runs")
    assert read_report(tmp_path / "runs").tokenizers == []
    assert "<h2>Tokenizer</h2>" not in text(tmp_path / "runs", "html")


def test_a_picture_that_is_a_file_of_its_own_has_ink_for_both_papers() -> None:
    svg = ElementTree.fromstring(curves([Series("one", [1, 2], [2.5, 1.5])], xlabel="step"))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert "dark" in (svg[0].text or "") and "color" in (svg[0].text or "")
