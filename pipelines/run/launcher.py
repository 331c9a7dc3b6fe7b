"""The two doors to a worker: a command line of `accelerate launch`, and a fork of a process that is warm already."""

import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, reduction
from pathlib import Path
from typing import Any, Protocol

from pipelines.errors import MachineError
from pipelines.recipe.accelerate_files import read_accelerate
from pipelines.recipe.launch import Launch
from pipelines.stages.base import LaunchSettings

LIGHT_KINDS = ("data", "benchmarks", "clean", "contamination", "model", "tokens", "tokenizer", "vocabulary")
"""Kinds that prepare, in one process whatever the training runs on. But for `model` and `benchmarks` they need no
torch: a bare process starts faster than anything else."""

PRELOADED = (
    "torch",
    "transformers",
    "datasets",
    "trl",
    "custom_models",
    "pipelines.stages.pretrain",
    "pipelines.stages.sft",
    "pipelines.stages.reward",
    "pipelines.stages.dpo",
    "pipelines.stages.ppo",
    "pipelines.stages.evaluate",
)
"""What the warm process imports (`preload.py`)."""

_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
_GROUP_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_", "FSDP_", "PARALLELISM_CONFIG_")


@dataclass(frozen=True)
class Door:
    """How one job is started."""

    settings: LaunchSettings
    config: Path
    """The Accelerate file, always given: without it Accelerate would read one of the user's own."""
    precision: str
    by_hand: tuple[str, ...] = ()
    """Arguments of this program that build the job in the processes of a launch."""

    @property
    def warm(self) -> bool:
        """One process on a CPU is forked; everything else is launched."""
        return self.settings.device == "cpu" and self.settings.num_processes == 1 and self.settings.num_machines == 1

    def command(self, workdir: Path) -> list[str]:
        """What starts the job of a working folder. The launcher's module is a second faster than `accelerate launch`,
        which imports what its other subcommands need."""
        launcher = [sys.executable, "-m", "accelerate.commands.launch"]
        return [*launcher, *self._options(), "-m", "pipelines.run.worker", str(workdir)]

    def line(self) -> str:
        """What a person may type instead, now or later, with paths below the current folder made short."""
        beside = Path(sys.executable).with_name("accelerate")
        launcher = [str(beside), "launch"] if beside.exists() else [sys.executable, "-m", "accelerate.commands.launch"]
        return shlex.join(map(_short, [*launcher, *self._options(), "-m", "pipelines", *self.by_hand]))

    def _options(self) -> list[str]:
        command = ["--config_file", str(self.config), "--mixed_precision", self.precision]
        command += ["--num_cpu_threads_per_process", str(self.settings.threads or _cores(self.settings.num_processes))]
        if self.settings.num_machines == 1:
            command += ["--main_process_port", "0"]  # any free port, so that two runs never meet
        return command


def _short(part: str) -> str:
    path = Path(part)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else part


def open_door(launch: Launch, precision: str, recipe: Path, by_hand: Sequence[str] = ()) -> Door:
    """Resolve launch settings and their Accelerate file."""
    file = read_accelerate(launch.config, recipe)
    if file.mixed_precision not in (None, precision):
        raise MachineError(
            f"{file.path}: mixed_precision is {file.mixed_precision}, but the stage says {precision}, which decides; "
            "take the line out of the file"
        )
    settings = LaunchSettings(
        num_processes=file.num_processes,
        num_machines=file.num_machines,
        device=file.device,
        threads=_cores(file.num_processes // file.num_machines) if file.device == "cpu" else None,
        micro_batch_size=launch.micro_batch_size,
        checkpoint_every=launch.checkpoint_every,
        evaluate_every=launch.evaluate_every,
        activation_checkpointing=launch.activation_checkpointing,
    )
    return Door(settings, file.path, precision, tuple(by_hand))


def _cores(processes: int) -> int:
    """Threads for each of several processes on this machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // max(1, processes))


def require_loopback() -> None:
    """Processes of one machine talk over its loopback interface; where that is down they would wait for ever."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        raise MachineError(
            f"several processes need the loopback interface, and 127.0.0.1 cannot be reached ({error.strerror}); "
            "bring it up (ip link set lo up), or run one process (LAUNCH=cpu)"
        ) from None


