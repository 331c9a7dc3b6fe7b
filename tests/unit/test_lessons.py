"""What is wrong with labels is told before pretraining, with the rows' own places."""

import json
from pathlib import Path
from typing import Any

import pytest
from data_jobs import run_data
from tiny_recipe import TEXT, write
from training_jobs import tokens_folder

from pipelines.cli import main
from pipelines.errors import DataError
from pipelines.plan.files import Digests
from pipelines.plan.planner import make_plan
from pipelines.recipe.load import load_recipe
from pipelines.run.lessons import check_lessons

TRAIN = {"global_batch_size": 4, "learning_rate": 0.001, "duration": "1 steps"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe_of(train: list[Any], held: list[Any], *, cleaned: bool = False, **fields: Any) -> Path:
    """Pretraining, then a classifier of these labels, whose rows stand from the files' second lines on."""
    for name, labels in (("train", train), ("held", held)):
        lines = [json.dumps({"text": f"{name} {number}", "label": label}) for number, label in enumerate(labels)]
        Path(f"{name}.jsonl").write_text("\n".join(["", *lines, ""]))
    labelled: dict[str, Any] = {"format": "labelled", "files": "train.jsonl"}
    labelled |= {"deduplicate": True} if cleaned else {}
    labelled |= {"holdout_files": "held.jsonl"} if held else {"holdout": 0}
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    tuned = {"kind": "finetune", "task": "classification", "model": "pretrain", "data": "marks", **TRAIN, **fields}
    recipe = {
        "name": "tiny",
        "data": {"tales": {"files": "tales.txt", "separator": "line", "holdout": 0}, "marks": labelled},
        "model": shape | {"architecture": "encoder"},
        "stages": {
            "tokenizer": {"vocab_size": 270, "data": "tales", "mask_token": True},
            "pretrain": {"objective": "masked_lm", "data": "tales", **TRAIN},
            "tuned": tuned,
        },
    }
    if held:
        recipe["data"]["asked"] = {"format": "labelled", "files": "train.jsonl", "holdout_files": "held.jsonl"}
        tasks = [{"name": "classification", "data": "asked"}]
        recipe["stages"]["evaluate"] = {"models": ["tuned"], "tasks": tasks}
    Path("tales.txt").write_text(TEXT * 20)
    return write(Path(), recipe)


def told(
    train: list[Any], held: list[Any], *, stage: str = "tuned", asked: list[Any] | None = None, **fields: Any
) -> list[str]:
    """What is said of these labels, where the stage is yet to be made and its data and their tokens are there."""
    loaded = load_recipe(recipe_of(train, held, **fields))
    plan = make_plan(loaded.recipe, path=loaded.path, digest=Digests(), pins={}, position=loaded.place)
    folders = {}
    for name, in_holdout in (("marks", held), ("asked", held if asked is None else asked)):
        if name in loaded.recipe.data:
            files = {"holdout_files": ("held.jsonl",)} if held else {"holdout": 0.0}
            folders[f"data-{name}"] = run_data(Path(f"d-{name}"), [Path("train.jsonl")], format="labelled", **files)[0]
            rows = [
                [{"text_ids": [9], "pair_ids": [], "label": label} for label in some] for some in (train, in_holdout)
            ]
            folders[f"tokens-{name}"] = tokens_folder(Path(f"t-{name}"), "labelled", *rows)
    try:
        check_lessons(plan, plan.named(stage), folders, loaded.place)
    except DataError as error:
        *lines, last = str(error).splitlines()
        assert last == "nothing was trained"
        return lines
    return []


def test_a_run_tells_of_labels_before_it_trains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe_of(["a", "b", "a"], ["a", "c", "c", "d"]))]) == 3
    assert not list(Path("artifacts").glob("pretrain-*")) and list(Path("artifacts").glob("tokens-*"))
    line, last = capsys.readouterr().err.splitlines()[-2:]
    assert last == "nothing was trained" and line == (
        f"tuned: labels that no training row has: 'c' ({Path.cwd()}/held.jsonl:3), 'd' ({Path.cwd()}/held.jsonl:5); "
        "training has 'a', 'b'. Correct the labels, or let training have all of them"
    )


def test_labels_of_a_cleaned_dataset_are_told_with_the_lines_of_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe_of(["a", "b", "a"], ["a", "c"], cleaned=True))]) == 3
    assert f"labels that no training row has: 'c' ({Path.cwd()}/held.jsonl:3); training" in capsys.readouterr().err


