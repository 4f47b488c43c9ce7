"""``serving.snapshot``: what answers are made from, held against the tables of the day."""

import datetime
import itertools
import os
import time
from contextlib import closing
from dataclasses import replace

import duckdb
import numpy as np
import pytest
from conftest import LAST, PLANTS
from world import World, failures, on

from pinnersage_assets.lineage import serving
from pinnersage_assets.lineage.serving import delete_unnamed_snapshots
from pinnersage_assets.serving.lmdb_store import LmdbStore
from pinnersage_assets.serving.served_day import PINS_FOLDER, open_served_day
from pinnersage_assets.serving.store import StoreUnavailableError, open_store
from pinnersage_assets.settings import Settings

TABLE = "serving.snapshot"
MIDNIGHT = datetime.datetime.combine(on(11), datetime.time(), datetime.UTC)


def row_of(world, day=LAST):
    [row] = world.read(f"FROM {TABLE} WHERE dt = $day", day=day).to_dicts()
    return row


def opened(world: World):
    store = open_store("lmdb", world.data / "serving")
    return closing(store), open_served_day(
        world.data / "published" / "pinnersage.duckdb", world.data, world.settings, store
    )


@pytest.fixture(scope="module")
def served(world):
    store, day = opened(world)
    with store:
        yield day


def test_a_user_who_does_nothing_is_told_what_the_batch_recommends(world, served):
    rows = world.read(
        "SELECT user_id, pin_id, medoid_pin_id, score FROM retrieval.recommendations WHERE dt = $day ORDER BY ALL",
        day=LAST,
    )
    users = rows["user_id"].unique().to_list()
    assert PLANTS.negative in users
    for user in users:
        answer = served.recommender.recommend(user, MIDNIGHT)
        found = sorted((c.pin_id, c.medoid_pin_id, c.score) for c in answer.candidates)
        expected = rows.filter(user_id=user).select("pin_id", "medoid_pin_id", "score").rows()
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], abs=1e-6)
        assert all(query.is_cached for query in answer.queries)


def test_walks_from_medoids_of_who_does_nothing_are_those_of_the_batch(world, tmp_path):
    pixie = {"queries": "medoids", "bias": 0.6, "steps": 900}
    copy = world.copy(tmp_path / "data", Settings(**{**world.settings.model_dump(), "pixie": pixie}))
    result = copy.run("daily", LAST, only=["retrieval.pixie_recommendations", TABLE, "operations.publications"])
    assert failures(result) == {}
    rows = copy.read(
        "SELECT user_id, pin_id, score FROM retrieval.pixie_recommendations WHERE dt = $day ORDER BY user_id, rank",
        day=LAST,
    )
    medoids = copy.read(
        "SELECT user_id, count(DISTINCT coalesce(canonical_pin_id, medoid_pin_id)) FROM users.medoids AS m "
        "LEFT JOIN corpus.near_duplicates AS d ON medoid_pin_id = d.pin_id WHERE m.dt = $day GROUP BY user_id",
        day=LAST,
    )
    pins_of, same = dict(medoids.rows()), []
    store, day = opened(copy)
    with store:
        for (user,), own in rows.group_by("user_id"):
            answer = day.recommender.recommend(user, MIDNIGHT, source="pixie")
            # Pins without edges have a category in the batch, which the graph does not know.
            if len(answer.query_pin_ids) == pins_of[user]:
                found = [(candidate.pin_id, candidate.score) for candidate in answer.candidates]
                same.append(found == own.select("pin_id", "score").rows())
    # A weight that is added up in another order may be another in the last bit, and a step be someone else's.
    assert sum(same) > 0.97 * len(same)
    assert len(same) > 50


def test_interests_are_the_medoids_of_the_day(world, served):
    rows = world.partition("users.medoids", LAST)
    for (user,), own in rows.group_by("user_id"):
        found = {i.medoid_pin_id: (i.importance, i.actions) for i in served.recommender.interests(user, MIDNIGHT)}
        expected = {pin: values for pin, *values in own.select("medoid_pin_id", "importance", "size").rows()}
        assert found.keys() == expected.keys()
        for pin, values in expected.items():
            assert found[pin] == pytest.approx(values)


def test_somebody_unknown_gets_what_most_acted_on(world, served):
    popular = world.read(
        """
        SELECT pin_id FROM staging.actions
        WHERE dt BETWEEN $first AND $day AND action IN ('repin', 'click')
            AND pin_id IN (SELECT pin_id FROM corpus.pins WHERE dt = $day)
        GROUP BY pin_id ORDER BY count(*) DESC, pin_id LIMIT 10
        """,
        first=on(3),
        day=LAST,
    )["pin_id"]
    answer = served.recommender.recommend(10**15, MIDNIGHT, 10)
    assert (answer.source, [candidate.pin_id for candidate in answer.candidates]) == ("popular", popular.to_list())


