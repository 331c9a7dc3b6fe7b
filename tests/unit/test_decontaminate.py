"""A planted question of a benchmark is found in pretraining, fine-tuning and preference data, through the real jobs."""

import json
from pathlib import Path
from typing import Any

import pytest
from contamination_jobs import Ran, run_jobs
from data_jobs import run_data, write_jsonl
from tiny_recipe import planned, write
from tiny_task import TASK

from pipelines.cleaning.question_files import Questions
from pipelines.data import shards
from pipelines.data.row_writer import RowWriter
from pipelines.errors import DataError
from pipelines.plan.jobs import ContaminationJob, Job
from pipelines.recipe.decontaminate import Decontaminate
from pipelines.recipe.load import find_problems
from pipelines.stages import contamination
from pipelines.stages.base import StageContext

QUESTIONS = [
    "Which of the two rivers that meet below the old town carries more water in the spring of most years?",
    "If a baker sells nine loaves in the morning and twice as many after noon, how many loaves does he sell in all?",
    "What did the lighthouse keeper write in his book every night before he went to bed in the tower?",
]
NO_QUESTION = "so there is no question to look for; add an evaluate stage with benchmarks"
WORDS = ("mill", "barn", "well", "road", "tree", "boat", "drum", "kite", "lamp", "door", "bell", "cart")


def prose(number: int) -> str:
    """Words of its own for each number."""
    return " ".join(f"{word}{number}" for word in WORDS * 2)


def rows(kind: str) -> list[dict[str, Any]]:
    """Thirty rows; in row 7 stands a question, in another case."""
    asked = f"so he asked: {QUESTIONS[0].upper()}"
    texts = [asked if number == 7 else prose(number) for number in range(30)]
    if kind == "text":
        return [{"text": f"{text} and that was all"} for text in texts]
    if kind == "chat":
        return [{"prompt": f"hm, {text}", "completion": f"well {number}"} for number, text in enumerate(texts)]
    return [
        {"prompt": f"tell {number}", "chosen": "yes", "rejected": f"no: {text}"} for number, text in enumerate(texts)
    ]


def recipe(root: Path, action: Any, **more: Any) -> dict[str, Any]:
    """Three datasets with a question in each, and one benchmark."""
    root.mkdir(exist_ok=True)
    (root / "tasks").mkdir(exist_ok=True)
    (root / "tasks" / "mine.yaml").write_text(TASK)
    items = [{"question": text, "options": ["one", "two"], "answer": 0} for text in QUESTIONS]
    (root / "tasks" / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    data = {}
    for name, kind in (("books", "text"), ("chats", "chat"), ("choices", "preference")):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows(kind))))
        data[name] = {"files": f"{name}.jsonl", "format": kind, "holdout": 0, "decontaminate": action}
    train = {"duration": "4 steps", "global_batch_size": 8, "learning_rate": 0.001}
    return {
        "name": "tiny",
        "seed": 3,
        "data": data,
        "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 128},
        "stages": {
            "tokenizer": {"vocab_size": 300, "data": "books"},
            "pretrain": {"data": "books", **train},
            "sft": {"model": "pretrain", "data": "chats", **train},
            "dpo": {"model": "sft", "data": "choices", **train},
            "evaluate": {"models": ["pretrain", "sft", "dpo"], "tasks": ["mine"]},
        },
    } | more


def found_in(ran: Ran) -> list[tuple[str, str, bool]]:
    return [(one["task"], one["question"], QUESTIONS[0][5:90].lower() in one["passage"].lower()) for one in ran.samples]


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ({}, [f"this recipe evaluates nothing, {NO_QUESTION}"]),
        ({"evaluate": {"models": "pretrain", "tasks": [{"name": "embeddings"}]}},
         [f"this recipe asks only about single words, {NO_QUESTION}"]),
        ({"evaluate": {"models": "pretrain", "tasks": ["mine", {"name": "embeddings"}]}}, []),
        ({"evaluate": {"models": "pretrain", "tasks": 3}}, ["needs a block of fields, got 3"]),
    ],
)  # fmt: skip
def test_a_recipe_that_asks_nothing_has_nothing_to_look_for(tmp_path: Path, stages: Any, told: list[str]) -> None:
    asked = recipe(tmp_path, "drop")
    asked["stages"] = {name: asked["stages"][name] for name in ("tokenizer", "pretrain")} | stages
    asked["data"] = {"books": asked["data"]["books"]}
    problems = find_problems(write(tmp_path, asked))
    assert [problem.message for problem in problems] == told
    if told and stages != {"evaluate": {"models": "pretrain", "tasks": 3}}:
        lines = (tmp_path / "tiny.yaml").read_text().splitlines()
        (problem,) = problems
        assert lines[problem.line - 1][problem.column - 1 :] == "drop" and problem.path == "data.books.decontaminate"


