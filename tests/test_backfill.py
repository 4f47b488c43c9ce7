"""Backfills: what they plan, and that one which was stopped goes on and ends as if it had not been."""

import datetime

import dagster as dg
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import START, World, differences, failures, on, small_settings

from pinnersage_assets.backfill import BackfillError, PlannedRun, backfill_stale, days_made, plan_backfill, plan_stale
from pinnersage_assets.definitions import defs
from pinnersage_assets.jobs import changed_landing_files
from pinnersage_assets.lineage.clean_up import ROWS
from pinnersage_assets.lineage.stale_partitions import find_stale
from pinnersage_assets.settings import RetentionSettings
from pinnersage_assets.sources.simulated import SimulatedSource
from pinnersage_assets.warehouse.ledger import record_status

JOBS = ("pins", "raw_and_staging", "near_duplicates", "users_and_retrieval", "daily")
TABLES = {job: [".".join(k.path) for k in defs.resolve_job_def(job).asset_layer.executable_asset_keys] for job in JOBS}
ALL = TABLES["daily"]


def days(first, last):
    return {on(offset) for offset in range(first, last + 1)}


def plan(first, last, window=5, done=None, again=False, horizon=1, expired=None):
    return plan_backfill(defs, done or {}, expired or {}, START, window, horizon, on(first), on(last), again)


def run(job, first, last=None):
    return PlannedRun(job, on(first), on(first if last is None else last))


def carry_out(runs, done):
    """What is done after some runs, holding each to the rule that nothing is used before it is there."""
    done = {table: set(done.get(table, ())) for table in ALL}
    for planned in runs:
        for offset in range((planned.last - planned.first).days + 1):
            for table in TABLES[planned.job]:
                done[table].add(planned.first + datetime.timedelta(days=offset))
    return done


# --- The plan


def test_a_fresh_start():
    assert plan(8, 9) == [
        run("pins", 0, 2),
        run("raw_and_staging", 3, 7),
        run("near_duplicates", 0, 7),
        run("users_and_retrieval", 7),
        run("daily", 8),
        run("daily", 9),
    ]


def test_a_longer_horizon_needs_models_of_earlier_days():
    assert plan(8, 8, horizon=3) == [
        run("pins", 0, 0),
        run("raw_and_staging", 1, 7),
        run("near_duplicates", 0, 7),
        run("users_and_retrieval", 5),
        run("users_and_retrieval", 6),
        run("users_and_retrieval", 7),
        run("daily", 8),
    ]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (0, [run("daily", 0)]),
        (1, [run("raw_and_staging", 0), run("near_duplicates", 0), run("users_and_retrieval", 0), run("daily", 1)]),
        (5, [run("raw_and_staging", 0, 4), run("near_duplicates", 0, 4), run("users_and_retrieval", 4)]),
    ],
)
def test_near_the_first_partition_there_is_less_past(first, expected):
    assert plan(first, first)[: len(expected)] == expected
    assert plan(first, first)[-1] == run("daily", first)


def test_gaps_are_filled_and_no_more():
    done = {table: days(0, 9) for table in ALL}
    done["staging.impressions"] = days(0, 9) - {on(4), on(6), on(7)}
    done["corpus.near_duplicates"] = days(0, 9) - {on(2)}
    # Of the corpus as of a day nobody needs an earlier one.
    done["corpus.excluded"] = done["corpus.pins"] = {on(8), on(9)}
    assert plan(9, 10, done=done) == [
        run("raw_and_staging", 4),
        run("raw_and_staging", 6, 7),
        run("near_duplicates", 2),
        run("daily", 10),
    ]


@pytest.mark.parametrize("table", ["corpus.excluded", "corpus.pins", "users.medoids", "retrieval.hnsw_index"])
def test_the_day_before_is_made_whole(table):
    done = {other: days(0, 9) for other in ALL}
    done[table] = days(0, 7)
    assert plan(9, 9, done=done) == [run("users_and_retrieval", 8), run("daily", 9)]


def test_what_is_complete_is_left_alone_unless_asked_for_again():
    done = {table: days(0, 9) for table in ALL}
    assert plan(8, 9, done=done) == []
    assert plan(8, 9, done=done, again=True) == [run("daily", 8), run("daily", 9)]
    done["operations.publications"] = days(0, 8)
    assert plan(8, 9, done=done) == [run("daily", 9)]


