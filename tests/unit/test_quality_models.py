"""Quality filters that ask a model: perplexity under a reference, and a classifier of a finetune stage."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from quality_jobs import good, junk, recipe_of, run_jobs
from tiny_recipe import fingerprints, planned, write

from pipelines.data.shards import grouped
from pipelines.errors import DataError, RecipeError
from pipelines.recipe.load import find_problems

PERPLEXITY = {"kind": "perplexity", "reference": "tales", "percentile": 100}
CLASSIFIER = {"kind": "classifier", "model": "judge", "label": "good"}
GOOD = {good(number) for number in range(200, 240, 2)}
JUNK = {junk(number) for number in range(201, 240, 2)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the classifier is trained."""
    root = tmp_path_factory.mktemp("trained")
    run_jobs(root, recipe_of(root, [CLASSIFIER]), "judge")
    return root


def everything(made: Any) -> set[str]:
    return made.texts("train") | made.texts("holdout")


# --- perplexity -----------------------------------------------------------------------------------------------------


def test_what_is_nothing_like_the_reference_goes_and_is_counted(tmp_path: Path, capfd: Any) -> None:
    made = run_jobs(tmp_path, recipe_of(tmp_path, [PERPLEXITY]), "data-web")["data-web"]
    assert everything(made) == GOOD
    assert made.info["filtered"] == {"quality_perplexity": len(JUNK)} and made.info["rows_used"] == len(GOOD)
    assert {json.loads(row["row"])["text"] for row in made.dropped} == JUNK
    assert all(row["detail"].startswith("perplexity ") and " > " in row["detail"] for row in made.dropped)
    assert "note: perplexity of held-out texts of 'tales': 50 % below" in capfd.readouterr().out


def test_perplexity_has_bounds_of_its_own(tmp_path: Path) -> None:
    bounds = {"kind": "perplexity", "reference": "tales", "max_perplexity": 1e9, "min_perplexity": 1000}
    made = run_jobs(tmp_path, recipe_of(tmp_path, [bounds]), "data-web")["data-web"]
    assert everything(made) == JUNK and made.info["filtered"] == {"quality_perplexity": len(GOOD)}


def test_a_dry_run_counts_and_keeps(tmp_path: Path) -> None:
    quality = {"filters": [PERPLEXITY], "dry_run": True}
    made = run_jobs(tmp_path, recipe_of(tmp_path, quality), "data-web")["data-web"]
    assert everything(made) == GOOD | JUNK and made.info["filtered"] == {"quality_perplexity": len(JUNK)}


def test_a_reference_without_holdout_has_no_percentile(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [PERPLEXITY])
    recipe["data"]["tales"]["holdout"] = 0
    with pytest.raises(DataError, match="'tales' has no holdout to take a percentile of; give it a `holdout`, or max"):
        run_jobs(tmp_path, recipe, "data-web")
    recipe["data"]["web"]["quality"] = [{"kind": "perplexity", "reference": "tales", "max_perplexity": 2000}]
    assert everything(run_jobs(tmp_path, recipe, "data-web")["data-web"]) == GOOD


def test_only_the_beginning_of_a_large_reference_is_read(tmp_path: Path) -> None:
    for size, knows_all in (("1 MB", True), ("10 B", False)):
        filter = {"kind": "perplexity", "reference": "tales", "max_perplexity": 10, "reference_size": size}
        recipe = recipe_of(tmp_path, {"filters": [filter], "dry_run": True})
        gone = {json.loads(row["row"])["text"] for row in run_jobs(tmp_path, recipe, "data-web")["data-web"].dropped}
        assert gone >= JUNK and (gone == JUNK) == knows_all


# --- classifier -----------------------------------------------------------------------------------------------------


