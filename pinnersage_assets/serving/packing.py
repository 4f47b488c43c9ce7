"""How events are laid out as bytes, the same in every store, so that bytes sort as what they stand for.

What belongs here: the order of keys. What does not: which keys a store has.
"""

import datetime
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.serving.events import LARGEST_ID, Event

# Added to a signed 64-bit integer, so that big-endian bytes sort as the integers.
_BIAS = 2**63
_ONE = struct.Struct(">Q")
_TWO = struct.Struct(">QQ")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECONDS_A_DAY = 86_400_000_000
_END_OF_ID = b"\0"


@dataclass(frozen=True)
class EventColumns:
    """Events, each a row of all arrays, which are r long.

    Attributes:
        user_ids: (r,) int64.
        pin_ids: (r,) int64.
        actions: r texts.
        times: (r,) datetime64[us], UTC.
    """

    user_ids: NDArray[np.int64]
    pin_ids: NDArray[np.int64]
    actions: list[str]
    times: NDArray[np.datetime64]

    def __len__(self) -> int:
        return len(self.actions)


def microseconds(time: datetime.datetime) -> int:
    """Microseconds since 1970 in UTC of a time with a zone."""
    since = time - _EPOCH
    return since.days * MICROSECONDS_A_DAY + since.seconds * 1_000_000 + since.microseconds


def time_of(content: bytes) -> datetime.datetime:
    """The time, UTC, of `PackedEvent.content`."""
    return _EPOCH + datetime.timedelta(microseconds=unpack_integer(content[:8]))


def pack_integer(value: int) -> bytes:
    """8 bytes that sort as the integers of 64 bits do."""
    return _ONE.pack(value + _BIAS)


def unpack_integer(data: bytes) -> int:
    """What `pack_integer` packed."""
    return _ONE.unpack(data)[0] - _BIAS


def day_number(day: datetime.date) -> int:
    """Days since 1970."""
    return day.toordinal() - _EPOCH.toordinal()


def day_of(number: int) -> datetime.date:
    """The day with that `day_number`."""
    return datetime.date.fromordinal(number + _EPOCH.toordinal())


def start_of(day: datetime.date) -> bytes:
    """What every time of the day, and none before it, sorts at or after."""
    return pack_integer(day_number(day) * MICROSECONDS_A_DAY)


@dataclass(frozen=True, slots=True)
class PackedEvent:
    """An event in pieces that stores put together to keys and values.

    Attributes:
        event_id: UTF-8.
        day: `day_number` of its time.
        time: 8 bytes.
        user: 8 bytes.
        deed: the pin's 8 bytes, then the action in UTF-8.
    """

    event_id: bytes
    day: int
    time: bytes
    user: bytes
    deed: bytes

    @property
    def content(self) -> bytes:
        """All of it but the id."""
        return self.time + self.user + self.deed


def pack(event: Event) -> PackedEvent:
    """The pieces.

    Raises:
        ValueError: the event is not as `events.parse` makes them, which says why.
    """
    event_id = event.event_id.encode()
    if not 0 < len(event_id) <= LARGEST_ID or _END_OF_ID in event_id:
        raise ValueError(
            f"event id {event.event_id!r} cannot be stored: it must have 1 to {LARGEST_ID} bytes, and none that is zero"
        )
    time = microseconds(event.time)
    try:
        user_and_pin = _TWO.pack(event.user_id + _BIAS, event.pin_id + _BIAS)
    except struct.error as error:
        raise ValueError(f"event {event.event_id!r} has an id of more than 64 bits") from error
    return PackedEvent(
        event_id,
        time // MICROSECONDS_A_DAY,
        _ONE.pack(time + _BIAS),
        user_and_pin[:8],
        user_and_pin[8:] + event.action.encode(),
    )


def id_and_user(in_time: bytes) -> tuple[bytes, bytes]:
    """Event id and user (8 bytes) of an event laid out as for `columns_in_time`."""
    end = in_time.index(_END_OF_ID, 8)
    return in_time[8:end], in_time[end + 1 : end + 9]


def columns_in_time(rows: Iterable[bytes]) -> EventColumns:
    """Events, in their order, of which each is its time, its id, a zero byte, its user and its deed."""
    times, users, pins, actions = [], [], [], []
    for row in rows:
        end = row.index(_END_OF_ID, 8)
        times.append(row[:8])
        users.append(row[end + 1 : end + 9])
        pins.append(row[end + 9 : end + 17])
        actions.append(row[end + 17 :].decode())
    return EventColumns(_integers(users), _integers(pins), actions, _integers(times).view("datetime64[us]"))


def columns_in_user(user_id: int, rows: Iterable[bytes]) -> EventColumns:
    """A user's events, in their order, of which each is its time, its id, a zero byte and its deed."""
    times, pins, actions = [], [], []
    for row in rows:
        end = row.index(_END_OF_ID, 8)
        times.append(row[:8])
        pins.append(row[end + 1 : end + 9])
        actions.append(row[end + 9 :].decode())
    users = np.full(len(actions), user_id, np.int64)
    return EventColumns(users, _integers(pins), actions, _integers(times).view("datetime64[us]"))


def _integers(packed: list[bytes]) -> NDArray[np.int64]:
    unsigned = np.frombuffer(b"".join(packed), ">u8").astype(np.uint64)
    return (unsigned ^ np.uint64(_BIAS)).view(np.int64)
