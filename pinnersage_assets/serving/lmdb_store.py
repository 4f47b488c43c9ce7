"""The store in files of this machine: LMDB.

Under the store's folder::

    snapshots/<version>.lmdb    one file a snapshot, written under a hidden name, synced and renamed; it never changes,
                                so any number of processes map it without locks, also while the next one is written
    events.lmdb/                events, written by the consumer alone and read by any process

Tables of events, by what their keys sort by (`packing`)::

    ids        event id -> time, user, deed         what came under the id; remembered longest
    events     user, time, id -> deed               a user's recent actions are one range of it
    waiting    time, id, user, deed                 not claimed by a landing yet
    landed     day, number, time, id, user, deed    claimed
    refused    number -> JSON                       what was not taken
    refusals   key -> number                        so that the same is not kept twice
    notes      the stream's position, landings that are not confirmed, totals, up to when things are forgotten
"""

# ruff: noqa: D102 (methods are described in the protocol `Store`)

import contextlib
import datetime
import hashlib
import itertools
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import lmdb

from pinnersage_assets.files import remove_leftovers, written_atomically
from pinnersage_assets.serving.events import Event, is_about
from pinnersage_assets.serving.packing import (
    MICROSECONDS_A_DAY,
    EventColumns,
    PackedEvent,
    columns_in_time,
    columns_in_user,
    day_number,
    day_of,
    microseconds,
    pack,
    pack_integer,
    start_of,
    time_of,
    unpack_integer,
)
from pinnersage_assets.serving.records import StoredUser, clusters_in, decode, encode
from pinnersage_assets.serving.store import (
    Committed,
    Landing,
    MissingSnapshotError,
    Position,
    RecentActions,
    Refused,
    SnapshotContent,
    StoreError,
    check_version,
    refusal,
    same_id,
    too_old,
    utc_now,
)

# Address space, not memory or disk: a file grows as it is written.
_MAP_BYTES = 1 << 38
_READERS = 1022
_TABLES = ("ids", "events", "waiting", "landed", "refused", "refusals", "notes")
# Records of a snapshot, or events to forget, in one transaction.
_AT_ONCE = 20_000
# Events of a landing file, at most.
_LARGEST_LANDING = 500_000
# Snapshots that are kept open.
_OPEN_AT_ONCE = 4
# Seconds that a thread needs to close a file, at most.
_CLOSED_WITHIN = 10
_SUFFIX = ".lmdb"
_LANDING = struct.Struct(">QI")
_COUNTS = struct.Struct(">QQQ")
_POSITION, _UNCONFIRMED = b"position/", b"unconfirmed/"
_TOTALS, _NUMBER, _EVENTS_BEFORE, _IDS_BEFORE = b"totals", b"next refused", b"events before", b"ids before"
# The day before which things are forgotten where none are.
_NEVER = -1_000_000

# In quotes: at run time these classes take no parameter. Not of buffers, so keys and values are bytes.
_Transaction: TypeAlias = "lmdb.Transaction[bytes]"
_Cursor: TypeAlias = "lmdb.Cursor[bytes]"
_Table: TypeAlias = "lmdb._Database"
_Tables: TypeAlias = dict[str, _Table]


class _Opened:
    """An environment and its tables; shared by all stores of a process, because none may open it twice.

    It closes when nobody refers to it any more, so never under a reader.
    """

    def __init__(self, path: Path, tables: Sequence[str] = (), **options: Any) -> None:
        self.environment = lmdb.open(str(path), max_dbs=len(tables), **options)
        self.tables = {}
        for table in tables:
            try:
                # Without waiting for a writer.
                self.tables[table] = self.environment.open_db(table.encode(), create=False)
            except lmdb.NotFoundError:
                self.tables[table] = self.environment.open_db(table.encode())


# By process, device and inode. A store does not survive a fork: a child opens one of its own.
_shared: weakref.WeakValueDictionary[tuple[int, int, int], _Opened] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


