"""What the schedule asks for, what jobs hold, and which partitions a day reads."""

import datetime

import dagster as dg
import polars as pl
import pytest
from world import START, World, failures, on, small_settings

from pinnersage_assets.definitions import defs
from pinnersage_assets.partitions import DAILY
from pinnersage_assets.sources.landing import write_day, write_parquet_atomically
from pinnersage_assets.sources.source import Source
from pinnersage_assets.warehouse.tables import all_tables

UTC = datetime.UTC
TABLES = [table for table in all_tables() if table != "operations.partitions"]


def key(table):
    return dg.AssetKey(table.split("."))


def asked_for(tick):
    """The schedule, and the runs that it asks for at a time."""
    schedule = defs.resolve_schedule_def("daily_schedule")
    context = dg.build_schedule_context(scheduled_execution_time=tick, repository_def=defs.get_repository_def())
    return schedule, schedule.evaluate_tick(context).run_requests


def tables_of(job):
    return {".".join(k.path) for k in defs.resolve_job_def(job).asset_layer.executable_asset_keys}


# --- The schedule


@pytest.mark.parametrize(
    ("tick", "partition"),
    [
        (datetime.datetime(2026, 2, 1, 1, 0, tzinfo=UTC), "2026-01-31"),
        (datetime.datetime(2026, 1, 2, 1, 0, tzinfo=UTC), "2026-01-01"),
        (datetime.datetime(2028, 3, 1, 1, 0, tzinfo=UTC), "2028-02-29"),
        # A day that has not ended is not asked for, whenever somebody tests the schedule.
        (datetime.datetime(2026, 1, 31, 23, 59, tzinfo=UTC), "2026-01-30"),
        # Where clocks change, days are UTC nevertheless.
        (datetime.datetime(2026, 3, 30, 1, 0, tzinfo=UTC), "2026-03-29"),
    ],
)
def test_the_schedule_asks_for_yesterday_and_nothing_else(tick, partition):
    schedule, [request] = asked_for(tick)
    assert request.partition_key == partition
    # By its key Dagster asks for a day once.
    assert request.run_key == partition
    assert (request.job_name or schedule.job_name) == "daily"


def test_the_schedule_ticks_once_a_day_after_the_day_is_over():
    schedule = defs.resolve_schedule_def("daily_schedule")
    assert schedule.cron_schedule == "0 1 * * *"
    assert schedule.execution_timezone == "UTC"
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


def test_on_the_first_day_there_is_nothing_to_ask_for():
    _, requests = asked_for(datetime.datetime(2026, 1, 1, 1, 0, tzinfo=UTC))
    assert not requests


# --- The sensor


def tick(folder, cursor=None, kind="landing"):
    """What the sensor answers: partitions asked for with their run keys, and the cursor; or why it asks for none."""
    source = Source(kind=kind, landing_folder=str(folder), start_date=str(START))
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(
            instance, cursor, repository_def=defs.get_repository_def(), resources={"source": source}
        ) as context,
    ):
        answer = defs.resolve_sensor_def("landed_events").evaluate_tick(context)
    if answer.skip_message:
        return answer.skip_message
    assert {request.tags["dagster/partition"] for request in answer.run_requests} <= set(DAILY.get_partition_keys())
    return {request.partition_key: request.run_key for request in answer.run_requests}, answer.cursor


def land(folder, day, number=0, rows=1):
    now = datetime.datetime.combine(day, datetime.time())
    frame = pl.DataFrame({"user_id": [1] * rows, "pin_id": range(rows), "action": ["repin"] * rows, "ts": [now] * rows})
    write_parquet_atomically(frame, folder / "actions" / f"dt={day}" / f"events-{number:04}.parquet")


def test_the_sensor_asks_for_each_complete_day_once_until_more_lands(tmp_path):
    assert "no events of a complete day" in tick(tmp_path)
    for day in (START, on(1), datetime.datetime.now(UTC).date(), days_before(START, 1)):
        land(tmp_path, day)
    # Others' files are not the service's.
    write_day(tmp_path, "actions", on(2), pl.read_parquet(tmp_path / "actions" / f"dt={on(1)}" / "*.parquet"))
    first, cursor = tick(tmp_path)
    assert list(first) == [str(START), str(on(1))]
    assert "no events of a complete day" in tick(tmp_path, cursor)
    land(tmp_path, on(1), number=1)
    (tmp_path / "actions" / f"dt={on(1)}" / ".events-0002.parquet.1.tmp").write_text("half written")
    second, cursor = tick(tmp_path, cursor)
    assert list(second) == [str(on(1))]
    assert second[str(on(1))] != first[str(on(1))]
    assert "no events of a complete day" in tick(tmp_path, cursor)
    # Without its cursor it asks by the same keys, by which Dagster knows what has run.
    assert tick(tmp_path)[0] == first | second