def test_what_fits_is_let_through_and_what_is_not_there_is_left_to_the_stage() -> None:
    assert told(["a", "b"], ["a"], eval_steps=1) == []
    loaded = load_recipe(Path("tiny.yaml"))
    plan = make_plan(loaded.recipe, path=loaded.path, digest=Digests(), pins={}, position=loaded.place)
    check_lessons(plan, plan.jobs, {}, loaded.place)


def test_an_evaluation_asks_for_no_label_that_its_model_has_not_learnt() -> None:
    (line,) = told(["a", "b"], ["b", "a"], stage="evaluate", asked=["b", "x"])
    assert line.startswith("evaluate-tuned: task classification: labels that no training row has: 'x' (")
    assert f"{Path.cwd()}/held.jsonl:3" in line, "the row that stands there"


def test_a_single_label_is_told_with_its_first_line() -> None:
    (line,) = told(["a", "a"], ["a"])
    assert line == f"tuned: the only label is 'a'; a classifier needs two (the first row: {Path.cwd()}/train.jsonl:2)"


def test_settings_that_do_not_fit_are_all_told_at_their_place() -> None:
    fields = {"class_weights": {"a": 1.0, "x": 2.0, "y": 2.0}, "eval_steps": 1, "metric_for_best_model": "spearman"}
    lines = told(["a", "b"], [], **fields)
    text = Path("tiny.yaml").read_text().splitlines()
    for line, (path, said) in zip(
        lines,
        {
            "class_weights.x": "no label is called x; there are a, b",
            "class_weights.y": "no label is called y; there are a, b",
            "metric_for_best_model": "'spearman' does not fit single_label labels; choose one of accuracy, f1_macro, "
            "matthews_correlation, loss",
            "eval_steps": "no dataset has a holdout to score; give one `holdout: 0.05`, or remove eval_steps",
        }.items(),
        strict=True,
    ):
        file, number, _, rest = line.split(":", 3)
        assert file == "tiny.yaml" and f"{path.rpartition('.')[2]}:" in text[int(number) - 1]
        assert rest == f" stages.tuned.{path}: {said}"


@pytest.mark.parametrize("held", [[1.5, 1.5], [2.0]])
def test_a_correlation_with_a_constant_holdout_is_told(held: list[float]) -> None:
    (line,) = told([1.5, 2.5, 3.5], held, eval_steps=1)
    labels = "2 labels are all 1.5" if len(held) > 1 else "only label is 2"
    assert f"stages.tuned.eval_steps: the holdout's {labels}, and spearman of that is no number; choose rmse" in line


def filtered_by(label: str, labels: list[Any]) -> Path:
    """A recipe whose pretraining waits for a classifier that judges its text."""
    for name in ("train", "held"):
        lines = [json.dumps({"text": f"{name} {number}", "label": one}) for number, one in enumerate(labels)]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    Path("tales.txt").write_text(TEXT * 20)
    judged = {"kind": "classifier", "model": "judge", "label": label}
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    recipe = {
        "name": "tiny",
        "data": {
            "tales": {"files": "tales.txt", "separator": "line", "holdout": 0, "quality": [judged]},
            "marks": {"format": "labelled", "files": "train.jsonl", "holdout_files": "held.jsonl"},
        },
        "model": shape | {"architecture": "decoder"},
        "stages": {
            "tokenizer": {"vocab_size": 270, "data": "marks"},
            "judge": {"kind": "finetune", "task": "classification", "data": "marks", **TRAIN},
            "pretrain": {"data": "tales", **TRAIN},
        },
    }
    return write(Path(), recipe)


@pytest.mark.parametrize("labels", [["good", "bad"] * 3, [0.5, 1.5] * 3])
def test_a_filter_that_wants_a_label_that_nobody_learns(labels: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Before the classifier is trained, not after."""
    assert main(["run", str(filtered_by("goood", labels))]) == 3
    told = capsys.readouterr().err
    learns = "it learns bad, good" if labels[0] == "good" else "it learns numbers: label its texts with words"
    assert "data.tales.quality.filters[0].label: 'judge' learns no label 'goood'" in told and learns in told
    assert "tiny.yaml:" in told and "nothing was trained" in told
    assert not list(Path("artifacts").glob("finetune-*"))
