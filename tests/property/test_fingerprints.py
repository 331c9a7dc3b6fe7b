"""What must hold for every recipe: what changes a fingerprint, and what never does."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_recipe import chain, fingerprints, planned

from pipelines.plan.jobs import Job, Plan

SETTINGS = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

LAUNCH = st.fixed_dictionaries(
    {"config": st.sampled_from(["cpu", "cpu-2", "gpu-1", "gpu-8"])},
    optional={
        "micro_batch_size": st.just(1),
        "checkpoint_every": st.integers(1, 999),
        "evaluate_every": st.integers(1, 999),
        "activation_checkpointing": st.booleans(),
        "stages": st.just({"sft": {"checkpoint_every": 7}}),
    },
)

CHANGES: list[tuple[str, str, Any]] = [
    ("data.more.holdout", "data-more", 0.3),
    ("data.chats.limit", "data-chats", 50),
    ("model.hidden_size", "pretrain", 32),
    ("stages.tokenizer.vocab_size", "tokenizer", 310),
    ("stages.tokenizer.data.tales", "tokenizer", None),
    ("stages.pretrain.weight_decay", "pretrain", 0.5),
    ("stages.pretrain.seed", "pretrain", 99),
    ("stages.sft.max_length", "sft", 32),
    ("stages.reward.center_rewards_coefficient", "reward", 0.5),
    ("stages.dpo.beta", "dpo", 0.7),
    ("stages.ppo.kl_coef", "ppo", 0.0),
]


def set_at(recipe: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    recipe = copy.deepcopy(recipe)
    *parents, last = path.split(".")
    target = recipe
    for key in parents:
        target = target.setdefault(key, {})
    if value is None:  # two shares must still sum to one
        target |= {"tales": 0.5, "more": 0.5}
    else:
        target[last] = value
    return recipe


def downstream(plan: Plan, name: str) -> set[str]:
    reached = {name}
    for job in plan.jobs:
        if {item.job for item in job.inputs.values()} & reached:
            reached.add(job.name)
    return reached


@SETTINGS
@given(launch=LAUNCH)
def test_launch_settings_change_no_fingerprint(tmp_path: Path, launch: dict[str, Any]) -> None:
    plain = fingerprints(planned(tmp_path, chain()))
    assert fingerprints(planned(tmp_path, chain() | {"launch": launch})) == plain


@pytest.mark.parametrize(("path", "job", "value"), CHANGES)
def test_a_change_reaches_its_job_and_what_is_downstream_and_nothing_else(
    tmp_path: Path, path: str, job: str, value: Any
) -> None:
    before = planned(tmp_path, chain())
    after = fingerprints(planned(tmp_path, set_at(chain(), path, value)))
    changed = {name for name, fingerprint in fingerprints(before).items() if after[name] != fingerprint}
    assert changed == downstream(before, job)


def test_another_seed_changes_all_that_draws_and_nothing_else(tmp_path: Path) -> None:
    before = planned(tmp_path, chain())
    after = fingerprints(planned(tmp_path, chain() | {"seed": 4}))
    changed = {name for name, fingerprint in fingerprints(before).items() if after[name] != fingerprint}
    assert changed == {job.name for job in before.jobs if job.config.draws}


@SETTINGS
@given(seed=st.integers(0, 10**6))
def test_the_order_in_the_file_decides_nothing(tmp_path: Path, seed: int) -> None:
    plain = fingerprints(planned(tmp_path, chain()))
    assert fingerprints(planned(tmp_path, shuffled(chain(), random.Random(seed)))) == plain


def shuffled(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    items = [(key, shuffled(item, rng)) for key, item in value.items()]
    rng.shuffle(items)
    return dict(items)


RENAMED = {"tales": "zebra", "more": "ape", "chats": "talks", "pretrain": "base", "sft": "chatty", "reward": "judge"}


def test_names_decide_nothing(tmp_path: Path) -> None:
    plain = fingerprints(planned(tmp_path, chain()))
    recipe = renamed(chain())
    for name in ("base", "chatty", "judge"):
        kind = next(old for old, new in RENAMED.items() if new == name)
        recipe["stages"][name]["kind"] = kind
    after = fingerprints(planned(tmp_path, recipe))
    expected = {"-".join(RENAMED.get(part, part) for part in name.split("-")): value for name, value in plain.items()}
    assert after == expected


def renamed(value: Any) -> Any:
    """Every name that is referred to, but not the names of files or the kinds of things."""
    if isinstance(value, dict):
        return {
            RENAMED.get(key, key): item if key in ("files", "kind", "name") else renamed(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [renamed(item) for item in value]
    return RENAMED.get(value, value) if isinstance(value, str) else value


def defaults(plan: Plan) -> Iterator[tuple[str, Any]]:
    """(path, value) of every optional field of the recipe that is not written and has a plain value."""
    for stage, config in plan.recipe.stages.items():
        for field, info in type(config).model_fields.items():
            if field != "kind" and field not in config.model_fields_set and info.default is not None:
                value = getattr(config, field)
                if isinstance(value, str | int | float | bool):
                    yield f"stages.{stage}.{field}", value
    for field, info in type(plan.recipe.model).model_fields.items():
        if plan.recipe.model and field not in plan.recipe.model.model_fields_set and info.default is not None:
            yield f"model.{field}", getattr(plan.recipe.model, field)
    yield from (("stages.sft.max_length", 128), ("data.tales.max_dropped", 0.01), ("stages.dpo.seed", 3))
    yield from (("model.num_key_value_heads", 2), ("model.head_dim", 8), ("model.intermediate_size", 48))
    yield from (("model.layer_types", ["full_attention"]), ("stages.pretrain.tokenizer", "tokenizer"))


def test_a_default_written_out_changes_nothing(tmp_path: Path) -> None:
    plan = planned(tmp_path, chain())
    plain = fingerprints(plan)
    written = list(defaults(plan))
    assert len(written) > 60
    for path, value in written:
        assert fingerprints(planned(tmp_path, set_at(chain(), path, value))) == plain, path


@SETTINGS
@given(rate=st.floats(1e-9, 1.0), steps=st.integers(1, 10**9), share=st.floats(0.01, 0.99))
def test_a_job_survives_json(tmp_path: Path, rate: float, steps: int, share: float) -> None:
    recipe = set_at(chain(), "stages.pretrain.learning_rate", rate)
    recipe = set_at(recipe, "stages.pretrain.duration", f"{steps} steps")
    recipe = set_at(recipe, "stages.pretrain.data", {"tales": share, "more": 1 - share})
    for job in planned(tmp_path, recipe).jobs:
        again = Job.model_validate_json(job.model_dump_json())
        assert again == job and again.fingerprint == job.fingerprint