def test_the_sensor_asks_for_a_day_without_events_when_a_later_one_has_landed(tmp_path):
    land(tmp_path, on(1))
    _, cursor = tick(tmp_path)
    assert "no events of a complete day" in tick(tmp_path, cursor)
    land(tmp_path, on(4))
    asked, cursor = tick(tmp_path, cursor)
    assert list(asked) == [str(on(offset)) for offset in (2, 3, 4)]
    assert "no events of a complete day" in tick(tmp_path, cursor)
    land(tmp_path, on(3))
    assert list(tick(tmp_path, cursor)[0]) == [str(on(3))]


def test_the_sensor_says_that_simulated_data_does_not_land(tmp_path):
    land(tmp_path, START)
    assert "PINNERSAGE_SOURCE is simulated" in tick(tmp_path, kind="simulated")


def test_the_sensor_is_off_until_somebody_wants_it_and_runs_the_daily_job():
    sensor = defs.resolve_sensor_def("landed_events")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert sensor.job_name == "daily"


def test_nothing_else_asks_for_runs():
    """Each of these has tests of what it asks for: here, in `test_backfill`, `test_lateness` and `test_alerts`."""
    assert {schedule.name for schedule in defs.schedules} == {"daily_schedule"}
    sensors = {"landed_events", "changed_landing_files", "late_days", "failed_runs"}
    assert {sensor.name for sensor in defs.sensors} == sensors
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.evaluate_automation_conditions(defs, instance).total_requested == 0


# --- Jobs


def test_definitions_load_and_every_table_has_one_asset_with_its_checks():
    dg.Definitions.validate_loadable(defs)
    assert {".".join(k.path) for k in defs.resolve_all_asset_keys()} == set(TABLES)
    checked = {check.asset_key for check in defs.resolve_asset_graph().asset_check_keys}
    assert checked == {key(table) for table in TABLES if all_tables()[table].tests}


def test_the_daily_job_holds_everything_and_ends_in_the_publication():
    assert tables_of("daily") == set(TABLES)
    graph = defs.resolve_asset_graph()
    publications = key("operations.publications")
    assert graph.get(publications).parent_keys == {key(table) for table in TABLES} - {publications}
    clean_up = key("operations.clean_up")
    stale = key("operations.stale_partitions")
    assert graph.get(clean_up).parent_keys == {key(table) for table in TABLES} - {publications, clean_up, stale}
    assert graph.get(stale).parent_keys == {key(table) for table in TABLES} - {publications, stale}
    assert not graph.get(publications).child_keys
    # Nothing but the publication's own checks comes after it.
    order = [node.name for node in defs.resolve_job_def("daily").graph.nodes_in_topological_order]
    assert order[-2:] == ["operations__publications", "operations__publications__checks"]


@pytest.mark.parametrize(
    ("job", "tables"),
    [
        ("raw_and_staging", {table for table in TABLES if table.split(".")[0] in ("raw", "staging")}),
        ("near_duplicates", {"corpus.near_duplicates"}),
        (
            "users_and_retrieval",
            {table for table in TABLES if table.split(".")[0] in ("corpus", "users", "graph", "retrieval")}
            - {"corpus.near_duplicates"},
        ),
        ("pins", {"raw.pins", "staging.pins", "staging.rejected"}),
    ],
)
def test_jobs_hold_what_their_names_say_with_all_checks(job, tables):
    assert tables_of(job) == tables
    steps = {node.name for node in defs.resolve_job_def(job).graph.nodes}
    assert {step for step in steps if step.endswith("__checks")} == {
        f"{table.replace('.', '__')}__checks" for table in tables if all_tables()[table].tests
    }


@pytest.mark.parametrize("table", TABLES)
def test_what_is_needed_of_many_days_takes_them_in_one_run_and_all_else_one(table):
    policy = defs.resolve_asset_graph().get(key(table)).backfill_policy
    if table.split(".")[0] in ("raw", "staging") or table == "corpus.near_duplicates":
        assert policy == dg.BackfillPolicy.single_run()
    else:
        assert policy is None or policy.max_partitions_per_run == 1