def test_what_the_classifier_takes_for_bad_goes_and_is_counted(trained: Path) -> None:
    made = run_jobs(trained, recipe_of(trained, [CLASSIFIER]), "data-web")["data-web"]
    assert everything(made) == GOOD
    assert made.info["filtered"] == {"quality_classifier": len(JUNK)}
    assert all(row["detail"].startswith("probability ") and " < 0.5" in row["detail"] for row in made.dropped)


def test_filters_see_what_the_ones_before_them_left(trained: Path) -> None:
    quality = [{"kind": "length", "min_words": 13, "max_mean_word_length": 99}, CLASSIFIER]
    made = run_jobs(trained, recipe_of(trained, quality), "data-web")["data-web"]
    short = sum(len(text.split()) < 13 for text in JUNK)
    assert made.info["filtered"] == {"quality_classifier": len(JUNK) - short, "quality_length": short}


def test_another_label_keeps_the_others(trained: Path) -> None:
    quality = [{**CLASSIFIER, "label": "bad", "max_length": 16}]
    assert everything(run_jobs(trained, recipe_of(trained, quality), "data-web")["data-web"]) == JUNK


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": "god"}, "knows no label 'god'; did you mean 'good'\\?; it knows bad, good"),
        ({"max_length": 129}, "max_length 129 is more than the model's 128 positions; lower it"),
    ],
)
def test_what_the_classifier_cannot_do_is_told(trained: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_jobs(trained, recipe_of(trained, [CLASSIFIER | fields]), "data-web")


def test_a_folder_in_place_of_a_stage(trained: Path, tmp_path: Path) -> None:
    made = run_jobs(trained, recipe_of(trained, [CLASSIFIER]), "judge")
    shutil.copytree(made["judge"].output, tmp_path / "given")
    recipe = recipe_of(tmp_path, [{"kind": "classifier", "path": "given", "label": "good"}])
    del recipe["stages"]["judge"]
    plan = planned(tmp_path, recipe)
    assert plan.by_name["data-web"].inputs == {}
    assert everything(run_jobs(tmp_path, recipe, "data-web")["data-web"]) == GOOD
    recipe["data"]["web"]["quality"][0]["label"] = "god"
    (told,) = find_problems(write(tmp_path, recipe))
    assert told.message == "the classifier knows no label 'god'; did you mean 'good'?; it knows bad, good"
    assert told.path == "data.web.quality[0].label"
    before = plan.by_name["data-web"].fingerprint
    settings = json.loads((tmp_path / "given/config.json").read_text())
    (tmp_path / "given/config.json").write_text(json.dumps(settings | {"initializer_range": 0.3}))
    recipe["data"]["web"]["quality"][0]["label"] = "good"
    assert planned(tmp_path, recipe).by_name["data-web"].fingerprint != before


def test_an_adapter_is_asked_with_its_base(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [CLASSIFIER])
    recipe["stages"]["first"] = {**recipe["stages"]["pretrain"], "kind": "pretrain", "data": "tales"}
    recipe["stages"]["judge"] |= {"model": "first", "peft": {"r": 8}, "learning_rate": 0.03}
    plan = planned(tmp_path, recipe)
    names = {role: item.job for role, item in plan.by_name["data-web"].inputs.items()}
    assert names == {"classifier": "judge", "classifier.base": "first"}
    assert everything(run_jobs(tmp_path, recipe, "data-web")["data-web"]) == GOOD


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_workers(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "__defaults__", (4_000,))
    digests, recipe = [], recipe_of(trained, [PERPLEXITY, {**CLASSIFIER, "min_probability": 0.6}], parts=3)
    for workers in (1, 2):
        plan = planned(trained, recipe)
        shutil.rmtree(trained / plan.by_name["data-web"].folder, ignore_errors=True)
        made = run_jobs(trained, recipe, "data-web", workers=workers)["data-web"]
        digests.append(made.digests())
    assert digests[0] == digests[1] and len(digests[0]) > 3


# --- plan -----------------------------------------------------------------------------------------------------------


def test_what_a_filter_reads_decides_the_data(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [PERPLEXITY, CLASSIFIER])
    before = planned(tmp_path, recipe)
    names = {role: item.job for role, item in before.by_name["data-web"].inputs.items()}
    assert names == {"reference": "data-tales", "classifier": "judge"}
    order = [job.name for job in before.jobs]
    assert order.index("judge") < order.index("data-web") < order.index("tokens-web")
    recipe["stages"]["judge"]["learning_rate"] = 0.02
    changed = fingerprints(planned(tmp_path, recipe))
    assert changed["data-web"] != before.by_name["data-web"].fingerprint
    assert changed["data-tales"] == before.by_name["data-tales"].fingerprint


def test_names_of_what_a_filter_reads_decide_nothing(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [PERPLEXITY, CLASSIFIER])
    before = fingerprints(planned(tmp_path, recipe))["data-web"]
    recipe["stages"]["referee"] = recipe["stages"].pop("judge")
    recipe["data"]["stories"] = recipe["data"].pop("tales")
    recipe["stages"]["tokenizer"]["data"] = "stories"
    recipe["data"]["web"]["quality"] = [PERPLEXITY | {"reference": "stories"}, CLASSIFIER | {"model": "referee"}]
    assert fingerprints(planned(tmp_path, recipe))["data-web"] == before


def circle(folder: Path, recipe: Any) -> str:
    (told,) = find_problems(write(folder, recipe))
    return f"{told.path}: {told.message}"


def test_a_classifier_must_do_without_the_data_that_it_filters(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, ["repair", CLASSIFIER])
    assert find_problems(write(tmp_path, recipe)) == []
    around = "the filter needs what is made of the dataset itself: "
    recipe["stages"]["tokenizer"]["data"] = "web"
    assert circle(tmp_path, recipe) == (
        f"data.web.quality[1].model: {around}web -> judge -> tokenizer -> web; take other data for one of them"
    )
    recipe["stages"]["tokenizer"]["data"] = "tales"
    recipe["stages"]["judge"]["model"] = "pretrain"
    assert f"{around}web -> judge -> pretrain -> web;" in circle(tmp_path, recipe)


def test_deduplication_may_close_the_circle(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [CLASSIFIER])
    recipe["stages"]["judge"]["model"] = "first"
    recipe["stages"]["first"] = {**recipe["stages"]["pretrain"], "kind": "pretrain", "data": "tales"}
    recipe["data"]["web"]["deduplicate"] = True
    assert find_problems(write(tmp_path, recipe)) == []
    recipe["data"]["tales"]["deduplicate"] = True  # its rows give way to those of the holdout of `web`
    assert "web -> judge -> first -> tales -> web;" in circle(tmp_path, recipe)
    recipe["data"]["web"]["quality"] = [PERPLEXITY]  # of the data before they are deduplicated
    assert find_problems(write(tmp_path, recipe)) == []
    assert planned(tmp_path, recipe).by_name["data-web"].inputs["reference"].job == "data-tales"


def test_the_planner_finds_a_circle_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path, [CLASSIFIER])
    recipe["stages"]["tokenizer"]["data"] = "web"
    monkeypatch.setattr("pipelines.recipe.references.find_circles", lambda outline: iter(()))
    with pytest.raises(RecipeError, match="in a circle: tokenizer -> data-web -> judge"):
        planned(tmp_path, recipe)


def test_decontamination_may_close_the_circle(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [CLASSIFIER])
    recipe["stages"]["evaluate"] = {"models": "pretrain", "tasks": [{"name": "pseudo_perplexity", "data": "web"}]}
    recipe["data"]["marks"]["decontaminate"] = "tell"
    assert find_problems(write(tmp_path, recipe)) == []
    recipe["data"]["marks"]["decontaminate"] = "drop"  # what `web` holds out
    assert "web -> judge -> marks -> web;" in circle(tmp_path, recipe)
