"""The two doors to a worker, and stages started by hand: the same job, the same bytes."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import TEXT, only_data, write

from pipelines.store.durable import read_manifest

pytestmark = pytest.mark.slow

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
CPU_2 = str(Path(__file__).parents[2] / "recipes" / "accelerate" / "cpu-2.yaml")


def recipe(**stage: Any) -> dict[str, Any]:
    small = only_data()
    train = {"global_batch_size": 4, "learning_rate": 0.001, "data": "tales", "duration": "6 steps"}
    small["stages"]["pretrain"] = train | stage
    return small


def written(folder: Path, **stage: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tales.txt").write_text(TEXT * 40)
    return write(folder, recipe(**stage))


def sourdough(folder: Path, *arguments: str, code: int = 0) -> str:
    return finished([sys.executable, "-m", "pipelines", *arguments], folder, code=code)


def finished(command: Sequence[str], folder: Path, code: int = 0) -> str:
    ended = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stderr


def weights(folder: Path) -> str:
    return read_manifest(folder / "runs" / "tiny" / "pretrain")["files"]["model.safetensors"]["sha256"]


def losses(folder: Path) -> list[float]:
    lines = (folder / "runs" / "tiny" / "pretrain" / "record" / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def partial(folder: Path) -> Path:
    (workdir,) = (folder / "artifacts" / ".partial").glob("pretrain-*")
    return workdir


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage through the warm fork."""
    folder = tmp_path_factory.mktemp("warm")
    shown = sourdough(folder, "pretrain", str(written(folder)))
    assert "cold start" not in shown, "a module is missing from PRELOADED, or cannot be imported"
    return folder


def test_the_printed_line_typed_by_hand_gives_the_same_weights(tmp_path: Path, warm: Path) -> None:
    shown = sourdough(tmp_path, "pretrain", str(written(tmp_path)), "--store", "my store", "--set", "seed=3")
    line = next(text for text in shown.splitlines() if "by hand: " in text).partition("by hand: ")[2]
    assert "accelerate launch" in line
    artifact = (tmp_path / "runs" / "tiny" / "pretrain").resolve()
    finished(shlex.split(line), tmp_path)  # it is there already
    shutil.rmtree(artifact)
    finished(shlex.split(line), tmp_path)
    assert artifact.parent.name == "my store" and weights(tmp_path) == weights(warm)


def test_the_started_line_typed_by_hand_gives_the_same_weights(tmp_path: Path, warm: Path) -> None:
    path = written(tmp_path)
    one = [sys.executable, "-m", "pipelines", "pretrain", str(path)]
    process = subprocess.Popen(one, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    next(text for text in process.stderr if "by hand: " in text)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 75
    finished(shlex.split((partial(tmp_path) / "command.txt").read_text()), tmp_path)
    shown = sourdough(tmp_path, "pretrain", str(path))
    assert "by hand: " not in shown, "what was finished by hand is only published"
    assert weights(tmp_path) == weights(warm)


def test_a_stage_in_place_gives_the_same_weights(tmp_path: Path, warm: Path) -> None:
    finished([ACCELERATE, "launch", "-m", "pipelines", "pretrain", str(written(tmp_path))], tmp_path)
    assert weights(tmp_path) == weights(warm)


def test_two_processes_walk_the_loss_curve_of_one(tmp_path: Path, warm: Path) -> None:
    sourdough(tmp_path, "pretrain", str(written(tmp_path)), "--launch", "cpu-2")
    assert read_manifest(tmp_path / "runs" / "tiny" / "pretrain")["provenance"]["num_processes"] == 2
    assert losses(tmp_path) == pytest.approx(losses(warm), abs=1e-5)


def test_two_processes_in_place(tmp_path: Path, warm: Path) -> None:
    launch = [ACCELERATE, "launch", "--config_file", CPU_2, "--main_process_port", "0", "-m", "pipelines"]
    finished([*launch, "pretrain", str(written(tmp_path))], tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(warm), abs=1e-5)
    finished([*launch, "pretrain", str(tmp_path / "tiny.yaml")], tmp_path)  # nothing is left to do, for any rank


def test_a_fault_of_the_recipe_in_place_ends_every_rank(tmp_path: Path) -> None:
    launch = [ACCELERATE, "launch", "--config_file", CPU_2, "--main_process_port", "0", "-m", "pipelines"]
    path = written(tmp_path)
    (tmp_path / "tales.txt").write_text("")
    shown = finished([*launch, "pretrain", str(path)], tmp_path, code=1)
    assert "rows cannot be used" in shown


def started(folder: Path, *options: str) -> subprocess.Popen[str]:
    """A long run, some steps into its training."""
    path = written(folder, duration="100_000 steps")
    command = [sys.executable, "-m", "pipelines", "pretrain", str(path), *options]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not list(folder.glob("artifacts/.partial/pretrain-*/record/metrics.jsonl")):
        assert time.monotonic() < deadline and process.poll() is None, process.stderr
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("options", [[], ["--launch", "cpu-2"]], ids=["warm", "launched"])
def test_a_stopped_run_saves_and_ends_with_75(tmp_path: Path, options: list[str]) -> None:
    process = started(tmp_path, *options)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=200)
    assert process.returncode == 75, shown
    assert json.loads((partial(tmp_path) / "outcome.json").read_text())["outcome"] == "stopped"
    assert list((partial(tmp_path) / "checkpoints").glob("checkpoint-*/manifest.json"))


def test_a_forked_worker_keeps_the_lock_when_its_driver_is_killed(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.kill()
    process.communicate()
    command = [sys.executable, "-m", "pipelines", "pretrain", str(tmp_path / "tiny.yaml")]
    again = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert again.stderr is not None
    shown = next(line for line in again.stderr if "waiting: " in line)
    assert "'pretrain' is being made by the worker of a run that was killed" in shown
    assert f"process {process.pid} on" in shown
    steps = partial(tmp_path) / "record" / "metrics.jsonl"
    before = steps.read_text().count("\n")
    _end_holders_of(tmp_path)
    assert any("+ pretrain" in line for line in again.stderr), "once the worker is gone, the second run goes on"
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=200)
    assert again.returncode == 75 and steps.read_text().count("\n") >= before > 0


def _end_holders_of(folder: Path) -> None:
    import psutil

    log = partial(folder) / "record" / "log.txt"
    for process in psutil.process_iter():
        try:
            if any(Path(file.path) == log for file in process.open_files()):
                os.kill(process.pid, signal.SIGKILL)
        except psutil.Error:
            continue
