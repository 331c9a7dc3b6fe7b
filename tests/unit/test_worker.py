"""How a job ends: outcome.json for the driver, words for a person."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import only_data, planned

from pipelines.errors import MachineError, of_the_machine
from pipelines.plan.jobs import Job
from pipelines.recipe.launch import Launch
from pipelines.run import worker
from pipelines.run.launcher import light_settings
from pipelines.run.runner import ended
from pipelines.store.artifacts import ArtifactStore


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return planned(tmp_path, only_data()).by_name["data-tales"]


@pytest.fixture
def workdir(tmp_path: Path, job: Job) -> Path:
    return ArtifactStore(tmp_path / "store").prepare(job, {}, light_settings(Launch()).model_dump(mode="json"))


def outcome(workdir: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((workdir / ("outcome.json" if rank == 0 else f"outcome-{rank}.json")).read_text())


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """run_job is the first function of a process and changes what belongs to one."""
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setattr("os.environ", dict(os.environ))


def test_a_job_that_works(workdir: Path) -> None:
    (workdir / "output").mkdir()
    (workdir / "output" / "left.txt").write_text("of an earlier attempt")
    assert worker.run_job(workdir) == 0
    assert outcome(workdir)["outcome"] == "done" and outcome(workdir)["metrics"]["rows_in"] == 3
    assert not (workdir / "output" / "left.txt").exists()
    attempt = json.loads((workdir / "record" / "attempts.jsonl").read_text())
    assert attempt["outcome"] == "done" and attempt["seconds"] > 0


def test_an_attempt_that_was_killed_counts_up_to_its_last_sign_of_life(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing of the worker's own runs after it."""

    def stage(ctx: object) -> dict[str, Any]:
        metrics = workdir / "record" / "metrics.jsonl"
        metrics.touch()
        os.utime(metrics, (time.time() + 90, time.time() + 90))
        raise Killed

    record = workdir / "record"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(worker, "load_stage", lambda kind: stage)
        worker.run_job(workdir)
    assert not (record / "attempts.jsonl").exists()
    assert worker.run_job(workdir) == 0
    killed, done = map(json.loads, (record / "attempts.jsonl").read_text().splitlines())
    assert (killed["outcome"], done["outcome"]) == ("killed", "done")
    assert killed["seconds"] == pytest.approx(90, abs=1) and done["seconds"] < 60
    assert not (record / "attempt.json").exists()


STAGES: dict[str, tuple[BaseException, str, int, str]] = {
    "a full disk": (OSError(28, "No space left on device", "/data/x"), "user_error", 4, "no space left"),
    "a locked file": (
        PermissionError(13, "Permission denied", "/data/x"),
        "user_error",
        4,
        "/data/x: Permission denied",
    ),
    "no memory": (MemoryError(), "user_error", 4, "out of memory"),
    "a mistake": (ZeroDivisionError("division"), "bug", 1, "ZeroDivisionError: division"),
    "a signal": (KeyboardInterrupt("SIGTERM"), "stopped", 75, "stopped by SIGTERM"),
    "a wrong machine": (MachineError("no GPU"), "user_error", 4, "no GPU"),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_job_that_does_not(workdir: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    error, word, code, message = STAGES[name]

    def stage(ctx: object) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(worker, "load_stage", lambda kind: stage)
    assert worker.run_job(workdir) == code
    assert outcome(workdir)["outcome"] == word and message in outcome(workdir)["message"]
    assert ("Traceback" in outcome(workdir)["message"]) == (word == "bug")


def test_a_metric_that_is_no_number_is_a_mistake_of_the_stage(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "load_stage", lambda kind: lambda ctx: {"loss": float("nan")})
    assert worker.run_job(workdir) == 1
    assert "metric 'loss' is nan" in outcome(workdir)["message"]


@pytest.mark.parametrize("error", [None, MachineError("no GPU")])
def test_a_process_leaves_its_group_at_its_end_and_waits_for_the_others_where_all_went_well(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    import torch.distributed as group

    waited = []

    def stage(ctx: object) -> dict[str, Any]:
        group.init_process_group("gloo", store=group.HashStore(), rank=0, world_size=1)
        monkeypatch.setattr(group, "barrier", lambda: waited.append(True))
        if error:
            raise error
        return {}

    monkeypatch.setattr(worker, "load_stage", lambda kind: stage)
    try:
        worker.main([str(workdir)])
        assert not group.is_initialized() and len(waited) == (error is None)
    finally:
        if group.is_initialized():
            group.destroy_process_group()


def test_another_rank_leaves_its_own_words(workdir: Path, monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    def stage(ctx: object) -> dict[str, Any]:
        raise ValueError("rows differ")

    task = json.loads((workdir / "task.json").read_text())
    task["launch"]["num_processes"] = 2
    (workdir / "task.json").write_text(json.dumps(task))
    monkeypatch.setattr(worker, "load_stage", lambda kind: stage)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setitem(os.environ, name, value)
    assert worker.run_job(workdir) == 1
    assert not (workdir / "outcome.json").exists()
    stopped = {"outcome": "stopped", "message": "stopped by SIGTERM", "exit_code": 75, "time": 0, "rank": 0}
    (workdir / "outcome.json").write_text(json.dumps(stopped))
    first = ended(job, workdir, 1, asked=False)
    assert first["message"].startswith("rank 1: ") and "ValueError: rows differ" in first["message"]


@pytest.mark.parametrize(
    ("status", "asked", "code", "message"),
    [
        (-9, False, 4, "SIGKILL"),
        (-15, True, 75, "run the same command again"),
        (-11, False, 1, "status -11"),
    ],
)
def test_a_worker_without_a_word(workdir: Path, job: Job, status: int, asked: bool, code: int, message: str) -> None:
    told = ended(job, workdir, status, asked=asked)
    assert told["exit_code"] == code and message in told["message"]


def test_a_folder_without_a_task_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert worker.main([str(tmp_path)]) == 3
    assert "task.json" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "machine"), [(errno.ENOSPC, True), (errno.EFBIG, True), (errno.ENOENT, False)])
def test_a_full_disk_is_known_in_the_words_of_rust_libraries_too(number: int, machine: bool) -> None:
    told = of_the_machine(RuntimeError(f"Error while serializing: I/O error: no room (os error {number})"))
    assert isinstance(told, MachineError) is machine
