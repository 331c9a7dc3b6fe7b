"""kill -9 of a finetune that keeps its best weights, whole or LoRA: the same command again ends with the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.store import durable

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
ENVIRONMENT |= {"TQDM_DISABLE": "1", "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
KILLS = 5


FIELDS: dict[str, dict] = {"whole": {}, "adapter": {"peft": {"r": 4, "lora_dropout": 0.1}}}


def start(root: Path, kind: str, trained: str) -> subprocess.Popen:
    (root / "task.json").write_text(json.dumps({"root": str(root), "kind": kind, "fields": FIELDS[trained]}))
    with (root / "log.txt").open("a") as log:
        command = [sys.executable, TESTS / "finetune_jobs.py", root / "task.json"]
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)


def steps_taken(root: Path) -> int:
    path = root / "job" / "record" / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def finish(root: Path, kind: str, trained: str) -> tuple[str, dict]:
    """Digest of the weights, and the metrics of the run."""
    assert start(root, kind, trained).wait(timeout=300) == 0, (root / "log.txt").read_text()[-3000:]
    metrics = json.loads((root / "job" / "metrics.json").read_text())
    best = {name: metrics[name] for name in ("best_step", "best_value", "holdout_loss")}
    (weights,) = (root / "job" / "output").glob("*.safetensors")
    return durable.digest(weights), best


@pytest.mark.timeout(900)
@pytest.mark.parametrize("trained", list(FIELDS))
@pytest.mark.parametrize("kind", ["single", "seq2seq"])
def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path: Path, kind: str, trained: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for root in (whole, killed):
        root.mkdir()
    wanted = finish(whole, kind, trained)
    shutil.copytree(whole / "table", killed / "table")
    shutil.copytree(whole / "base", killed / "base")
    rng, seen = random.Random(kind), []
    for _ in range(KILLS):
        process = start(killed, kind, trained)
        step = steps_taken(killed) + rng.randint(1, 6)
        while process.poll() is None and steps_taken(killed) < step:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(steps_taken(killed))
    assert finish(killed, kind, trained) == wanted
    assert len(set(seen)) > 1  # the kills did fall on different moments
