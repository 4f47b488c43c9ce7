import datetime

import pytest

from pinnersage_assets.warehouse.ledger import (
    EXPIRED,
    FAILED,
    PASSED,
    UNCHECKED,
    days_by_table,
    has_ledger,
    record_expiry,
    record_status,
    unpublishable,
    writing_times,
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


def test_the_days_of_each_status_are_told_apart(warehouse, write, rows):
    with warehouse.get_connection() as connection:
        assert not has_ledger(connection)
        assert days_by_table(connection, PASSED) == {}
    for day, status in zip(DAYS, (PASSED, FAILED, None), strict=True):
        write(TABLE, day, rows([day]), status=status)
    with warehouse.get_reader() as connection:
        assert has_ledger(connection)
        assert days_by_table(connection, PASSED) == {TABLE: {DAYS[0]}}
        assert days_by_table(connection, EXPIRED) == {}
        bad = [
            (partition.table, partition.day, partition.status) for partition in unpublishable(connection, "raw.pins")
        ]
        assert bad == [(TABLE, DAYS[1], FAILED), (TABLE, DAYS[2], UNCHECKED)]
        assert unpublishable(connection, except_table=TABLE) == []


def test_what_was_good_and_old_expires_keeps_its_count_and_can_be_published(warehouse, write, ledger, rows):
    for day, status in zip(DAYS, (PASSED, FAILED, None), strict=True):
        write(TABLE, day, rows([day]), status=status)
    with warehouse.get_connection() as connection:
        assert record_expiry(connection, TABLE, DAYS[0]) == {}
        assert record_expiry(connection, "raw.pins", DAYS[2]) == {}
        assert record_expiry(connection, TABLE, DAYS[2] + datetime.timedelta(days=1)) == {DAYS[0]: 1}
        assert record_expiry(connection, TABLE, DAYS[2]) == {}
        assert days_by_table(connection, EXPIRED) == {TABLE: {DAYS[0]}}
        assert [partition.day for partition in unpublishable(connection, "raw.pins")] == DAYS[1:]
    assert [(day, count, status) for day, count, _, status in ledger(TABLE)] == list(
        zip(DAYS, (1, 1, 1), (EXPIRED, FAILED, UNCHECKED), strict=True)
    )


def test_checks_that_find_nothing_wrong_with_no_rows_do_not_make_them_good(warehouse, write, ledger, rows):
    write(TABLE, DAYS, rows(DAYS))
    with warehouse.get_connection() as connection:
        record_expiry(connection, TABLE, DAYS[1])
        record_status(connection, TABLE, writing_times(connection, TABLE, DAYS), [DAYS[2]])
    assert statuses(ledger) == dict(zip(DAYS, (EXPIRED, PASSED, FAILED), strict=True))
    write(TABLE, DAYS[:1], rows(DAYS[:1]))
    assert statuses(ledger)[DAYS[0]] == PASSED


def test_a_warehouse_of_another_version_says_so_and_what_to_do(warehouse):
    with warehouse.get_connection() as connection:
        connection.execute("CREATE SCHEMA operations; CREATE TABLE operations.partitions (table_name VARCHAR, dt DATE)")
        with pytest.raises(ValueError, match=r"another version of this project.*run_id.*Begin a new data directory"):
            has_ledger(connection)
