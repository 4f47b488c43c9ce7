"""The engine for a machine of many processors: processes of one thread each.

Each worker has its own pipe rather than a place in a pool of `concurrent.futures`: when one is killed, by the kernel
for want of memory for example, it is known which task it had, and the others go on. They are started by name and not
by `multiprocessing`, so that the limits on threads are in their environment before any library is loaded, and nothing
of the caller's is imported or forked.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from pinnersage_assets.engines.engine import Engine
from pinnersage_assets.engines.tasks import AttemptFailedError, Task

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "POLARS_MAX_THREADS"), "1"
)
"""Variables that libraries read as they load."""


class Processes(Engine):
    """Runs kernels in so many processes on this machine."""

    def __init__(self, workers: int = 0) -> None:
        """``workers``: how many; 0 means one a processor that this process may use."""
        self.workers = workers or len(os.sched_getaffinity(0))

    @contextmanager
    def _workers(self, tasks: int) -> Generator["_Pool"]:
        pool = _Pool(min(tasks, self.workers))
        try:
            yield pool
        finally:
            pool.close()


class _Pool:
    threads = 1

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._idle: list[_Worker] = []
        self._busy = selectors.DefaultSelector()

    def start(self, task: Task, text: str) -> None:
        worker = self._idle.pop() if self._idle else _Worker()
        worker.send(text)
        self._busy.register(worker.answers, selectors.EVENT_READ, (worker, task))

    def finish(self) -> tuple[Task, str | AttemptFailedError]:
        (key, _), *_ = self._busy.select()
        self._busy.unregister(key.fileobj)
        worker, task = key.data
        answer = worker.receive()
        if isinstance(answer, str) and '"error"' not in answer:
            self._idle.append(worker)
        else:
            # The next attempt must not meet what went wrong in this process.
            worker.close()
        return task, answer

    def close(self) -> None:
        """Kill all: who is still at work when this is called works for nobody."""
        for worker in [*self._idle, *(key.data[0] for key in self._busy.get_map().values())]:
            worker.close()
        self._busy.close()


class _Worker:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pinnersage_assets.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.orders, self.answers = self.process.stdin, self.process.stdout

    def send(self, text: str) -> None:
        # Who died while idle is noticed when the answer is read.
        with contextlib.suppress(BrokenPipeError):
            self.orders.write(text.encode() + b"\n")
            self.orders.flush()

    def receive(self) -> str | AttemptFailedError:
        line = self.answers.readline()
        return line.decode() if line.endswith(b"\n") else AttemptFailedError(_epitaph(self.process.wait()))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.orders, self.answers):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _environment() -> Mapping[str, str]:
    # What this process can import, its workers can.
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def _epitaph(code: int) -> str:
    if code >= 0:
        return f"its worker ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ": for want of memory? Smaller buckets (engine.rows_a_bucket) or fewer workers (engine.workers) take less"
    return f"its worker was killed by {name}{hint if -code == signal.SIGKILL else ''}"