def test_a_range_of_raw_and_staging_is_one_run_with_a_partition_a_day(tmp_path):
    world = World.new(tmp_path / "data", small_settings())
    result = world.run("raw_and_staging", on(0), on(4))
    assert failures(result) == {}
    days = [on(offset) for offset in range(5)]
    for table in tables_of("raw_and_staging"):
        found = world.read(
            "SELECT dt, run_id, status FROM operations.partitions WHERE table_name = $t ORDER BY dt", t=table
        )
        assert found.rows() == [(day, result.run_id, "passed") for day in days]
        materialised = world.instance.get_materialized_partitions(key(table))
        assert materialised == {day.isoformat() for day in days}
    per_day = world.read("SELECT dt, count(*) AS n FROM staging.pins GROUP BY dt ORDER BY dt")["n"].to_list()
    assert per_day == [800, 20, 20, 20, 20]
    # The same rows as of five runs.
    alone = World.new(tmp_path / "alone", small_settings())
    for day in days[:2]:
        assert alone.run("raw_and_staging", day).success
    for table in tables_of("raw_and_staging"):
        assert alone.partition(table, on(1)).equals(world.partition(table, on(1)))


# --- Which partitions a day reads


def read_by(table, day, upstream):
    """First and last day that a partition reads of another table, as Dagster sees it; None where it reads nothing."""
    node = defs.resolve_asset_graph().get(key(table))
    mapping = node.partition_mappings[key(upstream)]
    mapped = mapping.get_upstream_mapped_partitions_result_for_partitions(
        DAILY.subset_with_partition_keys([day.isoformat()]), DAILY, DAILY, current_time=None
    )
    keys = sorted(mapped.partitions_subset.get_partition_keys())
    first, last = (datetime.date.fromisoformat(k) for k in (keys[0], keys[-1])) if keys else (None, None)
    assert not keys or len(keys) == (last - first).days + 1
    return (first, last) if keys else None


def days_before(day, n):
    return day - datetime.timedelta(days=n)


LATE, EARLY = on(200), on(3)


@pytest.mark.parametrize(
    ("table", "upstream", "day", "expected"),
    [
        ("users.clusters", "staging.actions", LATE, (days_before(LATE, 89), LATE)),
        ("users.clusters", "staging.actions", EARLY, (START, EARLY)),
        ("users.clusters", "staging.actions", START, (START, START)),
        ("users.clusters", "staging.pins", LATE, (START, LATE)),
        ("users.medoids", "users.clusters", LATE, (LATE, LATE)),
        ("corpus.near_duplicates", "staging.pins", LATE, (START, LATE)),
        ("corpus.near_duplicates", "corpus.near_duplicates", LATE, (START, days_before(LATE, 1))),
        ("corpus.near_duplicates", "corpus.near_duplicates", on(1), (START, START)),
        ("corpus.near_duplicates", "corpus.near_duplicates", START, None),
        ("corpus.excluded", "corpus.near_duplicates", LATE, (START, LATE)),
        ("corpus.pins", "corpus.excluded", LATE, (LATE, LATE)),
        ("evaluation.retrieval_users", "corpus.excluded", LATE, (LATE, LATE)),
        ("retrieval.recommendations", "staging.actions", LATE, (days_before(LATE, 89), LATE)),
        ("evaluation.retrieval_users", "retrieval.recommendations", LATE, (days_before(LATE, 1),) * 2),
        ("evaluation.retrieval_users", "retrieval.recommendations", START, None),
        ("evaluation.retrieval_users", "corpus.pins", on(1), (START, START)),
        ("evaluation.retrieval_users", "staging.actions", LATE, (days_before(LATE, 90), LATE)),
        ("evaluation.retrieval_users", "staging.actions", START, (START, START)),
        ("evaluation.retrieval", "evaluation.retrieval_users", LATE, (LATE, LATE)),
        ("staging.actions", "raw.actions", LATE, (LATE, LATE)),
        ("staging.pins", "raw.pins", LATE, (LATE, LATE)),
        ("staging.pins", "staging.pins", LATE, (START, days_before(LATE, 1))),
        ("staging.rejected", "staging.pins", LATE, (START, LATE)),
    ],
)
def test_a_day_reads(table, upstream, day, expected):
    assert read_by(table, day, upstream) == expected


@pytest.mark.parametrize("table", TABLES)
def test_no_table_reads_a_later_day(table):
    node = defs.resolve_asset_graph().get(key(table))
    for upstream in node.parent_keys:
        read = read_by(table, LATE, ".".join(upstream.path))
        assert read is not None
        assert read[1] <= LATE
        # Of itself only the past.
        assert upstream != key(table) or read[1] < LATE
