"""What an engine is, and the one loop of all: which task is next, what to do when an attempt fails."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from pinnersage_assets.engines.tasks import (
    AttemptFailedError,
    Receipt,
    Task,
    TaskFailedError,
    accept,
    order,
    remove_attempts,
)

ATTEMPTS = 4
"""At each task. A worker that dies counts as much as an error: what kills workers must come to an end too."""

Progress = Callable[[int, int], object]


class Workers(Protocol):
    """Those who carry out the orders of one call."""

    slots: int
    """Orders that may be under way at once."""
    threads: int | None
    """Threads of BLAS that each has, None for as many as there are."""

    def start(self, task: Task, text: str) -> None:
        """Have an order carried out."""

    def finish(self) -> tuple[Task, str | AttemptFailedError]:
        """Wait for one of those under way: its answer, or how its worker was lost."""


class Engine(ABC):
    """Maps kernels over files. What comes out does not depend on which engine does it."""

    def map(
        self,
        kernel: str,
        tasks: Sequence[Task],
        parameters: Mapping[str, Any],
        on_progress: Progress = lambda done, total: None,
    ) -> Iterator[Receipt]:
        """Carry out tasks, in any order, each until it succeeds once.

        Args:
            kernel: ``"package.module:function"``, as of `tasks`.
            tasks: what to do; their keys and destinations are unique.
            parameters: what all tasks share, JSON-able.
            on_progress: called with the tasks done and the tasks in all.

        Yields:
            The receipt of each task, verified, as it is finished. By then the destination is there.

        Raises:
            ValueError: two tasks have the same key or destination.
            TaskFailedError: a task failed as often as it may. No worker is left then, nor what they had begun.
        """
        _check(tasks)
        return self._map(kernel, tasks, parameters, on_progress)

    def _map(
        self, kernel: str, tasks: Sequence[Task], parameters: Mapping[str, Any], on_progress: Progress
    ) -> Iterator[Receipt]:
        if not tasks:
            return
        waiting, causes, running, done = deque(tasks), defaultdict(list), 0, 0
        try:
            with self._workers(len(tasks)) as workers:
                while waiting or running:
                    while waiting and running < workers.slots:
                        task = waiting.popleft()
                        workers.start(task, order(kernel, task, parameters, workers.threads))
                        running += 1
                    task, answer = workers.finish()
                    running -= 1
                    try:
                        if isinstance(answer, AttemptFailedError):
                            raise answer
                        receipt = accept(task, answer)
                    except AttemptFailedError as cause:
                        causes[task.key].append(str(cause))
                        if len(causes[task.key]) == ATTEMPTS:
                            raise _failed(kernel, task, causes[task.key]) from cause
                        # At once: who fails for good should not let all others be done first.
                        waiting.appendleft(task)
                        continue
                    done += 1
                    on_progress(done, len(tasks))
                    yield receipt
        finally:
            remove_attempts(tasks)

    @abstractmethod
    def _workers(self, tasks: int) -> AbstractContextManager[Workers]:
        """The workers for a call of so many tasks; however the block is left, none of them works on."""


def _check(tasks: Sequence[Task]) -> None:
    for what, values in (("key", [t.key for t in tasks]), ("destination", [str(t.destination) for t in tasks])):
        repeated = [value for value, times in Counter(values).items() if times > 1]
        if repeated:
            raise ValueError(f"two tasks must not have the same {what}; {repeated[0]} is there more than once")


def _failed(kernel: str, task: Task, causes: Sequence[str]) -> TaskFailedError:
    distinct = list(dict.fromkeys(causes))
    said = distinct[0] if len(distinct) == 1 else "; ".join(f"({n}) {cause}" for n, cause in enumerate(causes, start=1))
    return TaskFailedError(
        f"task {task.key} of {kernel} failed {len(causes)} times and was given up: {said} (its input was {task.source})"
    )
