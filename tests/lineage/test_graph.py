"""The graph of pins and boards through the real assets: its edges, against plain loops over what came in."""

import datetime
from collections import defaultdict

import dagster as dg
import polars as pl
import pytest
from conftest import LAST, LATE_PIN
from world import failures, on, small_settings

from pinnersage_assets.definitions import defs
from pinnersage_assets.partitions import SETTINGS

EDGES = "graph.edges"
ONE_DAY = datetime.timedelta(days=1)


def settings_of(**graph):
    return small_settings(window={"days": 8}, simulation={"users": 120}, evaluation={"users": 1000}, graph=graph)


def rows_of(saves, known):
    """The edges of saves (board, user, pin, ts): pin, board, smallest user, first and last time; in order."""
    found = defaultdict(list)
    for board, user, pin, ts in saves:
        if pin in known:
            found[pin, board].append((user, ts))
    return sorted(
        (*edge, min(user for user, _ in of), min(ts for _, ts in of), max(ts for _, ts in of))
        for edge, of in found.items()
    )


def edges_of(world, day):
    rows = world.read(f"SELECT pin_id, board_id, user_id, first_ts, last_ts FROM {EDGES} WHERE dt = $day", day=day)
    return sorted(rows.rows())


def known_pins(world, day):
    return set(world.read("SELECT pin_id FROM raw.pins WHERE dt <= $day", day=day)["pin_id"])


def remake(world, day=LAST):
    """Make the edges of a day again; what the checks say, by name."""
    result = world.run("daily", day, only=[EDGES])
    assert failures(result) == {}
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


# --- Boards that are given


@pytest.mark.parametrize("day", [on(9), LAST])
def test_edges_are_the_distinct_saves_of_the_window(world, day):
    first = day - 7 * ONE_DAY
    saves = world.read(
        "SELECT board_id, user_id, pin_id, ts FROM raw.board_pins WHERE dt BETWEEN $first AND $day",
        first=first,
        day=day,
    ).rows()
    found = edges_of(world, day)
    assert found == rows_of(saves, known_pins(world, day))
    assert 100 < len(found) < len(saves)


