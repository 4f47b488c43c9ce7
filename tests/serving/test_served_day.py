"""Which day is served, and how the next one takes over."""

import datetime
import logging
import shutil

import numpy as np
import pytest
from served_data import CORPUS, DAY, USERS, pin_arrays, pin_id, publish_day

from pinnersage_assets.ann.exact import ExactIndex
from pinnersage_assets.ann.shards import ShardedIndex
from pinnersage_assets.serving.events import Event
from pinnersage_assets.serving.graph_walks import NoGraphError
from pinnersage_assets.serving.served_day import PINS_FOLDER, Follower, NothingToServeError, open_served_day
from pinnersage_assets.serving.store import open_store
from pinnersage_assets.settings import Settings

NEXT = DAY + datetime.timedelta(days=1)
NOW = datetime.datetime(2026, 4, 12, 1, tzinfo=datetime.UTC)


@pytest.fixture
def published(tmp_path):
    return tmp_path / "published" / "pinnersage.duckdb"


@pytest.fixture
def store(tmp_path):
    store = open_store("lmdb", tmp_path / "serving")
    yield store
    store.close()


@pytest.fixture
def follower(tmp_path, published, store):
    publish_day(tmp_path)
    return Follower(published, tmp_path, Settings(), store)


@pytest.mark.parametrize("method", ["exact", "hnsw"])
def test_the_day_that_is_published_is_opened(tmp_path, published, store, method):
    version = publish_day(tmp_path, method=method)
    day = open_served_day(published, tmp_path, Settings(), store)
    assert (day.day, day.version, day.users, day.clusters) == (DAY, version, len(USERS), 4)
    assert day.recommender.settings.retrieval.budget == 12
    assert len(day.recommender.recommend(1, NOW).candidates) == 12
    assert day.details([pin_id(3), 7]) == {pin_id(3): (f"Pin {pin_id(3)}", None)}


def test_shards_are_opened_as_one_index(tmp_path, published, store):
    publish_day(tmp_path, method="hnsw", shards=3)
    index = open_served_day(published, tmp_path, Settings(), store).recommender._index
    assert isinstance(index, ShardedIndex)
    assert len(index.ids) == sum(len(shard.ids) for shard in index.shards) == CORPUS
    arrays, vectors = pin_arrays()
    expected = ExactIndex(arrays["ids"][:CORPUS], vectors[:CORPUS]).search(vectors[:5], 10)[0]
    assert np.mean(index.search(vectors[:5], 10)[0] == expected) > 0.9


def test_without_its_index_file_a_day_is_searched_exactly(tmp_path, published, store, caplog):
    publish_day(tmp_path, method="hnsw")
    [file] = (tmp_path / "index").glob("*/*")
    file.unlink()
    day = open_served_day(published, tmp_path, Settings(), store)
    assert isinstance(day.recommender._index, ExactIndex)
    assert f"{file.name} is missing; the corpus of {DAY} is searched exactly" in caplog.text


def test_the_graph_of_the_day_is_opened_with_what_repeats_in_it(tmp_path, published, store):
    publish_day(tmp_path)
    recommender = open_served_day(published, tmp_path, Settings(), store).recommender
    found = [candidate.pin_id for candidate in recommender.related(pin_id(12), 9).candidates]
    assert len(found) == 9
    # Those of its own board come first.
    assert set(found) <= {pin_id(row) for row in range(10, 21)} - {pin_id(12)}
    # The repeat has no edge of its own.
    assert recommender.related(pin_id(4), 9) == recommender.related(pin_id(3), 9)
    assert recommender.recommend(1, NOW, source="pixie").query_pin_ids == [pin_id(row) for row in USERS[1]]


def _lost(tmp_path, file):
    file.unlink()


def _damaged(tmp_path, file):
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


def _of_times_without_graphs(tmp_path, file):
    publish_day(tmp_path, suffix="old", boards=None)


def _without_boards(tmp_path, file):
    publish_day(tmp_path, suffix="old", boards=0)


@pytest.mark.parametrize(
    ("happened", "reason"),
    [
        (_lost, r"\.graph is missing; materialise graph.snapshot of 2026-04-10 again, and publish"),
        (_damaged, r"\.graph is damaged: .*; materialise graph.snapshot of 2026-04-10 again, and publish"),
        (_of_times_without_graphs, r"graph.snapshot of 2026-04-10 again, and publish"),
        (_without_boards, "the graph of 2026-04-10 has no edges: give board_pins, or set graph.boards to sessions"),
    ],
)
def test_without_a_graph_all_but_walks_is_answered(tmp_path, published, store, caplog, happened, reason):
    publish_day(tmp_path)
    [file] = (tmp_path / "graph").glob("*/*")
    happened(tmp_path, file)
    follower = Follower(published, tmp_path, Settings(), store)
    follower.look()
    assert follower.problem is None
    assert len(follower.current.recommender.recommend(1, NOW).candidates) == 12
    for _ in range(2):
        with pytest.raises(NoGraphError, match=reason):
            follower.current.recommender.related(pin_id(12), 9)
    assert caplog.text.count("there are no walks") == 1


