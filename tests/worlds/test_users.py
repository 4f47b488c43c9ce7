"""users.*: what is kept from the day before, the limit on large users, several medoids, and feedback."""

import datetime
import itertools

import dagster as dg
import numpy as np
import polars as pl
import pytest
from world import PINS_WRITTEN_ANEW, World, failures, on, small_settings

from pinnersage_assets.lineage import users as lineage

USERS = ("users.clusters", "users.medoids")
DAYS = 12
LAST, BEFORE = on(DAYS - 1), on(DAYS - 2)


def quiet_world(data, **sections):
    """Users who do little: on most days, most of them have the window of the day before."""
    settings = small_settings(
        **{"simulation": {"users": 80, "actions_per_user_and_day": 0.25}, "window": {"days": 8}, **sections}
    )
    return World.new(data, settings)


def materialise(world, day, assets=lineage.ASSETS):
    """Materialise without checks, which other tests run: this many runs would take too long with them."""
    result = dg.materialize(
        assets,
        partition_key=day.isoformat(),
        resources=world.resources,
        instance=world.instance,
        run_config={"loggers": {"console": {"config": {"log_level": "WARNING"}}}},
    )
    return {
        name: value.value
        for asset in assets
        for name, value in result.asset_materializations_for_node(asset.op.name)[0].metadata.items()
    }


def stage(world, days):
    result = world.run("raw_and_staging", on(0), on(days - 1))
    assert result.success, failures(result)


@pytest.fixture(scope="module")
def two_weeks(tmp_path_factory):
    world = quiet_world(tmp_path_factory.mktemp("weeks") / "data")
    stage(world, DAYS)
    metadata = [materialise(world, on(offset)) for offset in range(DAYS)]
    return world, metadata


def test_what_is_kept_from_the_day_before_is_what_a_full_run_computes(two_weeks, tmp_path):
    world, metadata = two_weeks
    assert metadata[0]["users reused from the day before"] == 0
    reused = [day["users reused from the day before"] for day in metadata[8:]]
    users = [world.partition("users.clusters", on(offset))["user_id"].n_unique() for offset in range(8, DAYS)]
    assert 0.2 < sum(reused) / sum(users) < 0.9
    assert all(day["clusters reused from the day before"] > 0 for day in metadata[8:])

    full = world.copy(tmp_path / "data")
    full.execute(*(f"DELETE FROM {table}" for table in USERS))
    # From the last day to the first: the day before is never there, and the day after always is.
    for offset in reversed(range(DAYS)):
        of_day = materialise(full, on(offset))
        assert of_day["users reused from the day before"] == of_day["clusters reused from the day before"] == 0
    for offset in range(DAYS):
        for table in USERS:
            expected = full.partition(table, on(offset))
            assert world.partition(table, on(offset)).equals(expected), f"{table} of day {offset}"
            assert len(expected) > 0 or offset == 0


def test_importance_ages_although_the_medoid_is_kept(two_weeks):
    world, _ = two_weeks
    today, yesterday = (world.partition("users.medoids", on(offset)) for offset in (DAYS - 1, DAYS - 2))
    both = today.join(yesterday, on=["user_id", "fingerprint"], suffix="_before")
    assert len(both) > 20
    np.testing.assert_allclose(both["importance"], both["importance_before"] * np.exp(-0.01), rtol=1e-9)


