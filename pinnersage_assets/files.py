"""Files that appear whole or not at all."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def written_atomically(path: Path) -> Generator[Path]:
    """A hidden name to write to; afterwards the file is made durable and gets its own name.

    Args:
        path: the file's name; its folder is created where it does not exist. If writing fails, whatever was there
            before stays, and the hidden file goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield hidden
        sync(hidden)
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
    sync(path.parent)


class HeldError(RuntimeError):
    """Somebody else holds a lock."""


@contextlib.contextmanager
def held(path: Path) -> Generator[None]:
    """Hold a lock meanwhile, which the system lets go of when the process ends, however it ends.

    Args:
        path: the lock's file; its folder is created where it does not exist.

    Raises:
        HeldError: somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HeldError(f"{path} is held by another process") from error
        yield


def checksum(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, last through a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden files of `written_atomically` in a folder whose processes were killed."""
    for hidden in folder.glob(".*.tmp"):
        process = hidden.name.split(".")[-2]
        if process.isdecimal() and not _is_running(int(process)):
            hidden.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
