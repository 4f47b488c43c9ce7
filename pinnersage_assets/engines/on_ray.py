"""The engine for more machines than one: plain tasks on a Ray cluster.

Data travels as files, on a disk that all nodes share under the same paths; through Ray go orders and answers alone.
Ray's own retries are off: the loop of all engines tries again whatever failed, a lost node or an error, and counts.
"""

import contextlib
import os
from collections.abc import Generator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from pinnersage_assets.engines.engine import Engine
from pinnersage_assets.engines.processes import ONE_THREAD
from pinnersage_assets.engines.tasks import AttemptFailedError, Task, perform

# Enough for the autoscaler to see what is wanted, few enough for the scheduler.
_UNDER_WAY = 1000


class OnRay(Engine):
    """Runs kernels on the cluster that this process is connected to."""

    @contextmanager
    def _workers(self, tasks: int) -> Generator["_Cluster"]:
        cluster = _Cluster()
        try:
            yield cluster
        finally:
            cluster.cancel()


class _Cluster:
    slots = _UNDER_WAY
    threads = 1

    def __init__(self) -> None:
        self._tasks: dict[ray.ObjectRef, Task] = {}
        self._perform = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(_perform_on_one_thread)

    def start(self, task: Task, text: str) -> None:
        self._tasks[self._perform.options(name=f"task {task.key}").remote(text)] = task

    def finish(self) -> tuple[Task, str | AttemptFailedError]:
        [done], _ = ray.wait(list(self._tasks), num_returns=1)
        task = self._tasks.pop(done)
        try:
            return task, ray.get(done)
        except RayError as error:
            return task, AttemptFailedError(f"Ray lost it: {type(error).__name__}: {' '.join(str(error).split())}")

    def cancel(self) -> None:
        """Stop what is still under way."""
        for reference in self._tasks:
            with contextlib.suppress(RayError):
                ray.cancel(reference, force=True)


def _perform_on_one_thread(text: str) -> str:
    for variable, value in ONE_THREAD.items():
        os.environ[variable] = value
    return perform(text)
