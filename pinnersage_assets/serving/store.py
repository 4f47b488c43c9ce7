"""The store: one small interface, whatever keeps the bytes.

It holds snapshots, which are users' clusters as of the end of a batch day, and events, which is what users have done
since. Pins are ids here; their vectors are elsewhere.

**Snapshots** have a version, are there whole or not at all, and do not change. A reader names the version that it
answers from, so switching is a matter of naming another.

**Events** are kept by user and time. A user's recent actions are those at or after the end of the snapshot's day, read
when somebody asks; so neither does the order of arrival matter, nor has anything to be replayed when a new snapshot
takes over. Ids are remembered, and an event counts once however often it comes. What becomes of an event::

    commit  ->  waiting  -> claim ->  a landing of its day  -> confirm ->  landed  -> forget

A claim gives a landing its number and its events for good, before the file is written. So whoever writes it, again
after a crash or twice at a time, writes the same file under the same name.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pinnersage_assets.serving.events import Event, to_json
from pinnersage_assets.serving.packing import EventColumns, pack_integer
from pinnersage_assets.serving.records import StoredUser, encode

RecentActions = EventColumns
"""What `Store.recent` gives: pin_ids (r,) int64, actions (r texts), times (r,) datetime64[us], and user_ids."""

Position = Mapping[str, str]
"""Where a stream has been read to, by parts of the stream; an empty text removes a part. Only the stream reads it."""

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._=+-]{0,99}")


class StoreError(RuntimeError):
    """The store cannot do what it was asked for; says what is wrong, where, and what to do. Nothing is half done."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached now: asking again later may help."""


class MissingSnapshotError(StoreError):
    """There is no snapshot of that version."""


@dataclass(frozen=True)
class SnapshotContent:
    """What a snapshot holds.

    Attributes:
        users: how many.
        clusters: of all users.
        sha256: of the records in the order of user ids, 8 bytes of each id before it: equal in every store.
    """

    users: int
    clusters: int
    sha256: str


def content_of(users: Iterable[tuple[int, StoredUser]]) -> SnapshotContent:
    """What a snapshot of these users, in the order of their ids, holds."""
    digest, count, clusters = hashlib.sha256(), 0, 0
    for user_id, user in users:
        digest.update(pack_integer(user_id) + encode(user))
        count += 1
        clusters += len(user.clusters.sizes)
    return SnapshotContent(count, clusters, digest.hexdigest())


@dataclass(frozen=True)
class Refused:
    """What came and was not taken.

    Attributes:
        reason: why.
        source: where it came from, such as a file and the byte that it starts at.
        data: what came, as text.
        time: when it was refused, ISO 8601.
    """

    reason: str
    source: str
    data: str
    time: str

    @property
    def key(self) -> bytes:
        """16 bytes, the same whenever the same comes from the same place again."""
        return hashlib.blake2b(f"{self.source}\n{self.data}".encode(), digest_size=16).digest()

    def to_json(self) -> bytes:
        """One line of JSON, without its end."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Refused":
        """What `to_json` wrote."""
        return cls(**json.loads(data))


@dataclass(frozen=True)
class Committed:
    """What became of a batch.

    Attributes:
        new: events that had not come before.
        repeated: events that had.
        refused: what the stream could not read, and events that the store refused.
    """

    new: int = 0
    repeated: int = 0
    refused: int = 0

    def __add__(self, other: "Committed") -> "Committed":
        return Committed(self.new + other.new, self.repeated + other.repeated, self.refused + other.refused)


@dataclass(frozen=True, order=True)
class Landing:
    """Events of a day that go into one landing file."""

    day: datetime.date
    number: int


class Store(Protocol):
    """Where snapshots and events are.

    One process at a time commits, claims, confirms and forgets in an embedded store; in a server any number may. Every
    method raises a StoreError where the store fails, which is a StoreUnavailableError where trying again may help.
    """

    name: str
    """lmdb or redis."""

    def write_snapshot(self, version: str, users: Iterable[tuple[int, StoredUser]]) -> None:
        """Write a snapshot, durably; it is there whole or not at all, and replaces one of the same version.

        Args:
            version: begins with the batch day; letters, digits and ``._=+-``.
            users: each user's id, ascending, and what is stored.

        Raises:
            ValueError: the version cannot be a name, or ids do not ascend.
        """

    def read_user(self, version: str, user_id: int) -> StoredUser | None:
        """What a snapshot says of a user; None where it says nothing.

        Raises:
            MissingSnapshotError: there is no such version.
            records.CorruptRecordError: what is stored is no record.
        """

    def describe(self, version: str) -> SnapshotContent:
        """What a snapshot holds, read back record by record.

        Raises:
            MissingSnapshotError: there is no such version.
        """

    def versions(self) -> list[str]:
        """The snapshots that are there, ascending."""

    def drop_snapshots(self, keep: Collection[str]) -> list[str]:
        """Remove all other snapshots, and what killed writers left; the versions removed, ascending."""

    def commit(self, events: Sequence[Event], position: Position | None, refused: Sequence[Refused] = ()) -> Committed:
        """Take events, what was refused of the same batch, and where the stream has been read to; all or nothing.

        An event whose id has come before is the same event if all else is the same too; if not, the first stays, and
        this one is refused. One of a day whose ids are forgotten is refused. Durable on return.

        Args:
            events: in any order.
            position: parts of the stream that were read, or None; replaces these parts.
            refused: kept until `drop_refused`; the same from the same place is kept once.
        """

    def position(self) -> dict[str, str]:
        """Where the stream has been read to, as committed."""

    def totals(self) -> Committed:
        """What has been committed since the store began."""

    def recent(self, user_id: int, since: datetime.datetime, latest: int | None = None) -> RecentActions:
        """What a user has done at or after a time; ascending by time, ties by event id.

        Here "the 20 latest" are taken: the order of arrival does not matter, and a setting can change.

        Args:
            user_id: the user.
            since: with a zone. Events of days that snapshots contain may be forgotten.
            latest: only so many, those that come last.
        """

    def days_waiting(self) -> list[datetime.date]:
        """Days with events that no landing has claimed, ascending."""

    def landings(self, day: datetime.date) -> int:
        """One more than the largest number of a landing of the day; 0 where there is none."""

    def claim(self, landing: Landing) -> bool:
        """Events of the day that wait, or the first of very many, become this landing; for good.

        Returns:
            False where nothing waits, or where the number is taken: nothing has changed then.
        """

    def unconfirmed(self) -> list[Landing]:
        """Landings that were claimed, and not yet confirmed; ascending."""

    def events_of(self, landing: Landing) -> EventColumns:
        """The events of a landing, ascending by time, ties by event id."""

    def confirm(self, landing: Landing) -> None:
        """Say that the landing's file is written, durably."""

    def forget(self, events_before: datetime.date | None, ids_before: datetime.date) -> None:
        """Forget what is landed and not needed any more.

        Args:
            events_before: `recent` need not know events of earlier days, None: of any it needs to know.
            ids_before: ids of events of earlier days need not be remembered. Events of these days are refused from
                now on, because nobody could tell whether they have come before.
        """

    def refused(self, most: int) -> list[tuple[int, Refused]]:
        """What was refused and not yet dropped, numbered and in the order of numbers; at most so many."""

    def drop_refused(self, through: int) -> None:
        """Forget what was refused up to a number, that included."""

    def search(self, user_ids: Collection[int]) -> int:
        """How many records there are of some users: of snapshots, of events in any state, and of what was refused."""

    def erase(self, user_ids: Collection[int]) -> None:
        """Remove all of these records.

        Snapshots then hold something else than before. An erased event that comes again counts as new.
        """

    def close(self) -> None:
        """Let go of files or connections."""


