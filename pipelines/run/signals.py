"""Ctrl+C and SIGTERM at the driver: every running job is asked to stop, and how often."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipelines.errors import Stopped
from pipelines.run.launcher import Worker, gone, stop

_POLL_SECONDS = 0.05
_INSIST_SECONDS = 1.0


class Signals:
    """Signals reach the groups of all running jobs, once; a second Ctrl+C ends them at once."""

    def __init__(self) -> None:
        self.asked = False
        self._workers: dict[int, Worker] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While jobs run."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def refuse(self) -> None:
        """Raise Stopped if anybody asked to stop."""
        if self.asked:
            raise Stopped("stopped between two jobs; run the same command again to go on")

    def wait(self, worker: Worker, tick: Callable[[], None]) -> int:
        """Until every process of the job has ended; the status of its leader."""
        self._workers[worker.pid] = worker
        asked_at = 0.0
        try:
            while (status := worker.wait(_POLL_SECONDS)) is None:
                tick()
                # Once for a launcher; again and again for a worker, where a signal may be lost inside a destructor.
                if self.asked and (not asked_at or (worker.single and time.monotonic() - asked_at > _INSIST_SECONDS)):
                    asked_at = time.monotonic()
                    stop(worker)
            while status != 0 and not gone(worker):  # a launcher may end before its ranks, which are still saving
                tick()
                time.sleep(_POLL_SECONDS)
        finally:
            del self._workers[worker.pid]
        return status

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if not again or number != signal.SIGINT:
            return  # whoever waits for a job passes it on
        for worker in list(self._workers.values()):
            stop(worker, signal.SIGKILL)
        if not self._workers:
            raise KeyboardInterrupt
