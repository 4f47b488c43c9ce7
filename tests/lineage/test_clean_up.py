"""``operations.clean_up``: what it gives up, what it leaves, and that all who read old days know of it."""

import functools

import dagster as dg
import duckdb
import pytest
from conftest import LAST
from world import START, World, differences, failures, on, small_settings

from pinnersage_assets.definitions import defs
from pinnersage_assets.lineage.clean_up import FILES, ROWS
from pinnersage_assets.lineage.sql import NOTHING_IS_LOST
from pinnersage_assets.settings import RetentionSettings, Settings
from pinnersage_assets.sources.simulated import SimulatedSource
from pinnersage_assets.warehouse.checks import _evaluate
from pinnersage_assets.warehouse.tables import all_tables

CLEAN_UP, PUBLICATIONS, LEDGER = "operations.clean_up", "operations.publications", "operations.partitions"
EXPIRING = [table for tables in ROWS.values() for table in tables]
DAYS = [on(offset) for offset in range(11)]
SHORT = dict.fromkeys(RetentionSettings.model_fields, 1)


def settings_of(**retention) -> Settings:
    return small_settings(
        window={"days": 8},
        simulation={"users": 120},
        evaluation={"users": 1000, "trailing_days": 2},
        retention=SHORT | retention,
    )


def clean(world, *more, day=LAST):
    assert failures(world.run("daily", day, only=[CLEAN_UP, *more])) == {}


def days_of(world, table):
    return world.read(f"SELECT DISTINCT dt FROM {table} ORDER BY dt")["dt"].to_list()


def expired(world, table):
    query = f"SELECT dt FROM {LEDGER} WHERE table_name = $table AND status = 'expired' ORDER BY dt"
    return world.read(query, table=table)["dt"].to_list()


@pytest.fixture(scope="module")
def cleaned(world, tmp_path_factory) -> World:
    """The small world without what is older than a day, published. Read-only: copy it to change it."""
    cleaned = world.copy(tmp_path_factory.mktemp("cleaned") / "data", settings_of())
    # Of raw tables there are old days. The others get some.
    for table in (table for table in EXPIRING if not table.startswith("raw.")):
        cleaned.execute(
            f"INSERT INTO {table} SELECT * REPLACE (dt - 4 AS dt) FROM {table} WHERE dt > $day - 2",
            f"INSERT INTO {LEDGER} SELECT * REPLACE (dt - 4 AS dt) FROM {LEDGER} "
            f"WHERE dt > $day - 2 AND table_name = '{table}'",
            day=LAST,
        )
    clean(cleaned, PUBLICATIONS)
    return cleaned


# --- What goes


@pytest.mark.parametrize("table", EXPIRING)
def test_rows_older_than_their_retention_go_and_all_others_stay(world, cleaned, table):
    assert days_of(cleaned, table) == [day for day in days_of(world, table) if day >= on(9)]
    gone = expired(cleaned, table)
    assert gone
    assert max(gone) < on(9)
    assert cleaned.partition(table, on(9)).equals(world.partition(table, on(9)))
    assert cleaned.status(table, on(9)) == "passed"
    # The ledger remembers how much there was.
    [(rows,)] = cleaned.read(
        f"SELECT sum(rows)::BIGINT FROM {LEDGER} WHERE table_name = $table AND status = 'expired'", table=table
    ).rows()
    row = cleaned.read(f"FROM {CLEAN_UP} WHERE dt = $day AND table_name = $table", day=LAST, table=table).to_dicts()
    assert row == [
        {
            "dt": LAST,
            "table_name": table,
            "kept_since": on(9),
            "partitions": len(gone),
            "rows": rows,
            "files": 0,
            "bytes": 0,
        }
    ]
    assert rows > 0


@pytest.mark.parametrize("table", [table for table in all_tables() if table not in {*EXPIRING, CLEAN_UP, PUBLICATIONS}])
def test_no_row_of_any_other_table_goes(world, cleaned, table):
    assert expired(cleaned, table) == []
    if table != LEDGER:
        count = f"SELECT count(*) FROM {table}"
        assert cleaned.read(count).item() == world.read(count).item()


def test_what_is_published_next_has_let_go_as_well(cleaned):
    with duckdb.connect(cleaned.warehouse.published, read_only=True) as published:
        for table in EXPIRING:
            assert published.execute(f"SELECT min(dt) FROM {table}").fetchall() == [(on(9),)]
        statuses = published.execute(f"SELECT DISTINCT status FROM {LEDGER} ORDER BY 1").fetchall()
    # The clean-up is checked before the publication comes.
    assert statuses == [("expired",), ("passed",)]


def test_until_then_the_published_copy_is_as_it_was(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of())
    published = copy.data / "published" / "pinnersage.duckdb"
    before = published.read_bytes()
    clean(copy)
    assert expired(copy, "raw.actions") == DAYS[1:9]
    assert published.read_bytes() == before


def test_nothing_goes_that_is_kept_for_ever(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of(**dict.fromkeys(SHORT, 0)))
    clean(copy)
    for table in EXPIRING:
        assert days_of(copy, table) == days_of(world, table)
    assert copy.read(
        f"SELECT DISTINCT kept_since, partitions, rows, files FROM {CLEAN_UP} WHERE dt = $day", day=LAST
    ).rows() == [(None, 0, 0, 0)]


