"""What operators are warned of: a day unlike those before it. Nothing of it blocks; an ordinary day is no warning."""

import dagster as dg
import pytest
from conftest import LAST
from world import failures, on, small_settings

from pinnersage_assets.lineage.health import CHECKS

# What makes LAST unlike the days before it, behind the project's back, by the table that is looked at.
UNUSUAL = {
    "staging.actions": (
        "UPDATE operations.partitions SET rows = 10 * rows WHERE table_name = 'staging.actions' AND dt < $day"
    ),
    "staging.impressions": (
        "UPDATE operations.partitions SET rows = 0 WHERE table_name = 'staging.impressions' AND dt < $day"
    ),
    "staging.board_pins": (
        "UPDATE operations.partitions SET rows = 10 * rows WHERE table_name = 'staging.board_pins' AND dt < $day"
    ),
    # A cluster a user on each of the days before.
    "users.medoids": """
        INSERT INTO users.medoids BY NAME
        SELECT m.* EXCLUDE (dt), (m.dt - t.n::INTEGER)::DATE AS dt
        FROM users.medoids AS m, range(2, 5) AS t(n) WHERE m.dt = $day
        QUALIFY row_number() OVER (PARTITION BY m.user_id, t.n ORDER BY m.cluster) = 1
    """,
    "marts.medoid_reuse": """
        INSERT INTO marts.medoid_reuse BY NAME
        SELECT m.* EXCLUDE (dt, users), (m.dt - t.n::INTEGER)::DATE AS dt, 50 AS users
        FROM marts.medoid_reuse AS m, range(2, 5) AS t(n) WHERE m.dt = $day
    """,
    "retrieval.recommendations": "UPDATE retrieval.recommendations SET score = score - 0.2 WHERE dt = $day - 1",
    "evaluation.retrieval": """
        UPDATE evaluation.retrieval_users SET recalled = CASE model WHEN 'popular' THEN targets ELSE 0 END
        WHERE dt = $day
    """,
}

# What makes it an ordinary day first, where chance may have made another of it.
USUAL = {"evaluation.retrieval": "UPDATE evaluation.retrieval_users SET recalled = 0 WHERE dt = $day"}


def warnings(world, table):
    """The checks of a table that did not pass on LAST, after it was made again."""
    result = world.run("daily", LAST, only=[table])
    assert failures(result) == {}
    assert world.status(table, LAST) == "passed"
    assert {c.check_name for c in result.get_asset_check_evaluations()} >= {check.name for check in CHECKS[table]}
    return [c for c in result.get_asset_check_evaluations() if not c.passed]


def test_there_is_a_case_for_every_check():
    assert UNUSUAL.keys() == CHECKS.keys()
    assert not any(check.blocking for checks in CHECKS.values() for check in checks)


@pytest.mark.parametrize("table", CHECKS)
def test_an_unusual_day_is_a_warning_that_says_what_to_look_at(world, tmp_path, table):
    # So many were judged in the small world.
    copy = world.copy(
        tmp_path / "data", small_settings(window={"days": 8}, evaluation={"users": 1000}, checks={"judged_users": 5})
    )
    if table in USUAL:
        copy.execute(USUAL[table], day=LAST)
    assert warnings(copy, table) == []
    copy.execute(UNUSUAL[table], day=LAST)
    [warning] = warnings(copy, table)
    assert warning.severity == dg.AssetCheckSeverity.WARN
    [check] = CHECKS[table]
    assert warning.check_name == check.name
    assert check.advice.format(day=LAST) in warning.description
    assert str(LAST) in warning.description


def test_with_few_days_before_it_nothing_is_unusual(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    copy.execute("DELETE FROM operations.partitions WHERE table_name = 'staging.actions' AND dt < $day", day=on(8))
    copy.execute(UNUSUAL["staging.actions"], day=LAST)
    assert warnings(copy, "staging.actions") == []
