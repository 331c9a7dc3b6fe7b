"""The demo's whole chain, shrunk to seconds, as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "name": "small",
    "data.village.limit": "400",
    "data.chats.limit": "200",
    "data.preferences.limit": "100",
    "data.prompts.limit": "100",
    "model.hidden_size": "32",
    "model.num_attention_heads": "2",
    "stages.pretrain.duration": "20 steps",
    "stages.sft.duration": "10 steps",
    "stages.reward.duration": "10 steps",
    "stages.dpo.duration": "6 steps",
    "stages.ppo.duration": "2 rollouts",
    "stages.ppo.rollout_batch_size": "16",
    "stages.evaluate.tasks": "[microworld/comprehension, {name: reward, data: prompts, reward_funcs: reward}]",
}

pytestmark = pytest.mark.slow


def run(folder: Path, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = [part for item in SMALL.items() for part in ("--set", "=".join(item))]
    command = [sys.executable, "-m", "pipelines", verb, str(ROOT / "recipes/demo.yaml"), *settings, *arguments]
    return subprocess.run([*command, "--store", "artifacts"], cwd=folder, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    ended = run(folder, "run")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def test_the_report_has_every_stage_and_every_score(finished: Path) -> None:
    report = json.loads((finished / "runs/small/report.json").read_text())
    kinds = {stage["kind"] for stage in report["stages"]}
    assert kinds == {"data", "tokenizer", "tokens", "pretrain", "sft", "reward", "dpo", "ppo", "evaluate"}
    scored = {(score["stage"], score["task"]) for score in report["scores"]}
    assert {(stage, "microworld/comprehension") for stage in ("pretrain", "sft", "dpo", "ppo")} <= scored
    assert (finished / "runs/small/report.html").stat().st_size < 1_000_000


def test_a_second_run_does_nothing(finished: Path) -> None:
    plan = json.loads(run(finished, "plan", "--json").stdout)
    assert {job["state"] for job in plan["jobs"]} == {"cached"}
    before = sorted(path.stat().st_mtime_ns for path in finished.glob("artifacts/*/manifest.json"))
    assert run(finished, "run").returncode == 0
    assert sorted(path.stat().st_mtime_ns for path in finished.glob("artifacts/*/manifest.json")) == before


def test_every_artifact_verifies(finished: Path) -> None:
    assert run(finished, "verify").returncode == 0


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "ppo"])
def test_a_model_loads_and_writes_in_a_process_without_this_package(finished: Path, stage: str) -> None:
    script = (
        "import sys; sys.modules['pipelines'] = None; sys.modules['custom_models'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer('Today Mia', return_tensors='pt').input_ids\n"
        "print(tokenizer.decode(model.generate(ids, max_new_tokens=4, do_sample=False)[0]))"
    )
    folder = (finished / "runs/small" / stage / "output").resolve()
    ended = subprocess.run([sys.executable, "-c", script, str(folder)], cwd="/", capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "Today Mia" in ended.stdout
