"""Work in shards: a part in, a part out, each whole or not at all, on processes of this machine or on a Ray cluster.

What the parts are is decided by the data alone, so the result does not depend on how many workers there are, nor on
where they are. A part that is there is not made again: a run that was killed goes on with the next one."""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import MachineError
from pipelines.store.durable import sync_tree

SHARD_BYTES = 64 << 20
"""Of input, about: some seconds of work, which is what a kill costs."""
TRIES = 3
"""Times that a part may lose its worker before the run gives up."""

PROGRESS = "progress.jsonl"
"""Of a job's record: pass (of the work over all parts), step, max_steps, seconds_left (of this pass)."""

Work = Callable[[Mapping[str, Any], Path], None]
"""Makes one part, described by JSON values, in an empty folder. A function of a module: workers import it by name."""


Engine = Literal["local", "ray"]


def make_shards(
    work: Work, parts: Sequence[Mapping[str, Any]], folder: Path, *, engine: Engine, workers: int, record: Path
) -> list[Path]:
    """The folder of every part, in their order. Exceptions of `work` come out of here. `workers`: processes of this
    machine; a Ray cluster has as many as it has cores. In `record` a line of JSON is left for each part.

    MachineError where workers die again and again, or where Ray is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    folders = [folder / f"{number:05d}-{_digest(part)}" for number, part in enumerate(parts)]
    for other in set(folder.iterdir()) - set(folders):  # of a kill in the middle, or of other code
        shutil.rmtree(other)
    missing = [(part, path) for part, path in zip(parts, folders, strict=True) if not path.exists()]
    if len(missing) < len(parts):
        print(f"{len(parts) - len(missing)} of {len(parts)} parts are there", flush=True)
    if engine == "ray":
        finished = _on_ray(work, missing)
    elif workers > 1 and len(missing) > 1:
        finished = _on_processes(work, missing, workers)
    else:
        finished = _here(work, missing)
    progress = _Progress(folder.name, record, len(parts), len(parts) - len(missing))
    for _ in finished:
        progress.step()
    lost = [path for path in folders if not path.exists()]
    if lost:
        raise MachineError(
            f"{lost[0]}: made by a worker on another machine, and not to be seen here; all machines of the cluster "
            "need the store's folder (--store), on a file system that they share"
        )
    return folders


class _Progress:
    """Says after each of several parts how far the work is and, from the pace of this run, how long it will take."""

    def __init__(self, name: str, record: Path, parts: int, done: int):
        self.name, self.parts, self.done, self.there = name, parts, done, done
        self.record, self.started = record, time.monotonic()

    def step(self) -> None:
        self.done += 1
        if self.parts == 1:
            return
        print(f"{self.name}: part {self.done} of {self.parts}", flush=True)
        seconds = time.monotonic() - self.started
        left = seconds * (self.parts - self.done) / (self.done - self.there)
        told = {"pass": self.name, "step": self.done, "max_steps": self.parts, "seconds_left": round(left, 1)}
        self.record.mkdir(parents=True, exist_ok=True)
        with (self.record / PROGRESS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(told) + "\n")


def grouped(sizes: Sequence[int], most: int = SHARD_BYTES) -> Iterator[list[int]]:
    """Numbers of neighbours that come to about `most` bytes together."""
    group: list[int] = []
    total = 0
    for number, size in enumerate(sizes):
        if group and total + size > most:
            yield group
            group, total = [], 0
        group.append(number)
        total += size
    if group:
        yield group


def _digest(part: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]


def _make(work: Work, part: Mapping[str, Any], final: Path) -> None:
    """The folder appears with one rename, when everything in it is on the disk."""
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    work(part, partial)
    sync_tree(partial)
    if final.exists():  # a worker that was thought lost has made it after all, with the same bytes
        shutil.rmtree(partial)
    else:
        partial.rename(final)


def _here(work: Work, parts: Sequence[tuple[Mapping[str, Any], Path]]) -> Iterator[None]:
    for part, path in parts:
        _make(work, part, path)
        yield


# --- on this machine --------------------------------------------------------------------------------------------------


def _on_processes(work: Work, parts: Sequence[tuple[Mapping[str, Any], Path]], number: int) -> Iterator[None]:
    for _ in range(TRIES):
        left = [(part, path) for part, path in parts if not path.exists()]
        if not left:
            return
        # Forked processes would copy locks of threads that libraries have started.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(number, len(left)), mp_context=context, initializer=_in_one_thread) as pool:
            futures = [pool.submit(_make, work, part, path) for part, path in left]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool:
                continue
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    raise MachineError(
        f"a worker was killed {TRIES} times over; if memory was short, take fewer of them (launch.workers: 1)"
    )


def _in_one_thread() -> None:
    """There is a process for each core: threads of tokenizers beside it would only wait for each other."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


# --- on a cluster -----------------------------------------------------------------------------------------------------


def _on_ray(work: Work, parts: Sequence[tuple[Mapping[str, Any], Path]]) -> Iterator[None]:
    try:
        import ray
    except ImportError:
        raise MachineError("launch.engine is ray, which is not installed: pip install '.[ray]'") from None
    if not ray.is_initialized():
        # RAY_ADDRESS names the cluster, as everywhere with Ray; without it one starts on this machine.
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    make = ray.remote(_make_in_one_thread).options(num_cpus=1, max_retries=TRIES)
    waiting = [make.remote(work, dict(part), path.resolve()) for part, path in parts]
    while waiting:
        done, waiting = ray.wait(waiting)
        for one in done:
            try:
                yield ray.get(one)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
                raise MachineError(f"a worker of the cluster was lost {TRIES} times over: {error}") from error


def _make_in_one_thread(work: Work, part: Mapping[str, Any], final: Path) -> None:
    _in_one_thread()  # Ray has a process for each core too, and starts it by itself
    _make(work, part, final)


def place(path: Path, final: Path) -> None:
    """A part's file as one of the whole's, without a second copy of its bytes where the file system can."""
    try:
        final.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, final)
