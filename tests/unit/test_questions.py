"""What each kind of task asks, as texts to look for."""

import json
from pathlib import Path
from typing import Any

import pytest
from contamination_jobs import run_jobs
from data_jobs import run_data, write_jsonl
from tiny_recipe import chain
from tiny_task import LINES, write_task

from pipelines.cleaning.question_files import Questions, holdout_digest
from pipelines.errors import DataError
from pipelines.evaluation.questions import Sources, label, questions_of
from pipelines.evaluation.tasks import BUILTIN
from pipelines.recipe.evaluation import TASKS

HEAD = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: items.jsonl}}\ntest_split: test\n"
ITEM = {
    "id": "a long name that nobody asks",
    "passage": "The mill stands.",
    "ask": "What stands?",
    "answer": "The mill",
}


def asked(folder: Path, text: str, *items: dict[str, Any], limit: int | None = None) -> list[list[str]]:
    task = write_task(folder, HEAD + text)
    write_jsonl(task.parent / "items.jsonl", items or [ITEM])
    sources = Sources(data=None, format=None, named={}, files=[str(task)], scratch=folder / "scratch")
    return list(questions_of("mine", limit, sources))


def held_out(folder: Path, format: str, rows: list[dict[str, Any]]) -> Sources:
    train = write_jsonl(folder / "train.jsonl", rows[:1])
    held = write_jsonl(folder / "held.jsonl", rows[1:])
    output, _ = run_data(folder / "data", [train], format=format, holdout_files=(str(held),))
    return Sources(data=output, format=format, named={}, files=[], scratch=folder / "scratch")


def test_choices_stand_behind_the_prompt(tmp_path: Path) -> None:
    sources = Sources(data=None, format=None, named={}, files=[str(write_task(tmp_path))], scratch=tmp_path / "scratch")
    questions = list(questions_of("mine", None, sources))
    assert len(questions) == len(LINES)
    question, options = str(LINES[1]["question"]), ["Tom", "Ida", "Zoe"]
    assert {question, *(f"{question} {option}" for option in options)} <= set(questions[1])
    assert questions_of("mine", 2, sources) and len(list(questions_of("mine", 2, sources))) == 2


def test_templates_are_seen_through_and_what_is_not_asked_is_left_out(tmp_path: Path) -> None:
    text = (
        'output_type: generate_until\ndescription: "Here are questions.\\n"\ngeneration_kwargs: {until: []}\n'
        'doc_to_text: "{{passage}}\\nQuestion: {{ask}}\\nAnswer:"\ndoc_to_target: answer\n'
        "metric_list: [{metric: exact_match}]\n"
    )
    ((first, *others),) = asked(tmp_path, text)
    assert first == "The mill stands.\nQuestion: What stands?\nAnswer:"
    wanted = {f"{first} The mill", "The mill stands.", "What stands?", "The mill", "The mill stands.\nWhat stands?\n"}
    assert set(others) == wanted


def test_a_template_that_names_what_is_not_there_says_so(tmp_path: Path) -> None:
    text = "output_type: loglikelihood\ndoc_to_text: '{{ask.a}}'\ndoc_to_target: answer\n"
    items = [ITEM | {"ask": {"a": "What stands?"}}, ITEM | {"ask": None}]
    with pytest.raises(DataError, match="has no attribute 'a'; its templates name what row 1 has not"):
        asked(tmp_path, text + "metric_list: [{metric: perplexity}]\n", *items)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_task_without_a_row_says_so(tmp_path: Path, content: str) -> None:
    task = write_task(tmp_path)
    (task.parent / "items.jsonl").write_text(content)
    sources = Sources(data=None, format=None, named={}, files=[str(task)], scratch=tmp_path / "scratch")
    with pytest.raises(DataError, match=r"mine\.yaml: its data have no row, so it asks nothing"):
        list(questions_of("mine", None, sources))


def test_the_target_is_part_of_what_is_asked(tmp_path: Path) -> None:
    text = "output_type: loglikelihood\ndoc_to_text: ask\ndoc_to_target: answer\nmetric_list: [{metric: perplexity}]\n"
    ((*texts,),) = asked(tmp_path, text)
    assert set(texts) == {"What stands?", "What stands? The mill", "The mill"}


def test_a_whole_text_may_be_asked(tmp_path: Path) -> None:
    text = 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: passage\n'
    ((*texts,),) = asked(tmp_path, text + "metric_list: [{metric: word_perplexity}]\n")
    assert {text.strip() for text in texts} == {"The mill stands.", "The mill"}


