"""corpus.*: many days in one run, and who leaves the corpus and comes back, against plain loops."""

import os
import subprocess
import sys

import pytest
from oracle import Oracle, judged, targets_of
from world import World, failures, on, small_settings

from pinnersage_assets.settings import Settings

DAYS = 8
CORPUS = ["corpus.excluded", "corpus.pins"]


def settings(**corpus) -> Settings:
    return small_settings(window={"days": 3}, corpus=corpus)


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """Read-only: copy it to change it."""
    world = World.new(tmp_path_factory.mktemp("staged") / "data", settings())
    assert failures(world.run("raw_and_staging", on(0), on(DAYS - 1))) == {}
    return world


@pytest.fixture(scope="module")
def grouped(staged, tmp_path_factory):
    """The same with near-duplicates, of all days in one run. Read-only."""
    world = staged.copy(tmp_path_factory.mktemp("grouped") / "data")
    assert failures(world.run("near_duplicates", on(0), on(DAYS - 1))) == {}
    return world


def near_duplicates(world):
    return world.read("FROM corpus.near_duplicates ORDER BY ALL")


# --- Many days in one run


@pytest.mark.parametrize("last_days", [range(DAYS), [2, 3, 7]], ids=["a day a run", "some runs"])
def test_near_duplicates_are_the_same_by_days_and_in_one_run(staged, grouped, tmp_path, last_days):
    by_days, first = staged.copy(tmp_path / "data"), 0
    for last in last_days:
        bounds = (on(first), on(last)) if last > first else (on(first),)
        assert failures(by_days.run("near_duplicates", *bounds)) == {}
        first = last + 1
    expected = near_duplicates(grouped)
    assert near_duplicates(by_days).equals(expected)
    assert expected["dt"].n_unique() > 4
    for day in range(DAYS):
        assert by_days.status("corpus.near_duplicates", on(day)) == "passed"
        assert grouped.status("corpus.near_duplicates", on(day)) == "passed"


def test_near_duplicates_of_some_days_in_the_middle_can_be_made_again(grouped, tmp_path):
    again = grouped.copy(tmp_path / "data")
    again.execute("DELETE FROM corpus.near_duplicates WHERE dt BETWEEN $first AND $last", first=on(3), last=on(5))
    assert failures(again.run("near_duplicates", on(3), on(5))) == {}
    assert near_duplicates(again).equals(near_duplicates(grouped))


def test_near_duplicates_have_the_day_of_their_own_pin(grouped):
    expected = Oracle(grouped, on(DAYS - 1))
    found = {pin: (dt, canonical) for dt, pin, canonical, _ in near_duplicates(grouped).rows()}
    assert found == {pin: (expected.pins[pin][0], canonical) for pin, (canonical, _) in expected.repeats.items()}


# --- Engagement and quality


@pytest.fixture(scope="module")
def engaged(grouped, tmp_path_factory):
    """The corpus of every day, of pins with two actions in the three days. Read-only."""
    data = tmp_path_factory.mktemp("engaged") / "data"
    world = grouped.copy(data, settings(minimal_actions=2))
    for day in range(DAYS):
        assert failures(world.run("daily", on(day), only=CORPUS)) == {}
    return world


@pytest.fixture(scope="module")
def oracles(engaged):
    return [Oracle(engaged, on(day)) for day in range(DAYS)]


def test_the_corpus_of_every_day_is_that_of_a_loop(engaged, oracles):
    for day, oracle in enumerate(oracles):
        excluded = dict(engaged.partition("corpus.excluded", on(day)).select("pin_id", "reason").rows())
        assert excluded == oracle.excluded
        assert engaged.partition("corpus.pins", on(day))["pin_id"].to_list() == oracle.corpus
        assert set(excluded.values()) == {"low_resolution", "mostly_text", "low_engagement", "near_duplicate"}
    assert len(oracles[-1].corpus) > 20


