"""A classifier is trained, and then says what of a dataset is worth training on, as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from quality_jobs import recipe_of
from tiny_recipe import write

pytestmark = pytest.mark.slow


def test_junk_goes_and_good_texts_stay(tmp_path: Path) -> None:
    quality = [
        {"kind": "perplexity", "reference": "tales", "max_perplexity": 1e12},
        {"kind": "classifier", "model": "judge", "label": "good"},
    ]
    recipe = recipe_of(tmp_path, quality)
    recipe["stages"]["pretrain"]["duration"] = "2 steps"
    write(tmp_path, recipe)
    command = [sys.executable, "-m", "pipelines", "run", "tiny.yaml", "--store", "artifacts"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    info = json.loads((tmp_path / "runs/tiny/data-web/output/info.json").read_text())
    assert (info["rows_in"], info["rows_used"], info["filtered"]) == (40, 20, {"quality_classifier": 20})
    report = json.loads((tmp_path / "runs/tiny/report.json").read_text())
    (web,) = (facts for facts in report["data"] if facts["name"] == "web")
    assert web["dropped_by_reason"] == {"quality_classifier": 20}
    edges = {(edge["source"], edge["target"]) for edge in report["lineage"]}
    assert {("judge", "data-web"), ("data-tales", "data-web")} <= edges
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and "+ " not in again.stdout, again.stdout