# Tables whose rows are given up when they are old.
EXPIRING = [table for tables in ROWS.values() for table in tables]


def test_days_that_are_finished_stay_finished_when_their_rows_expire():
    done = {table: days(0, 9) if table not in EXPIRING else set() for table in ALL}
    expired = {table: days(0, 9) for table in EXPIRING}
    assert plan(8, 9, done=done, expired=expired) == []
    # Of the day that comes next only what it reads back is made again.
    assert plan(10, 10, done=done, expired=expired) == [run("users_and_retrieval", 9), run("daily", 10)]
    candidates = [f"retrieval.{kind}recommendations" for kind in ("", "pixie_", "blended_")]
    for table in ("corpus.pins", *candidates):
        done[table], expired[table] = days(7, 9), days(0, 6)
    assert plan(10, 10, done=done, expired=expired) == [run("daily", 10)]
    assert plan(10, 10, done=done, expired=expired, horizon=3) == [run("daily", 10)]
    assert plan(10, 10, done=done, expired=expired, horizon=4) == [run("users_and_retrieval", 6), run("daily", 10)]


def test_what_a_day_reads_back_is_made_again_before_it_and_for_no_other():
    done = {table: days(0, 9) for table in ALL}
    expired = {"retrieval.recommendations": days(0, 7)}
    done["retrieval.recommendations"] = days(8, 9)
    assert plan(4, 4, done=done, expired=expired, again=True) == [run("users_and_retrieval", 3), run("daily", 4)]
    assert plan(4, 5, done=done, expired=expired, again=True)[1:] == [run("daily", 4), run("daily", 5)]
    # Of a range that was interrupted long ago.
    done["evaluation.report"] = days(0, 9) - {on(2), on(6)}
    assert plan(1, 9, done=done, expired=expired) == [
        run("users_and_retrieval", 1),
        run("daily", 2),
        run("users_and_retrieval", 5),
        run("daily", 6),
    ]


def test_a_day_that_lacks_something_else_is_made_whole():
    done = {table: days(0, 9) for table in ALL}
    done["raw.actions"] = done["raw.pins"] = days(5, 9)
    expired = {"raw.actions": days(0, 4), "raw.pins": days(0, 4)}
    assert plan(9, 9, done=done, expired=expired, again=True) == [run("daily", 9)]
    done["staging.impressions"] = days(0, 9) - {on(4)}
    assert plan(9, 9, window=9, done=done, expired=expired, again=True) == [run("raw_and_staging", 4), run("daily", 9)]


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [(-1, 3, f"the first partition is {START}"), (3, 2, "the last day is before the first")],
)
def test_days_out_of_order_or_before_the_first_partition_are_refused(first, last, why):
    with pytest.raises(ValueError, match=f"cannot backfill {on(first)}.*: {why}"):
        plan(first, last)


def test_a_run_reads_well():
    assert str(run("daily", 3)) == "daily 2026-01-04"
    assert str(run("pins", 0, 3)) == "pins 2026-01-01 to 2026-01-04"