def test_rows_with_a_question_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run_jobs(tmp_path, recipe(tmp_path, "drop"))
    for name in ("books", "chats", "choices"):
        before, after = ran[f"data-{name}"], ran[f"clean-{name}"]
        assert len(before.said()) == 30 and len(after.said()) == 29
        assert [text for text in before.said() if text not in after.said()] == [before.said()[7]]
        wanted = {"task": "mine", "questions": 3, "too_short": 0, "found": 1, "phrases": 0, "documents": 1}
        assert after.by_task == {"mine": wanted | {"holdout_documents": 0}}
        assert after.metrics["contaminated_mine"] == after.metrics["removed_contaminated"] == 1
        assert found_in(after) == [("mine", f"{QUESTIONS[0]} one", True)]
    assert (
        capsys.readouterr().out.count("note: 1 training row has questions of the benchmarks, and it goes (mine 1)") == 3
    )


def test_rows_with_a_question_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run_jobs(tmp_path, recipe(tmp_path, "tell"))
    assert not any(name.startswith("clean-") for name in ran)
    for name in ("books", "chats", "choices"):
        told = ran[f"contamination-{name}"]
        assert (told.by_task["mine"]["found"], told.facts["contaminated"], told.facts["action"]) == (1, 1, "tell")
        assert told.metrics == {"contaminated": 1, "contaminated_mine": 1, "found_mine": 1}
        assert found_in(told) == [("mine", f"{QUESTIONS[0]} one", True)]
    assert "and it stays (mine 1)" in capsys.readouterr().out


def test_telling_changes_nothing_that_is_trained(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "tell")
    told = planned(tmp_path, asked)
    for dataset in asked["data"].values():
        del dataset["decontaminate"]
    plain = planned(tmp_path, asked)
    assert {job.name for job in told.jobs} - {job.name for job in plain.jobs} == {
        "benchmarks",
        *(f"contamination-{name}" for name in asked["data"]),
    }
    assert all(told.by_name[job.name].fingerprint == job.fingerprint for job in plain.jobs)


def test_dropping_makes_anew_what_reads_the_rows_and_not_the_rows_themselves(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "drop")
    before = planned(tmp_path, asked)
    assert {item.job for item in before.by_name["pretrain"].inputs.values()} == {"tokenizer", "tokens-books"}
    assert before.by_name["tokens-books"].inputs["dataset"].job == "clean-books"
    asked["stages"]["evaluate"]["tasks"].append("microworld/reasoning")
    after = planned(tmp_path, asked)
    changed = {job.name for job in after.jobs if before.by_name[job.name].fingerprint != job.fingerprint}
    assert {"benchmarks", "clean-books", "tokens-books", "pretrain"} <= changed
    assert not any(name.startswith("data-") for name in changed)