def utc_now() -> datetime.datetime:
    """The machine's clock."""
    return datetime.datetime.now(datetime.UTC)


def open_store(address: str, folder: Path, now: Callable[[], datetime.datetime] = utc_now) -> Store:
    """The store that the setting `serving.store` names.

    Args:
        address: ``lmdb``, or the address of a Redis server. A password may stand in the address or, so that it need
            not, in PINNERSAGE_REDIS_PASSWORD; with ``rediss://`` the connection is TLS, and redis-py's parameters
            apply: ``rediss://host:6380/0?ssl_ca_certs=/etc/ca.pem``.
        folder: `serving` in the data directory; only LMDB uses it.
        now: the clock, for the time at which events are refused.

    Raises:
        ValueError: the address means nothing, or the package of its store is not installed.
    """
    if address == "lmdb":
        from pinnersage_assets.serving.lmdb_store import LmdbStore

        return LmdbStore(folder, now)
    if not address.startswith(("redis://", "rediss://")):
        raise ValueError(f"serving.store is {address!r}; it must be lmdb, redis://... or rediss://...")
    try:
        from pinnersage_assets.serving.redis_store import RedisStore
    except ImportError as error:
        raise ValueError(
            f"serving.store is a Redis server, and a package is missing ({error}): pip install -e '.[serve]'"
        ) from error
    return RedisStore(address, os.environ.get("PINNERSAGE_REDIS_PASSWORD"), now)


def check_version(version: str) -> str:
    """The version itself.

    Raises:
        ValueError: it cannot be the name of a file.
    """
    if not _VERSION.fullmatch(version):
        raise ValueError(
            f"{version!r} cannot be a snapshot's version: it begins with its day and has letters, digits and ._=+-"
        )
    return version


def snapshot_day(version: str) -> datetime.date | None:
    """The batch day that a version begins with; None where it begins with something else."""
    try:
        day = datetime.date.fromisoformat(version[:10])
    except ValueError:
        return None
    return day if version.startswith(day.isoformat()) else None


def refusal(event: Event, reason: str, now: datetime.datetime) -> Refused:
    """An event that can be read, and cannot be taken."""
    return Refused(reason, f"event {event.event_id}", to_json(event).decode(), now.isoformat())


def same_id(known: datetime.datetime) -> str:
    """Why an event is refused whose id has come with other content."""
    return f"event_id: has come before, with other content, for {known.isoformat()}; the first stays"


def too_old(forgotten_before: datetime.date) -> str:
    """Why an event is refused whose day is over for good."""
    return (
        f"time: ids of events before {forgotten_before} are forgotten, so it cannot be told whether this one has come "
        "before; if not, land it as a Parquet file"
    )
