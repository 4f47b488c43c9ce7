"""A task, and how the result of one is believed: what all engines share, on both sides of the wire.

A kernel is a function ``kernel(source, destination, parameters) -> rows`` that reads one file and writes one Parquet
file; it is named by its import path, ``"package.module:function"``. What it writes depends on the source and the
parameters alone, so that it may run anywhere, and any number of times.

Worker and caller exchange JSON. A worker writes under a hidden name that no other attempt has, and says how many rows
it wrote and their checksum; the caller compares that with the file and alone gives it the destination's name. So an
attempt that was given up, on a machine that was thought dead perhaps, can finish whenever it likes: nobody looks at it.
"""

import importlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from pinnersage_assets.files import checksum

Kernel = Callable[[Path, Path, Mapping[str, Any]], int]


@dataclass(frozen=True)
class Task:
    """One file to make of another."""

    key: str
    """Names the task in messages and receipts; unique among those of a call."""
    source: Path
    destination: Path
    """A Parquet file that does not exist yet, in a folder that does, on a disk that all workers share."""


@dataclass(frozen=True)
class Receipt:
    """What a task made, as the caller found it to be so."""

    key: str
    rows: int
    checksum: str
    """SHA-256 of the destination."""
    seconds: float
    """That the attempt took which succeeded."""


class AttemptFailedError(RuntimeError):
    """One attempt at a task failed; the message is its cause, for `TaskFailedError`."""


class ReceiptError(RuntimeError):
    """A file is not what its receipt says; names the file."""


class TaskFailedError(RuntimeError):
    """Every attempt at a task failed; names the kernel, the task and the causes."""


def order(kernel: str, task: Task, parameters: Mapping[str, Any], threads: int | None) -> str:
    """What is sent to a worker.

    Args:
        kernel: its import path.
        task: what to do.
        parameters: JSON-able.
        threads: of BLAS and OpenMP; None leaves them as they are.
    """
    return json.dumps(
        {
            "kernel": kernel,
            "source": str(task.source),
            "destination": str(task.destination),
            "parameters": dict(parameters),
            "threads": threads,
        }
    )


def perform(text: str) -> str:
    """Carry out an order in a worker: never raises an `Exception`, since not all of them can travel.

    Returns:
        JSON: ``attempt`` (part of the hidden name), ``rows``, ``checksum`` and ``seconds``; or ``error``, its type and
        message, and ``traceback``.
    """
    job, attempt = json.loads(text), uuid4().hex
    hidden = _hidden(Path(job["destination"]), attempt)
    started, done = time.perf_counter(), False
    try:
        kernel = load_kernel(job["kernel"])
        # After the kernel is loaded: limits hold for the libraries that are loaded by then.
        with threadpool_limits(limits=job["threads"]):
            rows = int(kernel(Path(job["source"]), hidden, job["parameters"]))
        answer = {"attempt": attempt, "rows": rows, "checksum": checksum(hidden)}
        done = True
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    finally:
        if not done:
            hidden.unlink(missing_ok=True)
    return json.dumps({**answer, "seconds": time.perf_counter() - started})


def accept(task: Task, text: str) -> Receipt:
    """Believe a worker's answer once it has been verified, and give the file its name.

    Raises:
        AttemptFailedError: the answer is an error, or is not true; the file is deleted then.
    """
    answer = json.loads(text)
    if "error" in answer:
        failure = AttemptFailedError(answer["error"])
        failure.add_note(answer["traceback"])
        raise failure
    hidden = _hidden(task.destination, answer["attempt"])
    receipt = Receipt(task.key, answer["rows"], answer["checksum"], answer["seconds"])
    try:
        verify(hidden, receipt)
        os.replace(hidden, task.destination)
    except (ReceiptError, OSError) as error:
        hidden.unlink(missing_ok=True)
        raise AttemptFailedError(str(error)) from error
    return receipt


def verify(path: Path, receipt: Receipt) -> None:
    """Compare a file with its receipt: checksum first, then rows.

    Raises:
        ReceiptError: the file is missing, is no Parquet file or differs; says how.
    """
    try:
        found = checksum(path)
        if found != receipt.checksum:
            raise ReceiptError(f"{path} is damaged: its checksum is {found}, its receipt says {receipt.checksum}")
        rows = pq.read_metadata(path).num_rows
    except FileNotFoundError as error:
        raise ReceiptError(f"{path} is missing, its receipt says {receipt.rows:,} rows") from error
    except pa.ArrowException as error:
        raise ReceiptError(f"{path} is no Parquet file: {error}") from error
    if rows != receipt.rows:
        raise ReceiptError(f"{path} has {rows:,} rows, its receipt says {receipt.rows:,}")


def load_kernel(path: str) -> Kernel:
    """The function that an import path names.

    Raises:
        ImportError: there is none.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImportError(f"there is no kernel {path!r}, which should be package.module:function: {error}") from error


def remove_attempts(tasks: Iterable[Task]) -> None:
    """Delete what killed attempts left behind."""
    names: dict[Path, set[str]] = {}
    for task in tasks:
        names.setdefault(task.destination.parent, set()).add(task.destination.name)
    for folder, wanted in names.items():
        for path in folder.glob(".*.tmp"):
            if path.name[1:].rsplit(".", 2)[0] in wanted:
                path.unlink(missing_ok=True)


def _hidden(destination: Path, attempt: str) -> Path:
    return destination.with_name(f".{destination.name}.{attempt}.tmp")
