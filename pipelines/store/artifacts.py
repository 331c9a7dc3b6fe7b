"""Finished work, addressed by what decided it: find, lock, publish, link."""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import ArtifactError, MachineError
from pipelines.plan.jobs import Job, Plan
from pipelines.store.durable import MANIFEST, Damaged, publish, read_manifest, verify, write_json

State = Literal["absent", "partial", "complete", "damaged"]

_BESIDE = ("output", "record")
"""What of a working folder becomes part of the artifact."""
_RUNS = ".runs.json"
_FOLDER = re.compile(rf"[a-z]+-[0-9a-f]{{{Job.PREFIX}}}")


@dataclass(frozen=True)
class Artifact:
    """A finished, immutable folder."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def output(self) -> Path:
        """What the job made: the folder that consumers are given."""
        return self.path / "output"

    @property
    def record(self) -> Path:
        """log.txt, metrics.jsonl and the like."""
        return self.path / "record"

    @property
    def metrics(self) -> Mapping[str, float | int | str]:
        return self.manifest["metrics"]

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.manifest["provenance"]

    @property
    def digest(self) -> str:
        """sha256 over the table of files: equal bytes, equal digest."""
        return self.manifest["digest"]

    @property
    def inputs(self) -> Mapping[str, Mapping[str, str]]:
        """Role -> {job, fingerprint, digest} of what was read."""
        return self.manifest["inputs"]


class ArtifactStore:
    """`<root>/<kind>-<fingerprint>/`. An artifact exists once its manifest does, and one rename brings both."""

    def __init__(self, root: Path):
        self.root = root.resolve()

    def create(self) -> None:
        """The folder itself, which must be one that can be written into."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / ".locks").mkdir(exist_ok=True)
            if not os.access(self.root, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "no permission to write", str(self.root))
        except OSError as error:
            message = (
                f"{self.root}: finished work cannot be kept here: {error.strerror}; choose a folder by STORE (--store)"
            )
            raise MachineError(message) from None

    def require(self) -> None:
        """For verbs that only read: without this, a misspelt path would pass for a store with nothing in it."""
        if not self.artifacts() and not (self.root / ".locks").is_dir():
            raise ArtifactError(
                f"{self.root}: there is no store of finished work here; run a recipe first, or name the folder by "
                "STORE (--store)"
            )

    def path(self, job: Job) -> Path:
        return self.root / job.folder

    def state(self, job: Job) -> State:
        if self.path(job).exists():
            return "complete" if self.find(job) else "damaged"
        return "partial" if self.workdir(job).exists() else "absent"

    def find(self, job: Job) -> Artifact | None:
        """The finished artifact whose files have the sizes that the manifest says, or None."""
        try:
            return self.open(self.path(job))
        except Damaged:
            return None

    def open(self, path: Path) -> Artifact:
        """The artifact in a folder; Damaged, naming the file, when a size is wrong or a file is missing."""
        manifest = verify(path, contents=False)
        missing = sorted({"kind", "fingerprint", "job", "inputs", "metrics", "provenance", "digest"} - set(manifest))
        if missing:
            raise Damaged(f"{path / MANIFEST}: has no {', '.join(missing)}")
        return Artifact(path, manifest)

    def damage(self, job: Job) -> str:
        """What is wrong with a damaged artifact."""
        try:
            self.open(self.path(job))
        except Damaged as error:
            return str(error)
        return ""

    def verify(self, artifact: Artifact) -> None:
        """Read every byte again. Raises ArtifactError, naming the file."""
        try:
            verify(artifact.path)
        except Damaged as error:
            raise ArtifactError(f"{error}; delete {artifact.path} and run again to rebuild it") from None

    def workdir(self, job: Job) -> Path:
        """Where this job works. The path is stable, so a job that runs again finds its own checkpoints."""
        return self.root / ".partial" / job.folder

    def prepare(self, job: Job, inputs: Mapping[str, Artifact], launch: Mapping[str, Any]) -> Path:
        """The working folder with its task.json; checkpoints of an earlier attempt stay."""
        workdir = self.workdir(job)
        workdir.mkdir(parents=True, exist_ok=True)
        if self._staging(job).exists():
            shutil.rmtree(self._staging(job))
        for old in workdir.glob("outcome*.json"):
            old.unlink()
        task = {
            "job": job.model_dump(mode="json"),
            "inputs": {role: str(artifact.output) for role, artifact in inputs.items()},
            "digests": {role: artifact.digest for role, artifact in inputs.items()},
            "launch": launch,
        }
        write_json(workdir / "task.json", task)
        return workdir

    def publish(
        self,
        job: Job,
        inputs: Mapping[str, Artifact],
        metrics: Mapping[str, float | int | str],
        provenance: Mapping[str, Any],
    ) -> Artifact:
        """Turn a finished working folder into the artifact: its output and its record, in one rename."""
        workdir, staging = self.workdir(job), self._staging(job)
        if not self.has_output(job):
            raise ArtifactError(f"'{job.name}' ended without writing anything to {workdir / 'output'}")
        staging.mkdir(exist_ok=True)
        for name in _BESIDE:  # one of them may be here from an attempt that was killed
            if (workdir / name).exists():
                shutil.rmtree(staging / name, ignore_errors=True)
                (workdir / name).rename(staging / name)
        fields = {
            "kind": job.kind,
            "name": job.name,
            "version": job.config.version,
            "fingerprint": job.fingerprint,
            "job": job.model_dump(mode="json"),
            "inputs": {
                role: {"job": item.job, "fingerprint": item.fingerprint, "digest": inputs[role].digest}
                for role, item in job.inputs.items()
            },
            "metrics": dict(metrics),
            "provenance": dict(provenance),
        }
        manifest = publish(staging, self.path(job), fields=fields, content="output")
        shutil.rmtree(workdir)
        return Artifact(self.path(job), manifest)

    def has_output(self, job: Job) -> bool:
        """Whether there is anything to publish."""
        folders = (self.workdir(job) / "output", self._staging(job) / "output")
        return any(path.is_file() for folder in folders for path in folder.rglob("*"))

    def _staging(self, job: Job) -> Path:
        return self.root / ".partial" / f".publish-{job.folder}"

    @contextmanager
    def lock(self, job: Job, run: Path | None = None) -> Iterator[int]:
        """One writer per artifact; Held where there is one. Yields the descriptor to hand to the worker: held until
        the last holder is gone. `run` is the folder of links that the job is made for."""
        descriptor = self._acquire(job, str(run.resolve()) if run else None)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def holders(self, job: Job) -> list[int]:
        """Processes that have a job's lock, as far as one may know."""
        import psutil

        path, found = str(self.lock_path(job)), []
        for process in psutil.process_iter():
            try:
                if any(file.path == path for file in process.open_files()):
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found

    def lock_path(self, job: Job) -> Path:
        return self.root / ".locks" / f"{job.folder}.lock"

    def _acquire(self, job: Job, run: str | None) -> int:
        path = self.lock_path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _held(job, path, run) from None
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": " ".join(sys.argv),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": run,
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        return descriptor

    def register(self, run: Path) -> None:
        """Remember a folder of links, so that cleaning from elsewhere spares what they point to."""
        if run.resolve() in self.run_folders():
            return
        lock = self.root / ".locks" / "runs.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("ab") as held:  # of two runs that begin at once, neither forgets the other
            fcntl.flock(held, fcntl.LOCK_EX)
            write_json(self.root / _RUNS, sorted(map(str, {*self.run_folders(), run.resolve()})))

    def run_folders(self) -> set[Path]:
        """Folders `runs/` that link into this store."""
        try:
            return {Path(path) for path in json.loads((self.root / _RUNS).read_text(encoding="utf-8"))}
        except (OSError, ValueError, TypeError):
            return set()

    def artifacts(self) -> list[Path]:
        """Every folder that was published, whole or damaged."""
        return _folders(self.root)

    def begun(self) -> list[Path]:
        """Every folder of unfinished work."""
        return _folders(self.root / ".partial")