def test_the_result_does_not_depend_on_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on who makes them, which is what shards promise."""
    whole = run_jobs(tmp_path / "whole", recipe(tmp_path / "whole", "drop"))
    monkeypatch.setattr(RowWriter, "BATCH_ROWS", 3)
    monkeypatch.setattr(shards.grouped, "__defaults__", (1,))
    parted = run_jobs(tmp_path / "parts", recipe(tmp_path / "parts", "drop"))
    assert len(list((tmp_path / "parts/clean-books/checkpoints/parts/contamination").iterdir())) == 10
    for name in ("clean-books", "clean-chats", "clean-choices"):
        one, other = whole[name], parted[name]
        assert (one.facts, one.samples, one.said()) == (other.facts, other.samples, other.said())


def test_a_phrase_is_not_a_question_and_is_told(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "drop")
    many = [f"{number} {QUESTIONS[1]}" for number in range(11)] + [prose(number) for number in range(9)]
    (tmp_path / "books.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in many))
    clean = run_jobs(tmp_path, asked)["clean-books"]
    assert len(clean.said()) == 20
    assert (clean.by_task["mine"]["found"], clean.by_task["mine"]["phrases"]) == (0, 1)


def test_much_that_would_go_stops_the_job_and_is_there_to_be_seen(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "drop")
    many = [f"{number} {QUESTIONS[1]}" for number in range(3)] + [prose(number) for number in range(9)]
    (tmp_path / "books.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in many))
    wanted = r"3 of 12 training rows have questions of the benchmarks \(mine 3\), and max_dropped allows 10%"
    with pytest.raises(DataError, match=wanted):
        run_jobs(tmp_path, asked)
    assert QUESTIONS[1] in (tmp_path / "clean-books/record/contamination.jsonl").read_text()
    asked["data"]["books"]["decontaminate"] = {"action": "drop", "max_dropped": 0.5}
    assert len(run_jobs(tmp_path, asked)["clean-books"].said()) == 9


def test_duplicates_go_first_and_holdouts_stay(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "drop")
    (tmp_path / "held.jsonl").write_text(json.dumps({"text": f"held: {QUESTIONS[2]}"}))
    texts = [f"{QUESTIONS[1]}", f"{QUESTIONS[1]}".upper(), *(prose(number) for number in range(20))]
    (tmp_path / "books.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    del asked["data"]["books"]["holdout"]
    asked["data"]["books"] |= {"holdout_files": "held.jsonl", "deduplicate": True}
    asked["stages"]["evaluate"]["tasks"].append({"name": "bits_per_byte", "data": "books"})
    clean = run_jobs(tmp_path, asked)["clean-books"]
    assert clean.said("holdout") == [f"held: {QUESTIONS[2]}"]
    assert len(clean.said()) == 20
    assert clean.metrics["removed_duplicate"] == clean.metrics["removed_contaminated"] == 1
    assert clean.by_task["mine"]["holdout_documents"] == 1
    assert clean.by_task["bits_per_byte/books"]["holdout_documents"] is None, "its own holdout tells nothing"
    shared = [one["shared"] for one in clean.samples if one["question"].startswith(QUESTIONS[1])]
    assert shared == [" ".join(QUESTIONS[1].split()[:13])]
    assert {one["split"] for one in clean.samples if one["question"].startswith(QUESTIONS[2])} == {"holdout"}


def test_a_phrase_of_a_held_out_document_is_no_question(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "drop")
    held = " ".join(prose(number) for number in range(100, 104))
    (tmp_path / "held.jsonl").write_text(json.dumps({"text": held}))
    texts = [held[: len(held) // 4], f"see: {held[len(held) // 3 :]}", *(prose(number) for number in range(20))]
    (tmp_path / "books.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    del asked["data"]["books"]["holdout"]
    asked["data"]["books"] |= {"holdout_files": "held.jsonl"}
    asked["stages"]["evaluate"]["tasks"] = [{"name": "bits_per_byte", "data": "books"}]
    clean = run_jobs(tmp_path, asked)["clean-books"]
    assert [text for text in texts if text not in clean.said()] == texts[1:2]


@pytest.mark.parametrize(
    ("format", "rows"),
    [
        ("text", [{"text": QUESTIONS[0]}, {"text": "x"}]),
        ("chat", [{"messages": [{"role": "system", "content": QUESTIONS[0]}, {"role": "user", "content": "a"},
                                {"role": "assistant", "content": "b"}]}]),
        ("chat", [{"prompt": "a", "completion": QUESTIONS[0]}]),
        ("preference", [{"prompt": QUESTIONS[0], "chosen": "a", "rejected": "b"}]),
        ("preference", [{"prompt": "a", "chosen": QUESTIONS[0], "rejected": "b"}]),
        ("prompt", [{"prompt": QUESTIONS[0]}]),
        ("labelled", [{"text": "a", "text_pair": QUESTIONS[0], "label": "b"}]),
        ("pairs", [{"source": "a", "target": QUESTIONS[0]}]),
    ],
)  # fmt: skip
def test_all_that_a_row_says_is_looked_through(tmp_path: Path, format: Any, rows: list[dict[str, Any]]) -> None:
    output, _ = run_data(tmp_path / "data", [write_jsonl(tmp_path / "rows.jsonl", rows)], format=format, holdout=0)
    (tmp_path / "benchmarks").mkdir()
    Questions({"mine": [[text] for text in QUESTIONS]}, {}).save(tmp_path / "benchmarks")
    config = ContaminationJob(format=format, decontaminate=Decontaminate(action="tell"))
    job = Job(name="contamination-x", stage="x", config=config, seed=None)
    inputs = {"dataset": output, "benchmarks": tmp_path / "benchmarks"}
    metrics = contamination.run(StageContext(job=job, inputs=inputs, workdir=tmp_path / "job"))
    assert metrics == {"contaminated": 1, "contaminated_mine": 1, "found_mine": 1}
