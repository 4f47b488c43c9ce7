"""The store in a Redis server, for more than one machine.

One server of Redis 7, not a cluster: the script that takes events writes many keys at once. What it has acknowledged
lasts as long as the server keeps it, so the server needs ``appendonly yes`` (with ``appendfsync always``, a power cut
loses nothing either) and the policy ``noeviction``; the first commit warns of anything else.

Keys, all beginning with ``pinnersage:`` (members of sorted sets have score 0 and sort by their bytes, see `packing`)::

    snapshots                 set of versions
    snapshot:<version>        hash, user (8 bytes) -> record; filled under another name, which expires, and renamed
    ids                       hash, event id -> time, user, deed
    user:<user id>            sorted set of time, id, deed: a user's recent actions are one range of it
    waiting:<day>             sorted set of time, id, user, deed; not claimed by a landing yet
    waiting                   set of the days that have such
    landed:<day>:<number>     the sorted set that was waiting, renamed when it was claimed
    landings                  hash, day -> the next number
    unconfirmed               set of <day>:<number>
    landed                    set of <day>:<number>, until forgotten
    refused                   sorted set of key and JSON, with their numbers as scores; refusals, set of the keys
    position                  hash
    notes                     hash: totals, up to when things are forgotten
"""

# ruff: noqa: D102 (methods are described in the protocol `Store`)

import contextlib
import datetime
import functools
import hashlib
import itertools
import logging
import secrets
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pinnersage_assets.serving.events import Event, is_about
from pinnersage_assets.serving.packing import (
    EventColumns,
    PackedEvent,
    columns_in_time,
    columns_in_user,
    day_of,
    id_and_user,
    microseconds,
    pack,
    pack_integer,
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
    StoreUnavailableError,
    check_version,
    refusal,
    same_id,
    too_old,
    utc_now,
)

PREFIX = "pinnersage:"

_log = logging.getLogger(__name__)

# Seconds until a server counts as away.
_TIMEOUT = 5
# Seconds that a snapshot may be without a further record before it counts as given up.
_GIVEN_UP = 3600
# Commands, or events of one script, at a time: other clients wait so long.
_AT_ONCE = 1000
# A field of every snapshot, so that one without users is there too; users have 8 bytes.
_FORMAT = b"format"