@given(
    first=st.integers(0, 12),
    length=st.integers(0, 3),
    window=st.integers(1, 15),
    again=st.booleans(),
    missing=st.sets(st.tuples(st.sampled_from(ALL), st.integers(0, 15)), max_size=8),
    gone=st.sets(st.tuples(st.sampled_from(EXPIRING), st.integers(0, 15)), max_size=30),
    nothing_done=st.booleans(),
)
def test_every_day_that_is_read_comes_before_its_use_and_nothing_is_done_twice(
    first, length, window, again, missing, gone, nothing_done
):
    last = first + length
    done = {} if nothing_done else {table: days(0, 15) for table in ALL}
    for table, day in missing:
        done[table] = done.get(table, set()) - {on(day)}
    expired = {table: {on(day) for other, day in gone if other == table} & done.get(table, set()) for table in EXPIRING}
    finished = {table: set(found) for table, found in done.items()}
    done = {table: found - expired.get(table, set()) for table, found in done.items()}
    runs = plan(first, last, window, done, again, expired=expired)

    planned = [
        (job, day)
        for r in runs
        for job, day in ((r.job, r.first + datetime.timedelta(days=n)) for n in range((r.last - r.first).days + 1))
    ]
    assert len(planned) == len(set(planned))
    for position, r in enumerate(runs):
        before = carry_out(runs[:position], done)
        past = {day for day in days(0, 15) if day < r.first}
        own_days = {day for day in days(0, 15) if r.first <= day <= r.last}
        own_staging = set() if r.job == "daily" else own_days
        if r.job in ("near_duplicates", "users_and_retrieval", "daily"):
            assert before["staging.pins"] >= past | own_staging
            assert before["corpus.near_duplicates"] >= past
        if r.job in ("users_and_retrieval", "daily"):
            assert r.first == r.last
            first_of_window = max(START, r.first - datetime.timedelta(days=window - 1))
            in_window = {day for day in past if day >= first_of_window}
            assert before["staging.actions"] >= in_window | own_staging
        if r.job == "users_and_retrieval":
            assert before["corpus.near_duplicates"] >= own_days
        if r.job == "daily" and r.first > START:
            yesterday = r.first - datetime.timedelta(days=1)
            assert yesterday in before["retrieval.recommendations"]
            assert yesterday in before["corpus.pins"]
            if position and runs[position - 1] == PlannedRun("users_and_retrieval", yesterday, yesterday):
                # It was not there, or it had expired.
                tables = TABLES["users_and_retrieval"]
                assert any(yesterday not in finished.get(t, set()) for t in tables) or any(
                    yesterday in expired.get(t, set()) for t in ("retrieval.recommendations", "corpus.pins")
                )
        # A run that is not asked for again does something that was not there.
        lacking = [
            table for table in TABLES[r.job] if not {d for j, d in planned if j == r.job} <= set(done.get(table, ()))
        ]
        assert lacking or (again and r.job == "daily")
    after = carry_out(runs, done)
    assert all(after[table] | expired.get(table, set()) >= days(first, last) for table in ALL)
    assert plan(first, last, window, after, expired=expired) == []


# --- Real backfills, of one wanted day after two of the past, with a window of two


LAST = on(2)
SETTINGS = {"window": {"days": 2}, "simulation": {"users": 30, "pins": 300}}


