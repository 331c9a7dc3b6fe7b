"""From a recipe to jobs: what is derived, what is read, and what decides a fingerprint."""

from pathlib import Path

import pytest
from tiny_recipe import TEXT, chain, fingerprints, planned

from pipelines.errors import RecipeError
from pipelines.plan.estimate import estimate
from pipelines.plan.files import Digests, format_of
from pipelines.plan.jobs import Job


def test_data_and_tokens_are_derived_and_evaluations_expand(tmp_path: Path) -> None:
    names = [job.name for job in planned(tmp_path, chain()).jobs]
    assert sorted(names) == sorted(
        [
            *(f"data-{name}" for name in ("tales", "more", "chats", "pairs", "asks")),
            *(f"tokens-{name}" for name in ("tales", "more", "chats", "pairs", "asks")),
            *("tokenizer", "pretrain", "sft", "reward", "dpo", "ppo"),
            *("evaluate-pretrain", "evaluate-sft", "evaluate-ppo"),
        ]
    )


def test_every_job_comes_after_those_it_reads(tmp_path: Path) -> None:
    plan = planned(tmp_path, chain())
    seen: set[str] = set()
    for job in plan.jobs:
        assert {item.job for item in job.inputs.values()} <= seen
        seen.add(job.name)


def test_roles_say_what_an_input_is_for(tmp_path: Path) -> None:
    plan = planned(tmp_path, chain())
    roles = {job.name: {role: item.job for role, item in job.inputs.items()} for job in plan.jobs}
    assert roles["tokens-chats"] == {"dataset": "data-chats", "tokenizer": "tokenizer"}
    assert roles["ppo"] == {"model": "sft", "reward_model": "reward", "data.0": "tokens-asks"}
    assert set(roles["pretrain"]) == {"tokenizer", "data.0", "data.1"}
    assert roles["evaluate-sft"] == {
        "model": "sft",
        "task.0.data": "tokens-tales",
        "task.1.data": "tokens-asks",
        "task.1.reward_model": "reward",
    }
    assert [share for _, share in plan.by_name["pretrain"].mixture] == [0.5, 0.5]


def test_a_dataset_that_nobody_reads_is_no_job(tmp_path: Path) -> None:
    recipe = chain()
    recipe["data"]["idle"] = {"files": "tales.txt"}
    assert "data-idle" not in fingerprints(planned(tmp_path, recipe))


def test_with_several_tokenizers_tokens_are_named_after_theirs(tmp_path: Path) -> None:
    recipe = chain()
    recipe["stages"]["small"] = {"kind": "tokenizer", "vocab_size": 280, "data": "tales"}
    recipe["stages"]["pretrain"]["tokenizer"] = "tokenizer"
    recipe["stages"]["other"] = {"like": "pretrain", "tokenizer": "small"}
    names = fingerprints(planned(tmp_path, recipe))
    assert "tokens-tales-tokenizer" in names and "tokens-tales-small" in names
    assert "tokens-chats-tokenizer" in names and "tokens-chats-small" not in names  # sft starts from pretrain


def test_a_reward_model_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    recipe = chain()
    recipe["stages"]["small"] = {"kind": "tokenizer", "vocab_size": 280, "data": "tales"}
    recipe["stages"]["pretrain"]["tokenizer"] = "tokenizer"
    recipe["stages"]["other"] = {"like": "pretrain", "tokenizer": "small"}
    recipe["stages"]["reward"]["model"] = "other"
    with pytest.raises(RecipeError, match=r"tokenizer"):
        planned(tmp_path, recipe)


def test_a_stage_may_not_take_the_name_of_a_derived_job(tmp_path: Path) -> None:
    recipe = chain()
    recipe["stages"]["tokens-tales"] = {"like": "sft"}
    with pytest.raises(RecipeError, match="tokens-tales"):
        planned(tmp_path, recipe)


