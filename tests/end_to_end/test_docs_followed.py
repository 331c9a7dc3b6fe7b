"""Each page of docs/ followed by its text alone, in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, Block, blocks, edited
from ruamel.yaml import YAML

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PARTS = ("pipelines", "custom_models", "recipes", "tests", "pyproject.toml", "constraints.txt", "Makefile", "docs")


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """The project with the environment of this run."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        copied = shutil.copytree if source.is_dir() else shutil.copy2
        copied(source, folder / part)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / ".venv/bin/python").chmod(0o755)
    (folder / ".venv/.ready").touch()
    yield folder
    shutil.rmtree(folder)


def follow(folder: Path, page: str) -> list[str]:
    """Carry a page out; what its commands said."""
    told = []
    for block in blocks(page):
        match block.language:
            case "diff":
                file = folder / str(block.file)
                file.write_text(edited(file.read_text(encoding="utf-8"), block.text), encoding="utf-8")
            case "python" | "yaml":
                (folder / str(block.file)).write_text(block.text, encoding="utf-8")
            case "sh":
                told += commands(folder, block)
    return told


def commands(folder: Path, block: Block) -> list[str]:
    return [typed(folder, line) for line in block.text.splitlines() if line.strip()]


def typed(folder: Path, line: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }
    ended = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, f"{line}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("page", ["blocks.md", "styles.md", "objectives.md"])
def test_a_page_can_be_followed(copy: Path, page: str) -> None:
    told = follow(copy, page)
    assert sum(" passed" in text or re.search(r"\[100%\]", text) is not None for text in told) >= 1
    for tool in (["ruff", "check", "."], ["mypy"]):
        checked = subprocess.run([sys.executable, "-m", *tool], cwd=copy, capture_output=True, text=True, timeout=600)
        assert checked.returncode == 0, checked.stdout[-3000:]


def test_a_transformer_of_your_own_goes_through_every_stage(copy: Path) -> None:
    told = follow(copy, "own-transformer.md")
    assert any("ThingBlock" in text for text in told)  # the plan names what is another
    recipe = copy / "my_models/thing.yaml"
    values = YAML(typ="safe").load(recipe)
    train = {"duration": "2 steps", "global_batch_size": 4, "learning_rate": 1e-3}
    values["data"] |= {
        "pairs": {"builtin": "microworld/preferences", "limit": 40},
        "asks": {"builtin": "microworld/prompts", "limit": 40},
        "labels": {"builtin": "microworld/sentiment", "limit": 40},
    }
    values["stages"] |= {
        "reward": {"model": "sft", "data": "pairs", **train},
        "dpo": {"model": "sft", "data": "pairs", **train},
        "ppo": {"model": "sft", "data": "asks", "reward_funcs": "reward", **train, "duration": "1 rollouts"}
        | {"rollout_batch_size": 8, "max_completion_length": 8},
        "labelled": {"kind": "finetune", "task": "classification", "model": "pretrain", "data": "labels", **train},
        "last": {"kind": "evaluate", "models": ["dpo", "ppo"], "tasks": ["microworld/comprehension"]},
        "classes": {"kind": "evaluate", "models": "labelled", "tasks": [{"name": "classification", "data": "labels"}]},
    }
    with (copy / "my_models/all.yaml").open("w") as file:
        YAML().dump(values, file)
    typed(copy, "make run RECIPE=my_models/all.yaml")
    report = json.loads((copy / "runs/thing/report.json").read_text())
    assert {"reward", "dpo", "ppo", "labelled"} <= {stage["name"] for stage in report["stages"]}
    assert {"dpo", "ppo", "labelled"} <= {score["stage"] for score in report["scores"]}
    typed(copy, "make export RECIPE=my_models/all.yaml STAGE=dpo FORMAT=ours TO=left")
    assert (copy / "left/thing.py").exists()