def test_prompts_may_differ_instead_of_answers(tmp_path: Path) -> None:
    """As winogrande does it: the label names one of several prompts, and all end in the same words."""
    item = {
        "label": 1,
        "one": "The mill stands because the mill",
        "other": "The mill stands because the barn",
        "end": "is old",
    }
    text = (
        "output_type: multiple_choice\ndoc_to_text: label\ndoc_to_target: end\n"
        'doc_to_choice: "{{[one, other]}}"\nmetric_list: [{metric: acc}]\n'
    )
    ((*texts,),) = asked(tmp_path, text, item)
    assert {"The mill stands because the barn", "The mill stands because the mill is old"} <= set(texts)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_the_built_in_world_asks_too(name: str, tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "recipes" / "tasks" / f"{name}.yaml"
    sources = Sources(data=None, format=None, named={}, files=[str(file)], scratch=tmp_path)
    questions = list(questions_of(name, 12, sources))
    items = BUILTIN[name](12, 0)
    assert [texts[0] for texts in questions] == [item["prompt"] for item in items]
    answers = [item["options"][item["answer"]] if "options" in item else item["target"] for item in items]
    for texts, answer in zip(questions, answers, strict=True):
        assert any(text.endswith(answer.strip()) for text in texts)


@pytest.mark.parametrize(
    ("name", "rows", "wanted"),
    [
        ("bits_per_byte", [{"text": "One."}, {"text": "Two."}], ["Two."]),
        ("pseudo_perplexity", [{"text": "One."}, {"text": "Two."}], ["Two."]),
        ("classification", [{"text": "a", "label": "x"}, {"text": "c", "text_pair": "d", "label": "x"}],
         ["c", "d", "c\nd"]),
        ("seq2seq", [{"source": "a", "target": "b"}, {"source": "c", "target": "d"}], ["c", "d", "c\nd"]),
        ("reward", [{"prompt": "one"}, {"prompt": "two"}], ["two"]),
    ],
)  # fmt: skip
def test_held_out_rows_are_questions(tmp_path: Path, name: str, rows: list[dict[str, Any]], wanted: list[str]) -> None:
    format = TASKS[name].format
    assert format is not None
    assert list(questions_of(name, None, held_out(tmp_path, format, rows))) == [wanted]


def test_minimal_pairs_and_words_are_read_from_their_files(tmp_path: Path) -> None:
    pair = {"sentence_good": "The boys sleep.", "sentence_bad": "The boys sleeps."}
    named = {"file": write_jsonl(tmp_path / "pairs.jsonl", [pair, pair]), "analogies": tmp_path / "words.txt"}
    named["analogies"].write_text("man king woman queen\n")
    sources = Sources(data=None, format=None, named=named, files=[], scratch=tmp_path)
    assert list(questions_of("minimal_pairs", 1, sources)) == [["The boys sleep.", "The boys sleeps."]]
    assert list(questions_of("embeddings", None, sources)) == [["man king woman queen"]]
    assert label("minimal_pairs", None, named) == "minimal_pairs/pairs"


def test_all_tasks_of_all_stages_are_gathered_once(tmp_path: Path) -> None:
    recipe = chain()
    write_task(tmp_path)
    recipe["data"] = {"tales": recipe["data"]["tales"] | {"decontaminate": "tell"}}
    (tmp_path / "asks.jsonl").write_text("".join(json.dumps({"prompt": f"ask {number}"}) + "\n" for number in range(8)))
    recipe["data"]["asks"] = {"files": "asks.jsonl", "format": "prompt", "holdout": 0.4}
    recipe["stages"] = {name: recipe["stages"][name] for name in ("tokenizer", "pretrain")}
    for name in recipe["stages"]:
        recipe["stages"][name]["data"] = "tales"
    tasks = [{"name": "mine", "limit": 2}, {"name": "reward", "data": "asks", "reward_funcs": "village_story"}]
    recipe["stages"]["evaluate"] = {"models": ["pretrain"], "tasks": [*tasks, {"name": "mine", "num_fewshot": 1}]}
    tasks = ["microworld/generation", {"name": "bits_per_byte", "data": "tales"}]
    recipe["stages"]["again"] = {"kind": "evaluate", "models": ["pretrain"], "tasks": [*tasks, "mine"]}
    ran = run_jobs(tmp_path, recipe)
    questions = Questions.load(ran["benchmarks"].output)
    counts = {task: len(asked) for task, asked in questions.tasks.items()}
    held = {name: int(ran[f"data-{name}"].metrics["holdout"]) for name in ("tales", "asks")}
    wanted = {
        "bits_per_byte/tales": held["tales"],
        "mine": 5,
        "microworld/generation": 400,
        "reward/asks": held["asks"],
    }
    assert counts == wanted and held["asks"]
    assert ran["benchmarks"].metrics == {"questions": sum(counts.values())} | {
        f"questions_{task}": count for task, count in counts.items()
    }
    assert questions.holdouts["bits_per_byte/tales"] == holdout_digest(ran["data-tales"].output)
    assert list(questions.documents) == ["bits_per_byte/tales"]
    assert len(questions.texts) == len(questions.task_of) == sum(counts.values())