def test_boards_may_be_shared_and_pins_be_saved_again_or_before_they_are_known(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    noon = datetime.datetime.combine(LAST, datetime.time(12))
    saves = [
        *((7, user, 5, noon + hours * datetime.timedelta(hours=1)) for user, hours in ((30, 0), (20, 1), (-9, 0.5))),
        (7, 30, 5, noon - ONE_DAY),
        (-(2**63), 30, 5, noon),
        # Of the first day, and of the last that is too old; of pins that never land, or on the last day.
        (8, 1, 6, noon - 7 * ONE_DAY),
        (8, 1, 9, noon - 8 * ONE_DAY),
        (8, 1, 10**12, noon),
        (9, 1, LATE_PIN, noon - 5 * ONE_DAY),
    ]
    schema = dict.fromkeys(["board_id", "user_id", "pin_id"], pl.Int64) | {"ts": pl.Datetime("us")}
    frame = pl.DataFrame(saves, schema=schema, orient="row").with_columns(dt=pl.col("ts").dt.date())
    frame.write_parquet(tmp_path / "saves.parquet")
    copy.execute(
        "DELETE FROM staging.board_pins",
        f"INSERT INTO staging.board_pins BY NAME FROM '{tmp_path}/saves.parquet'",
    )
    assert all(check.passed for check in remake(copy).values())
    assert edges_of(copy, LAST) == [
        (5, -(2**63), 30, noon, noon),
        (5, 7, -9, noon - ONE_DAY, noon + datetime.timedelta(hours=1)),
        (6, 8, 1, noon - 7 * ONE_DAY, noon - 7 * ONE_DAY),
        (LATE_PIN, 9, 1, noon - 5 * ONE_DAY, noon - 5 * ONE_DAY),
    ]
    event = copy.instance.get_latest_materialization_event(dg.AssetKey(EDGES.split(".")))
    assert event.asset_materialization.metadata["saves of unknown pins"].value == 1
    # A day earlier that pin has not landed yet.
    remake(copy, on(9))
    assert {board for _, board, *_ in edges_of(copy, on(9))} == {7, 8}


def test_without_boards_there_is_an_empty_graph(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    copy.execute("DELETE FROM staging.board_pins")
    assert all(check.passed for check in remake(copy).values())
    assert (edges_of(copy, LAST), copy.status(EDGES, LAST)) == ([], "passed")


# --- Sessions that stand for boards


def sessions_of(actions, minutes):
    """The actions (user, pin, ts) of each session, by one loop over them in the order of time."""
    found, latest = defaultdict(list), {}
    for user, pin, ts in sorted(actions, key=lambda action: action[2]):
        start, before = latest.get(user, (ts, None))
        if before is None or ts - before > datetime.timedelta(minutes=minutes) or ts.date() != before.date():
            start = ts
        found[user, start].append((user, pin, ts))
        latest[user] = start, ts
    return found


@pytest.mark.parametrize("minutes", [0, 1, 30])
def test_what_a_user_does_without_a_pause_is_a_board(world, tmp_path, minutes):
    copy = world.copy(tmp_path / "data", settings_of(boards="sessions", session_minutes=minutes, days=5))
    assert all(check.passed for check in remake(copy).values())
    actions = copy.read(
        "SELECT DISTINCT user_id, pin_id, ts FROM raw.actions WHERE dt > $day - 5 AND action IN ('repin', 'click')",
        day=LAST,
    ).rows()
    sessions = sessions_of(actions, minutes)
    known = known_pins(copy, LAST)
    found = defaultdict(list)
    for pin, board, user, first, last in edges_of(copy, LAST):
        assert board >= 0
        found[board].append((pin, user, first, last))
    # Whatever their ids: the same boards.
    expected = []
    for saves in sessions.values():
        of_session = rows_of([(0, user, pin, ts) for user, pin, ts in saves], known)
        if of_session:
            expected.append([(pin, user, first, last) for pin, _, user, first, last in of_session])
    assert sorted(map(sorted, found.values())) == sorted(expected)
    assert len(expected) > 50


def test_a_session_keeps_its_id_whatever_comes_after_it_and_wherever_the_window_begins(world, tmp_path):
    boards = {}
    for days in (3, 5):
        copy = world.copy(tmp_path / f"{days} days", settings_of(boards="sessions", days=days))
        for day in (on(9), LAST):
            remake(copy, day)
            boards[days, day] = {edge[:3] for edge in edges_of(copy, day) if on(8) <= edge[3].date() <= on(9)}
    assert len(boards[3, LAST]) > 20
    # What landed on the last day was not known before.
    late = {edge for edge in boards[5, LAST] if edge[0] == LATE_PIN}
    assert boards[3, LAST] == boards[5, LAST]
    assert boards[3, on(9)] == boards[5, on(9)] == boards[5, LAST] - late


def test_times_without_an_hour_make_a_day_of_a_user_one_board(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of(boards="sessions"))
    copy.execute("UPDATE staging.actions SET ts = dt")
    remake(copy)
    boards = copy.read(
        f"SELECT count(DISTINCT board_id) AS boards, count(DISTINCT (user_id, first_ts)) AS days FROM "
        f"(SELECT *, min(first_ts) OVER (PARTITION BY board_id) AS first FROM {EDGES} WHERE dt = $day)",
        day=LAST,
    )
    assert boards["boards"].item() == boards["days"].item() > 50


# --- What the lineage says


@pytest.mark.parametrize(("days", "complete"), [(4, True), (8, True), (9, False)])
def test_a_day_that_is_missing_in_the_window_of_the_graph_fails_the_day(world, tmp_path, days, complete):
    copy = world.copy(tmp_path / "data", settings_of(days=days))
    copy.execute("DELETE FROM operations.partitions WHERE table_name = 'staging.board_pins' AND dt = $day", day=on(2))
    checks = copy.run("daily", LAST, only=[EDGES]).get_asset_check_evaluations()
    assert [check.check_name for check in checks if not check.passed] == ([] if complete else ["inputs_are_complete"])
    assert copy.status(EDGES, LAST) == ("passed" if complete else "failed")


def test_by_default_the_graph_is_of_the_users_window_and_of_boards():
    [spec] = [spec for spec in defs.resolve_all_asset_specs() if spec.key == dg.AssetKey(EDGES.split("."))]
    offsets = {".".join(dep.asset_key.path): dep.partition_mapping.start_offset for dep in spec.deps}
    assert offsets["staging.board_pins"] == 1 - SETTINGS.window.days
    assert offsets.keys() == {"staging.board_pins", "staging.pins"}


def test_a_data_directory_from_before_there_were_boards_goes_on(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    copy.execute(
        "DROP TABLE raw.board_pins",
        "DROP TABLE staging.board_pins",
        "DROP SCHEMA graph CASCADE",
        "DELETE FROM operations.partitions WHERE table_name IN ('raw.board_pins', 'staging.board_pins', 'graph.edges')",
    )
    raw = ["raw.board_pins", "staging.board_pins"]
    assert failures(copy.run("raw_and_staging", on(0), LAST, only=raw)) == {}
    assert all(check.passed for check in remake(copy).values())
    assert edges_of(copy, LAST) == edges_of(world, LAST)