def test_only_what_draws_has_a_seed(tmp_path: Path) -> None:
    recipe = chain()
    recipe["stages"]["dpo"]["seed"] = 11
    seeds = {job.name: job.seed for job in planned(tmp_path, recipe).jobs}
    assert seeds["data-tales"] is seeds["tokens-tales"] is seeds["tokenizer"] is None
    assert seeds["sft"] == 3 and seeds["dpo"] == 11


def test_a_stage_with_the_recipes_seed_written_out_is_the_same(tmp_path: Path) -> None:
    before, recipe = fingerprints(planned(tmp_path, chain())), chain()
    recipe["stages"]["dpo"]["seed"] = 3
    assert fingerprints(planned(tmp_path, recipe)) == before


def test_files_count_by_content_and_format_only(tmp_path: Path) -> None:
    before = fingerprints(planned(tmp_path, chain()))
    recipe = chain()
    recipe["data"]["tales"]["files"] = "moved.txt"
    (tmp_path / "moved.txt").write_text(TEXT)
    assert fingerprints(planned(tmp_path, recipe)) == before
    (tmp_path / "moved.txt").write_text(TEXT + "More.")
    changed = fingerprints(planned(tmp_path, recipe))
    assert changed["data-tales"] != before["data-tales"] and changed["data-more"] == before["data-more"]


def test_a_file_counts_as_training_or_as_holdout(tmp_path: Path) -> None:
    recipe, swapped, both = chain(), chain(), chain()
    (tmp_path / "test.txt").write_text("Held out.")
    for each in (recipe, swapped, both):
        del each["data"]["tales"]["holdout"]
    recipe["data"]["tales"]["holdout_files"] = "test.txt"
    swapped["data"]["tales"] |= {"holdout_files": recipe["data"]["tales"]["files"], "files": "test.txt"}
    assert (
        fingerprints(planned(tmp_path, recipe))["data-tales"] != fingerprints(planned(tmp_path, swapped))["data-tales"]
    )
    both["data"]["tales"]["holdout_files"] = both["data"]["tales"]["files"]
    with pytest.raises(RecipeError, match="is one of files too"):
        planned(tmp_path, both)


def test_the_chat_template_counts_by_content(tmp_path: Path) -> None:
    recipe = chain()
    recipe["stages"]["tokenizer"]["chat_template"] = "mine.jinja"
    (tmp_path / "mine.jinja").write_text("a")
    before = fingerprints(planned(tmp_path, recipe))
    (tmp_path / "mine.jinja").write_text("b")
    after = fingerprints(planned(tmp_path, recipe))
    assert before["tokenizer"] != after["tokenizer"] and before["data-chats"] == after["data-chats"]


def test_a_task_file_counts_with_what_it_includes(tmp_path: Path) -> None:
    recipe = chain()
    recipe["stages"]["evaluate"]["tasks"].append("riddles")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "riddles.yaml").write_text("task: riddles\ninclude: base.yaml\n")
    (tmp_path / "tasks" / "base.yaml").write_text("dataset_path: json\ndescription: Answer.\n")
    before = fingerprints(planned(tmp_path, recipe))
    (tmp_path / "tasks" / "base.yaml").write_text("dataset_path: json\ndescription: Think.\n")
    after = fingerprints(planned(tmp_path, recipe))
    assert {name for name in before if before[name] != after[name]} == {
        "evaluate-pretrain",
        "evaluate-sft",
        "evaluate-ppo",
    }


@pytest.mark.parametrize("data_files", ["rows.jsonl", "{test: rows.jsonl}", "{test: [r*.jsonl]}"])
def test_the_rows_of_a_task_file_count_by_content(tmp_path: Path, data_files: str) -> None:
    recipe = chain()
    recipe["stages"]["evaluate"]["tasks"].append("riddles")
    (tmp_path / "tasks").mkdir()
    text = f"dataset_path: json\ndataset_kwargs: {{data_files: {data_files}}}\n"
    (tmp_path / "tasks" / "riddles.yaml").write_text(text)
    rows = tmp_path / "tasks" / "rows.jsonl"
    rows.write_text('{"question": 1}\n')
    before = fingerprints(planned(tmp_path, recipe))
    rows.write_text('{"question": 2}\n')
    after = fingerprints(planned(tmp_path, recipe))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"evaluate-pretrain", "evaluate-sft", "evaluate-ppo"}
    rows.unlink()
    with pytest.raises(RecipeError, match=r"tiny.yaml:\d+:\d+: stages.evaluate.tasks\[2\].*no file matches"):
        planned(tmp_path, recipe)


