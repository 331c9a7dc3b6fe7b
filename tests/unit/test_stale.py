"""Why a job has to run again: which value, from what to what, and on which line."""

from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import TEXT, chain, write

from pipelines.plan.files import Digests
from pipelines.plan.jobs import Plan
from pipelines.plan.planner import make_plan
from pipelines.recipe.load import load_recipe
from pipelines.store.stale import Position, differences


def loaded_plan(folder: Path, recipe: dict[str, Any]) -> tuple[Plan, Position]:
    loaded = load_recipe(write(folder, recipe))
    plan = make_plan(loaded.recipe, path=loaded.path, digest=Digests(), pins={}, position=loaded.place)
    return plan, loaded.place


def why(folder: Path, job: str, *path: str, value: Any) -> list[str]:
    """The differences of a job after one value of the recipe was changed."""
    before, _ = loaded_plan(folder, chain())
    recipe: Any = chain()
    target = recipe
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    after, position = loaded_plan(folder, recipe)
    old = before.by_name[job]
    manifest = {"job": old.model_dump(mode="json"), "version": old.config.version}
    return differences(manifest, after.by_name[job], position)


def line_of(folder: Path, text: str) -> int:
    lines = (folder / "tiny.yaml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_a_value_with_its_line(tmp_path: Path) -> None:
    told = why(tmp_path, "sft", "stages", "sft", "learning_rate", value=5e-5)
    line = line_of(tmp_path, "5e-05")
    assert told == [f"stages.sft.learning_rate 0.001 → 5e-05 ({tmp_path / 'tiny.yaml'}:{line})"]


def test_a_default_that_was_not_written_before(tmp_path: Path) -> None:
    (told,) = why(tmp_path, "dpo", "stages", "dpo", "beta", value=0.3)
    assert told.startswith("stages.dpo.beta 0.1 → 0.3 (") and told.endswith(f":{line_of(tmp_path, 'beta')})")


def test_values_of_data_model_and_seed(tmp_path: Path) -> None:
    assert "data.chats.limit null → 5" in why(tmp_path, "data-chats", "data", "chats", "limit", value=5)[0]
    assert "model.hidden_size 16 → 32" in why(tmp_path, "pretrain", "model", "hidden_size", value=32)[0]
    assert why(tmp_path, "dpo", "seed", value=4)[0].startswith("seed 3 → 4 (")


def test_a_block_that_loses_a_field_or_goes_is_told_once(tmp_path: Path) -> None:
    def planned(fields: dict[str, Any] | None) -> tuple[Plan, Position]:
        recipe = chain()
        recipe["data"]["chats"] |= {"decontaminate": "drop"} | ({"deduplicate": fields} if fields is not None else {})
        return loaded_plan(tmp_path, recipe)

    def told(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
        (old, _), (new, position) = planned(before), planned(after)
        job = old.by_name["clean-chats"]
        manifest = {"job": job.model_dump(mode="json"), "version": job.config.version}
        return [text.split(" (")[0] for text in differences(manifest, new.by_name["clean-chats"], position)]

    assert told({"near": 0.9}, {}) == ["data.chats.deduplicate.near 0.9 → 0.75"]
    assert told({}, {"near": 0.9, "near_min_words": 9}) == [
        "data.chats.deduplicate.near 0.75 → 0.9",
        "data.chats.deduplicate.near_min_words 50 → 9",
    ]
    whole = "{near: 0.9, near_min_words: 50, template_share: 0.01, spans: null, spans_min_words: 25, warn_above: 0.3}"
    assert told({"near": 0.9}, None) == [f"data.chats.deduplicate {whole} → null"]
    assert told(None, {"near": 0.9}) == [f"data.chats.deduplicate null → {whole}"]


def test_the_questions_of_benchmarks(tmp_path: Path) -> None:
    def asked(*tasks: Any) -> dict[str, Any]:
        recipe = chain()
        recipe["data"]["chats"]["decontaminate"] = "tell"
        recipe["stages"]["evaluate"]["tasks"] = list(tasks)
        return recipe

    before, _ = loaded_plan(tmp_path, asked("microworld/reasoning", "microworld/generation"))
    old = before.by_name["benchmarks"]
    manifest = {"job": old.model_dump(mode="json"), "version": old.config.version}
    for tasks, told in (
        (["microworld/generation", "microworld/reasoning"], []),
        (["microworld/generation", {"name": "microworld/reasoning", "limit": 3}], ["as many as another limit says"]),
        (
            ["microworld/generation", "microworld/comprehension"],
            ["microworld/comprehension new; microworld/reasoning gone"],
        ),
    ):
        after, position = loaded_plan(tmp_path, asked(*tasks))
        found = [one for one in differences(manifest, after.by_name["benchmarks"], position) if "questions" in one]
        assert found == [f"the recipe asks other questions ({one})" for one in told]


def test_an_input(tmp_path: Path) -> None:
    assert why(tmp_path, "dpo", "stages", "sft", "learning_rate", value=5e-5) == ["depends on sft"]
    assert why(tmp_path, "dpo", "stages", "dpo", "model", value="pretrain") == [
        "reads pretrain now",
        "no longer reads sft",
    ]


def test_a_file_under_a_name_that_says_another_format(tmp_path: Path) -> None:
    (tmp_path / "tales.jsonl").write_text(TEXT)
    recipe = chain()
    recipe["data"]["tales"].pop("separator")
    before, _ = loaded_plan(tmp_path, recipe)
    recipe["data"]["tales"]["files"] = "tales.jsonl"
    after, position = loaded_plan(tmp_path, recipe)
    old = before.by_name["data-tales"]
    manifest = {"job": old.model_dump(mode="json"), "version": old.config.version}
    assert differences(manifest, after.by_name["data-tales"], position) == ["the same files are read as .jsonl"]


def test_a_share(tmp_path: Path) -> None:
    told = why(tmp_path, "pretrain", "stages", "pretrain", "data", value={"tales": 0.7, "more": 0.3})
    assert sorted(told) == ["share of tokens-more 0.5 → 0.3", "share of tokens-tales 0.5 → 0.7"]


def test_a_task(tmp_path: Path) -> None:
    tasks = chain()["stages"]["evaluate"]["tasks"]
    (told,) = why(tmp_path, "evaluate-sft", "stages", "evaluate", "tasks", value=[{**tasks[0], "limit": 9}, tasks[1]])
    assert told.startswith("stages.evaluate.tasks[0].limit null → 9")


def test_another_version_of_the_program(tmp_path: Path) -> None:
    plan, position = loaded_plan(tmp_path, chain())
    job = plan.by_name["sft"]
    told = differences({"job": job.model_dump(mode="json"), "version": 0}, job, position)
    assert told == ["this program makes sft another way (version 0 → 1)"]


def test_another_version_of_the_world(tmp_path: Path) -> None:
    plan, position = loaded_plan(tmp_path, chain())
    job = plan.by_name["data-chats"]
    manifest = {"job": job.model_dump(mode="json") | {"world": 0}, "version": job.config.version}
    assert differences(manifest, job, position) == [f"the built-in world says other things (version 0 → {job.world})"]


@pytest.mark.parametrize("manifest", [{}, {"job": {"name": "sft"}}])
def test_a_job_that_cannot_be_read_any_more(tmp_path: Path, manifest: dict[str, Any]) -> None:
    plan, position = loaded_plan(tmp_path, chain())
    assert "wrote other recipes" in differences(manifest, plan.by_name["sft"], position)[0]


def test_another_version_of_what_reads_web_pages(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>text</p>")
    recipe = chain()
    recipe["data"]["tales"] = {"files": "a.html"}
    plan, position = loaded_plan(tmp_path, recipe)
    job = plan.by_name["data-tales"]
    told = []
    for before in ({"trafilatura": "0.1"}, {}):
        old = job.model_copy(update={"libraries": before}).model_dump(mode="json")
        told += differences({"job": old, "version": job.config.version}, job, position)
    now = job.libraries["trafilatura"]
    assert told == [f"trafilatura {was} → {now} reads its files" for was in ("0.1", "of another version")]
