"""What every engine promises, whatever happens to its workers."""

import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from pinnersage_assets.engines.engine import ATTEMPTS
from pinnersage_assets.engines.in_process import InProcess
from pinnersage_assets.engines.tasks import Task, TaskFailedError, checksum, verify


def run(engine, work, kernel, **parameters):
    return list(engine.map(f"engine_kernels:{kernel}", work.tasks, {**work.parameters, **parameters}))


def workers_left() -> list[str]:
    """The worker processes that this process has, those that nobody has waited for included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
            command = (path.parent / "cmdline").read_text()
        except OSError:
            continue
        if parent == str(os.getpid()) and "engines.worker" in command:
            found.append(command)
    return found


def test_each_task_is_done_once_and_its_receipt_is_true(engine, work):
    progress = []
    receipts = list(
        engine.map("engine_kernels:double", work.tasks, work.parameters, lambda *done: progress.append(done))
    )
    assert work.results() == work.doubled()
    assert work.leftovers() == []
    assert {receipt.key: receipt.rows for receipt in receipts} == {str(n): n + 1 for n in range(5)}
    assert {r.key: r.checksum for r in receipts} == {t.key: checksum(t.destination) for t in work.tasks}
    assert all(0 < receipt.seconds < 60 for receipt in receipts)
    assert [work.attempts(n) for n in range(5)] == [1] * 5
    assert progress == [(done, 5) for done in range(1, 6)]
    assert workers_left() == []


def test_without_tasks_nothing_is_started(engine, work):
    assert list(engine.map("engine_kernels:double", [], {})) == []


def test_a_worker_that_is_killed_costs_its_task_an_attempt_and_nothing_else(remote_engine, work):
    assert len(run(remote_engine, work, "killed_at_first", wrong="2")) == 5
    assert work.results() == work.doubled()
    # The second attempt at the task enters itself twice.
    assert [work.attempts(n) for n in range(5)] == [1, 1, 3, 1, 1]
    assert work.leftovers() == []
    assert workers_left() == []


def test_what_kills_its_worker_every_time_is_given_up(remote_engine, work):
    with pytest.raises(TaskFailedError, match=r"task 1 of engine_kernels:killed_always failed 4 times") as error:
        run(remote_engine, work, "killed_always", wrong="1")
    assert work.attempts(1) == ATTEMPTS
    assert max(work.attempts(n) for n in (0, 2, 3, 4)) == 1
    assert "SIGKILL" in str(error.value) or "Ray lost it" in str(error.value)
    assert work.leftovers() == workers_left() == []


def test_an_attempt_that_lives_on_after_its_end_changes_nothing(remote_engine, work):
    receipts = run(remote_engine, work, "undead", wrong="2", other=str(work.tasks[0].source))
    deadline = time.monotonic() + 10
    while not (work.folder / "attempts" / "zombie is done").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert work.results() == work.doubled()
    for receipt in receipts:
        verify(work.tasks[int(receipt.key)].destination, receipt)


def test_a_task_that_fails_twice_succeeds_in_the_end(engine, work):
    assert len(run(engine, work, "fails_twice", wrong="3")) == 5
    assert work.results() == work.doubled()
    assert work.attempts(3) == 4  # two that failed, and one that entered itself twice
    assert work.leftovers() == []


def test_a_task_that_always_fails_says_which_and_why(engine, work):
    message = (
        r"^task 3 of engine_kernels:fails_always failed 4 times and was given up: ValueError: vectors contain NaN "
        r"\(its input was .*/from/3.parquet\)$"
    )
    with pytest.raises(TaskFailedError, match=message) as error:
        run(engine, work, "fails_always", wrong="3")
    # Where in the kernel, for who has to mend it.
    assert "in fails_always" in "".join(error.value.__cause__.__notes__)
    assert work.attempts(3) == ATTEMPTS
    assert not work.tasks[3].destination.exists()
    assert work.leftovers() == workers_left() == []


@pytest.mark.parametrize(
    ("kernel", "cause"),
    [
        ("engine_kernels:lies", r"/\.3\.parquet\.\w+\.tmp has 4 rows, its receipt says 5"),
        ("engine_kernels:writes_nothing", "FileNotFoundError: .*"),
        ("engine_kernels:absent", "ImportError: there is no kernel 'engine_kernels:absent'"),
        ("absent_module:kernel", "ImportError: there is no kernel 'absent_module:kernel'"),
        ("no_function", "ImportError: there is no kernel 'no_function', which should be package.module:function"),
    ],
)
def test_what_cannot_be_believed_is_given_up(engine, work, kernel, cause):
    with pytest.raises(TaskFailedError, match=rf"task \d of {kernel} failed 4 times .*{cause}"):
        list(engine.map(kernel, work.tasks[3:4], {**work.parameters, "wrong": "3"}))
    assert [path.name for path in (work.folder / "to").iterdir()] == []


def test_a_receipt_that_lies_is_an_attempt_that_failed(engine, work):
    assert len(run(engine, work, "lies_once", wrong="3")) == 5
    assert work.results() == work.doubled()
    assert work.attempts(3) == 2
    assert work.leftovers() == []


@pytest.mark.parametrize("damage", ["a byte", "cut", "gone"])
def test_a_file_that_is_damaged_after_its_receipt_is_made_again(engine, work, monkeypatch, damage):
    unharmed, damaged = engine._workers, []

    @contextmanager
    def harmed(tasks):
        with unharmed(tasks) as workers:
            finish = workers.finish

            def finish_and_damage():
                task, text = finish()
                if task.key == "4" and not damaged:
                    damaged.append(task)
                    path = task.destination.with_name(f".4.parquet.{json.loads(text)['attempt']}.tmp")
                    content = bytearray(path.read_bytes())
                    content[20] ^= 1
                    {
                        "a byte": lambda: path.write_bytes(content),
                        "cut": lambda: path.write_bytes(content[:50]),
                        "gone": path.unlink,
                    }[damage]()
                return task, text

            workers.finish = finish_and_damage
            yield workers

    monkeypatch.setattr(engine, "_workers", harmed)
    assert len(run(engine, work, "double")) == 5
    assert damaged
    assert work.attempts(4) == 2
    assert work.results() == work.doubled()
    assert work.leftovers() == []


def test_who_stops_asking_leaves_nothing_behind(engine, work):
    receipts = engine.map("engine_kernels:slow", work.tasks, {**work.parameters, "seconds": 0.05})
    next(receipts)
    receipts.close()
    assert work.leftovers() == workers_left() == []


def test_what_a_kernel_prints_is_no_answer(remote_engine, work):
    assert len(run(remote_engine, work, "talks")) == 5
    assert work.results() == work.doubled()


def test_workers_have_one_thread_each(remote_engine, work):
    run(remote_engine, work, "tells")
    told = pl.concat(pl.read_parquet(task.destination) for task in work.tasks)
    assert set(told["threads"]) == set(told["polars"]) == {1}
    assert os.getpid() not in set(told["process"])


def test_tasks_with_the_same_key_or_destination_are_refused(work):
    first, second, *_ = work.tasks
    with pytest.raises(ValueError, match="two tasks must not have the same key; 0 is there more than once"):
        InProcess().map("engine_kernels:double", [first, Task("0", first.source, second.destination)], {})
    with pytest.raises(ValueError, match=r"two tasks must not have the same destination; .*0\.parquet is there"):
        InProcess().map("engine_kernels:double", [first, Task("1", first.source, first.destination)], {})


@pytest.mark.slow
def test_tasks_of_a_node_that_is_removed_are_done_on_another(work, cluster):
    from pinnersage_assets.engines.on_ray import OnRay

    node = cluster.add_node(num_cpus=3, object_store_memory=80 * 2**20)
    began = work.folder / "attempts"

    def remove():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if any(json.loads(path.read_text() or "{}").get("node") == node.node_id for path in began.iterdir()):
                break
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)

    remover = threading.Thread(target=remove)
    remover.start()
    receipts = run(OnRay(), work, "slow", seconds=1.0)
    remover.join()
    assert len(receipts) == 5
    assert work.results() == work.doubled()
    nodes = [json.loads(path.read_text())["node"] for path in began.iterdir()]
    assert 0 < nodes.count(node.node_id) < len(nodes)
    assert len(nodes) > 5
    assert work.leftovers() == []