def worker_environment(settings: LaunchSettings, kind: str) -> dict[str, str]:
    """What has to hold before libraries are imported. None of it decides a result."""
    threads = str(settings.threads or _cores(settings.num_processes))
    variables = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true" if kind in LIGHT_KINDS else "false",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600",  # torchrun would kill ranks that are still saving
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    if settings.device == "cpu":
        variables |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        if settings.num_machines == 1:
            variables["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    return variables


def outside_of_groups(inherited: Mapping[str, str]) -> dict[str, str]:
    """An environment without the process group that the driver itself may have been launched in."""
    return {
        name: value for name, value in inherited.items() if name not in _GROUP and not name.startswith(_GROUP_PREFIXES)
    }


class Worker(Protocol):
    """A started job: one process group, whose leader is the process that was started."""

    pid: int
    single: bool
    """Whether the leader is the worker itself, not a launcher with its own way of stopping ranks."""

    def wait(self, seconds: float) -> int | None:
        """The leader's exit status, or None when it still runs after this time."""


class Launched:
    """A job in processes of its own, started by a command."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, lock: int):
        with log.open("ab") as out:
            # The lock travels as standard input: launchers close all other descriptors of the ranks they start.
            self._process = subprocess.Popen(
                command, stdin=lock, stdout=out, stderr=out, env=dict(environment), start_new_session=True
            )
        self.pid = self._process.pid
        self.single = "pipelines.run.worker" in command[:3]

    def wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


class Forked:
    """A job in a fork of the warm process."""

    single = True

    def __init__(self, workdir: Path, log: Path, lock: int):
        self._process = _CONTEXT.Process(target=_in_the_fork, args=(str(workdir), str(log), _Inherited(lock)))
        try:
            self._process.start()
        except (EOFError, ConnectionError):
            raise MachineError(
                "the warm process that jobs are forked from was killed from outside, most often for lack of memory; "
                "run the same command again"
            ) from None
        assert self._process.pid is not None
        self.pid = self._process.pid

    def wait(self, seconds: float) -> int | None:
        self._process.join(seconds)
        return self._process.exitcode


class _Inherited:
    """A descriptor that stays open in the child, so that its lock is held as long as the child lives."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {"handle": reduction.DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._descriptor = state["handle"].detach()


_CONTEXT = multiprocessing.get_context("forkserver")


def warm_up(settings: LaunchSettings) -> None:
    """Start importing in the background; the first fork waits for what is left of it."""
    _CONTEXT.set_forkserver_preload(["pipelines.run.preload"])
    with _environment(worker_environment(settings, "pretrain")), _quiet():
        forkserver.ensure_running()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(outside_of_groups(before) | dict(variables))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries warn while they are imported, which nobody has to read. Real faults come again in the job's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)


def _in_the_fork(workdir: str, log: str, lock: _Inherited) -> None:
    """First function of a forked job."""
    os.setsid()  # a group of its own, as every worker has: Ctrl+C reaches the driver only
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    missing = [name for name in PRELOADED if name not in sys.modules]
    if missing:  # the fork server swallows errors of its imports
        print(f"note: cold start, not imported beforehand: {', '.join(missing)}", flush=True)
    from pipelines.run.worker import run_job

    sys.exit(run_job(Path(workdir)))


def start(door: Door, kind: str, workdir: Path, lock: int) -> Worker:
    """Start the job of a working folder through the door that fits it."""
    record = workdir / "record"
    record.mkdir(exist_ok=True)
    (workdir / "command.txt").write_text(shlex.join(door.command(workdir)) + "\n", encoding="utf-8")
    environment = outside_of_groups(os.environ) | worker_environment(door.settings, kind)
    if kind in LIGHT_KINDS:
        command = [sys.executable, "-m", "pipelines.run.worker", str(workdir)]
    elif door.warm:
        return Forked(workdir, record / "log.txt", lock)
    else:
        command = door.command(workdir)
    return Launched(command, environment, record / "log.txt", lock)


def light_settings(launch: Launch) -> LaunchSettings:
    """For a kind that needs no torch: one process with all cores, whatever the training runs on."""
    workers = launch.workers or _cores(1)
    return LaunchSettings(num_processes=1, device="cpu", threads=_cores(1), workers=workers, engine=launch.engine)


def stop(worker: Worker, number: int = signal.SIGTERM) -> None:
    """Signal every process of a job."""
    try:
        os.killpg(worker.pid, number)
    except ProcessLookupError:
        return


def gone(worker: Worker) -> bool:
    """Whether every process of the job's group has ended. Launchers may end before the ranks they started."""
    import psutil

    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == worker.pid and process.status() != psutil.STATUS_ZOMBIE:
                return False
        except (psutil.Error, ProcessLookupError):
            continue
    return True