@pytest.mark.parametrize("change", ["vector", "alpha", "actions"])
def test_whatever_the_clusters_are_made_from_has_changed_is_computed_anew(two_weeks, tmp_path, change):
    world, metadata = two_weeks
    settings = quiet_world(tmp_path, clustering={"alpha": 0.9}).settings if change == "alpha" else None
    changed = world.copy(tmp_path / "data", settings)
    # Somebody who did nothing that changes the window.
    quiet = changed.read(
        """
        SELECT DISTINCT a.user_id FROM users.clusters AS a JOIN users.clusters AS b
        ON a.user_id = b.user_id AND a.fingerprint = b.fingerprint WHERE a.dt = $today AND b.dt = $before
        """,
        today=LAST,
        before=BEFORE,
    )["user_id"].sort()
    assert len(quiet) == metadata[-1]["users reused from the day before"]
    if change == "vector":
        pin = changed.read("SELECT min(pin_id) FROM users.clusters WHERE dt = $day AND user_id = $user",
                           day=LAST, user=quiet[0]).item()  # fmt: skip
        changed.execute(
            "UPDATE staging.pins SET embedding = list_reverse(embedding::FLOAT[])::FLOAT[64] WHERE pin_id = $pin",
            PINS_WRITTEN_ANEW,
            pin=pin,
        )
    elif change == "actions":
        changed.execute(
            """
            INSERT INTO staging.actions BY NAME SELECT * REPLACE (ts + INTERVAL 1 SECOND AS ts)
            FROM staging.actions WHERE user_id = $user AND dt BETWEEN $first AND $last AND action IN ('repin', 'click')
            """,
            user=quiet[0],
            first=on(DAYS - 8),
            last=LAST,
        )
    reused = materialise(changed, LAST)["users reused from the day before"]
    if change == "alpha":
        assert reused == 0
    else:
        assert 0 < reused < len(quiet)
    full = changed.copy(tmp_path / "full")
    full.execute(*(f"DELETE FROM {table}" for table in USERS))
    assert materialise(full, LAST)["users reused from the day before"] == 0
    for table in USERS:
        assert changed.partition(table, LAST).equals(full.partition(table, LAST))


def test_a_user_beyond_the_limit_is_clustered_on_the_latest_pins(two_weeks, tmp_path):
    world, _ = two_weeks
    limited = world.copy(tmp_path / "data", quiet_world(tmp_path, clustering={"largest_user": 4}).settings)
    every, day = world.partition("users.clusters", LAST), LAST
    metadata = materialise(limited, day)
    sizes = every.group_by("user_id").len()
    assert metadata["users with pins beyond the limit"] == sizes.filter(pl.col("len") > 4).height > 5
    small = set(sizes.filter(pl.col("len") <= 4)["user_id"])
    assert 0 < metadata["users reused from the day before"] < len(small)
    kept = limited.partition("users.clusters", day)
    latest = every.sort("user_id", "last_ts", "pin_id", descending=[False, True, False]).group_by("user_id").head(4)
    columns = ["user_id", "pin_id", "actions", "last_ts"]
    assert kept.select(columns).sort(columns).equals(latest.select(columns).sort(columns))


