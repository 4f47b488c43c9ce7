"""What is an event, and what is said of what is none."""

import datetime
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnersage_assets.serving.events import Event, parse, to_json
from pinnersage_assets.serving.packing import (
    columns_in_time,
    columns_in_user,
    id_and_user,
    microseconds,
    pack,
    pack_integer,
    unpack_integer,
)

UTC = datetime.UTC
NOW = datetime.datetime(2026, 3, 1, 13, tzinfo=UTC)
GOOD = {"event_id": "a1", "user_id": 7, "pin_id": 12, "action": "repin", "time": "2026-03-01T12:00:00.5Z"}

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=50)
EVENTS = st.builds(
    Event,
    TEXT,
    INT64,
    INT64,
    TEXT,
    st.datetimes(datetime.datetime(2000, 1, 1), NOW.replace(tzinfo=None), timezones=st.just(UTC)),
)


def test_an_event_is_one_json_object():
    event = parse(json.dumps(GOOD).encode(), NOW)
    assert event == Event("a1", 7, 12, "repin", datetime.datetime(2026, 3, 1, 12, 0, 0, 500_000, UTC))
    elsewhere = parse(json.dumps({**GOOD, "time": "2026-03-01T14:00:00.5+02:00"}).encode() + b"\r", NOW)
    assert elsewhere == event
    assert elsewhere.time.tzinfo is UTC


@given(EVENTS)
def test_what_is_sent_is_what_is_read(event):
    assert parse(to_json(event), NOW) == event


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 10_000, "Invalid JSON"),
        (b"null", "should be an object"),
        (b"[]", "should be an object"),
        (b" " * 70_000, "is 70000 bytes long; an event has at most 65536"),
        ({"pin_id": None}, "pin_id: Input should be a valid integer"),
        ({"user_id": "7"}, "user_id: Input should be a valid integer"),
        ({"user_id": 7.0}, "user_id: Input should be a valid integer"),
        ({"user_id": True}, "user_id: Input should be a valid integer"),
        ({"user_id": 2**63}, "user_id: Input should be less than"),
        ({"user_id": -(2**63) - 1}, "user_id: Input should be greater than"),
        ({"user_id": 10**5000}, "Invalid JSON"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"action": ""}, "action: String should have at least 1 character"),
        ({"action": "a\nb"}, "action: String should match pattern"),
        ({"event_id": "a\x00"}, "event_id: String should match pattern"),
        ({"event_id": "x" * 201}, "event_id: String should have at most 200"),
        ({"event_id": "é" * 101}, "event_id: is longer than 200 bytes"),
        ({"time": "2026-03-01T12:00:00"}, "time: Input should have timezone info"),
        ({"time": 1772366400}, "time: Input should be a valid datetime"),
        ({"time": "2026-03-01"}, "time: Input should be a valid datetime"),
        ({"time": "2026-03-01T13:05:01Z"}, "time: is in the future, at 2026-03-01T13:00:00+00:00"),
        ({"time": "2026"}, "time: is before the year 2000"),
        ({"time": "0001-01-01T00:00:00+23:00"}, "time: is outside the years 1 to 9999"),
    ],
)
def test_what_is_no_event_is_refused_with_the_reason(data, reason):
    if isinstance(data, dict):
        import sys

        limit = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        data = json.dumps({**GOOD, **data}, ensure_ascii=False).encode()
        sys.set_int_max_str_digits(limit)
    refused = parse(data, NOW)
    assert isinstance(refused, str)
    assert reason in refused


def test_a_missing_field_is_named():
    assert parse(json.dumps({k: v for k, v in GOOD.items() if k != "pin_id"}).encode(), NOW) == "pin_id: Field required"


def test_a_clock_may_be_a_little_ahead():
    assert isinstance(parse(json.dumps({**GOOD, "time": "2026-03-01T13:05:00Z"}).encode(), NOW), Event)


@given(st.lists(INT64, min_size=2, max_size=2))
def test_packed_integers_sort_as_integers(pair):
    a, b = pair
    assert unpack_integer(pack_integer(a)) == a
    assert (pack_integer(a) < pack_integer(b)) == (a < b)


@given(st.lists(EVENTS, max_size=5))
def test_packed_events_come_back_as_columns(events):
    pieces = [pack(event) for event in events]
    in_time = [p.time + p.event_id + b"\0" + p.user + p.deed for p in pieces]
    columns = columns_in_time(in_time)
    assert columns.user_ids.tolist() == [e.user_id for e in events]
    assert columns.pin_ids.tolist() == [e.pin_id for e in events]
    assert columns.actions == [e.action for e in events]
    assert columns.times.dtype == np.dtype("datetime64[us]")
    assert columns.times.astype(int).tolist() == [microseconds(e.time) for e in events]
    assert [id_and_user(row) for row in in_time] == [(p.event_id, p.user) for p in pieces]
    of_user = columns_in_user(7, [p.time + p.event_id + b"\0" + p.deed for p in pieces])
    assert of_user.pin_ids.tolist() == columns.pin_ids.tolist()
    assert of_user.actions == columns.actions


@pytest.mark.parametrize("event_id", ["", "x" * 201, "a\0b"])
def test_an_id_that_no_store_can_keep_is_an_error(event_id):
    with pytest.raises(ValueError, match="cannot be stored"):
        pack(Event(event_id, 1, 2, "repin", NOW))
    with pytest.raises(ValueError, match="more than 64 bits"):
        pack(Event("a", 2**63, 2, "repin", NOW))