@pytest.mark.parametrize(
    "text",
    [
        "- 1",
        "a: [",
        "[" * 3000,
        "a: 2020-13-45",
        "include: riddles.yaml",
        "include: gone.yaml",
        f"include: {'a' * 300}",
        "include: .",
        "include: [a]",
        "a: \xff",
        "doc_to_txt: question",
        "process_docs: docs",
        "builtin: microworld/riddles",
        "task: riddles",
        "{builtin: microworld/reasoning, dataset_path: json}",
        "{builtin: microworld/reasoning, size: many}",
        "{builtin: microworld/reasoning, size: 0}",
        "{builtin: microworld/reasoning, chat: maybe}",
        "{dataset_path: json, dataset_kwargs: [rows.jsonl]}",
        "{dataset_path: json, dataset_kwargs: {data_files: {test: [3]}}}",
    ],
)
def test_a_bad_task_file_is_a_fault_of_the_recipe(tmp_path: Path, text: str) -> None:
    recipe = chain()
    recipe["stages"]["evaluate"]["tasks"].append("riddles")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "riddles.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(RecipeError, match=r"stages.evaluate.tasks\[2\].*riddles.yaml") as caught:
        planned(tmp_path, recipe)
    assert len(caught.value.problems) == 1 and "Errno" not in str(caught.value)


def test_the_version_of_the_world_counts_where_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = chain()
    recipe["stages"]["ppo"]["reward_funcs"] = "village_story"
    recipe["stages"]["plain"] = {
        "kind": "evaluate",
        "models": "pretrain",
        "tasks": [{"name": "bits_per_byte", "data": "tales"}],
    }
    recipe["stages"]["asked"] = {"kind": "evaluate", "models": "pretrain", "tasks": ["microworld/reasoning"]}
    before = planned(tmp_path, recipe)
    monkeypatch.setattr("pipelines.plan.planner.MICROWORLD_VERSION", 9)
    after = planned(tmp_path, recipe)
    changed = {job.name for job in before.jobs if job.world != after.by_name[job.name].world}
    assert changed == {"data-chats", "data-pairs", "data-asks", "ppo", "asked-pretrain"}
    assert {name for name in changed if before.by_name[name].fingerprint == after.by_name[name].fingerprint} == set()


def test_hub_data_need_a_pinned_commit(tmp_path: Path) -> None:
    recipe = chain()
    recipe["data"]["more"] = {"hub": "org/stories"}
    with pytest.raises(RecipeError, match=r"tiny\.yaml:\d+:\d+: data\.more\.hub: .*`make data` pins it"):
        planned(tmp_path, recipe)


def test_a_pinned_commit_decides_the_result(tmp_path: Path) -> None:
    recipe = chain()
    recipe["data"]["more"] = {"hub": "org/stories", "revision": "a" * 40}
    before = fingerprints(planned(tmp_path, recipe))
    recipe["data"]["more"]["revision"] = "b" * 40
    assert fingerprints(planned(tmp_path, recipe))["data-more"] != before["data-more"]


def test_a_fingerprint_holds_no_reference_by_name(tmp_path: Path) -> None:
    facts = planned(tmp_path, chain()).by_name["ppo"].facts()
    assert not {"model", "data", "reward_funcs", "kind", "seed"} & set(facts["config"])


def test_a_reward_function_counts_by_its_name(tmp_path: Path) -> None:
    recipe = chain()
    recipe["stages"]["ppo"]["reward_funcs"] = "village_story"
    job = planned(tmp_path, recipe).by_name["ppo"]
    assert job.facts()["config"]["reward_funcs"] == "village_story" and "reward_model" not in job.inputs