class LmdbStore:
    """The store in a folder; safe to use from several threads. As of `Store`."""

    name = "lmdb"

    def __init__(self, folder: Path, now: Callable[[], datetime.datetime] = utc_now) -> None:
        self._folder = Path(folder)
        self._now = now
        self._snapshots_open: dict[str, tuple[tuple[int, int, int], _Opened]] = {}
        self._events_open: tuple[tuple[int, int, int], _Opened] | None = None

    # --- Snapshots

    def write_snapshot(self, version: str, users: Iterable[tuple[int, StoredUser]]) -> None:
        path = self._snapshot_path(version)
        with _failing_on(path), written_atomically(path) as hidden:
            hidden.unlink(missing_ok=True)
            # Synced once, before the file gets its name.
            environment = lmdb.open(str(hidden), map_size=_MAP_BYTES, subdir=False, lock=False, sync=False)
            try:
                _write_records(environment, users)
            finally:
                environment.close()

    def read_user(self, version: str, user_id: int) -> StoredUser | None:
        environment = self._snapshot(version)
        with _failing_on(self._folder), environment.begin() as transaction:
            data = transaction.get(pack_integer(user_id))
        return None if data is None else decode(data)

    def describe(self, version: str) -> SnapshotContent:
        environment = self._snapshot(version)
        digest, users, clusters = hashlib.sha256(), 0, 0
        with _failing_on(self._folder), environment.begin() as transaction:
            for key, value in transaction.cursor():
                digest.update(key)
                digest.update(value)
                users += 1
                clusters += clusters_in(value)
        return SnapshotContent(users, clusters, digest.hexdigest())

    def versions(self) -> list[str]:
        names = (path.name for path in self._snapshots.glob(f"*{_SUFFIX}"))
        return sorted(name.removesuffix(_SUFFIX) for name in names if not name.startswith("."))

    def drop_snapshots(self, keep: Collection[str]) -> list[str]:
        dropped = [version for version in self.versions() if version not in keep]
        with _failing_on(self._snapshots):
            for version in dropped:
                # Who has it open keeps it until closing.
                self._snapshot_path(version).unlink(missing_ok=True)
                self._snapshots_open.pop(version, None)
            remove_leftovers(self._snapshots)
        return dropped

    @property
    def _snapshots(self) -> Path:
        return self._folder / "snapshots"

    def _snapshot_path(self, version: str) -> Path:
        return self._snapshots / f"{check_version(version)}{_SUFFIX}"

    def _snapshot(self, version: str) -> lmdb.Environment:
        """The snapshot's file, opened once; anew where it has been replaced."""
        path = self._snapshot_path(version)
        known = self._snapshots_open.get(version)
        try:
            identity, size = _identity(path)
        except FileNotFoundError:
            # Dropped: who reads it goes on reading it.
            if known is not None:
                return known[1].environment
            there = ", ".join(self.versions()[-3:]) or "none"
            raise MissingSnapshotError(
                f"there is no snapshot {version} in {self._snapshots} (the latest: {there}); materialise "
                "serving.snapshot of its day"
            ) from None
        if known is None or known[0] != identity:
            # It never changes, so it is read without locks.
            options = {"readonly": True, "lock": False, "subdir": False, "map_size": max(size, 4096)}
            opened = _share(identity, path, options)
            if opened is None:
                return self._snapshot(version)
            known = identity, opened
            _check_whole(known[1].environment, path, size)
            self._snapshots_open[version] = known
            # A service goes from day to day: what it has gone on from, nobody asks for.
            while len(self._snapshots_open) > _OPEN_AT_ONCE:
                self._snapshots_open.pop(next(iter(self._snapshots_open)), None)
        return known[1].environment

    # --- Events: the consumer's side

    def commit(self, events: Sequence[Event], position: Position | None, refused: Sequence[Refused] = ()) -> Committed:
        packed = [pack(event) for event in events]
        refused, new, repeated = list(refused), 0, 0
        with self._writing() as (transaction, tables):
            horizons = (
                _noted(transaction, tables, _IDS_BEFORE, _NEVER),
                _noted(transaction, tables, _EVENTS_BEFORE, _NEVER),
            )
            for event, pieces in zip(events, packed, strict=True):
                fate = _take(transaction, tables, pieces, *horizons)
                if fate is _NEW:
                    new += 1
                elif fate is _REPEATED:
                    repeated += 1
                else:
                    refused.append(refusal(event, fate, self._now()))
            done = Committed(new, repeated, _keep_refused(transaction, tables, refused))
            notes = tables["notes"]
            for part, place in (position or {}).items():
                if place:
                    transaction.put(_POSITION + part.encode(), place.encode(), db=notes)
                else:
                    transaction.delete(_POSITION + part.encode(), db=notes)
            total = _totals(transaction, tables) + done
            transaction.put(_TOTALS, _COUNTS.pack(total.new, total.repeated, total.refused), db=notes)
        return done

    def position(self) -> dict[str, str]:
        with self._reading() as (transaction, tables):
            return {
                key[len(_POSITION) :].decode(): value.decode()
                for key, value in _range(transaction, tables["notes"], _POSITION)
            }

    def totals(self) -> Committed:
        with self._reading() as (transaction, tables):
            return _totals(transaction, tables)

    # --- Events: what a user has done

    def recent(self, user_id: int, since: datetime.datetime, latest: int | None = None) -> RecentActions:
        user = pack_integer(user_id)
        first = user + pack_integer(microseconds(since))
        with self._reading() as (transaction, tables), transaction.cursor(tables["events"]) as cursor:
            rows = _of_user(cursor, user, first, latest)
        return columns_in_user(user_id, (key[8:] + b"\0" + value for key, value in rows))

    # --- Events: landing

    def days_waiting(self) -> list[datetime.date]:
        days = []
        with self._reading() as (transaction, tables), transaction.cursor(tables["waiting"]) as cursor:
            found = cursor.first()
            while found:
                days.append(day_of(unpack_integer(cursor.key()[:8]) // MICROSECONDS_A_DAY))
                found = cursor.set_range(start_of(days[-1] + datetime.timedelta(days=1)))
        return days

    def landings(self, day: datetime.date) -> int:
        with self._reading() as (transaction, tables), transaction.cursor(tables["landed"]) as cursor:
            # The last key before those of the next day.
            found = cursor.set_range(_landing_key(Landing(day + datetime.timedelta(days=1), 0)))
            found = cursor.prev() if found else cursor.last()
            if not found:
                return 0
            last, number = _LANDING.unpack(cursor.key()[: _LANDING.size])
            return number + 1 if day_of(last) == day else 0

    def claim(self, landing: Landing) -> bool:
        name = _landing_key(landing)
        first, following = start_of(landing.day), start_of(landing.day + datetime.timedelta(days=1))
        with self._writing() as (transaction, tables), transaction.cursor(tables["waiting"]) as waiting:
            with transaction.cursor(tables["landed"]) as landed:
                if landed.set_range(name) and landed.key().startswith(name):
                    return False
                claimed = 0
                found = waiting.set_range(first)
                while found and waiting.key() < following and claimed < _LARGEST_LANDING:
                    landed.put(name + waiting.key(), waiting.value())
                    # Leaves the cursor at the next key.
                    found = waiting.delete() and bool(waiting.key())
                    claimed += 1
            if claimed:
                transaction.put(_UNCONFIRMED + name, b"", db=tables["notes"])
        return bool(claimed)

    def unconfirmed(self) -> list[Landing]:
        with self._reading() as (transaction, tables):
            names = [key[len(_UNCONFIRMED) :] for key, _ in _range(transaction, tables["notes"], _UNCONFIRMED)]
        return [Landing(day_of(day), number) for day, number in map(_LANDING.unpack, names)]

    def events_of(self, landing: Landing) -> EventColumns:
        name = _landing_key(landing)
        with self._reading() as (transaction, tables):
            rows = _range(transaction, tables["landed"], name)
            return columns_in_time(key[len(name) :] + b"\0" + value for key, value in rows)

    def confirm(self, landing: Landing) -> None:
        with self._writing() as (transaction, tables):
            transaction.delete(_UNCONFIRMED + _landing_key(landing), db=tables["notes"])

    def forget(self, events_before: datetime.date | None, ids_before: datetime.date) -> None:
        # The days are noted before anything goes: what comes from then on is judged by them.
        with self._writing() as (transaction, tables):
            old = _noted(transaction, tables, _EVENTS_BEFORE, _NEVER)
            events = max(old, _NEVER if events_before is None else day_number(events_before))
            ids = max(_noted(transaction, tables, _IDS_BEFORE, _NEVER), day_number(ids_before))
            _note(transaction, tables, _EVENTS_BEFORE, events)
            _note(transaction, tables, _IDS_BEFORE, ids)
        self._forget_landed(max(old, 0), events, _forget_event)
        self._forget_landed(0, ids, _forget_all)

    def refused(self, most: int) -> list[tuple[int, Refused]]:
        with self._reading() as (transaction, tables):
            rows = itertools.islice(_range(transaction, tables["refused"], b""), most)
            return [(unpack_integer(key), Refused.from_json(value)) for key, value in rows]

    def drop_refused(self, through: int) -> None:
        with self._writing() as (transaction, tables):
            rows = _range(transaction, tables["refused"], b"")
            for key, value in list(itertools.takewhile(lambda row: row[0] <= pack_integer(through), rows)):
                transaction.delete(key, db=tables["refused"])
                transaction.delete(Refused.from_json(value).key, db=tables["refusals"])

    # --- Erasure

    def search(self, user_ids: Collection[int]) -> int:
        with self._reading() as (transaction, tables):
            events = sum(table != "refusals" for table, _ in _about(transaction, tables, user_ids))
        known = (self.read_user(version, user_id) for version in self.versions() for user_id in user_ids)
        return events + sum(user is not None for user in known)

    def erase(self, user_ids: Collection[int]) -> None:
        with self._writing() as (transaction, tables):
            for table, key in list(_about(transaction, tables, user_ids)):
                transaction.delete(key, db=tables[table])
        for version in self.versions():
            if any(self.read_user(version, user_id) is not None for user_id in user_ids):
                with self._snapshot(version).begin() as transaction:
                    users = ((unpack_integer(key), decode(value)) for key, value in transaction.cursor())
                    self.write_snapshot(version, (user for user in users if user[0] not in user_ids))

    def close(self) -> None:
        self._snapshots_open.clear()
        self._events_open = None

    def _forget_landed(self, first: int, before: int, forget_one: Callable) -> None:
        """Forget something of all confirmed landings of some days, not too many events at a time."""
        start: bytes | None = _LANDING.pack(first, 0)
        while start is not None and before > first:
            with self._writing() as (transaction, tables):
                unconfirmed = {
                    key[len(_UNCONFIRMED) :] for key, _ in _range(transaction, tables["notes"], _UNCONFIRMED)
                }
                rows = list(itertools.islice(_range(transaction, tables["landed"], b"", start), _AT_ONCE + 1))
                start = rows[-1][0] if len(rows) > _AT_ONCE else None
                for key, value in rows[:_AT_ONCE]:
                    if key >= _LANDING.pack(before, 0):
                        return
                    if key[: _LANDING.size] not in unconfirmed:
                        forget_one(transaction, tables, key, value)

    @contextlib.contextmanager
    def _writing(self) -> Generator[tuple[_Transaction, _Tables]]:
        with _failing_on(self._events_path):
            opened = self._open_events()
            with opened.environment.begin(write=True) as transaction:
                yield transaction, opened.tables

    @contextlib.contextmanager
    def _reading(self) -> Generator[tuple[_Transaction, _Tables]]:
        with _failing_on(self._events_path):
            opened = self._open_events()
            with opened.environment.begin() as transaction:
                yield transaction, opened.tables

    @property
    def _events_path(self) -> Path:
        return self._folder / "events.lmdb"

    def _open_events(self) -> _Opened:
        known = self._events_open
        try:
            identity, _ = _identity(self._events_path)
        except FileNotFoundError:
            self._events_path.mkdir(parents=True, exist_ok=True)
            identity, _ = _identity(self._events_path)
        if known is None or known[0] != identity:
            # Dropped first: a process that was forked has its parent's.
            self._events_open = known = None
            options = {"map_size": _MAP_BYTES, "max_readers": _READERS}
            opened = _share(identity, self._events_path, options, _TABLES)
            if opened is None:
                return self._open_events()
            known = self._events_open = identity, opened
            # Slots of readers that were killed.
            opened.environment.reader_check()
        return known[1]


# --- Events in a transaction

_NEW, _REPEATED = "new", "repeated"


def _take(transaction: _Transaction, tables: _Tables, event: PackedEvent, ids_before: int, events_before: int) -> str:
    """Keep an event; _NEW, _REPEATED, or why not."""
    if event.day < ids_before:
        return too_old(day_of(ids_before))
    content = event.content
    if not transaction.put(event.event_id, content, db=tables["ids"], overwrite=False):
        known = transaction.get(event.event_id, db=tables["ids"])
        assert known is not None  # or it would have been put
        return _REPEATED if known == content else same_id(time_of(known))
    in_time = event.time + event.event_id
    transaction.put(in_time, event.user + event.deed, db=tables["waiting"])
    if event.day >= events_before:
        transaction.put(event.user + in_time, event.deed, db=tables["events"])
    return _NEW


def _keep_refused(transaction: _Transaction, tables: _Tables, refused: Sequence[Refused]) -> int:
    """Number and keep what is not kept already; how many that are."""
    first = number = _noted(transaction, tables, _NUMBER, 0)
    for one in refused:
        if transaction.put(one.key, pack_integer(number), db=tables["refusals"], overwrite=False):
            transaction.put(pack_integer(number), one.to_json(), db=tables["refused"])
            number += 1
    _note(transaction, tables, _NUMBER, number)
    return number - first


def _forget_event(transaction: _Transaction, tables: _Tables, key: bytes, value: bytes) -> None:
    transaction.delete(value[:8] + key[_LANDING.size :], db=tables["events"])


def _forget_all(transaction: _Transaction, tables: _Tables, key: bytes, value: bytes) -> None:
    _forget_event(transaction, tables, key, value)
    transaction.delete(key[_LANDING.size + 8 :], db=tables["ids"])
    transaction.delete(key, db=tables["landed"])


def _about(transaction: _Transaction, tables: _Tables, user_ids: Collection[int]) -> Iterator[tuple[str, bytes]]:
    """Tables and keys of all that is about some users."""
    users = set(map(pack_integer, user_ids))
    for user in users:
        yield from (("events", key) for key, _ in _range(transaction, tables["events"], user))
    for table, place in (("waiting", 0), ("landed", 0), ("ids", 8)):
        for key, value in _range(transaction, tables[table], b""):
            if value[place : place + 8] in users:
                yield table, key
    for key, value in _range(transaction, tables["refused"], b""):
        refused = Refused.from_json(value)
        if is_about(refused.data, user_ids):
            yield "refused", key
            yield "refusals", refused.key


def _totals(transaction: _Transaction, tables: _Tables) -> Committed:
    known = transaction.get(_TOTALS, db=tables["notes"])
    return Committed(*_COUNTS.unpack(known)) if known else Committed()


def _noted(transaction: _Transaction, tables: _Tables, name: bytes, otherwise: int) -> int:
    known = transaction.get(name, db=tables["notes"])
    return unpack_integer(known) if known else otherwise


def _note(transaction: _Transaction, tables: _Tables, name: bytes, number: int) -> None:
    transaction.put(name, pack_integer(number), db=tables["notes"])


def _landing_key(landing: Landing) -> bytes:
    return _LANDING.pack(day_number(landing.day), landing.number)


def _range(
    transaction: _Transaction, table: _Table, prefix: bytes, start: bytes = b""
) -> Iterator[tuple[bytes, bytes]]:
    """Rows whose keys begin with a prefix, from a key on."""
    with transaction.cursor(table) as cursor:
        if cursor.set_range(max(prefix, start)):
            yield from itertools.takewhile(lambda row: row[0].startswith(prefix), cursor.iternext())


def _of_user(cursor: _Cursor, user: bytes, first: bytes, latest: int | None) -> list[tuple[bytes, bytes]]:
    """The user's rows from a key on, or the last of them; ascending."""
    if latest is None:
        rows = cursor.iternext() if cursor.set_range(first) else ()
        return list(itertools.takewhile(lambda row: row[0].startswith(user), rows))
    # The user's last row comes before everything that begins so.
    found = cursor.prev() if cursor.set_range(user + b"\xff" * 9) else cursor.last()
    rows = cursor.iterprev() if found else ()
    back = itertools.takewhile(lambda row: row[0] >= first, rows)
    return list(itertools.islice(back, latest))[::-1]


# --- Files


def _write_records(environment: lmdb.Environment, users: Iterable[tuple[int, StoredUser]]) -> None:
    rows, last = iter(users), None
    while some := list(itertools.islice(rows, _AT_ONCE)):
        with environment.begin(write=True) as transaction:
            for user_id, user in some:
                if last is not None and user_id <= last:
                    raise ValueError(f"user {user_id} comes after user {last}; users of a snapshot must ascend")
                transaction.put(pack_integer(user_id), encode(user), append=True)
                last = user_id


def _identity(path: Path) -> tuple[tuple[int, int, int], int]:
    status = os.stat(path)
    return (os.getpid(), status.st_dev, status.st_ino), status.st_size


def _share(
    identity: tuple[int, int, int], path: Path, options: dict[str, Any], tables: Sequence[str] = ()
) -> _Opened | None:
    """The file of that identity, opened; None where the path has become another file meanwhile."""
    with _sharing, _failing_on(path):
        # While we waited the path may have become a file that another thread has opened since.
        if not _is(path, identity):
            return None
        opened = _shared.get(identity)
        if opened is None:
            opened = _open(path, tables, options)
            if not _is(path, identity):
                # Closed before anybody else may open it.
                opened.environment.close()
                return None
            _shared[identity] = opened
        return opened


def _open(path: Path, tables: Sequence[str], options: dict[str, Any]) -> _Opened:
    """Open a file that nobody refers to any more: who did last may be closing it still, for a moment."""
    deadline = time.monotonic() + _CLOSED_WITHIN
    while True:
        try:
            return _Opened(path, tables, **options)
        except lmdb.Error as error:
            if "already open in this process" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.001)


def _is(path: Path, identity: tuple[int, int, int]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return _identity(path)[0] == identity
    return False


def _check_whole(environment: lmdb.Environment, path: Path, size: int) -> None:
    """A file that was cut would end the process that reads beyond its end."""
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < needed:
        raise StoreError(
            f"{path} is cut short: {size} of {needed} bytes; materialise serving.snapshot of its day again"
        )


@contextlib.contextmanager
def _failing_on(path: Path) -> Generator[None]:
    """Errors of LMDB and of files as StoreErrors."""
    try:
        yield
    except lmdb.MapFullError as error:
        raise StoreError(
            f"{path} is full: it has reached {_MAP_BYTES:,} bytes; let events land and be forgotten"
        ) from error
    except (lmdb.Error, OSError) as error:
        raise StoreError(
            f"{path} cannot be read or written: {error}. If the disk is full, make room; nothing is half written"
        ) from error
