"""Events: what a user just did, as producers send it, and why some are refused.

An event is one JSON object on one line::

    {"event_id": "a1", "user_id": 7, "pin_id": 12, "action": "repin", "time": "2026-03-01T12:00:00.5Z"}

What belongs here: the form of one event. What does not: where events come from (`stream`), and what only all events
together can tell, such as an id that comes twice (`store`).
"""

import datetime
import json
import re
from collections.abc import Collection
from typing import Annotated, NamedTuple

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

LARGEST_EVENT = 65_536
"""Bytes of an event, at most."""
LARGEST_ID = 200
"""Bytes of an event id in UTF-8, at most."""
FUTURE = datetime.timedelta(minutes=5)
"""How far a producer's clock may be ahead."""

# An earlier time is a number that was meant otherwise.
_EARLIEST = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
# What an error message quotes.
_QUOTED = 100


class Event(NamedTuple):
    """Something a user did with a pin.

    Attributes:
        event_id: names the event for good: what comes again under the same id is the same event.
        user_id: 64 bits.
        pin_id: 64 bits.
        action: such as `repin`; whether it means interest is a setting.
        time: when, with a zone (UTC where it comes from `parse`); microseconds.
    """

    event_id: str
    user_id: int
    pin_id: int
    action: str
    time: datetime.datetime


_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
# Control characters are left out: stores end ids with one.
_Text = Annotated[str, Field(min_length=1, max_length=LARGEST_ID, pattern=r"^[^\x00-\x1f\x7f]+$")]


@with_config(ConfigDict(extra="forbid", strict=True))
class _Json(TypedDict):
    event_id: _Text
    user_id: _Int64
    pin_id: _Int64
    action: _Text
    time: AwareDatetime


_JSON = TypeAdapter(_Json)


def parse(data: bytes, now: datetime.datetime) -> Event | str:
    """The event, its time in UTC, or why it is none.

    Args:
        data: one JSON object.
        now: the time by which an event is in the future.
    """
    if len(data) > LARGEST_EVENT:
        return f"is {len(data)} bytes long; an event has at most {LARGEST_EVENT}"
    try:
        event = Event(**_JSON.validate_json(data))
    except ValidationError as error:
        return _reason(error)
    if len(event.event_id) * 4 > LARGEST_ID and len(event.event_id.encode()) > LARGEST_ID:
        return f"event_id: is longer than {LARGEST_ID} bytes"
    try:
        ahead = event.time > now + FUTURE
        if event.time.tzinfo is not datetime.UTC:
            event = event._replace(time=event.time.astimezone(datetime.UTC))
    except OverflowError:
        return "time: is outside the years 1 to 9999 in UTC"
    if event.time < _EARLIEST:
        return "time: is before the year 2000"
    if ahead:
        return f"time: is in the future, at {now.isoformat(timespec='seconds')}; set the producer's clock"
    return event


def to_json(event: Event) -> bytes:
    """The event as producers send it, without the end of the line."""
    return json.dumps({**event._asdict(), "time": event.time.isoformat()}, ensure_ascii=False).encode()


def is_about(data: bytes | str, user_ids: Collection[int]) -> bool:
    """Whether a line is about one of these users: an event of theirs, or no event that holds such a number at all."""
    try:
        said = json.loads(data)["user_id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        text = data if isinstance(data, str) else data.decode(errors="replace")
        return any(int(number) in user_ids for number in re.findall(r"(?<![\w.-])-?\d{1,19}(?![\w.])", text))
    return isinstance(said, int | str) and str(said) in map(str, user_ids)


def _reason(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False, include_context=False):
        field = ".".join(map(str, problem["loc"]))
        problems.append((f"{field[:_QUOTED]}: " if field else "") + problem["msg"])
    return "; ".join(problems[:5])
