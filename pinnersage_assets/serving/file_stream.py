"""The stream without a server: files that producers append lines to.

``serving/events/*.jsonl``, an event a line, by any number of producers; names that start with ``.`` are left alone. A
line counts when its end is written. The position is, for each file, the byte read up to and a fingerprint of what comes
before it: a file that is cut or replaced is an error in the log, and is then read from its start, because what has been
counted does not count again. A file that is read to its end may be deleted.
"""

import contextlib
import datetime
import hashlib
import logging
import os
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from pathlib import Path

from pinnersage_assets.serving.events import LARGEST_EVENT, is_about
from pinnersage_assets.serving.store import Position, StoreError, utc_now
from pinnersage_assets.serving.stream import Batch, Line

_log = logging.getLogger(__name__)

# Bytes read of a file at once; a longer line is no event.
_READ = 1 << 20
# Bytes before the position that the fingerprint is of.
_FINGERPRINTED = 256
# Seconds between two looks at the folder.
_PAUSE = 0.05
_SUFFIX = ".jsonl"


class FileStream:
    """The stream in a folder, which is made where it does not exist. As of `Stream`.

    Args:
        folder: of the files.
        now: the clock, for the names of files that `send` writes.
    """

    def __init__(self, folder: Path, now: Callable[[], datetime.datetime] = utc_now) -> None:
        self._folder = Path(folder)
        self._now = now
        self._places: dict[str, tuple[int, str]] = {}
        # Size and inode of each file when it was last looked at.
        self._looks: dict[str, tuple[int, int]] = {}
        # How far the ends of lines that are too long have been sought.
        self._sought: dict[str, int] = {}
        self._complaints: dict[str, str] = {}
        self._last = ""

    def resume(self, position: Position) -> None:
        """As of `Stream`."""
        self._places = {name: _read_place(place) for name, place in position.items() if name.endswith(_SUFFIX)}
        self._looks, self._sought = {}, {}

    def read(self, most: int, seconds: float) -> Batch:
        """As of `Stream`."""
        deadline = time.monotonic() + seconds
        while True:
            batch = self._read_what_is_there(most)
            left = deadline - time.monotonic()
            if batch.lines or batch.position or left <= 0:
                return batch
            time.sleep(min(_PAUSE, left))

    def acknowledge(self, batch: Batch) -> None:
        """Nothing: the position says it."""

    def tidy(self) -> None:
        """Nothing: files are deleted by whoever knows that no producer appends to them any more."""

    def send(self, lines: Iterable[bytes]) -> None:
        """As of `Stream`; appends to a file of today and syncs it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._now().date()}{_SUFFIX}"
        data = b"".join(line + b"\n" for line in lines)
        # Several may append at a time: what one call writes stays together.
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(file).st_size
            if size and not _read_at(path, size - 1, 1).endswith(b"\n"):
                # Somebody was killed in the middle of a line.
                data = b"\n" + data
            while data:
                data = data[os.write(file, data) :]
            os.fsync(file)
        except OSError as error:
            raise StoreError(f"{path} cannot be appended to: {error}. Make room, and send the events again") from error
        finally:
            os.close(file)

    def search(self, user_ids: Collection[int]) -> int:
        """As of `Stream`."""
        with _failing_on(self._folder):
            return sum(1 for name in self._files() for _ in _lines_about(self._folder / name, user_ids))

    def erase(self, user_ids: Collection[int], position: Position) -> Position:
        """As of `Stream`; lines become blanks, so that producers that append are not disturbed, nor places move."""
        places = {}
        with _failing_on(self._folder):
            for name, (size, _) in self._files().items():
                path = self._folder / name
                lines = list(_lines_about(path, user_ids))
                if not lines:
                    continue
                with path.open("r+b") as file:
                    for start, length in lines:
                        file.seek(start)
                        file.write(b" " * length)
                    file.flush()
                    os.fsync(file.fileno())
                offset, _ = _read_place(position.get(name) or "0:")
                if 0 < offset <= size:
                    before = _read_at(path, max(0, offset - _FINGERPRINTED), min(offset, _FINGERPRINTED))
                    places[name] = f"{offset}:{_fingerprint(before)}"
        return places

    def _read_what_is_there(self, most: int) -> Batch:
        files = self._files()
        lines, position, more = [], {}, False
        for name in self._places.keys() - files.keys():
            self._forget_file(name)
            position[name] = ""
        # Each file has its turn, however much there is in others.
        for name in sorted(files, key=lambda name: (name <= self._last, name)):
            if len(lines) >= most:
                more = True
                break
            place = self._places.get(name, (0, ""))
            try:
                more |= self._read_file(name, *files[name], most - len(lines), lines)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._complain(name, f"cannot be read: {error}; its events wait")
                continue
            if self._places.get(name, place) != place:
                offset, fingerprint = self._places[name]
                position[name] = f"{offset}:{fingerprint}"
                self._last = name
        return Batch(lines, position, more=more)

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and inode of each."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with os.scandir(self._folder) as entries:
                found = [e for e in entries if e.name.endswith(_SUFFIX) and not e.name.startswith(".")]
                files = [entry for entry in found if entry.is_file() and self._has_text_as_name(entry.name)]
                return {entry.name: (entry.stat().st_size, entry.inode()) for entry in files}
        except FileNotFoundError:
            # Deleted while we looked.
            return self._files()
        except OSError as error:
            raise StoreError(f"{self._folder} must be a folder that can be read: {error}") from error

    def _has_text_as_name(self, name: str) -> bool:
        """No store could keep the place in a file of another name, and no other file's events would be kept either."""
        try:
            name.encode()
        except UnicodeEncodeError:
            self._complain(name, "has a name that is not UTF-8: rename it; its events wait")
            return False
        return True

    def _read_file(self, name: str, size: int, inode: int, most: int, lines: list[Line]) -> bool:
        """Add new lines of a file, and move its place; whether there may be more."""
        offset, fingerprint = self._places.get(name, (0, ""))
        if self._looks.get(name, (size, inode))[1] != inode or size < self._sought.get(name, 0):
            # Another file, or another text: its lines end elsewhere.
            self._sought.pop(name, None)
        if self._looks.get(name) == (size, inode) and size <= max(offset, self._sought.get(name, 0)):
            return False
        path = self._folder / name
        before = min(offset, _FINGERPRINTED)
        data = _read_at(path, offset - before, before + _READ)
        if size < offset or (_fingerprint(data[:before]) != fingerprint and offset):
            self._complain(
                name,
                f"was cut or replaced after {offset} bytes of it had been read: what it held beyond them is lost, "
                "unless it comes again. It is read from its start; events that came before do not count again",
            )
            offset, before = 0, 0
            self._places[name] = (0, "")
            self._sought.pop(name, None)
            data = _read_at(path, 0, _READ)
        self._looks[name] = (size, inode)
        end = data.rfind(b"\n", before) + 1
        if not end:
            if len(data) - before >= _READ:
                return self._pass_long_line(name, path, offset, data[before:], lines)
            return False
        start = before
        for line in data[before : end - 1].split(b"\n", most):
            if most == 0:
                break
            most -= 1
            if line.strip():
                lines.append(Line(f"{name}:{offset - before + start}", line))
            start += len(line) + 1
        self._places[name] = offset - before + start, _fingerprint(data[max(0, start - _FINGERPRINTED) : start])
        self._looks.pop(name)
        return start < end or len(data) - before >= _READ

    def _pass_long_line(self, name: str, path: Path, offset: int, data: bytes, lines: list[Line]) -> bool:
        """Refuse a line that is too long for an event once its end is there; whether it is."""
        sought = self._sought.get(name, offset + len(data))
        while more := _read_at(path, sought, _READ):
            end = more.find(b"\n") + 1
            if end:
                sought += end
                problem = f"is {sought - offset - 1} bytes long; an event has at most {LARGEST_EVENT}"
                lines.append(Line(f"{name}:{offset}", data[:LARGEST_EVENT], problem))
                tail = _read_at(path, sought - _FINGERPRINTED, _FINGERPRINTED)
                self._places[name] = sought, _fingerprint(tail)
                self._sought.pop(name, None)
                self._looks.pop(name)
                return True
            sought += len(more)
        self._sought[name] = sought
        return False

    def _forget_file(self, name: str) -> None:
        offset, _ = self._places.pop(name)
        size, _ = self._looks.pop(name, (offset, 0))
        self._sought.pop(name, None)
        if size > offset:
            _log.error("%s was deleted, and %d bytes of it had not been read", self._folder / name, size - offset)

    def _complain(self, name: str, problem: str) -> None:
        if self._complaints.get(name) != problem:
            self._complaints[name] = problem
            shown = os.fsencode(name).decode(errors="backslashreplace")
            _log.error("%s %s", self._folder / shown, problem)


@contextlib.contextmanager
def _failing_on(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"a file of {folder} cannot be read or written: {error}") from error


def _lines_about(path: Path, user_ids: Collection[int]) -> Iterator[tuple[int, int]]:
    """Where lines about some users start, and how long they are without their ends."""
    start = 0
    with path.open("rb") as file:
        for line in file:
            text = line.rstrip(b"\n")
            if is_about(text, user_ids):
                yield start, len(text)
            start += len(line)


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _fingerprint(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _read_place(text: str) -> tuple[int, str]:
    offset, _, fingerprint = text.partition(":")
    return int(offset), fingerprint
