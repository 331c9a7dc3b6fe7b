"""Walk the plan: skip what is finished, run what is not, stop at the first failure."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipelines.errors import ArtifactError, MachineError, PipelineError
from pipelines.plan.estimate import estimate
from pipelines.plan.jobs import Job, Plan
from pipelines.run.console import Console
from pipelines.run.launcher import LIGHT_KINDS, Door, light_settings, require_loopback, start, warm_up
from pipelines.run.provenance import provenance
from pipelines.run.signals import Signals
from pipelines.stages.base import LaunchSettings
from pipelines.store.artifacts import Artifact, ArtifactStore, Found, Held, Links, look, survey
from pipelines.store.stale import Position, Reason, why

SIDE_BY_SIDE = 2
"""Jobs without torch that run at a time."""
_LOG_LINES = 30
_WAIT_SECONDS = 0.2
"""Between two looks at a lock that a run of another recipe holds."""


class Failed(PipelineError):
    """A job ended without its artifact; carries what the worker said."""

    def __init__(self, message: str, outcome: str, exit_code: int):
        super().__init__(message)
        self.outcome, self.exit_code = outcome, exit_code


class Runner:
    """Brings jobs of a plan to their artifacts."""

    def __init__(
        self,
        plan: Plan,
        store: ArtifactStore,
        links: Links,
        *,
        door: Callable[[Job], Door],
        position: Position,
        console: Console,
        rebuild: bool = False,
    ):
        self.plan, self.store, self.links = plan, store, links
        self.door, self.position, self.console, self.rebuild = door, position, console, rebuild
        self.found: dict[str, Found] = {}
        """What this run has come past, by job name; every job in it is finished."""
        self.changed = False
        """Whether anything was made or linked that was not before."""
        self._signals = Signals()
        self._verified: set[Path] = set()

    def run(self, targets: Sequence[Job]) -> dict[str, Artifact]:
        """Bring these jobs, and what they need for that, to their artifacts."""
        before = survey(self.plan, self.store)
        needed = self._needed(targets, before)
        reasons = {name: reason for name in needed if (reason := self._why(before[name]))}
        self._refuse_costly(reasons)
        if reasons:
            self.store.create()
        self.store.register(self.links.folder.parent)
        with self._signals.installed():
            self._open_doors([before[name].job for name in reasons])
            for jobs in _waves([job for job in self.plan.jobs if job.name in needed]):
                if jobs[0].kind in LIGHT_KINDS:
                    self._ensure_side_by_side(jobs)
                else:
                    self._ensure(jobs[0])
        return {name: item.artifact for name, item in self.found.items() if item.artifact}

    def _needed(self, targets: Sequence[Job], before: Mapping[str, Found]) -> set[str]:
        """The targets, and upstream of them whatever is not finished; of an adapter also its base."""
        needed: set[str] = set()
        pending = [job.name for job in targets]
        while pending:
            name = pending.pop()
            if name not in needed:
                needed.add(name)
                job = before[name].job
                if before[name].artifact is None:
                    pending += [item.job for item in job.inputs.values()]
                elif job.base:
                    pending.append(job.base.job)
        return needed

    def _why(self, found: Found) -> Reason | None:
        return why(found, self.store.damage, self.links.manifest(found.job.name, self.store), self.position)

    def _refuse_costly(self, reasons: Mapping[str, Reason]) -> None:
        costly = {name: reason for name, reason in reasons.items() if reason.costly}
        if costly and not self.rebuild:
            lines = [
                f"{name} took {item.seconds / 60:.0f} minutes and is {item.status}: {item.text}"
                for name, item in costly.items()
            ]
            raise ArtifactError("\n".join([*lines, "to make it again: REBUILD=1 (--rebuild); nothing was run"]))

    def _open_doors(self, jobs: Sequence[Job]) -> None:
        doors = [self.door(job) for job in jobs if job.kind not in LIGHT_KINDS]
        warm = [door for door in doors if door.warm]
        if any(door.settings.num_processes > 1 and door.settings.num_machines == 1 for door in doors):
            require_loopback()
        if warm:
            warm_up(warm[0].settings)

    def _ensure_side_by_side(self, jobs: Sequence[Job]) -> None:
        """Data, tokenizer and tokens, two at a time: what is wrong with data shows before any training."""
        waiting = {job.name: job for job in jobs}
        running: dict[Future[None], Job] = {}
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            while waiting or running:
                names, busy = {job.name for job in running.values()}, {job.folder for job in running.values()}
                for job in list(waiting.values()):
                    ready = not any(item.job in waiting or item.job in names for item in job.inputs.values())
                    if ready and len(running) < SIDE_BY_SIDE and job.folder not in busy:
                        running[pool.submit(self._ensure, waiting.pop(job.name))] = job
                        names.add(job.name)
                        busy.add(job.folder)
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    name = running.pop(future).name
                    if future.exception() and running:
                        self.console.say(f"✗ {name} failed; what runs beside it is finished first")
                    future.result()

    def _ensure(self, job: Job) -> None:
        found = look(job, self.store, self.found)
        if found.artifact is None:
            artifact = self._make(job, found)
            found = Found(job, "complete", artifact)
            self.changed = True
        else:
            self.console.cached(job.name)
        assert found.artifact is not None
        self.found[job.name] = found
        self.changed |= self.links.point(job.name, found.artifact)

    def _make(self, job: Job, found: Found) -> Artifact:
        for source in self.plan.sources(job).values():
            if source.name not in self.found:
                self._ensure(source)
        with ExitStack() as held:
            lock = self._lock(job, held)
            again = look(job, self.store, self.found)  # another run may have finished it before we had the lock
            if again.artifact:
                self.console.cached(job.name)
                return again.artifact
            inputs = {role: self._checked(source) for role, source in self.plan.sources(job).items()}
            settings = self.settings(job)
            outcome = self._left_finished(job, inputs)
            self._signals.refuse()
            if outcome is None:
                self._check_disk(job)
                outcome = self.work(job, inputs, settings, lock, self._why(found))
            seconds = _seconds(self.store.workdir(job) / "record")
            artifact = self.store.publish(job, inputs, outcome["metrics"], provenance(settings, seconds))
            self.console.done(job.name, seconds, artifact.metrics)
            return artifact

    def _lock(self, job: Job, held: ExitStack) -> int:
        """Waits for a run of another recipe that makes the same, and for what a killed run left behind; a second run
        of this recipe is refused."""
        said = False
        while True:
            self._signals.refuse()
            try:
                return held.enter_context(self.store.lock(job, self.links.folder))
            except Held as error:
                if not error.other_recipe and not error.left_behind:
                    raise
                if not said:
                    workers = " ".join(map(str, self.store.holders(job))) if error.left_behind else ""
                    self.console.say(f"  waiting: {error}" + (f"; to stop it: kill {workers}" if workers else ""))
                said = True
                time.sleep(_WAIT_SECONDS)

    def settings(self, job: Job) -> LaunchSettings:
        """How wide a job runs."""
        return light_settings(self.plan.recipe.launch) if job.kind in LIGHT_KINDS else self.door(job).settings

    def _checked(self, source: Job) -> Artifact:
        """The artifact of an upstream job, every byte of which was read again in this run."""
        artifact = self.found[source.name].artifact
        assert artifact is not None
        if artifact.path not in self._verified:
            self.store.verify(artifact)
            self._verified.add(artifact.path)
        return artifact

    def _left_finished(self, job: Job, inputs: Mapping[str, Artifact]) -> dict[str, Any] | None:
        """The outcome of a worker that finished after its driver had died, or was started by hand."""
        workdir = self.store.workdir(job)
        task, outcomes = _json(workdir / "task.json"), _outcomes(workdir)
        if not task or not self.store.has_output(job) or [item["outcome"] for item in outcomes] != ["done"]:
            return None
        same = task.get("digests") == {role: artifact.digest for role, artifact in inputs.items()}
        return outcomes[0] if same else None

    def _check_disk(self, job: Job) -> None:
        wanted = estimate(self.plan, job).disk_bytes
        free = shutil.disk_usage(self.store.root).free
        if wanted and wanted > free:
            raise MachineError(
                f"'{job.name}' needs about {wanted / 1e6:,.1f} MB, and {self.store.root} has {free / 1e6:,.1f} free; "
                "make room, or choose another folder by STORE (--store)"
            )

    def work(
        self, job: Job, inputs: Mapping[str, Artifact], settings: LaunchSettings, lock: int, reason: Reason | None
    ) -> dict[str, Any]:
        """Start the worker, show what it does, and read how it ended."""
        door = self.door(job)
        workdir = self.store.prepare(job, inputs, settings.model_dump(mode="json"))
        record = workdir / "record"
        record.mkdir(exist_ok=True)
        self.console.begin(job.name, _spoken(reason), None if job.kind in LIGHT_KINDS else door.line())
        worker = start(door, job.kind, workdir, lock)
        follower = self.console.follow(job.name, record, live=job.kind not in LIGHT_KINDS)
        status = self._signals.wait(worker, follower.tick)
        follower.end()
        return self.judged(job, workdir, ended(job, workdir, status, asked=self._signals.asked))

    def judged(self, job: Job, workdir: Path, outcome: dict[str, Any]) -> dict[str, Any]:
        """The outcome of a job that is done; Failed for any other."""
        if outcome["outcome"] != "done":
            message = f"{job.name}: {outcome['message'].rstrip()}\n  log: {workdir / 'record' / 'log.txt'}"
            raise Failed(message, outcome["outcome"], outcome["exit_code"])
        return outcome


def _waves(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """All light jobs that are ready together, else one of the others; a dataset's filter may need a trained model.
    `jobs`: each after those it reads."""
    left = {job.name: job for job in jobs}
    while left:
        wave: list[Job] = []
        for job in left.values():
            waits = {item.job for item in job.inputs.values()} & left.keys() - {one.name for one in wave}
            if job.kind in LIGHT_KINDS and not waits:
                wave.append(job)
        wave = wave or [next(iter(left.values()))]
        yield wave
        for job in wave:
            del left[job.name]


def ended(job: Job, workdir: Path, status: int, *, asked: bool) -> dict[str, Any]:
    """How a job ended, in the words of the rank that failed first."""
    outcomes = _outcomes(workdir)
    failed = [item for item in outcomes if item["outcome"] != "done"]
    if failed:
        # One rank's fault makes its launcher stop the others: those that were only stopped come last.
        first = min(failed, key=lambda item: (item["outcome"] == "stopped", item["time"]))
        prefix = f"rank {first['rank']}: " if first["rank"] else ""
        return first | {"message": prefix + first["message"]}
    if outcomes:
        return outcomes[0]
    if asked:
        message, outcome, code = "stopped before it had anything to save; run the same command again", "stopped", 75
    elif status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        message, outcome, code = "was killed from outside (SIGKILL), most often for lack of memory", "user_error", 4
    else:
        log = workdir / "record" / "log.txt"
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
        message, outcome, code = "\n".join([f"ended with status {status} and without a word", *tail]), "bug", 1
    return {"outcome": outcome, "message": message, "exit_code": code}


def _outcomes(workdir: Path) -> list[dict[str, Any]]:
    """What the ranks wrote, rank 0 first."""
    return [outcome for path in sorted(workdir.glob("outcome*.json"), reverse=True) if (outcome := _json(path))]


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _spoken(reason: Reason | None) -> str:
    return f"{reason.status}: {reason.text}" if reason and reason.text else ""


def _seconds(record: Path) -> float:
    """What all attempts took together."""
    try:
        lines = (record / "attempts.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return round(sum(json.loads(line)["seconds"] for line in lines), 3)
