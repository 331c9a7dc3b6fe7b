"""Two real processes compute the rollouts and updates of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]


def train(root: Path, processes: int, launch: dict[str, int]) -> tuple[dict, list[dict]]:
    """Metrics and lines of metrics.jsonl of a run of two rollouts."""
    (root / "task.json").write_text(
        json.dumps({"root": str(root), "launch": launch, "fields": {"duration": "2 rollouts", "learning_rate": 1e-3}})
    )
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
        "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), str(TESTS / "tiny_ppo.py"), str(root / "task.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (root / "job" / "record" / "metrics.jsonl").read_text().splitlines()
    return json.loads((root / "job" / "metrics.json").read_text()), [json.loads(line) for line in lines]


@pytest.mark.timeout(900)
def test_two_processes_walk_the_curve_of_one(tmp_path: Path) -> None:
    from tiny_ppo import context

    for name in ("one", "two"):
        context(tmp_path / name)  # makes the inputs, which two processes would make at once
    one, alone = train(tmp_path / "one", 1, {})
    two, together = train(tmp_path / "two", 2, {"micro_batch_size": 2})
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert [line["step"] for line in together] == [line["step"] for line in alone] == list(range(1, 9))
    for mine, theirs in zip(alone, together, strict=True):
        for figure in ("loss", "grad_norm", "reward", "kl", "policy_loss", "value_loss", "completion_length"):
            assert theirs[figure] == pytest.approx(mine[figure], abs=1e-5, rel=1e-5), (mine["step"], figure)
        assert theirs["tokens"] == mine["tokens"]
    for figure in ("holdout_reward", "holdout_reward_before", "holdout_reward_stderr"):
        assert two[figure] == pytest.approx(one[figure], abs=1e-5)
    weights = [load_file(tmp_path / name / "job" / "output" / "model.safetensors") for name in ("one", "two")]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-5