def landed_world(data):
    world = World.new(data, small_settings(**SETTINGS), kind="landing")
    source = SimulatedSource(world.settings.simulation, world.settings.seed, START)
    for day in sorted(days(0, 2)):
        for table in ("actions", "impressions", "board_pins", "pins"):
            world.land(table, day, getattr(source, table)(day))
    return world


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Read-only: copy it to change it."""
    world = landed_world(tmp_path_factory.mktemp("undisturbed") / "data")
    world.backfill(LAST, LAST)
    return world


def rows_of(world):
    return {(day, table): frame for day in days(0, 2) for table, frame in world.partitions(day).items()}


def test_a_backfill_that_is_done_has_nothing_left_to_do(undisturbed):
    assert list(undisturbed.backfilling(LAST, LAST)) == []


@pytest.mark.slow
def test_a_backfill_that_fails_and_is_killed_resumes_and_ends_with_the_same_rows(undisturbed, tmp_path, monkeypatch):
    world = landed_world(tmp_path / "data")
    # A bad file in the window stops the run of many days ...
    file = world.landing / "actions" / f"dt={on(1)}" / "part-0.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(BackfillError) as raised:
        world.backfill(LAST, LAST)
    message = str(raised.value)
    assert "raw_and_staging 2026-01-01 to 2026-01-02 failed" in message
    assert "raw__actions: " in message
    assert f"actions/dt={on(1)}/part-0.parquet cannot be read as Parquet" in message
    assert "what is done stays" in message
    file.write_bytes(content)

    # ... the terminal is closed between two runs ...
    def interrupted():
        for planned in world.backfilling(LAST, LAST):
            if planned == run("near_duplicates", 0, 1):
                raise KeyboardInterrupt
            yield planned

    with pytest.raises(KeyboardInterrupt):
        list(interrupted())

    # ... and in the middle of one, between the write of a partition, or of all those of a run, and their checks.
    for interrupted_table, unchecked in (("corpus.near_duplicates", days(0, 1)), ("users.medoids", days(1, 1))):

        def killed(connection, table, *rest, interrupted_table=interrupted_table):
            if table == interrupted_table:
                raise KeyboardInterrupt
            record_status(connection, table, *rest)

        with monkeypatch.context() as patch:
            patch.setattr("pinnersage_assets.warehouse.checks.record_status", killed)
            with pytest.raises(BackfillError, match="was interrupted; the same command goes on from here"):
                world.backfill(LAST, LAST)
        assert {world.status(interrupted_table, day) for day in unchecked} == {"unchecked"}
    resumed = world.backfill(LAST, LAST)
    assert resumed == [run("users_and_retrieval", 1), run("daily", 2)]
    assert differences(rows_of(undisturbed), rows_of(world)) == []


@pytest.mark.slow
def test_wanted_days_can_be_materialised_again_with_the_same_rows(undisturbed, tmp_path):
    world = undisturbed.copy(tmp_path / "data")
    assert world.backfill(LAST, LAST, again=True) == [run("daily", 2)]
    assert differences(rows_of(undisturbed), rows_of(world)) == []


def test_a_gap_in_the_window_is_a_failed_check_that_says_how_to_close_it(undisturbed, tmp_path):
    world = undisturbed.copy(tmp_path / "data")
    make_gap(world)
    published = (world.data / "published" / "pinnersage.duckdb").read_bytes()
    result = world.run("daily", LAST)
    assert not result.success
    failed = [c for c in result.get_asset_check_evaluations() if not c.passed]
    # Those that read the window, and nothing that is blocked: whom the index serves waits for users.
    readers = {"users__clusters", "retrieval__pixie_recommendations"}
    readers |= {"evaluation__next_action", "evaluation__action_ages"}
    assert {"__".join(c.asset_key.path) for c in failed} == readers
    for check in failed:
        assert check.check_name == "inputs_are_complete"
        [gap] = check.metadata["examples"].records
        assert (gap.data["missing"], gap.data["first"], gap.data["last"]) == ("staging.actions", str(on(1)), str(on(1)))
        assert f"make backfill FROM={LAST} TO={LAST}" in check.description
    # What comes after is blocked, and nothing is published.
    assert set(failures(result)) == {f"{reader}__checks" for reader in readers}
    materialised = {".".join(e.asset_key.path) for e in result.get_asset_materialization_events()}
    materialised -= {reader.replace("__", ".") for reader in readers - {"users__clusters"}}
    assert "users.clusters" in materialised
    assert not {t for t in materialised if t.startswith(("users.medoids", "retrieval.", "operations."))}
    assert world.status("users.clusters", LAST) == "failed"
    assert (world.data / "published" / "pinnersage.duckdb").read_bytes() == published
    refused = failures(world.run("daily", LAST, only=["operations.publications"]))
    assert f"users.clusters {LAST} (failed)" in refused["operations__publications"]
    assert (world.data / "published" / "pinnersage.duckdb").read_bytes() == published


@pytest.mark.slow
def test_a_gap_in_the_window_is_closed_by_what_the_check_says(undisturbed, tmp_path):
    world = undisturbed.copy(tmp_path / "data")
    make_gap(world)
    assert world.run("daily", LAST).success is False
    assert world.backfill(LAST, LAST) == [run("raw_and_staging", 1), run("daily", 2)]
    assert differences(rows_of(undisturbed), rows_of(world)) == []


def make_gap(world):
    world.execute(
        "DELETE FROM staging.actions WHERE dt = $day",
        "DELETE FROM operations.partitions WHERE table_name = 'staging.actions' AND dt = $day",
        day=on(1),
    )


def test_a_failed_check_is_told_with_what_to_do(undisturbed, tmp_path):
    # With so few edges and candidates the index misses neighbours, of which so few are asked for that it is no scan.
    index = {"recall_floor": 1.0, "expansion_search": 1, "expansion_add": 1, "connectivity": 2, "exact_up_to": 0}
    retrieval = {"budget": 6, "margin": 1}
    world = undisturbed.copy(tmp_path / "data", small_settings(**SETTINGS, index=index, retrieval=retrieval))
    with pytest.raises(BackfillError, match=r"check recall_is_high of retrieval.hnsw_index: .*index\.expansion_search"):
        world.backfill(LAST, LAST, again=True)


def test_pins_refused_before_the_window_are_not_lost(tmp_path):
    """Of the days before the window a backfill reads pins alone: what it refuses of them must be found nevertheless."""
    world = landed_world(tmp_path / "data")
    bad = pl.DataFrame({"pin_id": [10**6], "created_at": [datetime.datetime(2026, 1, 1)], "embedding": [[0.0] * 64]})
    bad.write_parquet(world.landing / "pins" / f"dt={on(0)}" / "part-1.parquet")
    assert plan(3, 3, window=2)[0] == run("pins", 0)
    assert failures(world.run("pins", on(0))) == {}
    rejected = world.partition("staging.rejected", on(0))
    assert rejected.select("source", "reason").rows() == [("pins", "embedding is all zero")]
    assert world.status("staging.rejected", on(0)) == "passed"


# --- What is stale


SPECS = defs.resolve_all_asset_specs()


def stale(world):
    """(table, day, input) of what is not made from what is there now."""
    with world.warehouse.get_reader() as connection:
        found = find_stale(connection, SPECS, world.resources["source"], world.settings)
    return set(found.select("table_name", "stale_dt", "input").rows())


def stale_days(world):
    days = {}
    for table, day, _ in stale(world):
        days.setdefault(day, set()).add(table)
    return days


def late_action(world, day):
    """One more file, with an action that nobody has seen yet, of a user who acts anyway."""
    folder = world.landing / "actions" / f"dt={day}"
    row = pl.read_parquet(folder / "part-0.parquet").head(1)
    other = row.with_columns(pl.col("ts") + pl.duration(seconds=1))
    other.write_parquet(folder / "part-late.parquet")


def test_what_was_just_made_is_not_stale(undisturbed):
    assert stale(undisturbed) == set()
    assert undisturbed.partition("operations.stale_partitions", LAST).is_empty()
    # Everything that an asset made says what it was made from; only raw tables are made from no table.
    made_from_nothing = undisturbed.read(
        "SELECT DISTINCT table_name FROM operations.partitions WHERE inputs IS NULL OR cardinality(inputs) = 0"
    )
    assert made_from_nothing.is_empty()


def test_late_actions_make_stale_what_reads_them_and_nothing_else(undisturbed, tmp_path):
    world = undisturbed.copy(tmp_path / "data")
    late_action(world, on(1))
    assert stale(world) == {("raw.actions", on(1), "landing")}
    # The UI says so as well: a check of the day's list warns, and blocks nothing.
    result = world.run("daily", LAST, only=["operations.stale_partitions"])
    assert failures(result) == {}
    [check] = [c for c in result.get_asset_check_evaluations() if c.check_name == "nothing_is_stale"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "make backfill STALE=1" in check.description
    [row] = world.partition("operations.stale_partitions", LAST).to_dicts()
    assert (row["table_name"], row["stale_dt"]) == ("raw.actions", on(1))
    assert row["reason"] == "its landing files have changed"

    # Of the days before LAST only what LAST reads was made.
    assert plan_stale(defs, stale_days(world), days_made(world.warehouse)) == run("raw_and_staging", 1)
    assert failures(world.run("raw_and_staging", on(1), on(1))) == {}
    found = stale(world)
    assert "users.clusters" in {reader for reader, day, _ in found if day == on(1)}
    assert {"users.clusters", "evaluation.next_action"} <= {reader for reader, day, _ in found if day == LAST}
    assert {read for _, _, read in found} == {"staging.actions"}
    assert not {reader for reader, _, _ in found if reader.startswith(("raw.", "staging."))}
    assert "corpus.near_duplicates" not in {reader for reader, _, _ in found}
    assert plan_stale(defs, stale_days(world), days_made(world.warehouse)) == run("users_and_retrieval", 1)


def test_files_that_are_written_again_as_they_were_are_read_again_and_that_is_all(undisturbed, tmp_path):
    world = undisturbed.copy(tmp_path / "data")
    file = world.landing / "pins" / f"dt={on(0)}" / "part-0.parquet"
    file.touch()
    assert stale(world) == {("raw.pins", on(0), "landing")}
    assert failures(world.run("pins", on(0), on(0))) == {}
    assert stale(world) == set()
    # And of files that are gone, for they were moved to where it is cheaper, nothing could be made.
    file.unlink()
    assert stale(world) == set()


@pytest.mark.slow
def test_a_backfill_of_what_is_stale_ends_with_the_rows_of_a_world_where_nothing_came_late(undisturbed, tmp_path):
    expected = landed_world(tmp_path / "expected")
    late_action(expected, on(1))
    expected.backfill(LAST, LAST)
    world = undisturbed.copy(tmp_path / "data")
    late_action(world, on(1))
    runs = list(backfill_stale(world.defs, world.warehouse, world.instance, lambda: stale_days(world)))
    assert runs == [run("raw_and_staging", 1), run("users_and_retrieval", 1), run("daily", 2)]
    assert differences(rows_of(expected), rows_of(world)) == []
    assert list(backfill_stale(world.defs, world.warehouse, world.instance, lambda: stale_days(world))) == []


def test_what_another_version_of_the_code_made_is_stale(undisturbed, tmp_path):
    world = undisturbed.copy(tmp_path / "data")
    world.execute(
        "UPDATE operations.partitions SET code_version = 'old' WHERE table_name = 'users.medoids' AND dt = $day",
        day=LAST,
    )
    assert stale(world) == {("users.medoids", LAST, "code")}


def test_what_another_run_wrote_meanwhile_may_not_have_been_read(undisturbed, tmp_path, monkeypatch):
    """Whoever reads a partition that is being replaced cannot know which of both it read."""
    world = undisturbed.copy(tmp_path / "data")
    monkeypatch.setattr("pinnersage_assets.warehouse.partitions.refuse_expired_inputs", another_run_writes)
    assert failures(world.run("daily", LAST, only=["retrieval.hnsw_index"])) == {}
    monkeypatch.undo()
    assert ("retrieval.hnsw_index", LAST, "corpus.pins") in stale(world)
    assert failures(world.run("daily", LAST, only=["retrieval.hnsw_index"])) == {}
    assert ("retrieval.hnsw_index", LAST, "corpus.pins") not in stale(world)


def another_run_writes(connection, spec, days):
    """At the last moment before a run of the index writes what it made, somebody writes the corpus that it read."""
    connection.execute(
        "UPDATE operations.partitions SET run_id = 'another', "
        "write_number = (SELECT max(write_number) + 1 FROM operations.partitions) "
        "WHERE table_name = 'corpus.pins' AND dt = $day",
        {"day": LAST},
    )


def test_a_clock_that_was_set_back_makes_nothing_stale(undisturbed, tmp_path):
    """By the clock all that is there will be written tomorrow."""
    world = undisturbed.copy(tmp_path / "data")
    world.execute("UPDATE operations.partitions SET written_at = written_at + INTERVAL 1 DAY")
    assert failures(world.run("daily", LAST, only=["retrieval.hnsw_index", "retrieval.medoid_neighbours"])) == {}
    assert stale(world) == set()
    assert world.status("retrieval.medoid_neighbours", LAST) == "passed"


def test_changed_files_are_noticed_and_their_day_asked_for_once(undisturbed, tmp_path):
    world = undisturbed.copy(tmp_path / "data")

    def tick():
        with dg.build_sensor_context(
            instance=world.instance, resources=world.resources, definitions=world.defs
        ) as context:
            return changed_landing_files(context)

    assert "are those that were read" in tick().skip_message
    late_action(world, on(1))
    late_action(world, LAST)
    asked = tick().run_requests
    assert [(request.partition_key, request.job_name) for request in asked] == [
        (str(on(1)), "raw_and_staging"),
        (str(LAST), "daily"),
    ]
    # The same state has the same key, by which Dagster asks once; another state has another.
    assert [request.run_key for request in tick().run_requests] == [request.run_key for request in asked]
    late = world.landing / "actions" / f"dt={on(1)}" / "part-late.parquet"
    late.rename(late.with_name("part-later.parquet"))
    assert tick().run_requests[0].run_key != asked[0].run_key


def test_stale_days_are_made_again_in_order_each_as_it_was_made():
    done = {table: days(0, 3) for table in TABLES["raw_and_staging"]}
    done["corpus.near_duplicates"] = days(0, 3)
    whole = {table: done.get(table, set()) | days(4, 6) for table in ALL}
    every_day = {on(n): {"staging.pins"} for n in range(7)}
    assert plan_stale(defs, every_day, whole) == run("raw_and_staging", 0, 3)
    assert plan_stale(defs, {on(n): {"corpus.near_duplicates"} for n in (1, 2, 5)}, whole) == run(
        "near_duplicates", 1, 2
    )
    assert plan_stale(defs, {on(n): {"evaluation.report"} for n in (5, 6)}, whole) == run("daily", 5)
    assert plan_stale(defs, {}, whole) is None
    # Nobody finished that day.
    assert plan_stale(defs, {on(2): {"users.clusters"}}, whole) is None
    with_pins_alone = {table: days(0, 0) for table in TABLES["pins"]}
    assert plan_stale(defs, {on(0): {"raw.pins"}}, with_pins_alone) == run("pins", 0)


# --- What has expired


SHORT = {
    **SETTINGS,
    "retention": dict.fromkeys(RetentionSettings.model_fields, 1),
    "evaluation": {"trailing_days": 2},
}


@pytest.fixture(scope="module")
def expiring(undisturbed, tmp_path_factory):
    """A day more than the other world, the last of which gives up what is older than a day; read-only."""
    world = undisturbed.copy(tmp_path_factory.mktemp("expiring") / "data", small_settings(**SHORT))
    source = SimulatedSource(world.settings.simulation, world.settings.seed, START)
    for table in ("actions", "impressions", "board_pins", "pins"):
        world.land(table, on(3), getattr(source, table)(on(3)))
    # Index and snapshots have no rows to lose.
    assert world.backfill(on(3), on(3)) == [run("daily", 3)]
    return world


def test_a_day_that_is_over_is_not_made_again_because_its_rows_have_expired(expiring, undisturbed):
    assert expiring.status("users.medoids", on(1)) == "expired"
    assert expiring.status("raw.pins", on(0)) == "expired"
    assert expiring.partition("raw.pins", on(0)).is_empty()
    assert expiring.status("users.medoids", LAST) == "passed"
    assert expiring.backfill(LAST, on(3)) == []


def test_staging_is_not_overwritten_by_raw_rows_that_are_gone(expiring, tmp_path):
    world = expiring.copy(tmp_path / "data", expiring.settings)
    staging = ["staging.actions", "staging.pins", "staging.rejected"]
    before = world.partitions(on(0), staging)
    failed = failures(world.run("raw_and_staging", on(0), only=staging))
    assert set(failed) >= {"staging__actions", "staging__pins"}
    assert f"what it is made from has expired (raw.actions of {on(0)})" in failed["staging__actions"]
    assert differences(before, world.partitions(on(0), staging)) == []
    assert {world.status(table, on(0)) for table in staging} == {"passed"}
    # With raw it can be made again, which reads the source again; if that is gone, what is there stays too.
    assert failures(world.run("raw_and_staging", on(0))) == {}
    assert differences(before, world.partitions(on(0), staging)) == []
    for file in (world.landing / "actions" / f"dt={on(1)}").iterdir():
        file.unlink()
    failed = failures(world.run("raw_and_staging", on(1)))
    assert f"raw.actions of {on(1)} had " in failed["raw__actions"]
    assert "its source has none any more" in failed["raw__actions"]
    assert world.partition("staging.actions", on(1)).height > 0
    assert world.status("staging.actions", on(1)) == "passed"


@pytest.mark.slow
def test_a_day_whose_models_have_expired_is_judged_again_once_they_are_made_again(expiring, undisturbed, tmp_path):
    world = expiring.copy(tmp_path / "data", expiring.settings)
    judging = ["evaluation.retrieval_users", "evaluation.ranking_users", "evaluation.protocol"]
    before = world.partitions(LAST, judging)
    failed = {table: failures(world.run("daily", LAST, only=[table])) for table in judging}
    for refused in failed.values():
        assert any(f"make backfill FROM={LAST} TO={LAST} AGAIN=1" in message for message in refused.values())
    assert differences(before, world.partitions(LAST, judging)) == []
    assert world.backfill(LAST, LAST, again=True) == [run("users_and_retrieval", 1), run("daily", 2)]
    expected = undisturbed.partitions(LAST)
    found = world.partitions(LAST, expected)
    # What tells of the settings, retentions among them, is other.
    assert set(differences(expected, found)) <= {"operations.partitions", "operations.clean_up", "serving.snapshot"}
    assert world.status("retrieval.recommendations", on(1)) == "passed"


def test_a_gap_that_comes_of_rows_that_are_gone_is_a_failed_check_that_says_so(expiring, tmp_path):
    """Where a run reads more than the lineage says, the write cannot know: the check does."""
    longer = small_settings(**{**SHORT, "evaluation": {"horizon_days": 2, "trailing_days": 2}, "retention": {}})
    world = expiring.copy(tmp_path / "data", longer)
    result = world.run("daily", on(3), only=["evaluation.protocol"])
    [failed] = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed.check_name == "inputs_are_complete"
    assert "makes what has expired again too" in failed.description
    [gap] = [record.data for record in failed.metadata["examples"].records]
    assert (gap["missing"], gap["first"], gap["days"], gap["expired"]) == ("corpus.pins", str(on(1)), "1", "1")