def test_a_graph_that_was_made_again_takes_over(tmp_path, follower):
    [file] = (tmp_path / "graph").glob("*/*")
    before = follower.current
    file.unlink()
    shutil.rmtree(tmp_path / PINS_FOLDER / before.version)
    publish_day(tmp_path, boards=5)
    follower.look()
    assert follower.current.version == before.version
    assert follower.current.recommender.related(pin_id(12), 9).candidates
    assert "has no edge" in follower.current.recommender.related(pin_id(80), 9).reason
    # Whoever asked the old day walks on the old graph: the file was mapped.
    assert before.recommender.related(pin_id(80), 9).candidates


def test_nothing_published_says_what_to_do(tmp_path, published, store):
    follower = Follower(published, tmp_path, Settings(), store)
    with pytest.raises(NothingToServeError, match=r"pinnersage.duckdb does not exist yet: run `make demo`"):
        _ = follower.current
    publish_day(tmp_path)
    follower.look()
    assert follower.current.day == DAY
    assert follower.problem is None


def test_a_store_that_holds_something_else_is_not_served(tmp_path, published, store):
    version = publish_day(tmp_path)
    rows = [(user, record) for user in (1, 2) if (record := store.read_user(version, user))]
    store.write_snapshot(version, rows)
    with pytest.raises(
        NothingToServeError, match=r"the store holds .*users=2.* materialise serving.snapshot of 2026-04-10"
    ):
        open_served_day(published, tmp_path, Settings(), store)


def test_the_next_day_takes_over_with_what_users_did_since_its_end(tmp_path, store, follower):
    of_the_day = datetime.datetime(2026, 4, 11, 12, tzinfo=datetime.UTC)
    after_it = datetime.datetime(2026, 4, 12, 0, 30, tzinfo=datetime.UTC)
    events = [Event("a", 2, pin_id(60), "click", of_the_day), Event("b", 2, pin_id(90), "click", after_it)]
    store.commit(events, None)
    before = follower.current
    recent = {pin for interest in before.recommender.interests(2, NOW) for pin in interest.recent_pin_ids}
    assert recent == {pin_id(60), pin_id(90)}
    version = publish_day(tmp_path, NEXT, suffix="b")
    follower.look()
    assert follower.current.version == version
    recent = {pin for interest in follower.current.recommender.interests(2, NOW) for pin in interest.recent_pin_ids}
    assert recent == {pin_id(90)}
    # Who asked the old day still gets its answer.
    assert before.recommender.recommend(1, NOW).candidates
    assert before.details([pin_id(0)])


def test_a_day_materialised_again_takes_over_too(tmp_path, follower):
    version = publish_day(tmp_path, users={1: [7]}, suffix="again")
    follower.look()
    assert (follower.current.version, follower.current.clusters) == (version, 1)


def test_a_day_that_cannot_be_opened_leaves_the_old_one_and_says_why(tmp_path, follower, caplog):
    caplog.set_level(logging.INFO)
    version = publish_day(tmp_path, NEXT, suffix="b")
    vectors = tmp_path / PINS_FOLDER / version / "vectors.npy"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-4])
    for _ in range(3):
        follower.look()
    assert follower.current.day == DAY
    assert "is damaged" in follower.problem
    assert caplog.text.count("is damaged") == 1
    vectors.write_bytes(whole)
    follower.look()
    assert (follower.current.day, follower.problem) == (NEXT, None)


def test_the_same_copy_is_opened_once(follower, monkeypatch):
    monkeypatch.setattr(follower, "_open", lambda: pytest.fail("opened again"))
    follower.look()


def test_following_needs_nobody_to_ask(tmp_path, follower):
    follower.start()
    try:
        version = publish_day(tmp_path, NEXT, suffix="b")
        deadline = datetime.datetime.now() + datetime.timedelta(seconds=20)
        while follower.current.version != version:
            assert datetime.datetime.now() < deadline
    finally:
        follower.stop()
    assert np.isfinite(
        [candidate.score for candidate in follower.current.recommender.recommend(1, NOW).candidates]
    ).all()
