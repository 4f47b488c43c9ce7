"""Kernels for the tests of engines, some of which go wrong at their first attempts. Workers import this by name."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
from threadpoolctl import threadpool_info

# Writes, long after whoever started it was killed, what that attempt would have written.
_ZOMBIE = """
import shutil, sys, time
from pathlib import Path
time.sleep(0.3)
other, hidden, done = map(Path, sys.argv[1:])
shutil.copy(other, hidden)
done.touch()
"""


def double(source, destination, parameters):
    begin_attempt(source, parameters)
    rows = pl.read_parquet(source).with_columns(pl.col("value") * parameters["factor"])
    rows.write_parquet(destination)
    return len(rows)


def slow(source, destination, parameters):
    begin_attempt(source, parameters)
    time.sleep(parameters["seconds"])
    rows = pl.read_parquet(source).with_columns(pl.col("value") * parameters["factor"])
    rows.write_parquet(destination)
    return len(rows)


def killed_at_first(source, destination, parameters):
    if wanted(source, parameters) and begin_attempt(source, parameters) == 1:
        destination.write_bytes(b"PAR1 half of a fi")
        os.kill(os.getpid(), signal.SIGKILL)
    return double(source, destination, parameters)


def killed_always(source, destination, parameters):
    if wanted(source, parameters):
        begin_attempt(source, parameters)
        os.kill(os.getpid(), signal.SIGKILL)
    return double(source, destination, parameters)


def undead(source, destination, parameters):
    """Killed at the first attempt, but a part of it lives on and writes the rows of another task."""
    if wanted(source, parameters) and begin_attempt(source, parameters) == 1:
        done = Path(parameters["attempts"]) / "zombie is done"
        command = [sys.executable, "-c", _ZOMBIE, parameters["other"], str(destination), str(done)]
        # In a session of its own: Ray kills what is left of a worker's.
        subprocess.Popen(command, start_new_session=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return double(source, destination, parameters)


def fails_twice(source, destination, parameters):
    if wanted(source, parameters) and (attempt := begin_attempt(source, parameters)) <= 2:
        destination.write_bytes(b"half of a file")
        raise OSError(f"attempt {attempt} found the disk gone")
    return double(source, destination, parameters)


def fails_always(source, destination, parameters):
    if wanted(source, parameters):
        begin_attempt(source, parameters)
        destination.write_bytes(b"half of a file")
        raise ValueError("vectors contain NaN")
    return double(source, destination, parameters)


def lies(source, destination, parameters):
    return double(source, destination, parameters) + wanted(source, parameters)


def lies_once(source, destination, parameters):
    return double(source, destination, parameters) + (wanted(source, parameters) and attempts(source, parameters) == 1)


def writes_nothing(source, destination, parameters):
    return 0


def talks(source, destination, parameters):
    print("{}")
    subprocess.run(["echo", "not an answer"], check=True)
    assert sys.stdin is None or not sys.stdin.read(1)
    return double(source, destination, parameters)


def tells(source, destination, parameters):
    pools = [pool["num_threads"] for pool in threadpool_info()]
    told = pl.DataFrame({"threads": [max(pools)], "process": [os.getpid()], "polars": [pl.thread_pool_size()]})
    told.write_parquet(destination)
    return 1


def begin_attempt(source, parameters):
    """Enter an attempt at a task, with the process and the node; its number from 1."""
    number = attempts(source, parameters) + 1
    path = Path(parameters["attempts"]) / f"{source.stem} {number}"
    path.write_text(json.dumps({"process": os.getpid(), "node": node_of_this_process()}))
    return number


def node_of_this_process():
    if "ray" not in sys.modules:
        return None
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else None


def attempts(source, parameters):
    return len(list(Path(parameters["attempts"]).glob(f"{source.stem} *")))


def wanted(source, parameters):
    """Whether this is the task that goes wrong."""
    return source.stem == parameters.get("wrong")
