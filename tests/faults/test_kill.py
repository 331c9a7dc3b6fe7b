"""kill -9 at random moments: the same command again ends with the same bytes."""

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
from training_jobs import FORMATS, random_tokens

from pipelines.store import durable

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "training_jobs.py"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
}
KILLS = 10


def start(root: Path, kind: str, **fields: object) -> subprocess.Popen:
    fields = {"duration": "40 steps", "optimizer": "muon", **fields}
    task = {"root": str(root), "kind": kind, "table": str(root / "rows"), "fields": fields}
    (root / "task.json").write_text(json.dumps({**task, "launch": {"checkpoint_every": 3}}))
    with (root / "log.txt").open("a") as log:
        return subprocess.Popen([sys.executable, SCRIPT, root / "task.json"], env=ENVIRONMENT, stdout=log, stderr=log)


def steps_taken(root: Path) -> int:
    path = root / "job" / "record" / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def prepare(root: Path, kind: str) -> Path:
    root.mkdir(parents=True)
    random_tokens(root / "rows", FORMATS[kind], rows=60)
    return root


def digest(root: Path) -> str:
    (weights,) = (root / "job" / "output").glob("*.safetensors")
    return durable.digest(weights)


ADAPTER = {"optimizer": "adamw", "peft": {"r": 4, "lora_dropout": 0.1}}
JOBS = [*((kind, {}) for kind in FORMATS), ("sft", ADAPTER)]


def finish(root: Path, kind: str, **fields: object) -> None:
    assert start(root, kind, **fields).wait(timeout=300) == 0, (root / "log.txt").read_text()[-3000:]


@pytest.mark.parametrize(("kind", "fields"), JOBS)
def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path: Path, kind: str, fields: dict) -> None:
    whole = prepare(tmp_path / "whole", kind)
    started = time.monotonic()
    finish(whole, kind, **fields)
    seconds = time.monotonic() - started
    killed = prepare(tmp_path / "killed", kind)
    if (whole / "base").exists():
        shutil.copytree(whole / "base", killed / "base")
    rng, kills, seen = random.Random(kind), 0, set()
    while kills < KILLS:
        process = start(killed, kind, **fields)
        # One in three at a random time, start and end of the program included; the others some steps further.
        until = time.monotonic() + (rng.uniform(0.3, 1.0) * seconds if kills % 3 == 0 else 300)
        step = steps_taken(killed) + rng.randint(0, 6)
        while process.poll() is None and time.monotonic() < until and steps_taken(killed) < step:
            time.sleep(0.005)
        if process.poll() is not None:  # it came to its end; begin a new one
            assert process.returncode == 0 and digest(killed) == digest(whole)
            shutil.rmtree(killed / "job")
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        seen.add(steps_taken(killed))
    finish(killed, kind, **fields)
    assert digest(killed) == digest(whole)
    assert len(seen) > 1  # the kills did fall on different moments


def test_sigterm_saves_and_the_rest_is_the_same(tmp_path: Path) -> None:
    whole, stopped = prepare(tmp_path / "whole", "sft"), prepare(tmp_path / "stopped", "sft")
    finish(whole, "sft")
    shutil.copytree(whole / "base", stopped / "base")
    process = start(stopped, "sft")
    while process.poll() is None and steps_taken(stopped) < 5:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 1  # Stopped; the worker makes an outcome of it
    log = (stopped / "log.txt").read_text()
    assert "pipelines.errors.Stopped: stopped after step" in log
    finish(stopped, "sft")
    assert digest(stopped) == digest(whole)
