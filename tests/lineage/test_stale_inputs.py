"""Inputs that do not fit together are refused, or do no harm: settings that change, gaps, two sources in one place."""

import polars as pl
import pytest
from world import World, failures, on, small_settings

from pinnersage_assets.sources.landing import LandingSource

LAST = on(10)


def other_window(days: int):
    return small_settings(window={"days": days}, simulation={"users": 120}, evaluation={"users": 1000})


def test_medoids_of_clusters_of_another_window_are_refused(world, tmp_path):
    changed = world.copy(tmp_path / "data", other_window(2))
    failed = failures(changed.run("daily", LAST, only=["users.medoids"]))
    assert "users.clusters of 2026-01-11 is not of the window as it is now" in failed["users__medoids"]
    assert changed.partition("users.medoids", LAST).equals(world.partition("users.medoids", LAST))


def test_yesterdays_medoids_are_judged_whatever_todays_window_is(world, tmp_path):
    changed = world.copy(tmp_path / "data", other_window(2))
    assert not failures(changed.run("daily", LAST, only=["evaluation.retrieval_users"]))
    of_pinnersage = "SELECT user_id, relevant, recalled FROM evaluation.retrieval_users WHERE model = 'pinnersage'"
    before = {user: counts for user, *counts in world.read(of_pinnersage).iter_rows()}
    after = {user: counts for user, *counts in changed.read(of_pinnersage).iter_rows()}
    assert after.keys() & before.keys()


@pytest.mark.parametrize("table", ["corpus.near_duplicates", "staging.pins"])
def test_a_missing_day_of_what_the_corpus_reads_is_a_failed_check(world, tmp_path, table):
    holey = world.copy(tmp_path / "data")
    holey.execute(f"DELETE FROM operations.partitions WHERE table_name = '{table}' AND dt = '{on(3)}'")
    result = holey.run("daily", LAST, only=["corpus.near_duplicates", "corpus.excluded", "corpus.pins"])
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert {check.check_name for check in failed} == {"inputs_are_complete"}
    assert all(f"make backfill FROM={LAST} TO={LAST}" in check.description for check in failed)
    assert "failed" in {holey.status(name, LAST) for name in ("corpus.near_duplicates", "corpus.pins")}


@pytest.mark.parametrize(
    ("table", "hole", "failing"),
    [
        ("corpus.near_duplicates", 3, range(5, 9)),
        ("staging.pins", 3, range(5, 9)),
        ("staging.pins", 7, range(7, 9)),
        ("corpus.near_duplicates", 7, []),  # made by the run itself
        ("corpus.near_duplicates", 9, []),
        ("staging.pins", 9, []),
    ],
)
def test_in_a_run_of_many_days_those_that_read_a_missing_day_fail(world, tmp_path, table, hole, failing):
    holey = world.copy(tmp_path / "data")
    holey.execute(f"DELETE FROM operations.partitions WHERE table_name = '{table}' AND dt = '{on(hole)}'")
    result = holey.run("near_duplicates", on(5), on(8))
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert result.success == (not failing)
    assert [check.check_name for check in failed] == ["inputs_are_complete"] * bool(failing)
    for check in failed:
        assert f"make backfill FROM={on(failing[-1])} TO={on(failing[-1])}" in check.description
        missing = {
            tuple(record.data[name] for name in ("missing", "first", "last"))
            for record in check.metadata["examples"].records
        }
        assert missing == {(table, str(on(hole)), str(on(hole)))}
    of_run = {on(day): "failed" if day in failing else "passed" for day in range(5, 9)}
    assert {day: holey.status("corpus.near_duplicates", day) for day in of_run} == of_run


def test_a_corpus_without_the_exclusions_of_its_day_is_a_failed_check(world, tmp_path):
    """Else what may not be recommended would be; exclusions of other days are of no concern."""
    holey = world.copy(tmp_path / "data")
    forget = "DELETE FROM operations.partitions WHERE table_name = 'corpus.excluded' AND dt"
    holey.execute(f"{forget} < '{LAST}'")
    assert holey.run("daily", LAST, only=["corpus.pins"]).success
    holey.execute(f"{forget} = '{LAST}'")
    result = holey.run("daily", LAST, only=["corpus.pins"])
    [failed] = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed.check_name == "inputs_are_complete"
    assert [record.data["missing"] for record in failed.metadata["examples"].records] == ["corpus.excluded"]
    assert holey.status("corpus.pins", LAST) == "failed"


def test_simulated_and_landed_data_do_not_meet(world, tmp_path):
    landed = world.copy(tmp_path / "data")
    simulated = World(landed.data, landed.settings, "simulated", landed.instance)
    failed = failures(simulated.run("daily", LAST, only=["raw.actions"]))
    assert "holds landed data, and PINNERSAGE_SOURCE is simulated" in failed["raw__actions"]
    assert simulated.partition("raw.actions", LAST).equals(world.partition("raw.actions", LAST))


def test_a_pin_that_lands_again_on_an_earlier_day_fails_that_day(world, tmp_path):
    again = world.copy(tmp_path / "data")
    source = LandingSource(again.landing)
    early = source.pins(on(5)).with_columns(created_at=pl.lit(on(4)).cast(pl.Datetime("us")))
    again.land("pins", on(4), source.pins(on(4)).vstack(early).drop("file"))
    result = again.run("raw_and_staging", on(4))
    [failed] = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed.check_name == "unique_pin_id"
    assert "Materialise the later of the days that share it again" in failed.description
    again.run("raw_and_staging", on(5))
    again.run("raw_and_staging", on(4))
    assert [again.status("staging.pins", on(day)) for day in (4, 5)] == ["passed", "passed"]
    [(repeated,)] = again.read("SELECT count(*) - count(DISTINCT pin_id) FROM staging.pins").rows()
    assert repeated == 0