_NEW, _REPEATED, _TOO_OLD = range(3)
# Takes events, six arguments each, and says what became of each: 0 where it is new, 1 where it is repeated, 2 where it
# is too old, and what is known under its id where that is something else.
_TAKE = r"""
local prefix, taken, new, repeated = KEYS[1], {}, 0, 0
local ids_before = redis.call('HGET', prefix .. 'notes', 'ids before') or ''
local events_before = redis.call('HGET', prefix .. 'notes', 'events before') or ''
for i = 1, #ARGV, 6 do
    local id, day, name, time, user, deed = unpack(ARGV, i, i + 5)
    local content = time .. user .. deed
    local fate = 0
    if day < ids_before then
        fate = 2
    elseif redis.call('HSETNX', prefix .. 'ids', id, content) == 0 then
        fate = redis.call('HGET', prefix .. 'ids', id)
        if fate == content then
            fate, repeated = 1, repeated + 1
        end
    else
        if day >= events_before then
            redis.call('ZADD', prefix .. 'user:' .. name, 0, time .. id .. '\0' .. deed)
        end
        redis.call('ZADD', prefix .. 'waiting:' .. day, 0, time .. id .. '\0' .. user .. deed)
        redis.call('SADD', prefix .. 'waiting', day)
        new = new + 1
    end
    taken[#taken + 1] = fate
end
redis.call('HINCRBY', prefix .. 'notes', 'new', new)
redis.call('HINCRBY', prefix .. 'notes', 'repeated', repeated)
return taken
"""
# Ends a batch: keeps what was refused (how many, and keys and texts), and then the position (parts and places).
_END = """
local prefix, kept, last = KEYS[1], 0, 1 + 2 * tonumber(ARGV[1])
for i = 2, last, 2 do
    if redis.call('SADD', prefix .. 'refusals', ARGV[i]) == 1 then
        local number = redis.call('HINCRBY', prefix .. 'notes', 'refused', 1) - 1
        redis.call('ZADD', prefix .. 'refused', number, ARGV[i] .. ARGV[i + 1])
        kept = kept + 1
    end
end
for i = last + 1, #ARGV, 2 do
    if ARGV[i + 1] == '' then
        redis.call('HDEL', prefix .. 'position', ARGV[i])
    else
        redis.call('HSET', prefix .. 'position', ARGV[i], ARGV[i + 1])
    end
end
return kept
"""
_CLAIM = """
local prefix, day, number = KEYS[1], ARGV[1], ARGV[2]
local waiting, landed = prefix .. 'waiting:' .. day, prefix .. 'landed:' .. day .. ':' .. number
local following = tonumber(redis.call('HGET', prefix .. 'landings', day) or '0')
if tonumber(number) < following or redis.call('EXISTS', waiting) == 0 then
    return 0
end
redis.call('RENAME', waiting, landed)
redis.call('SREM', prefix .. 'waiting', day)
redis.call('SADD', prefix .. 'landed', day .. ':' .. number)
redis.call('SADD', prefix .. 'unconfirmed', day .. ':' .. number)
redis.call('HSET', prefix .. 'landings', day, tonumber(number) + 1)
return 1
"""
# Moves the two days on, never back, and gives them.
_FORGET = """
local prefix = KEYS[1]
for i, name in ipairs({'events before', 'ids before'}) do
    if ARGV[i] > (redis.call('HGET', prefix .. 'notes', name) or '') then
        redis.call('HSET', prefix .. 'notes', name, ARGV[i])
    end
end
return redis.call('HMGET', prefix .. 'notes', 'events before', 'ids before')
"""