def test_retention_is_counted_from_the_partition_so_that_an_old_day_can_be_redone(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of(raw_days=2))
    clean(copy, day=on(9))
    assert days_of(copy, "raw.actions") == DAYS[7:]


def test_what_was_published_last_stays_however_long_ago_that_was(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of())
    copy.execute(f"DELETE FROM {PUBLICATIONS}", f"INSERT INTO {PUBLICATIONS} VALUES ($day, 'run', 1, 1, 1)", day=on(6))
    clean(copy)
    assert days_of(copy, "raw.actions") == DAYS[6:]
    # Where nothing was published yet, nothing stays on that account.
    copy.execute(f"DELETE FROM {PUBLICATIONS}")
    clean(copy)
    assert days_of(copy, "raw.actions") == DAYS[9:]


@pytest.mark.parametrize("status", ["failed", "unchecked"])
def test_what_is_not_good_stays_until_somebody_has_looked_at_it(world, tmp_path, status):
    copy = world.copy(tmp_path / "data", settings_of())
    copy.execute(f"UPDATE {LEDGER} SET status = '{status}' WHERE table_name = 'raw.actions' AND dt = $day", day=on(4))
    clean(copy)
    assert days_of(copy, "raw.actions") == [on(4), *DAYS[9:]]
    assert copy.status("raw.actions", on(4)) == status


def test_a_second_clean_up_finds_nothing_left_to_do(cleaned, tmp_path):
    copy = cleaned.copy(tmp_path / "data")
    before = {table: copy.read(f"FROM {table} ORDER BY ALL") for table in [*EXPIRING, *(t for t, *_ in FILES.values())]}
    clean(copy)
    assert copy.read(
        f"SELECT sum(partitions), sum(rows), sum(files) FROM {CLEAN_UP} WHERE dt = $day", day=LAST
    ).rows() == [(0, 0, 0)]
    assert differences(before, {table: copy.read(f"FROM {table} ORDER BY ALL") for table in before}) == []


# --- Who reads it


def test_every_retention_is_of_some_table_and_every_table_of_one():
    assert {*ROWS, *FILES} == set(RetentionSettings.model_fields)
    assert len(set(EXPIRING)) == len(EXPIRING)
    assert set(EXPIRING) <= set(all_tables())


@pytest.mark.parametrize("table", EXPIRING)
def test_no_retention_is_allowed_that_is_shorter_than_what_the_lineage_reads_back(table):
    """What a day reads of an earlier one, as the assets declare it, with the shortest retentions that are allowed."""
    shortest = {name: _shortest(name) for name in ROWS}
    [name] = [name for name, tables in ROWS.items() if table in tables]
    for spec in defs.resolve_all_asset_specs():
        for dep in spec.deps:
            if dep.asset_key == dg.AssetKey(table.split(".")):
                assert -dep.partition_mapping.start_offset <= shortest[name], spec.key


@functools.cache
def _shortest(name: str) -> int:
    def is_allowed(days):
        try:
            Settings(retention={"index_days": 1, name: days})
        except ValueError:
            return False
        return True

    return next(days for days in range(1, 1000) if is_allowed(days))


@pytest.mark.slow
def test_the_day_after_a_clean_up_is_made_as_if_there_had_been_none(world, tmp_path):
    """With the shortest retentions that are allowed: whatever the day reads is still there."""
    with_rows = world.copy(tmp_path / "with", settings_of(**dict.fromkeys(SHORT, 0)))
    without = world.copy(tmp_path / "without", settings_of())
    clean(without)
    tables = [table for table in all_tables() if not table.startswith("operations.")]
    source = SimulatedSource(world.settings.simulation, world.settings.seed, START)
    for copy in (with_rows, without):
        for table in ("actions", "impressions", "board_pins", "pins"):
            copy.land(table, on(11), getattr(source, table)(on(11)))
        result = copy.run("daily", on(11))
        assert failures(result) == {}
        assert all(check.passed for check in result.get_asset_check_evaluations())
    one, other = (copy.partitions(on(11), tables) for copy in (with_rows, without))
    assert differences(one, other) == []


def test_raw_rows_that_are_gone_are_not_said_to_be_lost(cleaned, tmp_path):
    copy = cleaned.copy(tmp_path / "data")

    def passes(day):
        with copy.warehouse.get_reader() as connection:
            return _evaluate(connection, NOTHING_IS_LOST, [day], {})[0].passed

    copy.execute("DELETE FROM staging.actions WHERE dt = $day", day=on(9))
    assert copy.read("SELECT count(*) FROM staging.actions WHERE dt = $day", day=on(5)).item() > 0
    assert (passes(on(5)), passes(on(9)), passes(LAST)) == (True, False, True)


def test_the_page_of_a_day_counts_what_expired_of_the_week_before(cleaned):
    volumes = (
        "SELECT dt, rows FROM operations.partitions WHERE table_name = 'users.clusters' AND dt >= $day - 7 ORDER BY dt"
    )
    rows = cleaned.read(volumes, day=LAST)
    assert rows["dt"].to_list() == [on(5), on(6), on(8), on(9), LAST]
    assert (rows["rows"] > 0).all()
