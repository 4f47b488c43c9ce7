"""The stream in a Redis server: ``XADD pinnersage:events * event '{"event_id": ...}'``.

Consumers are one group, ``pinnersage``. An entry is acknowledged after its event is committed; what a killed consumer
had read and not acknowledged comes to itself when it starts again, and to others after a minute.
"""

import datetime
import json
import logging
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import redis

from pinnersage_assets.serving.events import is_about
from pinnersage_assets.serving.redis_store import PREFIX, failing
from pinnersage_assets.serving.store import Position, utc_now
from pinnersage_assets.serving.stream import Batch, Line

_log = logging.getLogger(__name__)

STREAM = f"{PREFIX}events"
GROUP = "pinnersage"
_FIELD = b"event"
# Milliseconds after which what another consumer has read counts as left behind.
_LEFT_BEHIND = 60_000
# Seconds between two looks at what is left behind, or lost.
_LOOK = 20
# Seconds of one wait; the client gives up on an answer soon after.
_WAIT = 2.0
# Acknowledged, or sent, at a time.
_AT_ONCE = 5000
_KEPT = datetime.timedelta(days=1)


class RedisStream:
    """The stream in a server. As of `Stream`.

    Args:
        client: of the server.
        place: its address, for messages.
        consumer: names this consumer in the group: the same after a restart.
        now: the clock, for how long entries are kept.
    """

    def __init__(
        self,
        client: redis.Redis,
        place: str,
        consumer: str | None = None,
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> None:
        # It answers in bytes, and redis-py's types say `bytes | str` of every client.
        self._client: Any = client
        self._place = place
        self._consumer = consumer or socket.gethostname()
        self._now = now
        # Where to go on in what this consumer had read before; None: it is through.
        self._unacknowledged: str | None = "0"
        self._claim_from = "0-0"
        self._looked = float("-inf")
        self._complaint = ""

    def resume(self, position: Position) -> None:
        """As of `Stream`; makes the group where there is none, from the start of the stream."""
        self._unacknowledged, self._looked = "0", float("-inf")
        with failing(self._place):
            exists = self._client.exists(STREAM)
            groups = {group["name"] for group in self._client.xinfo_groups(STREAM)} if exists else set()
            if GROUP.encode() in groups:
                return
            if STREAM in position:
                _log.error(
                    "%s: the stream %s or its group was deleted after entry %s was read: what was not read is lost, "
                    "unless it comes again. What is there is read from its start; events that came before do not "
                    "count again",
                    self._place,
                    STREAM,
                    position[STREAM],
                )
            self._client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)

    def read(self, most: int, seconds: float) -> Batch:
        """As of `Stream`."""
        with failing(self._place):
            if self._unacknowledged is not None:
                entries = self._entries(self._unacknowledged, most, None)
                if entries:
                    self._unacknowledged = entries[-1][0].decode()
                    return _batch(entries, more=True)
                self._unacknowledged = None
            if time.monotonic() - self._looked >= _LOOK:
                entries = self._left_behind(most)
                if entries:
                    return _batch(entries, more=True)
                self._look_for_losses()
                self._looked = time.monotonic()
                # The server may have answered a predecessor of ours after it was killed.
                self._unacknowledged = "0"
            entries = self._entries(">", most, max(1, round(1000 * min(seconds, _WAIT))))
            return _batch(entries, more=len(entries) >= most)

    def acknowledge(self, batch: Batch) -> None:
        """As of `Stream`."""
        with failing(self._place):
            for first in range(0, len(batch.receipt), _AT_ONCE):
                self._client.xack(STREAM, GROUP, *batch.receipt[first : first + _AT_ONCE])

    def tidy(self) -> None:
        """Trim what is a day old, and acknowledged or passed by in every group."""
        kept = f"{int((self._now() - _KEPT).timestamp() * 1000)}-0"
        with failing(self._place):
            needed = [kept]
            for group in self._client.xinfo_groups(STREAM):
                pending = self._client.xpending(STREAM, group["name"])
                needed.append((pending["min"] or group["last-delivered-id"]).decode())
            self._client.xtrim(STREAM, minid=min(needed, key=_order), approximate=False)

    def send(self, lines: Iterable[bytes]) -> None:
        """As of `Stream`."""
        with failing(self._place), self._client.pipeline(transaction=False) as pipeline:
            for line in lines:
                pipeline.xadd(STREAM, {_FIELD: line})
                if len(pipeline) >= _AT_ONCE:
                    pipeline.execute()
            pipeline.execute()

    def search(self, user_ids: Collection[int]) -> int:
        """As of `Stream`."""
        with failing(self._place):
            return sum(1 for _ in self._about(user_ids))

    def erase(self, user_ids: Collection[int], position: Position) -> Position:
        """As of `Stream`."""
        with failing(self._place):
            for entry in list(self._about(user_ids)):
                self._client.xdel(STREAM, entry)
        return {}

    def _about(self, user_ids: Collection[int]) -> Iterator[bytes]:
        first = "-"
        while entries := self._client.xrange(STREAM, first, "+", count=_AT_ONCE):
            yield from (entry for entry, fields in entries if any(is_about(v, user_ids) for v in fields.values()))
            first = f"({entries[-1][0].decode()}"

    def _entries(self, after: str, most: int, block: int | None) -> list[tuple[bytes, dict | None]]:
        found = self._client.xreadgroup(GROUP, self._consumer, {STREAM: after}, count=most, block=block)
        return found[0][1] if found else []

    def _left_behind(self, most: int) -> list[tuple[bytes, dict | None]]:
        following, entries, *deleted = self._client.xautoclaim(
            STREAM, GROUP, self._consumer, _LEFT_BEHIND, self._claim_from, count=most
        )
        self._claim_from = following.decode()
        for entry in deleted[0] if deleted else ():
            _log.error("%s: entry %s of %s was deleted before it was taken", self._place, entry.decode(), STREAM)
        return entries

    def _look_for_losses(self) -> None:
        """Say so when entries were trimmed or deleted before this group had read them."""
        stream = self._client.xinfo_stream(STREAM)
        [group] = [g for g in self._client.xinfo_groups(STREAM) if g["name"] == GROUP.encode()]
        read, delivered = group.get("entries-read"), group["last-delivered-id"].decode()
        removed = stream.get("entries-added", 0) - stream["length"]
        deleted = stream.get("max-deleted-entry-id", b"0-0").decode()
        complaint = ""
        if read is not None and removed > read:
            complaint = f"{removed - read} entries of {STREAM} were trimmed or deleted before they were read"
        elif _order(deleted) > _order(delivered):
            complaint = f"entry {deleted} of {STREAM} was deleted before it was read"
        if complaint and complaint != self._complaint:
            _log.error("%s: %s; they are lost, unless they come again", self._place, complaint)
        self._complaint = complaint


def _batch(entries: list[tuple[bytes, dict | None]], more: bool) -> Batch:
    if not entries:
        return Batch()
    lines = [_line(entry, fields) for entry, fields in entries]
    ids = tuple(entry for entry, _ in entries)
    return Batch(lines, {STREAM: max(ids, key=lambda i: _order(i.decode())).decode()}, ids, more)


def _line(entry: bytes, fields: dict | None) -> Line:
    source = f"{STREAM} {entry.decode()}"
    if not fields:
        return Line(source, b"", "was deleted from the stream before it was taken")
    if fields.keys() == {_FIELD}:
        return Line(source, fields[_FIELD])
    shown = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in fields.items()}
    return Line(source, json.dumps(shown).encode(), "must have one field, `event`, and has others")


def _order(entry: str) -> tuple[int, int]:
    """Entry ids are milliseconds and a number."""
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number or 0)