def test_files_of_words_count_by_content_and_by_what_they_are_read_as(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    pairs, analogies = "a b 1\na b 2\na c 3\n", "a b c d\n"
    (tmp_path / "near.txt").write_text(pairs)
    (tmp_path / "words" / "near.txt").write_text(pairs)
    (tmp_path / "own.txt").write_text(analogies)

    def asked(**files: str) -> Job:
        recipe = chain()
        recipe["stages"]["evaluate"] = {"models": "pretrain", "tasks": [{"name": "embeddings", **files}]}
        return planned(tmp_path, recipe).by_name["evaluate-pretrain"]

    both = asked(pairs="near.txt", analogies="own.txt")
    assert both.named_files == {
        "task.0.pairs": str(tmp_path / "near.txt"),
        "task.0.analogies": str(tmp_path / "own.txt"),
    }
    assert asked(pairs="words/near.txt", analogies="own.txt").fingerprint == both.fingerprint
    others = [asked(), asked(pairs="near.txt"), asked(analogies="own.txt"), asked(words="a")]
    (tmp_path / "near.txt").write_text(pairs + "b c 4\n")
    others.append(asked(pairs="near.txt", analogies="own.txt"))
    assert len({job.fingerprint for job in [both, *others]}) == 6
    pairs_file, analogies_file = both.named_files.values()
    roles = {"task.0.pairs": analogies_file, "task.0.analogies": pairs_file}
    swapped = both.model_copy(update={"named_files": roles})
    swapped.__dict__.pop("fingerprint", None)
    assert swapped.fingerprint != both.fingerprint


def test_a_job_survives_json(tmp_path: Path) -> None:
    for job in planned(tmp_path, chain()).jobs:
        again = Job.model_validate_json(job.model_dump_json())
        assert again == job and again.fingerprint == job.fingerprint


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("dpo", ["dpo"]),
        ("evaluate", ["evaluate-pretrain", "evaluate-sft", "evaluate-ppo"]),
        ("data-tales", ["data-tales"]),
        ("tales", ["data-tales", "tokens-tales"]),
    ],
)
def test_a_name_stands_for_jobs(tmp_path: Path, name: str, jobs: list[str]) -> None:
    assert [job.name for job in planned(tmp_path, chain()).named(name)] == jobs


def test_a_wrong_name_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'reward'"):
        planned(tmp_path, chain()).named("rewards")


def test_digests_are_kept_while_a_file_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    file, cache = tmp_path / "a.txt", tmp_path / "store" / ".digests.json"
    file.write_text("one")
    os.utime(file, ns=(1, 1))  # old enough to be trusted
    digests = Digests(cache)
    first = digests(file)
    digests.save()
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert Digests(cache)(file) == first  # same path, size, time and inode: not read again
    os.utime(file, ns=(2, 2))
    assert Digests(cache)(file) != first


def test_a_file_that_was_just_written_is_not_trusted(tmp_path: Path) -> None:
    file, cache = tmp_path / "a.txt", tmp_path / "cache.json"
    file.write_text("one")
    digests = Digests(cache)
    digests(file)
    digests.save()
    assert not cache.exists()


@pytest.mark.parametrize("text", ["[1, 2", '{"FILE": 5}', '{"FILE": []}', '{"FILE": "abcd"}'])
def test_a_broken_cache_is_no_cache(tmp_path: Path, text: str) -> None:
    (tmp_path / "cache.json").write_text(text.replace("FILE", str(tmp_path / "a.txt")))
    (tmp_path / "a.txt").write_text("one")
    assert len(Digests(tmp_path / "cache.json")(tmp_path / "a.txt")) == 64


@pytest.mark.parametrize(("name", "kind"), [("a/b.x.jsonl.gz", ".jsonl.gz"), ("v1.2.txt", ".txt"), ("a", "")])
def test_the_ending_says_the_format(name: str, kind: str) -> None:
    assert format_of(name) == kind