def test_a_pin_comes_back_when_it_is_acted_on_and_leaves_with_its_actions(engaged, oracles):
    """What `test_the_corpus_of_every_day_is_that_of_a_loop` holds for does happen here."""
    last = DAYS - 1
    courses = {
        pin: "".join("+" if pin in of_day.corpus else "-" for of_day in oracles)
        for pin, (landed, *_) in oracles[last].pins.items()
        if landed == on(0)
    }
    assert any("-+" in course for course in courses.values())
    assert any("+-" in course.lstrip("-") for course in courses.values())
    assert any("+-+" in course for course in courses.values())
    # Actions on a near-duplicate alone brought some pin in.
    acted = {row[2] for row in oracles[last].actions}
    assert set(oracles[last].corpus) - acted


def test_yesterdays_models_are_judged_by_the_exclusions_of_today(grouped, tmp_path):
    day = on(DAYS - 1)
    world = grouped.copy(tmp_path / "data", settings(minimal_actions=2))
    # What the day's judgement reads, and no more.
    assert failures(world.run("users_and_retrieval", on(DAYS - 2))) == {}
    assert failures(world.run("daily", day, only=[*CORPUS, "evaluation.retrieval_users"])) == {}
    yesterday, today = Oracle(world, on(DAYS - 2)), Oracle(world, day)
    rows = world.partition("evaluation.retrieval_users", day).filter(model="last_pin")
    of_targets = {True: 0, False: 0}
    for user, *counts in rows.select("user_id", "targets", "relevant", "recalled").rows():
        targets = targets_of(user, yesterday, today)
        assert tuple(counts) == judged(yesterday.last_pin(user), targets, yesterday)
        for _, vector in targets:
            of_targets[vector is None] += 1
    assert min(of_targets.values()) > 0


def test_other_thresholds_hold_when_a_day_is_made_again(engaged, tmp_path):
    day = on(DAYS - 1)
    before = engaged.partition("corpus.pins", day)["pin_id"]
    for corpus in ({"minimal_side_pixels": 600}, {"minimal_side_pixels": 0, "maximal_text_fraction": 1.0}, {}):
        changed = engaged.copy(tmp_path / str(len(corpus)), settings(minimal_actions=2, **corpus))
        assert failures(changed.run("daily", day, only=CORPUS)) == {}
        after = changed.partition("corpus.pins", day)["pin_id"]
        assert after.to_list() == Oracle(changed, day).corpus
        assert after.equals(before) == (corpus == {})


def test_without_a_minimum_actions_are_neither_read_nor_asked_for(grouped, tmp_path):
    world = grouped.copy(tmp_path / "data")
    world.execute("DELETE FROM staging.actions", "DELETE FROM operations.partitions WHERE table_name LIKE '%.actions'")
    assert failures(world.run("daily", on(0), only=CORPUS)) == {}
    assert set(world.partition("corpus.excluded", on(0))["reason"]) == {
        "low_resolution",
        "mostly_text",
        "near_duplicate",
    }


_DEPENDENCIES = """
from pinnersage_assets.definitions import defs
import dagster as dg
node = defs.resolve_asset_graph().get(dg.AssetKey(["corpus", "excluded"]))
for parent in sorted(node.parent_keys):
    mapping = node.partition_mappings[parent]
    print(".".join(parent.path), mapping.start_offset, mapping.end_offset)
"""


@pytest.mark.parametrize(("minimal_actions", "expected"), [(0, []), (1, ["staging.actions -13 0"])])
def test_the_lineage_shows_the_window_of_actions_where_settings_ask_for_engagement(tmp_path, minimal_actions, expected):
    (tmp_path / "settings.toml").write_text(f"[window]\ndays = 14\n[corpus]\nminimal_actions = {minimal_actions}\n")
    done = subprocess.run(
        [sys.executable, "-c", _DEPENDENCIES],
        env={**os.environ, "PINNERSAGE_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line for line in done.stdout.splitlines() if "actions" in line] == expected
    assert len(done.stdout.splitlines()) == 2 + len(expected)
