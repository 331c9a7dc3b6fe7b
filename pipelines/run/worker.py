"""One job in this process: task.json in; output/, record/ and outcome.json out. The only door to the stages."""

import argparse
import faulthandler
import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from pipelines.errors import ArtifactError, MachineError, PipelineError, Stopped, of_the_machine
from pipelines.plan.jobs import Job
from pipelines.recipe.base import MAKES
from pipelines.recipe.kinds import starts_from
from pipelines.recipe.outside import kind_left
from pipelines.run.launcher import LIGHT_KINDS, worker_environment
from pipelines.stages.base import LaunchSettings, Metrics, StageContext, load_stage
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.durable import sync_tree, write_json


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.run.worker", description=__doc__)
    parser.add_argument("workdir", type=Path, help="a folder of <store>/.partial, with its task.json")
    workdir = parser.parse_args(arguments).workdir.resolve()
    try:
        job = read_task(workdir).job
        store = ArtifactStore(workdir.parents[1])
        held = _rank() != 0 or _is_open_as_stdin(store.lock_path(job))
        with nullcontext() if held else store.lock(job):
            code = run_job(workdir)
            leave_group(together=code == 0)
            return code
    except PipelineError as error:  # there is nothing to run, or somebody else runs it
        print(error, file=sys.stderr)
        return error.exit_code


@dataclass(frozen=True)
class Task:
    """What task.json holds."""

    job: Job
    inputs: dict[str, Path]
    launch: LaunchSettings


def read_task(workdir: Path) -> Task:
    """The task of a working folder."""
    try:
        task = json.loads((workdir / "task.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{workdir / 'task.json'}: {error}; a run writes it, see <store>/.partial") from None
    return Task(
        job=Job.model_validate_json(json.dumps(task["job"])),
        inputs={role: Path(path) for role, path in task["inputs"].items()},
        launch=LaunchSettings.model_validate_json(json.dumps(task["launch"])),
    )


def run_job(workdir: Path) -> int:
    """Run the task of a working folder in this process, one of the job's ranks. Returns the exit code."""
    started = time.monotonic()
    faulthandler.enable()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    rank = _rank()
    attempts = _Attempts(workdir / "record") if rank == 0 else None
    outcome: dict[str, Any]
    try:
        outcome = {"outcome": "done", "message": "", "exit_code": 0, "metrics": _run(read_task(workdir), workdir, rank)}
        if rank == 0:
            sync_tree(workdir / "output")
    except PipelineError as error:
        outcome = _failure(error)
        print(error, file=sys.stderr)
    except KeyboardInterrupt as error:
        outcome = _failure(Stopped(f"stopped by {error or 'SIGINT'}; run the same command again to go on"))
    except Exception as error:
        traceback.print_exc()
        outcome = _failure(of_the_machine(error), traceback.format_exc())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # how it ended is known and only has to be written
    outcome |= {"seconds": round(time.monotonic() - started, 3), "time": time.time(), "rank": rank}
    if attempts is not None:
        attempts.end(outcome)
    if rank == 0 or outcome["outcome"] != "done":
        write_json(workdir / ("outcome.json" if rank == 0 else f"outcome-{rank}.json"), outcome)
    sys.stdout.flush()
    return outcome["exit_code"]


def _run(task: Task, workdir: Path, rank: int) -> Metrics:
    os.environ.update(worker_environment(task.launch, task.job.kind))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != task.launch.num_processes:
        raise MachineError(
            f"this job is for {task.launch.num_processes} processes, but {world} were started; "
            f"start it as the driver does: its command is in {workdir / 'command.txt'}"
        )
    if rank == 0:
        shutil.rmtree(workdir / "output", ignore_errors=True)
    for name in ("output", "checkpoints", "record"):
        (workdir / name).mkdir(exist_ok=True)
    stage = load_stage(task.job.kind)
    if task.job.kind not in LIGHT_KINDS and task.launch.threads is not None:
        import torch

        torch.set_num_threads(task.launch.threads)  # the libraries may have been loaded before this job was known
    if task.job.kind not in LIGHT_KINDS:
        from pipelines.training.own_models import register_own_code

        register_own_code(task.inputs.values())
    require_fitting(task)
    context = StageContext(job=task.job, inputs=task.inputs, workdir=workdir, launch=task.launch)
    return _plain(stage(context))


def require_fitting(task: Task) -> None:
    """A model made elsewhere may fit the recipe that brought it in, and not this one."""
    folder = task.inputs.get("model")
    kind, kinds = kind_left(folder) if folder else None, starts_from(task.job.config)
    if kind is not None and kind not in kinds:
        able = " or ".join(MAKES[one] for one in kinds)
        raise ArtifactError(
            f"'{task.job.inputs['model'].job}' is {MAKES[kind]}, and stage '{task.job.stage}' starts from {able}; give "
            "it another model"
        )


def leave_group(*, together: bool) -> None:
    """At the end of a process: a rank that still has its process group when the first one exits may be aborted.

    `together` where all went well; where it did not, the others may never come."""
    group = getattr(sys.modules.get("torch"), "distributed", None)
    if group is not None and group.is_available() and group.is_initialized():
        if together:
            group.barrier()
        group.destroy_process_group()


class _Attempts:
    """A job may take several attempts, and its cost is that of all of them: `record/attempts.jsonl`.

    One that is killed writes no end. The next finds that it had begun, and counts it up to its last sign of life."""

    def __init__(self, record: Path):
        self._done, self._running, self._begun = record / "attempts.jsonl", record / "attempt.json", time.time()
        record.mkdir(exist_ok=True)
        if self._running.exists():
            begun = json.loads(self._running.read_text(encoding="utf-8"))["begun"]
            last = max(path.stat().st_mtime for path in record.iterdir())
            self._note(begun, max(0.0, last - begun), "killed")
        write_json(self._running, {"begun": self._begun})

    def end(self, outcome: Mapping[str, Any]) -> None:
        self._note(self._begun, outcome["seconds"], outcome["outcome"])
        self._running.unlink()

    def _note(self, begun: float, seconds: float, outcome: str) -> None:
        begun_at = datetime.fromtimestamp(begun, UTC).isoformat(timespec="seconds")
        with self._done.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"begun": begun_at, "seconds": round(seconds, 3), "outcome": outcome}) + "\n")


def _plain(metrics: Metrics) -> dict[str, float | int | str]:
    """Numbers as JSON knows them; a number that is none stops here, not in the report."""
    plain: dict[str, float | int | str] = {}
    for name, value in metrics.items():
        value = value if isinstance(value, str | int | float) else value.item()
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"metric '{name}' is {value}")
        plain[name] = value
    return plain


def _failure(error: BaseException, details: str = "") -> dict[str, Any]:
    outcome, message, code = "bug", details, 1
    if isinstance(error, PipelineError):
        outcome, message, code = error.outcome, str(error), error.exit_code
    return {"outcome": outcome, "message": message, "exit_code": code, "metrics": {}}


def _stop(number: int, frame: FrameType | None) -> None:
    """Until a trainer has its own handler there is nothing to save: leave, and start again next time.

    No ordinary exception: libraries catch those while they are imported.
    """
    raise KeyboardInterrupt(signal.Signals(number).name)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _is_open_as_stdin(path: Path) -> bool:
    """The driver hands its lock on as standard input, the one descriptor that every launcher passes through."""
    try:
        return os.path.samestat(os.fstat(0), path.stat())
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
