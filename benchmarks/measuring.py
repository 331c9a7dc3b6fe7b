"""Text to measure on, and what a call costs in a process of its own: processor time and memory with its children."""

import gzip
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

DOCUMENT = 3_000
"""Characters from which on a document ends with its line."""
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}


class Cost:
    """Processor seconds of this process and of its children that have ended, between two moments."""

    def __enter__(self) -> "Cost":
        self._before, self._started = _cpu_seconds(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.cpu_seconds = _cpu_seconds() - self._before
        self.wall_seconds = time.perf_counter() - self._started
        self.peak_rss = 0

    def rounded(self, size: int) -> dict[str, float]:
        """For a report; `size` in bytes."""
        return {
            "mb_per_cpu_second": round(size / 1e6 / self.cpu_seconds, 2),
            "mb_per_second": round(size / 1e6 / self.wall_seconds, 2),
            "peak_rss_gb": round(self.peak_rss / 1e9, 3),
        }


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measured(work: Callable[..., Any], *arguments: Any) -> tuple[Any, Cost]:
    """What a call gives in a new process, and its cost; `peak_rss` in bytes, over its whole tree of processes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        root = psutil.Process(pool.submit(_pid).result())
        watch, ended = _Watch(root), Event()
        thread = Thread(target=watch.run, args=(ended,))
        thread.start()
        try:
            result, cost = pool.submit(_costed, work, arguments).result()
        finally:
            ended.set()
            thread.join()
    cost.peak_rss = watch.peak
    return result, cost


def _pid() -> int:
    return psutil.Process().pid


def _costed(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Cost]:
    with Cost() as cost:
        result = work(*arguments)
    return result, cost


class _Watch:
    def __init__(self, root: psutil.Process):
        self.root, self.peak = root, 0

    def run(self, ended: Event) -> None:
        while not ended.wait(0.1):
            total = 0
            for process in [self.root, *self.root.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


# --- text -------------------------------------------------------------------------------------------------------------


def documents(source: Path | None) -> Iterator[str]:
    """Documents of a few kB without empty lines, of text files, or of stories of the built-in world."""
    if source is None:
        from pipelines.data.microworld import generate

        yield from _cut(line for row in generate("text", "train", 5_000) for line in row["text"].split("\n"))
        return
    for path in sorted(source.glob("*.txt*")) if source.is_dir() else [source]:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
        yield from _cut(line.rstrip("\r") for line in text.split("\n"))


def _cut(lines: Iterable[str]) -> Iterator[str]:
    kept: list[str] = []
    size = 0
    for line in lines:
        if line.strip():
            kept.append(line)
            size += len(line) + 1
        if size >= DOCUMENT:
            yield "\n".join(kept)
            kept, size = [], 0
    if kept:
        yield "\n".join(kept)


def write_repeated(base: Iterable[str], path: Path, size: str | int) -> Path:
    """The documents again and again, with empty lines between them, in one file of about so many bytes (`64M`), and
    at least once."""
    block = "".join(f"{text}\n\n" for text in base).encode()
    wanted = num_bytes(size) if isinstance(size, str) else size
    with path.open("wb") as file:
        for _ in range(max(1, round(wanted / len(block)))):
            file.write(block)
    return path


def num_bytes(size: str) -> int:
    """64M as a number."""
    return int(float(size[:-1]) * UNITS[size[-1].upper()]) if size[-1].upper() in UNITS else int(size)


def num_bytes_of(dataset: Path) -> int:
    """Bytes of a data artifact's text."""
    import json

    return int(json.loads((dataset / "info.json").read_text())["bytes"])