def test_large_clusters_get_several_medoids_and_lose_nothing(two_weeks, tmp_path):
    world, _ = two_weeks
    settings = quiet_world(tmp_path, clustering={"actions_per_medoid": 2, "alpha": 2.5}).settings
    several = world.copy(tmp_path / "data", settings)
    one = world.copy(tmp_path / "one", quiet_world(tmp_path, clustering={"alpha": 2.5}).settings)
    for day in (BEFORE, LAST):
        materialise(several, day)
        materialise(one, day)
    rows, single = several.partition("users.medoids", LAST), one.partition("users.medoids", LAST)
    sums = rows.group_by("user_id", "cluster").agg(pl.len(), pl.col("importance").sum(), pl.col("size").sum())
    joined = sums.join(single, on=["user_id", "cluster"], suffix="_one")
    assert len(joined) == len(sums) == len(single) < len(rows)
    assert (joined["len"] <= -(-joined["size"] // 2)).all()
    assert (joined["size"] == joined["size_one"]).all()
    np.testing.assert_allclose(joined["importance"], joined["importance_one"], rtol=1e-12)
    first = rows.join(single, on=["user_id", "cluster", "medoid_pin_id"])
    assert len(first) == len(single)  # the ordinary medoid is always one of them


def test_feedback_raises_what_is_taken_up_and_lowers_what_is_not(two_weeks, tmp_path):
    world, _ = two_weeks
    settings = quiet_world(tmp_path, feedback={"strength": 2.0, "minimal_cosine": 0.3}).settings
    learning = world.copy(tmp_path / "data", settings)
    day = LAST
    # Somebody hides what was shown.
    shown = learning.read("SELECT * FROM staging.impressions WHERE dt = $day ORDER BY ts LIMIT 40", day=BEFORE)
    for row in shown.iter_rows(named=True):
        learning.execute(
            "INSERT INTO staging.actions BY NAME SELECT * REPLACE ($ts + INTERVAL 1 MINUTE AS ts, 'hide' AS action, "
            "$user AS user_id, $pin AS pin_id) FROM staging.actions WHERE dt = $day LIMIT 1",
            ts=row["ts"], user=row["user_id"], pin=row["pin_id"], day=BEFORE,
        )  # fmt: skip
    materialise(learning, day, [lineage.medoids])
    before, after = world.partition("users.medoids", day), learning.partition("users.medoids", day)
    joined = before.join(after, on=["user_id", "cluster", "medoid_pin_id"], suffix="_learnt")
    assert len(joined) == len(before) == len(after)
    found = {(user, pin): ratio for user, pin, ratio in joined.select(
        "user_id", "medoid_pin_id", pl.col("importance_learnt") / pl.col("importance")).rows()}  # fmt: skip
    expected = factors_by_definition(learning, day, strength=2.0, minimal_cosine=0.3)
    assert set(found) == set(expected)
    for key, factor in expected.items():
        assert found[key] == pytest.approx(factor, rel=1e-9), key
    assert min(found.values()) < 0.9
    assert max(found.values()) > 1.1


def factors_by_definition(world, day, strength, minimal_cosine):
    """README, "Learning from feedback", in plain loops."""
    first, end = (
        day - datetime.timedelta(days=7),
        datetime.datetime.combine(day, datetime.time()) + datetime.timedelta(1),
    )
    pins = {pin: np.array(v) for pin, v in world.read("SELECT pin_id, embedding FROM staging.pins").rows()}
    window = {"first": first, "day": day}
    actions = world.read(
        "SELECT user_id, pin_id, ts, action FROM staging.actions WHERE dt BETWEEN $first AND $day", **window
    )
    acts = {}
    for user, pin, ts, action in actions.rows():
        acts.setdefault((user, pin), []).append((ts, action))
    own = {}
    for user, pin in world.partition("users.medoids", day).select("user_id", "medoid_pin_id").rows():
        own.setdefault(user, []).append(pin)
    shown = world.read(
        "SELECT DISTINCT user_id, pin_id, ts FROM staging.impressions WHERE dt BETWEEN $first AND $day", **window
    )
    credited = {(user, medoid): [] for user, medoids in own.items() for medoid in medoids}
    for user, pin, ts in shown.rows():
        if user not in own or pin not in pins or ts + datetime.timedelta(hours=24) > end:
            continue
        cosine, medoid = max((float(pins[pin] @ pins[medoid]), medoid) for medoid in own[user])
        if cosine < minimal_cosine:
            continue
        followed = [action for at, action in acts.get((user, pin), []) if ts <= at < ts + datetime.timedelta(hours=24)]
        outcome = -1 if "hide" in followed else int("repin" in followed or "click" in followed)
        credited[user, medoid].append((np.exp(-0.01 * (end - ts).total_seconds() / 86400), outcome))
    everything = list(itertools.chain(*credited.values()))
    rate = sum(w for w, y in everything if y == 1) / sum(w for w, _ in everything)
    assert {y for _, y in everything} == {-1, 0, 1}
    factors = {}
    for key, known in credited.items():
        factor = (sum(w * y for w, y in known) + strength * rate) / (sum(w for w, _ in known) + strength) / rate
        factors[key] = min(max(factor, 0.1), 10.0) if known else 1.0
    return factors


def test_medoids_made_again_after_a_correction_are_those_of_the_vectors_as_they_are(two_weeks, tmp_path):
    world, _ = two_weeks
    corrected = world.copy(tmp_path / "data")
    corrected.execute(
        """
        UPDATE staging.pins SET embedding = list_reverse(embedding::FLOAT[])::FLOAT[64]
        WHERE pin_id IN (SELECT medoid_pin_id FROM users.medoids WHERE dt = $day)
        """,
        PINS_WRITTEN_ANEW,
        day=LAST,
    )
    full = corrected.copy(tmp_path / "full")
    full.execute("DELETE FROM users.medoids")
    materialise(corrected, LAST, [lineage.medoids])
    materialise(full, LAST, [lineage.medoids])
    found = corrected.partition("users.medoids", LAST)
    assert found.equals(full.partition("users.medoids", LAST))
    assert not found.drop("fingerprint").equals(world.partition("users.medoids", LAST).drop("fingerprint"))


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_nobody_in_the_window_is_an_empty_partition(tmp_path, strength):
    nobody = {"users": 5, "actions_per_user_and_day": 0.0}
    world = quiet_world(tmp_path / "data", simulation=nobody, feedback={"strength": strength})
    stage(world, 1)
    materialise(world, on(0))
    assert [len(world.partition(table, on(0))) for table in USERS] == [0, 0]
