"""What recipes promise: every field is explained, and what mirrors other tables equals them."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.recipe.accelerate_files import read_accelerate
from pipelines.recipe.base import OutsideModel, Section
from pipelines.recipe.data import BUILTIN, CELLS, COLUMNS, COLUMNS_OF, FILE_KINDS, PACKED, PROSE, Dataset
from pipelines.recipe.deduplicate import Deduplicate
from pipelines.recipe.docstrings import docstrings, first_sentence
from pipelines.recipe.evaluation import REWARD_FUNCTIONS, TaskConfig
from pipelines.recipe.launch import Launch, StageLaunch
from pipelines.recipe.load import find_problems
from pipelines.recipe.model import STYLES, ModelConfig
from pipelines.recipe.quality import LANGUAGES
from pipelines.recipe.root import Recipe
from pipelines.recipe.sections import STAGES
from pipelines.recipe.stages import STAGE_KINDS
from pipelines.recipe.task_files import BUILTIN_TASKS, CODE, KEYS

ROOT = Path(__file__).parents[2]
SECTIONS: list[type[Section]] = [
    Recipe,
    Dataset,
    ModelConfig,
    Launch,
    StageLaunch,
    OutsideModel,
    TaskConfig,
    Deduplicate,
    *STAGES.values(),
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_says_what_it_is(section: type[Section]) -> None:
    explained = docstrings(section)
    silent = [field for field in section.model_fields if field != "kind" and not explained.get(field)]
    assert silent == []
    assert [text for text in explained.values() if not first_sentence(text)] == []


def test_kinds_and_styles_are_what_the_sections_allow() -> None:
    assert tuple(STAGES) == STAGE_KINDS
    assert set(STYLES) == set(ModelConfig.model_fields["style"].annotation.__args__)  # type: ignore[union-attr]
    assert all(set(values) <= set(ModelConfig.model_fields) for values in STYLES.values())


def test_builtin_tracks_are_those_of_the_world() -> None:
    from pipelines.data.microworld import TRACKS

    assert {f"microworld/{name}": track.format for name, track in TRACKS.items()} == BUILTIN
    assert set(Dataset.model_fields["builtin"].annotation.__args__[0].__args__) == set(BUILTIN)  # type: ignore[union-attr]


def test_kinds_of_files_and_columns_are_those_that_are_read() -> None:
    from pipelines.data import blocks, files, formats

    assert list(FILE_KINDS) == files.KINDS and sorted(blocks.UNPACK) == list(PACKED)
    assert sorted(files.CELLS) == list(CELLS) and sorted(files.PROSE) == list(PROSE)
    columns = {**COLUMNS, **COLUMNS_OF}
    assert formats._NEEDS.keys() == {*columns, "prompt"}
    for format, text in formats._NEEDS.items():
        assert format == "prompt" or set(re.findall(r"'(\w+)'", text)) <= set(columns[format])


def test_keys_of_task_files_are_those_of_lm_eval_and_ours() -> None:
    from lm_eval.config.task import TaskConfig as LmEvalConfig

    from pipelines.evaluation.tasks import BUILTIN as GENERATORS

    assert {field.name for field in dataclasses.fields(LmEvalConfig)} == {*KEYS, *CODE}
    assert set(GENERATORS) == set(BUILTIN_TASKS)


def test_a_slash_is_in_no_name_of_lm_evals_tasks() -> None:
    folder = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0]) / "tasks"  # type: ignore[index, union-attr]
    named = [re.search(rb"^task: *([^\s\[]+)", path.read_bytes(), re.MULTILINE) for path in folder.rglob("*.yaml")]
    names = [found[1] for found in named if found]
    assert len(names) > 1_000 and [name for name in names if b"/" in name] == []


def test_reward_functions_are_those_that_exist() -> None:
    if importlib.util.find_spec("pipelines.rewards") is None:
        pytest.skip("no reward functions yet")
    from pipelines.rewards import REWARDS

    assert set(REWARDS) == set(REWARD_FUNCTIONS)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_recipe_checks(path: Path) -> None:
    problems = find_problems(path)
    if path.name == "mine.yaml":  # its text is the reader's own
        problems = [problem for problem in problems if "no file matches 'my_text/*.txt'" not in problem.message]
    assert list(map(str, problems)) == []


def test_the_start_for_ones_own_text_is_good_once_there_is_text(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text((ROOT / "recipes" / "mine.yaml").read_text())
    (tmp_path / "my_text").mkdir()
    (tmp_path / "my_text" / "a.txt").write_text("Once upon a time.\n")
    assert find_problems(recipe) == []
    assert len(recipe.read_text().splitlines()) <= 13


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_launch_files_leave_precision_to_the_stage(path: Path) -> None:
    assert read_accelerate(path.stem, ROOT / "recipes" / "demo.yaml").mixed_precision is None


def test_loading_a_recipe_imports_nothing_heavy() -> None:
    script = (
        "import sys; from pathlib import Path; from pipelines.recipe.load import load_recipe, find_problems\n"
        "load_recipe(Path('recipes/demo.yaml')); find_problems(Path('recipes/mine.yaml'), ['sed=1'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'accelerate', 'trl', 'rich', 'jinja2', 'pandas'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_the_languages_that_a_recipe_may_keep_are_the_packages() -> None:
    from pipelines.cleaning.language import identifier

    assert set(identifier().labels) == LANGUAGES
