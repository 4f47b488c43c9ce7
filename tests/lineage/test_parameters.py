"""Calibration on a real world: what is tried, what is chosen, and who works with it."""

import polars as pl
import pytest
from conftest import LAST
from oracle import Oracle, targets_of
from world import failures, on, small_settings

from pinnersage_assets.model.calibration import COLUMNS


def settings_with(**sections):
    usual = {"window": {"days": 8}, "simulation": {"users": 120}, "evaluation": {"users": 1000}}
    return small_settings(**usual, **sections)


def insert_choice(copy, day, alpha, decay_per_day, embeddings, shares, kind="medoid"):
    copy.execute(
        """
        INSERT INTO evaluation.calibration
            (dt, family, alpha, decay_per_day, embeddings, shares, representation, relevance, recall, score, users,
             days, chosen)
        VALUES ($day, 'pinnersage', $alpha, $decay, $embeddings, $shares, $kind, 0, 0, 0, 1, 1, true)
        """,
        day=day,
        alpha=alpha,
        decay=decay_per_day,
        embeddings=embeddings,
        shares=shares,
        kind=kind,
    )


def test_every_candidate_is_tried_on_the_sampled_users(world):
    trials = world.partition("evaluation.calibration_trials", LAST)
    assert trials.select(COLUMNS).sort(COLUMNS).equals(world.settings.calibration.grid().sort(COLUMNS))
    assert set(trials["users"]) == {20}


def test_the_last_pin_is_tried_on_all_users_as_in_table_4(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_with(calibration={"users": 1000, "last_pins": [1]}))
    assert failures(copy.run("daily", LAST, only=["evaluation.calibration_trials"])) == {}
    (row,) = copy.partition("evaluation.calibration_trials", LAST).filter(family="last_pins").to_dicts()
    of_model = world.partition("evaluation.retrieval", LAST).filter(model="last_pin")
    assert (row["relevance"], row["recall"], row["users"]) == pytest.approx(
        of_model.select("relevance", "recall", "users").row(0)
    )
    before, after = Oracle(world, on(9)), Oracle(world, LAST)
    assert row["users"] == sum(bool(targets_of(user, before, after)) for user in before.pins_of)


def test_the_choice_pools_the_days_up_to_the_partitions(world):
    trials = world.read("FROM evaluation.calibration_trials WHERE dt <= $day", day=LAST)
    pooled = world.partition("evaluation.calibration", LAST)
    assert len(pooled) == len(world.settings.calibration.grid())
    assert set(pooled["days"]) == {trials["dt"].n_unique()} == {2}
    means = trials.group_by(COLUMNS).agg(mean=(pl.col("recall") * pl.col("users")).sum() / pl.col("users").sum())
    both = pooled.join(means, on=COLUMNS, nulls_equal=True)
    assert len(both) == len(pooled)
    assert both["recall"].to_list() == pytest.approx(both["mean"].to_list())
    for _, family in pooled.group_by("family"):
        (best,) = family.filter("chosen")["score"]
        assert best == family["score"].max()


def test_after_the_validation_period_the_choice_stays(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_with(calibration={"until": str(on(9))}))
    assert failures(copy.run("daily", LAST, only=["evaluation.calibration"])) == {}
    kept = [copy.partition("evaluation.calibration", day).drop("dt", strict=False) for day in (on(9), LAST)]
    assert kept[0].sort(kept[0].columns).equals(kept[1].sort(kept[1].columns))


def test_the_lineage_works_with_what_was_chosen_before_the_day(world, tmp_path):
    tables = ["users.clusters", "users.medoids", "retrieval.hnsw_index", "retrieval.medoid_neighbours"]
    tables.append("retrieval.recommendations")
    explicit = {
        "clustering": {"alpha": 0.5, "decay_per_day": 0.2, "decayed_medoids": True},
        "retrieval": {"sampled_medoids": 5, "shares": "importance", "refill": True},
    }
    by_hand = world.copy(tmp_path / "by_hand", settings_with(**explicit))
    chosen = world.copy(tmp_path / "chosen", settings_with(calibration={"use": "calibrated"}))
    chosen.execute("DELETE FROM evaluation.calibration")
    assert failures(chosen.run("daily", LAST, only=tables)) == {}
    for table in tables:  # nothing has been chosen: the explicit settings hold
        assert differing(chosen, world, table) == []
    insert_choice(chosen, on(8), 0.5, 0.2, 5, "importance", "decayed_medoid")
    insert_choice(chosen, LAST, 0.9, 0.1, 2, "equal")  # not before the day
    assert failures(by_hand.run("daily", LAST, only=tables)) == {}
    assert failures(chosen.run("daily", LAST, only=tables)) == {}
    for table in tables:
        assert differing(chosen, by_hand, table) == []
    assert differing(chosen, world, "users.clusters") != []
    assert differing(chosen, world, "retrieval.recommendations") != []


def test_the_papers_numbers_can_be_asked_for_whatever_the_settings_say(world, tmp_path):
    other = {
        "clustering": {"decay_per_day": 0.2},
        "retrieval": {"sampled_medoids": 7, "shares": "importance", "refill": True},
    }
    copy = world.copy(tmp_path / "data", settings_with(**other, calibration={"use": "paper"}))
    tables = ["users.medoids", "retrieval.hnsw_index", "retrieval.medoid_neighbours", "retrieval.recommendations"]
    assert failures(copy.run("daily", LAST, only=tables)) == {}
    for table in tables:
        assert differing(copy, world, table) == []


def test_plain_medoids_are_not_taken_from_a_day_that_had_decayed_ones(world, tmp_path):
    decayed = world.copy(
        tmp_path / "decayed", settings_with(clustering={"decay_per_day": 0.5, "decayed_medoids": True})
    )
    assert failures(decayed.run("daily", on(9), only=["users.medoids"])) == {}
    plain = decayed.copy(tmp_path / "plain", settings_with(clustering={"decay_per_day": 0.5}))
    alone = world.copy(tmp_path / "alone", plain.settings)
    alone.execute("DELETE FROM users.medoids WHERE dt = $day", day=on(9))
    for copy in (plain, alone):
        assert failures(copy.run("daily", LAST, only=["users.medoids"])) == {}
    assert differing(plain, alone, "users.medoids") == []
    medoids = [copy.partition("users.medoids", on(9))["medoid_pin_id"] for copy in (decayed, world)]
    assert not medoids[0].equals(medoids[1])


def differing(one, other, table):
    left, right = (some.partition(table, LAST) for some in (one, other))
    timings = [name for name in ("build_seconds",) if name in left.columns]
    return [] if left.drop(timings).equals(right.drop(timings)) else [table]
