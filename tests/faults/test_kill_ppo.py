"""A ppo run killed at random moments and started again ends with the bytes of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_jobs import weights_digest

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
KILLS = 10
STEPS = 40


def start(root: Path) -> subprocess.Popen:
    """The stage in a process of its own: ten rollouts, a checkpoint after each."""
    root.mkdir(exist_ok=True)
    task = {"root": str(root), "launch": {"checkpoint_every": 1}, "fields": {"duration": "10 rollouts"}}
    (root / "task.json").write_text(json.dumps(task))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    log = (root / "log.txt").open("a")
    return subprocess.Popen(
        [sys.executable, str(TESTS / "tiny_ppo.py"), str(root / "task.json")], env=environment, stdout=log, stderr=log
    )


def steps_done(root: Path) -> int:
    path = root / "job" / "record" / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def digest(root: Path) -> str:
    from tiny_ppo import context

    return weights_digest(context(root, duration="10 rollouts"))


@pytest.mark.timeout(1800)
def test_kill_9_at_ten_random_moments_changes_nothing(tmp_path: Path) -> None:
    assert start(tmp_path / "whole").wait() == 0, (tmp_path / "whole" / "log.txt").read_text()[-2000:]
    root, chance, killed = tmp_path / "killed", random.Random(), []
    targets = sorted(chance.randrange(STEPS) for _ in range(KILLS))
    for target in targets:
        process = start(root)
        while process.poll() is None and steps_done(root) <= target:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed.append(steps_done(root))
        process.wait()
        if (root / "job" / "metrics.json").exists():
            break
    assert len(killed) >= KILLS // 2, f"only killed at steps {killed}, wanted {targets}"
    assert start(root).wait() == 0, (root / "log.txt").read_text()[-2000:]
    assert digest(root) == digest(tmp_path / "whole"), f"killed at steps {killed}"
    assert json.loads((root / "job" / "metrics.json").read_text())["steps"] == STEPS
