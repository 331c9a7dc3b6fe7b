"""A transformer of the researcher's own: read without being run, checked before it trains, known to later stages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import planned, write
from transformers import AutoModelForCausalLM

from pipelines.cli import main
from pipelines.errors import MachineError, RecipeError
from pipelines.recipe.load import find_problems
from pipelines.recipe.own_model import UnfitSource, definitions_of
from pipelines.starts import write_new_model
from pipelines.store.stale import differences
from pipelines.training.own_models import check_own_model, register

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}


@pytest.fixture
def thing(tmp_path: Path) -> Path:
    return write_new_model("thing", tmp_path / "models")[0]


def recipe(**model: Any) -> dict[str, Any]:
    train = {"data": "tales", "duration": "2 steps", "global_batch_size": 2, "learning_rate": 0.01}
    return {
        "name": "own",
        "data": {"tales": {"files": "tales.txt", "separator": "line"}},
        "model": {"python": "models/thing.py", "class": "ThingConfig", **SIZES, **model},
        "stages": {"tokenizer": {"vocab_size": 300, "data": "tales"}, "pretrain": train},
    }


def problems(folder: Path, **model: Any) -> list[str]:
    return [f"{problem.path}: {problem.message}" for problem in find_problems(write(folder, recipe(**model)))]


def edited(file: Path, old: str, new: str) -> Path:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


def built(file: Path, **settings: Any) -> Any:
    torch.manual_seed(0)
    model_class: Any = register(file, "ThingConfig")
    return model_class(model_class.config_class(vocab_size=61, **{**SIZES, **settings}))


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_a_good_recipe_has_no_problems_and_nothing_of_the_file_is_run(tmp_path: Path, thing: Path) -> None:
    edited(thing, "import torch\n", "import torch\nraise SystemExit('run')\n")
    assert problems(tmp_path) == []


def test_a_setting_that_the_configuration_does_not_have_is_a_fault(tmp_path: Path, thing: Path) -> None:
    assert problems(tmp_path, hiden_size=3, vocab_size=9) == [
        "model.hiden_size: is no setting of ThingConfig; did you mean 'hidden_size'?",
        "model.vocab_size: is given by the tokenizer; take it out",
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("class ThingConfig(", "class ThingConfigs(", "model.class: there is no class ThingConfig in models/thing.py"),
        ("class ThingForCausalLM(", "class ThingForLM(", "model.class: there is no class ThingForCausalLM in models"),
        ("class ThingBlock(", "class ThingBlock((", "is no Python: "),
        ("import torch\n", "import torch\nfrom ..other import x\n", "imports from another folder; a model travels"),
        ("import torch\n", "import torch\nfrom .other import x\n", "other.py: No such file or directory"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(tmp_path: Path, thing: Path, old: str, new: str, told: str) -> None:
    edited(thing, old, new)
    (problem,) = problems(tmp_path)
    assert told in problem


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path)
    assert problem.startswith("model.python: ") and "No such file" in problem


def test_settings_of_a_base_beside_it_are_known(tmp_path: Path, thing: Path) -> None:
    (thing.parent / "base.py").write_text("class BaseConfig(PreTrainedConfig):\n    window: int = 3\n")
    edited(thing, "import torch\n", "import torch\nfrom .base import BaseConfig\n")
    edited(thing, "class ThingConfig(PreTrainedConfig)", "class ThingConfig(BaseConfig)")
    assert problems(tmp_path, window=4) == []


# --- its code decides -----------------------------------------------------------------------------------------------


def test_comments_and_layout_change_nothing(thing: Path) -> None:
    before = definitions_of(thing)
    edited(thing, "        size, self.num_heads", "        # a comment\n\n        size, self.num_heads")
    edited(thing, '"""For reward models and classifiers."""', '"""Something else."""')
    assert definitions_of(thing) == before


def test_a_changed_line_names_itself(tmp_path: Path, thing: Path) -> None:
    path = write(tmp_path, recipe())
    (tmp_path / "tales.txt").write_text("a tale\nanother\n")
    before = planned(tmp_path, recipe()).by_name["pretrain"]
    edited(thing, ".square()", "")
    after = planned(tmp_path, recipe()).by_name["pretrain"]
    assert after.fingerprint != before.fingerprint
    manifest = {"job": json.loads(before.model_dump_json()), "version": before.config.version}
    told = differences(manifest, after, lambda key: (str(path), 1, 1))
    assert told == ["code of thing.ThingBlock.forward changed"]


def test_moving_the_file_changes_no_fingerprint(tmp_path: Path, thing: Path) -> None:
    (tmp_path / "tales.txt").write_text("a tale\nanother\n")
    before = planned(tmp_path, recipe()).by_name["pretrain"].fingerprint
    thing.parent.rename(tmp_path / "elsewhere")
    moved = recipe(python="elsewhere/thing.py")
    assert planned(tmp_path, moved).by_name["pretrain"].fingerprint == before


def test_a_file_that_cannot_be_read_is_said_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "thing.py").write_text("x = 1\nclass (\n")
    with pytest.raises(UnfitSource, match=r"thing\.py:2: is no Python"):
        definitions_of(tmp_path / "thing.py")


# --- what a run takes for granted -----------------------------------------------------------------------------------


def test_the_start_is_a_model_that_passes(thing: Path) -> None:
    check_own_model(built(thing))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("is_causal = mask is None and query.shape[2] > 1", "is_causal = False", "sees what comes after it"),
        ('"position_ids": position_ids}', '"position_ids": None}', "documents in one row see each other"),
        ("past_key_values=cache)", "past_key_values=None)", "gives no past_key_values"),
        ("past = cache.get_seq_length() if cache is not None else 0", "past = 0", "with a cache are not those without"),
    ],
)
def test_a_model_that_breaks_the_rules_is_refused(tmp_path: Path, old: str, new: str, told: str) -> None:
    file = edited(write_new_model("thing", tmp_path / told.replace(" ", "_"))[0], old, new)
    with pytest.raises(RecipeError, match=told):
        check_own_model(built(file))


def test_left_padding_makes_no_difference(thing: Path) -> None:
    model, ids = built(thing).eval(), torch.arange(1, 7)[None]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    logits = model(input_ids=padded, attention_mask=(padded != 0).long()).logits[:, 3:]
    torch.testing.assert_close(logits, model(input_ids=ids).logits, atol=1e-5, rtol=0)


# --- later stages, and elsewhere ------------------------------------------------------------------------------------


def test_a_saved_folder_loads_in_a_process_without_this_package(tmp_path: Path, thing: Path) -> None:
    model = built(thing).eval()
    model.save_pretrained(tmp_path / "saved")
    code = (
        "import sys, torch; sys.modules['pipelines'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()\n"
        "torch.save(model(torch.arange(9)[None]).logits, sys.argv[2])"
    )
    results = tmp_path / "logits.pt"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "saved"), str(results)], check=True, capture_output=True)
    assert torch.equal(torch.load(results, weights_only=True), model(torch.arange(9)[None]).logits)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(again(torch.arange(9)[None]).logits, model(torch.arange(9)[None]).logits)


@pytest.mark.parametrize("name", ["Thing", "1st", "a-b", "", "a/b"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MachineError, match="is no name for a module"):
        write_new_model(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_verb_writes_what_runs_and_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-model", "--name", "my_idea"]) == 0
    assert "make run RECIPE=my_models/my_idea.yaml" in capsys.readouterr().out
    code = (tmp_path / "my_models" / "my_idea.py").read_text()
    assert "class MyIdeaForCausalLM(" in code and len([line for line in code.splitlines() if line.strip()]) <= 80
    assert main(["check", "my_models/my_idea.yaml"]) == 0
    assert main(["new-model", "--name", "my_idea"]) == 4
    assert "is there already" in capsys.readouterr().err