def test_every_known_pin_is_there_with_the_one_that_stands_for_it(world, served):
    ids, vectors = world.warehouse.read_vectors("SELECT pin_id, embedding FROM staging.pins ORDER BY pin_id")
    pins = served.recommender._pins
    assert np.array_equal(np.sort(pins.ids), ids)
    assert np.array_equal(pins.vectors[pins.rows_of(ids)], vectors)
    assert pins.ids[: pins.corpus_size].tolist() == world.partition("corpus.pins", LAST)["pin_id"].to_list()
    repeats = world.read("SELECT pin_id, canonical_pin_id FROM corpus.near_duplicates")
    groups = dict(repeats.rows())
    standing = {groups.get(pin, pin): pin for pin in pins.ids[: pins.corpus_size].tolist()}
    expected = [standing.get(groups.get(pin, pin)) for pin in ids.tolist()]
    rows = pins.corpus_rows[pins.rows_of(ids)]
    assert [int(pins.ids[row]) if row >= 0 else None for row in rows] == expected
    assert None in expected


def test_the_settings_in_force_go_along_but_not_where_the_store_is(world, served):
    assert served.recommender.settings.retrieval == world.settings.retrieval
    assert "serving" not in Settings.model_validate_json(row_of(world)["settings"]).model_fields_set


def test_a_snapshot_that_lacks_a_user_is_not_published(world, tmp_path, monkeypatch):
    copy = world.copy(tmp_path / "data")
    whole = serving._stored_users
    monkeypatch.setattr(serving, "_stored_users", lambda *frames: itertools.islice(whole(*frames), 1, None))
    result = copy.run("daily", LAST, only=[TABLE, "operations.publications"])
    [check] = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert check.check_name == "snapshot_is_complete"
    assert "Materialise it again, after users.medoids" in check.description
    assert copy.status(TABLE, LAST) == "failed"
    _, day = opened(copy)
    assert day.version == row_of(world)["version"]


def test_a_store_that_gives_back_something_else_is_told(world, tmp_path, monkeypatch):
    copy = world.copy(tmp_path / "data")
    describe = LmdbStore.describe
    monkeypatch.setattr(LmdbStore, "describe", lambda store, version: replace(describe(store, version), sha256="?"))
    [message] = failures(copy.run("daily", LAST, only=[TABLE])).values()
    assert "the store gives back SnapshotContent" in message
    assert "was written. Is it damaged?" in message


def test_a_store_that_is_away_for_a_moment_is_asked_again(world, tmp_path, monkeypatch):
    copy = world.copy(tmp_path / "data")
    away = iter([True])

    def open_late(*where):
        if next(away, False):
            raise StoreUnavailableError("nobody answers")
        return open_store(*where)

    monkeypatch.setattr(serving, "open_store", open_late)
    result = copy.run("daily", LAST, only=[TABLE])
    assert failures(result) == {}
    assert [event.step_key for event in result.all_events if event.is_step_up_for_retry] == ["serving__snapshot"]
    assert copy.status(TABLE, LAST) == "passed"


def test_only_snapshots_that_a_row_names_are_kept(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    first = row_of(copy)["version"]
    assert failures(copy.run("daily", LAST, only=[TABLE, "operations.publications"])) == {}
    second = row_of(copy)["version"]
    folder = copy.data / PINS_FOLDER
    assert {first, second} <= {path.name for path in folder.iterdir()}
    # A young one may be about to get its row.
    assert delete_unnamed_snapshots(copy.warehouse, copy.settings) == {}
    long_ago = time.time() - 48 * 3600
    for path in folder.iterdir():
        os.utime(path, (long_ago, long_ago))
    size = sum(file.stat().st_size for file in (folder / first).iterdir())
    assert delete_unnamed_snapshots(copy.warehouse, copy.settings) == {first: size}
    assert size > 0
    with closing(open_store("lmdb", copy.data / "serving")) as store:
        assert set(store.versions()) == {second, row_of(copy, on(9))["version"]}


def test_old_days_let_go_of_theirs(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    copy.execute(f"UPDATE {TABLE} SET dt = dt - 5 WHERE dt = $day", day=on(9))
    copy.execute(
        "UPDATE operations.partitions SET dt = dt - 5 WHERE table_name = 'serving.snapshot' AND dt = $day", day=on(9)
    )
    assert failures(copy.run("daily", LAST, only=["operations.clean_up", "operations.publications"])) == {}
    assert row_of(copy, on(4))["version"] is None
    with duckdb.connect(copy.data / "published" / "pinnersage.duckdb", read_only=True) as published:
        assert published.execute(f"SELECT version FROM {TABLE} WHERE dt = ?", [on(4)]).fetchall() == [(None,)]