def _folders(root: Path) -> list[Path]:
    """What a job is the owner of. Somebody may name his home as the store: nothing else in it is ours to judge."""
    if not root.is_dir():
        return []
    found = (path for path in root.iterdir() if _FOLDER.fullmatch(path.name.removeprefix(".publish-")))
    return sorted(path for path in found if path.is_dir())


class Held(ArtifactError):
    """Somebody else makes the artifact just now."""

    def __init__(self, message: str, *, other_recipe: bool = False, left_behind: bool = False):
        super().__init__(message)
        self.other_recipe, self.left_behind = other_recipe, left_behind
        """Whether it is made for another recipe, which happens to need the same; by the worker of a killed run."""


def _held(job: Job, path: Path, run: str | None) -> Held:
    """Who wrote himself into a lock file."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {owner['pid']} on {owner['host']}, since {owner['since']} ({owner['command']})"
        other = None not in (run, owner["run"]) and run != owner["run"]
        gone = owner["host"] == socket.gethostname() and not _lives(owner["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        who, other, gone = f"its lock is {path}", False, False
    if gone:
        return Held(
            f"'{job.name}' is being made by the worker of a run that was killed ({who})",
            other_recipe=other,
            left_behind=True,
        )
    return Held(f"'{job.name}' is being made by another run: {who}", other_recipe=other)


def _lives(pid: int) -> bool:
    """Whether a process of this machine has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Links:
    """`runs/<recipe>/<job>`: readable names for the artifacts of a run."""

    def __init__(self, folder: Path):
        self.folder = folder

    def point(self, name: str, artifact: Artifact) -> bool:
        """Point a name at an artifact, replacing what it pointed at in one step. Says whether that was new."""
        self.folder.mkdir(parents=True, exist_ok=True)
        link = self.folder / name
        target = os.path.relpath(artifact.path, self.folder.resolve())
        if link.is_symlink() and str(link.readlink()) == target:
            return False
        fresh = self.folder / f".{name}.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)
        return True

    def keep_only(self, names: set[str]) -> None:
        """Drop links of jobs that the recipe no longer has."""
        for link in self.folder.glob("*"):
            if link.is_symlink() and link.name not in names:
                link.unlink()

    def manifest(self, name: str, store: ArtifactStore) -> dict[str, Any] | None:
        """The manifest behind a name, if it can still be read and is of this store."""
        if (self.folder / name).resolve().parent != store.root:
            return None
        try:
            return read_manifest(self.folder / name)
        except Damaged:
            return None


@dataclass(frozen=True)
class Found:
    """What the store says about one job of a plan."""

    job: Job
    state: State
    artifact: Artifact | None
    """Of a complete job, and only when its inputs still have the bytes that it was made from."""
    changed_input: str | None = None
    """The upstream job whose bytes differ from those that the finished artifact was made from."""


def survey(plan: Plan, store: ArtifactStore) -> dict[str, Found]:
    """Job name -> what the store has."""
    found: dict[str, Found] = {}
    for job in plan.jobs:
        found[job.name] = look(job, store, found)
    return found


def look(job: Job, store: ArtifactStore, upstream: Mapping[str, Found]) -> Found:
    """One job. Its artifact counts while its inputs, as far as they are in the store, have the same bytes."""
    artifact = store.find(job)
    if artifact is None:
        return Found(job, store.state(job), None)
    for role, item in job.inputs.items():
        above = upstream.get(item.job)
        recorded = artifact.inputs.get(role, {}).get("digest")
        if above and (above.changed_input or (above.artifact and above.artifact.digest != recorded)):
            return Found(job, "complete", None, changed_input=item.job)
    return Found(job, "complete", artifact)