def test_who_reads_an_adapter_is_given_its_base(tmp_path: Path) -> None:
    recipe, adapted = chain(), chain()
    for name in ("sft", "reward", "dpo"):
        adapted["stages"][name]["peft"] = {"r": 4}
    before, plan = planned(tmp_path, recipe).by_name, planned(tmp_path, adapted).by_name
    base = plan["pretrain"].fingerprint
    assert base == before["pretrain"].fingerprint and "model.base" not in plan["sft"].inputs
    assert plan["sft"].base.job == plan["dpo"].base.job == "pretrain" and plan["ppo"].base is None
    for name, role in [("dpo", "model"), ("ppo", "model"), ("ppo", "reward_model"), ("evaluate-sft", "model")]:
        assert plan[name].inputs[f"{role}.base"].fingerprint == base
    assert plan["evaluate-ppo"].inputs["task.1.reward_model.base"].fingerprint == base
    assert "model.base" not in plan["evaluate-ppo"].inputs
    assert plan["evaluate-pretrain"].inputs.keys() - before["evaluate-pretrain"].inputs.keys() == {
        "task.1.reward_model.base"
    }


def test_an_adapter_of_default_settings_is_not_the_full_model(tmp_path: Path) -> None:
    plain, null, empty = chain(), chain(), chain()
    null["stages"]["sft"]["peft"], empty["stages"]["sft"]["peft"] = None, {}
    prints = [planned(tmp_path, recipe).by_name["sft"].fingerprint for recipe in (plain, null, empty)]
    assert prints[0] == prints[1] != prints[2]


def test_who_reads_a_finetuned_adapter_is_given_its_base_and_it_costs_little_disk(tmp_path: Path) -> None:
    recipe = chain()
    (tmp_path / "reviews.jsonl").write_text('{"text": "good", "label": "a"}\n{"text": "bad", "label": "b"}\n')
    recipe["data"]["reviews"] = {"files": "reviews.jsonl", "format": "labelled", "holdout": 0.4}
    recipe["stages"]["labels"] = {
        **{"kind": "finetune", "task": "classification", "model": "sft", "data": "reviews", "duration": "4 steps"},
        **{"global_batch_size": 8, "learning_rate": 0.001},
    }
    scored = {"kind": "evaluate", "models": ["labels"], "tasks": [{"name": "classification", "data": "reviews"}]}
    recipe["stages"]["scored"] = scored
    full = planned(tmp_path, recipe)
    for name in ("sft", "labels"):
        recipe["stages"][name]["peft"] = {"r": 2}
    plan = planned(tmp_path, recipe)
    job, base = plan.by_name["labels"], plan.by_name["pretrain"].fingerprint
    assert job.base.fingerprint == job.inputs["model.base"].fingerprint == base
    assert plan.by_name["scored-labels"].inputs["model.base"].fingerprint == base
    sizes = [estimate(each, each.by_name["labels"]).disk_bytes for each in (full, plan)]
    assert sizes[1] < sizes[0] / 4


def test_web_pages_are_read_again_by_another_version_of_what_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.html.gz").write_bytes(b"")
    (tmp_path / "a.txt").write_text("a")
    recipe = chain()
    recipe["data"] |= {"pages": {"files": ["a.html.gz", "a.txt"]}, "prose": {"files": "a.txt"}}
    recipe["stages"]["tokenizer"]["data"] = {"pages": 0.5, "prose": 0.5}
    before = planned(tmp_path, recipe).by_name
    monkeypatch.setattr("importlib.metadata.version", lambda package: f"{package} of tomorrow")
    after = planned(tmp_path, recipe).by_name
    assert set(before["data-pages"].libraries) == {"trafilatura"} and not before["data-prose"].libraries
    assert before["data-pages"].fingerprint != after["data-pages"].fingerprint
    assert before["data-prose"].fingerprint == after["data-prose"].fingerprint
