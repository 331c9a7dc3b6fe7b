"""Runs of small data jobs, in real worker processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import chain, write

from pipelines.errors import ArtifactError, MachineError
from pipelines.plan.files import Digests
from pipelines.plan.jobs import Job
from pipelines.plan.planner import make_plan
from pipelines.recipe.load import load_recipe
from pipelines.run.console import Console
from pipelines.run.launcher import Door, Forked, open_door
from pipelines.run.runner import Failed, Runner
from pipelines.store.artifacts import Artifact, ArtifactStore, Found, Held, Links
from pipelines.store.durable import read_manifest, write_json


def data_recipe(**dataset: Any) -> dict[str, Any]:
    recipe = chain()
    recipe["data"] = {"tales": recipe["data"]["tales"] | dataset, "more": recipe["data"]["more"]}
    recipe["stages"] = {"tokenizer": recipe["stages"]["tokenizer"]}
    return recipe


def runner(folder: Path, recipe: Mapping[str, Any], overrides: Sequence[str] = (), rebuild: bool = False) -> Runner:
    loaded = load_recipe(write(folder, recipe), overrides)
    plan = make_plan(loaded.recipe, path=loaded.path, digest=Digests(), pins={}, position=loaded.place)

    def door(job: Job) -> Door:
        return open_door(loaded.recipe.launch.of(job.stage), "no", loaded.path)

    return Runner(
        plan,
        ArtifactStore(folder / "store"),
        Links(folder / "runs" / "tiny"),
        door=door,
        position=loaded.place,
        console=Console(),
        rebuild=rebuild,
    )


def run_data(one: Runner) -> None:
    one.run([job for job in one.plan.jobs if job.kind == "data"])


def test_what_is_finished_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = runner(tmp_path, data_recipe())
    run_data(first)
    assert first.changed and "✓ data-tales" in capsys.readouterr().err
    second = runner(tmp_path, data_recipe())
    run_data(second)
    assert not second.changed
    lines = sorted(line.split() for line in capsys.readouterr().err.splitlines())
    assert lines == [["=", "data-more", "cached"], ["=", "data-tales", "cached"]]
    link = tmp_path / "runs" / "tiny" / "data-tales"
    assert link.resolve() == second.store.path(second.plan.by_name["data-tales"])
    manifest = read_manifest(link)
    assert manifest["metrics"]["rows_in"] == manifest["metrics"]["rows_used"] == 3
    assert manifest["provenance"]["seconds"] > 0 and manifest["provenance"]["versions"]["torch"]


def test_only_the_changed_dataset_runs_again_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_data(runner(tmp_path, data_recipe()))
    capsys.readouterr()
    run_data(runner(tmp_path, data_recipe(holdout=0.2)))
    shown = capsys.readouterr().err
    assert "data.tales.holdout 0.1 → 0.2" in shown and "tiny.yaml:" in shown
    assert "= data-more" in shown and "= data-tales" not in shown


def test_a_changed_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_data(runner(tmp_path, data_recipe()))
    (tmp_path / "tales.txt").write_text("Something else.\n\nAnd more.")
    run_data(runner(tmp_path, data_recipe()))
    assert f"{tmp_path}/tales.txt changed" in capsys.readouterr().err


def test_bad_data_end_with_a_message_and_without_an_artifact(tmp_path: Path) -> None:
    write(tmp_path, data_recipe())
    (tmp_path / "tales.txt").write_text("")
    one = runner(tmp_path, data_recipe())
    with pytest.raises(Failed, match="data-tales: 1 of 1 rows cannot be used") as failure:
        run_data(one)
    assert failure.value.exit_code == 3 and "Traceback" not in str(failure.value)
    job = one.plan.by_name["data-tales"]
    assert one.store.state(job) == "partial"
    assert json.loads((one.store.workdir(job) / "outcome.json").read_text())["outcome"] == "user_error"


def test_a_job_that_another_run_holds_is_refused_at_once(tmp_path: Path) -> None:
    one = runner(tmp_path, data_recipe())
    with one.store.lock(one.plan.by_name["data-tales"]), pytest.raises(ArtifactError, match=str(os.getpid())):
        run_data(one)


def test_damaged_data_are_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = runner(tmp_path, data_recipe())
    run_data(one)
    info = one.store.path(one.plan.by_name["data-tales"]) / "output" / "info.json"
    info.write_text(info.read_text()[:-5])
    run_data(runner(tmp_path, data_recipe()))
    assert f"damaged: {info}" in capsys.readouterr().err
    one.store.verify(one.store.open(info.parents[1]))


def test_a_flipped_byte_stops_those_who_would_read_it(tmp_path: Path) -> None:
    one = runner(tmp_path, data_recipe())
    run_data(one)
    info = one.store.path(one.plan.by_name["data-tales"]) / "output" / "info.json"
    info.write_bytes(info.read_bytes()[:-1] + b"X")
    with pytest.raises(ArtifactError, match=rf"{info}: not the bytes"):
        runner(tmp_path, data_recipe()).run(one.plan.named("tokenizer"))


def test_what_was_costly_is_made_again_only_when_asked(tmp_path: Path) -> None:
    one = runner(tmp_path, data_recipe())
    run_data(one)
    manifest = one.store.path(one.plan.by_name["data-tales"]) / "manifest.json"
    costly = json.loads(manifest.read_text())
    costly["provenance"]["seconds"] = 3600
    write_json(manifest, costly)
    with pytest.raises(ArtifactError, match=r"(?s)data-tales took 60 minutes and is stale: .*REBUILD=1") as refusal:
        run_data(runner(tmp_path, data_recipe(holdout=0.2)))
    assert refusal.value.exit_code == 3
    run_data(runner(tmp_path, data_recipe(holdout=0.2), rebuild=True))


def test_work_that_was_finished_without_a_driver_is_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = runner(tmp_path, data_recipe())
    job = one.plan.by_name["data-tales"]
    workdir = one.store.prepare(job, {}, one.settings(job).model_dump(mode="json"))
    by_hand = [sys.executable, "-m", "pipelines.run.worker", str(workdir)]
    assert subprocess.run(by_hand, stdin=subprocess.DEVNULL, check=True).returncode == 0
    stamp = (workdir / "output" / "info.json").stat().st_mtime_ns
    one.run([job])
    assert (one.store.path(job) / "output" / "info.json").stat().st_mtime_ns == stamp


def test_a_worker_by_hand_is_refused_while_another_run_holds_the_job(tmp_path: Path) -> None:
    one = runner(tmp_path, data_recipe())
    job = one.plan.by_name["data-tales"]
    workdir = one.store.prepare(job, {}, one.settings(job).model_dump(mode="json"))
    with one.store.lock(job):
        by_hand = [sys.executable, "-m", "pipelines.run.worker", str(workdir)]
        ended = subprocess.run(by_hand, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 3 and "another run" in ended.stderr


def test_a_worker_refuses_another_number_of_processes(tmp_path: Path) -> None:
    one = runner(tmp_path, data_recipe())
    job = one.plan.by_name["data-tales"]
    settings = one.settings(job).model_copy(update={"num_processes": 2})
    workdir = one.store.prepare(job, {}, settings.model_dump(mode="json"))
    by_hand = [sys.executable, "-m", "pipelines.run.worker", str(workdir)]
    ended = subprocess.run(by_hand, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 4 and "for 2 processes, but 1 were started" in ended.stderr


def test_a_run_waits_for_another_recipe_that_makes_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = runner(tmp_path, data_recipe())
    job = one.plan.by_name["data-tales"]
    held = ExitStack()
    held.enter_context(one.store.lock(job, tmp_path / "runs" / "another"))
    threading.Timer(0.5, held.close).start()
    one.run([job])
    shown = capsys.readouterr().err
    assert "data-tales" in one.found and shown.count("waiting: 'data-tales' is being made by another run") == 1
    with one.store.lock(one.plan.by_name["data-more"], tmp_path / "runs" / "tiny"), pytest.raises(Held):
        run_data(one)


def test_several_processes_without_a_loopback_interface_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*address: object, **options: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.create_connection", unreachable)
    recipe = chain() | {"launch": "cpu-2"}
    one = runner(tmp_path, recipe)
    with pytest.raises(MachineError, match="loopback"):
        one.run([one.plan.by_name["pretrain"]])
    assert not list((tmp_path / "store").glob("data-*"))


def driver(folder: Path) -> subprocess.Popen[str]:
    """A run of slow data in a process of its own, with its worker started."""
    recipe = data_recipe()
    recipe["data"]["tales"] = {"builtin": "microworld/text", "limit": 60_000}
    path = write(folder, recipe)
    command = [sys.executable, "-m", "pipelines", "data", str(path), "--store", str(folder / "store")]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    workdirs: list[Path] = []
    deadline = time.monotonic() + 60
    while not workdirs or not (workdirs[0] / "output").exists():
        assert time.monotonic() < deadline and process.poll() is None
        workdirs = list((folder / "store" / ".partial").glob("data-*"))
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_is_asked_to_stop_ends_with_75(tmp_path: Path, number: int) -> None:
    process = driver(tmp_path)
    process.send_signal(number)
    assert process.wait(60) == 75
    assert process.stderr is not None and "run the same command again" in process.stderr.read()
    assert not list((tmp_path / "store").glob("data-*"))


def test_a_run_waits_for_the_worker_of_a_killed_driver(tmp_path: Path) -> None:
    process = driver(tmp_path)
    process.kill()
    process.wait()
    store = ["--store", str(tmp_path / "store")]
    command = [sys.executable, "-m", "pipelines", "data", str(tmp_path / "tiny.yaml"), *store]
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    said = [line for line in second.stderr.splitlines() if "waiting" in line]
    assert second.returncode == 0
    # The other dataset is small: its worker may have ended between two looks, and then there is nothing to kill.
    slow = next(line for line in said if "data-tales" in line)
    assert f"a run that was killed (process {process.pid} on" in slow and "to stop it: kill " in slow
    assert len(list((tmp_path / "store").glob("data-*"))) == 2


def test_a_warm_process_that_was_killed_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: object) -> None:
        raise EOFError("unexpected EOF")

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", killed)
    with pytest.raises(MachineError, match="killed from outside"):
        Forked(tmp_path, tmp_path / "log.txt", 0)


def test_a_finished_adapter_needs_its_base(tmp_path: Path) -> None:
    recipe = chain()
    recipe["stages"]["sft"]["peft"] = {"r": 2}
    one = runner(tmp_path, recipe)
    sft, plan = one.plan.by_name["sft"], one.plan
    found = {job.name: Found(job, "absent", None) for job in plan.jobs}
    found["sft"] = Found(sft, "complete", Artifact(tmp_path, {}))
    needed = one._needed([sft], found)
    assert {"sft", "pretrain", "tokenizer"} <= needed and "tokens-chats" not in needed
    found["dpo"] = Found(plan.by_name["dpo"], "complete", Artifact(tmp_path, {}))
    assert one._needed([plan.by_name["dpo"]], found) == {"dpo"}
