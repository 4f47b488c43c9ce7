import datetime

import pytest

from pinnersage_assets.warehouse.ledger import (
    FAILED,
    PASSED,
    UNCHECKED,
    has_ledger,
    record_status,
    unpublishable,
    writing_times,
    written_days,
)

DAYS = [datetime.date(2026, 3, day) for day in (1, 2, 3)]
TABLE = "raw.impressions"


@pytest.fixture
def rows(impressions):
    return lambda days: impressions(1, dt=days[0])


def statuses(ledger) -> dict[datetime.date, str]:
    return {day: status for day, _, _, status in ledger(TABLE)}


def test_a_status_is_unchecked_then_what_the_checks_say_then_unchecked_again(warehouse, write, ledger, rows):
    write(TABLE, DAYS, rows(DAYS), status=None)
    assert statuses(ledger) == dict.fromkeys(DAYS, UNCHECKED)
    with warehouse.get_connection() as connection:
        record_status(connection, TABLE, writing_times(connection, TABLE, DAYS), [DAYS[1]])
    assert statuses(ledger) == dict(zip(DAYS, [PASSED, FAILED, PASSED], strict=True))
    write(TABLE, DAYS[1:], rows(DAYS[1:]), status=None)
    assert statuses(ledger) == dict(zip(DAYS, [PASSED, UNCHECKED, UNCHECKED], strict=True))
    with warehouse.get_connection() as connection:
        record_status(connection, TABLE, writing_times(connection, TABLE, DAYS), [])
    assert statuses(ledger) == dict.fromkeys(DAYS, PASSED)


def test_a_partition_written_again_meanwhile_keeps_its_status(warehouse, write, ledger, rows):
    write(TABLE, DAYS, rows(DAYS), status=None)
    with warehouse.get_reader() as connection:
        looked_at = writing_times(connection, TABLE, DAYS)
    write(TABLE, DAYS[:1], rows(DAYS[:1]), status=None)
    with warehouse.get_connection() as connection:
        record_status(connection, TABLE, looked_at, [])
    assert statuses(ledger) == dict(zip(DAYS, [UNCHECKED, PASSED, PASSED], strict=True))


def test_a_status_of_what_was_never_written_is_not_entered(warehouse, write, ledger, rows):
    write("raw.actions", DAYS[0], rows(DAYS[:1]).clear().drop("dt").with_columns(action="file"))
    with warehouse.get_connection() as connection:
        record_status(connection, TABLE, writing_times(connection, TABLE, DAYS), [])
    assert ledger(TABLE) == []


def test_a_partition_has_one_row(write, ledger, rows):
    for run in ("one", "two", "three"):
        write(TABLE, DAYS, rows(DAYS), run_id=run)
    assert [(day, run) for day, _, run, _ in ledger(TABLE)] == [(day, "three") for day in DAYS]


def test_written_days_are_those_that_passed(warehouse, write, rows):
    with warehouse.get_connection() as connection:
        assert not has_ledger(connection)
        assert written_days(connection, TABLE) == set()
    for day, status in zip(DAYS, (PASSED, FAILED, None), strict=True):
        write(TABLE, day, rows([day]), status=status)
    with warehouse.get_reader() as connection:
        assert has_ledger(connection)
        assert written_days(connection, TABLE) == {DAYS[0]}
        assert written_days(connection, "raw.pins") == set()
        bad = [
            (partition.table, partition.day, partition.status) for partition in unpublishable(connection, "raw.pins")
        ]
        assert bad == [(TABLE, DAYS[1], FAILED), (TABLE, DAYS[2], UNCHECKED)]
        assert unpublishable(connection, except_table=TABLE) == []