class RedisStore:
    """The store in a server; safe to use from several threads. As of `Store`."""

    name = "redis"

    def __init__(
        self, address: str, password: str | None = None, now: Callable[[], datetime.datetime] = utc_now
    ) -> None:
        self.place = _without_secrets(address)
        # It answers in bytes, and redis-py's types say `bytes | str` of every client.
        self.client: Any = connect(address, password)
        self._now = now
        self._take = self.client.register_script(_TAKE)
        self._end = self.client.register_script(_END)
        self._claim = self.client.register_script(_CLAIM)
        self._forget = self.client.register_script(_FORGET)
        self._warned = False

    # --- Snapshots

    def write_snapshot(self, version: str, users: Iterable[tuple[int, StoredUser]]) -> None:
        final = _key("snapshot", check_version(version))
        filling = _key("filling", version, secrets.token_hex(8))
        try:
            with self._failing():
                self._fill(filling, users)
                with self.client.pipeline() as pipeline:
                    pipeline.rename(filling, final)
                    pipeline.persist(final)
                    pipeline.sadd(_key("snapshots"), version)
                    pipeline.execute()
        except BaseException:
            with contextlib.suppress(redis.RedisError):
                self.client.unlink(filling)
            raise

    def _fill(self, key: str, users: Iterable[tuple[int, StoredUser]]) -> None:
        rows, last = iter(users), None
        some: dict[bytes, bytes] = {_FORMAT: b"1"}
        while some:
            with self.client.pipeline(transaction=False) as pipeline:
                pipeline.hset(key, mapping=some)
                pipeline.expire(key, _GIVEN_UP)
                pipeline.execute()
            some = {}
            for user_id, user in itertools.islice(rows, _AT_ONCE):
                if last is not None and user_id <= last:
                    raise ValueError(f"user {user_id} comes after user {last}; users of a snapshot must ascend")
                some[pack_integer(user_id)] = encode(user)
                last = user_id

    def read_user(self, version: str, user_id: int) -> StoredUser | None:
        with self._failing():
            there, data = self.client.hmget(_key("snapshot", version), _FORMAT, pack_integer(user_id))
        if there is None:
            raise self._missing(version)
        return None if data is None else decode(data)

    def describe(self, version: str) -> SnapshotContent:
        key = _key("snapshot", version)
        digest, clusters = hashlib.sha256(), 0
        with self._failing():
            fields = {field for field, _ in self.client.hscan_iter(key, count=_AT_ONCE)}
            if not fields:
                raise self._missing(version)
            users = sorted(fields - {_FORMAT})
            for some in _chunks(users):
                for user, data in zip(some, self.client.hmget(key, some), strict=True):
                    if data is None:
                        raise self._missing(version)
                    digest.update(user)
                    digest.update(data)
                    clusters += clusters_in(data)
        return SnapshotContent(len(users), clusters, digest.hexdigest())

    def versions(self) -> list[str]:
        with self._failing():
            return sorted(version.decode() for version in self.client.smembers(_key("snapshots")))

    def drop_snapshots(self, keep: Collection[str]) -> list[str]:
        dropped = [version for version in self.versions() if version not in keep]
        with self._failing():
            for version in dropped:
                with self.client.pipeline() as pipeline:
                    pipeline.srem(_key("snapshots"), version)
                    pipeline.unlink(_key("snapshot", version))
                    pipeline.execute()
        return dropped

    def _missing(self, version: str) -> MissingSnapshotError:
        there = ", ".join(self.versions()[-3:]) or "none"
        return MissingSnapshotError(
            f"there is no snapshot {version} in {self.place} (the latest: {there}); materialise serving.snapshot of "
            "its day"
        )

    # --- Events: the consumer's side

    def commit(self, events: Sequence[Event], position: Position | None, refused: Sequence[Refused] = ()) -> Committed:
        """As of `Store`; one script takes a part of the events, and the last one the position.

        So a batch that was cut off between them comes again, and nothing of it is counted twice.
        """
        packed = [pack(event) for event in events]
        refused, new, repeated = list(refused), 0, 0
        with self._failing():
            self._warn_once()
            for some, pieces in zip(_chunks(events), _chunks(packed), strict=True):
                fates = self._take(keys=[PREFIX], args=[piece for event in pieces for piece in _arguments(event)])
                for event, fate in zip(some, fates, strict=True):
                    if fate == _TOO_OLD:
                        before = self.client.hget(_key("notes"), "ids before").decode()
                        refused.append(refusal(event, too_old(datetime.date.fromisoformat(before)), self._now()))
                    elif isinstance(fate, bytes):
                        refused.append(refusal(event, same_id(time_of(fate)), self._now()))
                new += fates.count(_NEW)
                repeated += fates.count(_REPEATED)
            kept = [piece for one in refused for piece in (one.key, one.to_json())]
            places = [text for part, place in (position or {}).items() for text in (part, place)]
            return Committed(new, repeated, self._end(keys=[PREFIX], args=[len(refused), *kept, *places]))

    def position(self) -> dict[str, str]:
        with self._failing():
            return {part.decode(): place.decode() for part, place in self.client.hgetall(_key("position")).items()}

    def totals(self) -> Committed:
        with self._failing():
            return Committed(*(int(n or 0) for n in self.client.hmget(_key("notes"), "new", "repeated", "refused")))

    # --- Events: what a user has done

    def recent(self, user_id: int, since: datetime.datetime, latest: int | None = None) -> RecentActions:
        user, first = _key("user", user_id), b"[" + pack_integer(microseconds(since))
        with self._failing():
            if latest is None:
                rows = self.client.zrangebylex(user, first, "+")
            else:
                rows = self.client.zrevrangebylex(user, "+", first, start=0, num=latest)[::-1]
        return columns_in_user(user_id, rows)

    # --- Events: landing

    def days_waiting(self) -> list[datetime.date]:
        with self._failing():
            days = self.client.smembers(_key("waiting"))
        return sorted(datetime.date.fromisoformat(day.decode()) for day in days)

    def landings(self, day: datetime.date) -> int:
        with self._failing():
            return int(self.client.hget(_key("landings"), str(day)) or 0)

    def claim(self, landing: Landing) -> bool:
        with self._failing():
            return bool(self._claim(keys=[PREFIX], args=[str(landing.day), landing.number]))

    def unconfirmed(self) -> list[Landing]:
        with self._failing():
            return _landings(self.client.smembers(_key("unconfirmed")))

    def events_of(self, landing: Landing) -> EventColumns:
        with self._failing():
            return columns_in_time(itertools.chain.from_iterable(self._landed(landing)))

    def confirm(self, landing: Landing) -> None:
        with self._failing():
            self.client.srem(_key("unconfirmed"), f"{landing.day}:{landing.number}")

    def forget(self, events_before: datetime.date | None, ids_before: datetime.date) -> None:
        with self._failing():
            old = (self.client.hget(_key("notes"), "events before") or b"").decode()
            # The days are noted before anything goes: what comes from then on is judged by them.
            days = self._forget(keys=[PREFIX], args=[str(events_before or ""), str(ids_before)])
            new, ids = ((day or b"").decode() for day in days)
            landed = _landings(self.client.smembers(_key("landed")) - self.client.smembers(_key("unconfirmed")))
            for landing in landed:
                if old <= str(landing.day) < new or str(landing.day) < ids:
                    self._forget_events(landing)
                if str(landing.day) < ids:
                    self._forget_ids(landing)

    def _forget_events(self, landing: Landing) -> None:
        for rows in self._landed(landing):
            with self.client.pipeline(transaction=False) as pipeline:
                for row in rows:
                    event_id, user = id_and_user(row)
                    end = 8 + len(event_id) + 1
                    pipeline.zrem(_key("user", unpack_integer(user)), row[:end] + row[end + 8 :])
                pipeline.execute()

    def _forget_ids(self, landing: Landing) -> None:
        for rows in self._landed(landing):
            self.client.hdel(_key("ids"), *(id_and_user(row)[0] for row in rows))
        with self.client.pipeline() as pipeline:
            pipeline.unlink(_landed_key(landing))
            pipeline.srem(_key("landed"), f"{landing.day}:{landing.number}")
            # No event of the day is taken any more, so no number is used again.
            pipeline.hdel(_key("landings"), str(landing.day))
            pipeline.execute()

    def _landed(self, landing: Landing) -> Iterator[list[bytes]]:
        for first in itertools.count(0, _AT_ONCE):
            rows = self.client.zrange(_landed_key(landing), first, first + _AT_ONCE - 1)
            if not rows:
                return
            yield rows

    def refused(self, most: int) -> list[tuple[int, Refused]]:
        with self._failing():
            rows = self.client.zrange(_key("refused"), 0, most - 1, withscores=True) if most else []
        return [(int(number), Refused.from_json(row[16:])) for row, number in rows]

    def drop_refused(self, through: int) -> None:
        with self._failing():
            rows = self.client.zrangebyscore(_key("refused"), "-inf", through)
            with self.client.pipeline() as pipeline:
                for some in _chunks(rows):
                    pipeline.srem(_key("refusals"), *(row[:16] for row in some))
                pipeline.zremrangebyscore(_key("refused"), "-inf", through)
                pipeline.execute()

    # --- Erasure

    def search(self, user_ids: Collection[int]) -> int:
        with self._failing():
            return sum(len(members) for key, members in self._about(user_ids) if key != _key("refusals"))

    def erase(self, user_ids: Collection[int]) -> None:
        with self._failing():
            for key, members in self._about(user_ids):
                remove = {b"hash": self.client.hdel, b"zset": self.client.zrem, b"set": self.client.srem}
                for some in _chunks(members):
                    remove[self.client.type(key)](key, *some)
            for day in self.client.smembers(_key("waiting")):
                if not self.client.exists(_key("waiting", day.decode())):
                    self.client.srem(_key("waiting"), day)

    def _about(self, user_ids: Collection[int]) -> Iterator[tuple[str, list[bytes]]]:
        """Keys, and the members of each that are about some users."""
        users = set(map(pack_integer, user_ids))
        ids = {name for name, known in self.client.hscan_iter(_key("ids"), count=_AT_ONCE) if known[8:16] in users}
        yield _key("ids"), list(ids)
        days = (_key("waiting", day.decode()) for day in self.client.smembers(_key("waiting")))
        landings = map(_landed_key, _landings(self.client.smembers(_key("landed"))))
        for key in itertools.chain(days, landings):
            # Of a scan a member may come twice.
            rows = {row for row, _ in self.client.zscan_iter(key, count=_AT_ONCE)}
            yield key, [row for row in rows if id_and_user(row)[1] in users]
        for user_id in user_ids:
            yield _key("user", user_id), self.client.zrange(_key("user", user_id), 0, -1)
        for version in self.versions():
            key = _key("snapshot", version)
            yield key, [user for user in users if self.client.hexists(key, user)]
        refused = self.client.zrange(_key("refused"), 0, -1)
        refused = [row for row in refused if is_about(Refused.from_json(row[16:]).data, user_ids)]
        yield _key("refused"), refused
        yield _key("refusals"), [row[:16] for row in refused]

    def close(self) -> None:
        self.client.close()

    # --- The server

    def _warn_once(self) -> None:
        """Say what the server may lose by the way it is set up."""
        if self._warned:
            return
        facts = {**self.client.info("persistence"), **self.client.info("memory")}
        if not facts.get("aof_enabled"):
            _log.warning("%s keeps no append-only file and forgets events when it ends: set appendonly yes", self.place)
        if facts.get("maxmemory_policy", "noeviction") != "noeviction":
            policy = facts["maxmemory_policy"]
            _log.warning("%s may evict events (maxmemory-policy %s): set noeviction", self.place, policy)
        self._warned = True

    @contextlib.contextmanager
    def _failing(self) -> Generator[None]:
        with failing(self.place):
            yield


