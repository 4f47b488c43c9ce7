"""The engine for a machine of few processors: one task after another, with all threads of BLAS."""

from collections.abc import Generator
from contextlib import contextmanager

from pinnersage_assets.engines.engine import Engine
from pinnersage_assets.engines.tasks import Task, perform


class InProcess(Engine):
    """Runs kernels here; what kills a worker elsewhere kills the run."""

    @contextmanager
    def _workers(self, tasks: int) -> Generator["_Self"]:
        yield _Self()


class _Self:
    slots = 1
    threads = None

    def start(self, task: Task, text: str) -> None:
        self._next = task, text

    def finish(self) -> tuple[Task, str]:
        task, text = self._next
        return task, perform(text)
