"""`accelerate launch -m pipelines pretrain recipe.yaml`: the stage runs in the processes that are there already."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import MachineError
from pipelines.plan.jobs import Job
from pipelines.run.launcher import LIGHT_KINDS
from pipelines.run.runner import Runner, ended
from pipelines.stages.base import LaunchSettings
from pipelines.store.artifacts import Artifact
from pipelines.store.stale import Reason

_DAYS = 30
"""Other ranks wait this long for data and tokens to be made by rank 0."""


def is_launched() -> bool:
    """Whether `accelerate launch` or torchrun started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "LOCAL_RANK" in os.environ


class InPlaceRunner(Runner):
    """Makes what a stage needs through the usual doors, then runs the stage itself in this process group."""

    here: frozenset[str] = frozenset()
    """Names of the jobs that run in place."""

    def run_here(self, jobs: Sequence[Job]) -> int:
        """Run these jobs in every rank of the group. Returns the exit code."""
        from pipelines.run.worker import leave_group

        group = _Group()
        if group.rank != 0:
            code = group.follow()
            leave_group(together=code == 0)
            return code
        self.here = frozenset(job.name for job in jobs if job.kind not in LIGHT_KINDS)
        self._group = group
        code = 1
        try:
            self.run(jobs)
            code = 0
        finally:
            group.dismiss(code)
            leave_group(together=code == 0)
        return code

    def settings(self, job: Job) -> LaunchSettings:
        usual = super().settings(job)
        if job.name not in self.here:
            return usual
        import torch

        device = "gpu" if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU") != "true" else "cpu"
        width = {"num_processes": self._group.size, "device": device}
        return usual.model_copy(update=width | ({"threads": None} if device == "gpu" else {}))

    def work(
        self, job: Job, inputs: Mapping[str, Artifact], settings: LaunchSettings, lock: int, reason: Reason | None
    ) -> dict[str, Any]:
        if job.name not in self.here:
            return super().work(job, inputs, settings, lock, reason)
        from pipelines.run.worker import run_job

        workdir = self.store.prepare(job, inputs, settings.model_dump(mode="json"))
        self.console.say(f"+ {job.name}: in place, {settings.num_processes} process(es)")
        self._group.call(workdir)
        return self.judged(job, workdir, ended(job, workdir, run_job(workdir), asked=False))


class _Group:
    """The ranks of a launch. Rank 0 tells the others what to run, through the store that torchrun keeps."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self._calls = 0
        self._store: Any = None
        if self.size > 1:
            self._store = _connect(self.size)

    def call(self, workdir: Path) -> None:
        self._tell(str(workdir))

    def dismiss(self, code: int) -> None:
        self._tell(f"exit {code}")

    def follow(self) -> int:
        """Run what rank 0 calls out, until it sends this rank home."""
        from pipelines.run.worker import run_job

        code = 0
        while code == 0:
            word = self._store.get(self._key()).decode()  # waits until rank 0 has said it
            self._calls += 1
            if word.startswith("exit "):
                return int(word.removeprefix("exit "))
            code = run_job(Path(word))
        return code

    def _tell(self, word: str) -> None:
        if self._store is not None:
            self._store.set(self._key(), word)
            self._calls += 1

    def _key(self) -> str:
        return f"sourdough/{self._calls}"


def _connect(size: int) -> Any:
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise MachineError(
            "several processes in place need `accelerate launch` or torchrun; or let the driver start them"
        )
    from datetime import timedelta

    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, size, is_master=False, timeout=timedelta(days=_DAYS), wait_for_workers=False)