def connect(address: str, password: str | None) -> redis.Redis:
    """A client of a server; it connects when it is first used.

    Args:
        address: ``redis://...`` or ``rediss://...``.
        password: where the address has none.

    Raises:
        ValueError: the address or one of its parameters means nothing.
    """
    options = {"password": password} if password else {}
    try:
        # Nothing is asked twice unknown to us: what was under way when a connection broke may have been done.
        client = redis.Redis.from_url(
            address,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            **options,
        )
        client.connection_pool.make_connection()
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ValueError(f"serving.store is {_without_secrets(address)} and cannot be used: {error}") from error
    return client


@contextlib.contextmanager
def failing(place: str) -> Generator[None]:
    """Errors of a server as StoreErrors.

    Args:
        place: the server's address, for the message.
    """
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise StoreError(f"{place} refuses: {error}. Set PINNERSAGE_REDIS_PASSWORD or the user's rights") from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreUnavailableError(f"{place} cannot be reached: {error}") from error
    except redis.RedisError as error:
        message = f"{place} cannot do this: {error}. If its memory or disk is full, make room"
        raise StoreError(message) from error


def _without_secrets(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _key(*parts: object) -> str:
    return PREFIX + ":".join(map(str, parts))


def _landed_key(landing: Landing) -> str:
    return _key("landed", landing.day, landing.number)


def _landings(names: Iterable[bytes]) -> list[Landing]:
    pairs = (name.decode().split(":") for name in names)
    return sorted(Landing(datetime.date.fromisoformat(day), int(number)) for day, number in pairs)


def _arguments(event: PackedEvent) -> tuple:
    return (event.event_id, _day_text(event.day), unpack_integer(event.user), event.time, event.user, event.deed)


@functools.lru_cache(100)
def _day_text(number: int) -> str:
    return str(day_of(number))


def _chunks(values: Sequence) -> Iterator[Sequence]:
    for first in range(0, len(values), _AT_ONCE):
        yield values[first : first + _AT_ONCE]
