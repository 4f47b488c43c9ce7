"""Lists of neighbours of the day before: kept where they are right, with the pins that are new since."""

import numpy as np
import pytest
from conftest import LAST
from world import PINS_WRITTEN_ANEW, World, failures, on, small_settings

from pinnersage_assets.lineage.queries import corpus_vectors

YESTERDAY = on(9)
INDEX, NEIGHBOURS = "retrieval.hnsw_index", "retrieval.medoid_neighbours"
REUSED = "queries reused from the day before"


def settings_of(index=None, retrieval=None):
    """Lists so short that no search is for a tenth of the corpus, which would be a scan."""
    return small_settings(
        window={"days": 8},
        index={"exact_up_to": 0, "expansion_search": 500, **(index or {})},
        retrieval={"budget": 30, "margin": 10, **(retrieval or {})},
        evaluation={"users": 1000},
    )


def search(world, day):
    """Materialise index and neighbours; how many lists were kept."""
    result = world.run("daily", day, only=[INDEX, NEIGHBOURS])
    assert failures(result) == {}
    [of_neighbours] = result.asset_materializations_for_node("retrieval__medoid_neighbours")
    return of_neighbours.metadata[REUSED].value


@pytest.fixture(scope="module")
def searched(world, tmp_path_factory) -> World:
    """The world with an HNSW index, and neighbours, as of the day before the last. Read-only: copy it."""
    searched = world.copy(tmp_path_factory.mktemp("searched") / "data", settings_of())
    assert search(searched, YESTERDAY) == 0
    return searched


def lists(world, day=LAST):
    rows = world.partition(NEIGHBOURS, day).select("medoid_pin_id", "pin_ids", "cosines").rows()
    return {medoid: (pins, cosines) for medoid, pins, cosines in rows}


def assert_right(world):
    """Nearest first by true cosines; what is new is in its place; nothing is there that has left; few are missed."""
    ids, vectors = corpus_vectors(world.warehouse, LAST)
    before = corpus_vectors(world.warehouse, YESTERDAY)[0]
    known, embeddings = world.warehouse.read_vectors("SELECT pin_id, embedding FROM staging.pins ORDER BY pin_id")
    vectors, is_new, shares = vectors[:], ~np.isin(ids, before), []
    for medoid, (pins, cosines) in lists(world).items():
        true = vectors @ embeddings[np.searchsorted(known, medoid)]
        np.testing.assert_allclose(cosines, true[np.searchsorted(ids, pins)], atol=1e-6)
        assert np.isin(pins, ids).all()
        assert len(set(pins)) == len(pins)
        assert (np.diff(cosines) <= 0).all()
        assert set(ids[is_new & (true > cosines[-1] + 1e-6)]) <= set(pins)
        shares.append(np.isin(ids[np.argsort(-true, kind="stable")[: len(pins)]], pins).mean())
    assert np.mean(shares) > 0.98


def test_most_lists_are_kept_with_what_is_new(searched, tmp_path):
    copy = searched.copy(tmp_path / "data")
    kept = search(copy, LAST)
    before, after = lists(copy, YESTERDAY), lists(copy)
    both = before.keys() & after.keys()
    assert 0.5 * len(both) < kept <= len(both)
    assert_right(copy)
    new = set(copy.partition("corpus.pins", LAST)["pin_id"]) - set(copy.partition("corpus.pins", YESTERDAY)["pin_id"])
    assert any(new & set(after[medoid][0]) for medoid in both)
    # And the same is made of the same.
    assert search(copy, LAST) == kept
    assert lists(copy) == after


def test_a_list_with_a_pin_that_has_left_is_searched_again(searched, tmp_path):
    copy = searched.copy(tmp_path / "data")
    # Still among the known, but not to be recommended.
    [gone] = copy.read(
        "SELECT unnest(pin_ids) AS pin FROM retrieval.medoid_neighbours WHERE dt = $day "
        "GROUP BY pin ORDER BY count(*) DESC, pin LIMIT 1",
        day=YESTERDAY,
    )["pin"]
    touched = {medoid for medoid, (pins, _) in lists(copy, YESTERDAY).items() if gone in pins}
    undisturbed = searched.copy(tmp_path / "undisturbed")
    copy.execute("DELETE FROM corpus.pins WHERE dt = $day AND pin_id = $gone", day=LAST, gone=gone)
    kept, otherwise_kept = search(copy, LAST), search(undisturbed, LAST)
    again = touched & lists(copy).keys()
    # Some of these may have lost another pin as well.
    assert otherwise_kept - len(again) <= kept < otherwise_kept
    assert_right(copy)


@pytest.mark.parametrize("change", ["index", "retrieval", "medoid", "corpus", "nothing before"])
def test_what_a_list_depends_on_has_changed(searched, tmp_path, change):
    settings = {
        "index": settings_of(index={"expansion_search": 501}),
        "retrieval": settings_of(retrieval={"condition": "pin_id > 0"}),
    }.get(change)
    copy = searched.copy(tmp_path / "data", settings)
    if change == "medoid":
        # Of pins that are medoids and not in the corpus, and so in no fingerprint of it.
        copy.execute(
            "UPDATE staging.pins SET embedding = list_reverse(embedding::FLOAT[])::FLOAT[64] WHERE pin_id IN "
            "(SELECT medoid_pin_id FROM retrieval.medoid_neighbours WHERE dt = $day) "
            "AND pin_id NOT IN (SELECT pin_id FROM corpus.pins WHERE dt = $day)",
            PINS_WRITTEN_ANEW,
            day=YESTERDAY,
        )
    elif change == "corpus":
        copy.execute(
            "UPDATE staging.pins SET embedding = list_reverse(embedding::FLOAT[])::FLOAT[64] "
            "WHERE pin_id = (SELECT min(pin_id) FROM corpus.pins)",
            PINS_WRITTEN_ANEW,
        )
    elif change == "nothing before":
        copy.execute("DELETE FROM retrieval.medoid_neighbours WHERE dt = $day", day=YESTERDAY)
    kept = search(copy, LAST)
    if change == "medoid":
        outside = set(lists(copy)) - set(copy.partition("corpus.pins", YESTERDAY)["pin_id"])
        assert outside & lists(copy, YESTERDAY).keys()
        assert (
            0
            < kept
            <= len(lists(copy).keys() & lists(copy, YESTERDAY).keys()) - len(outside & lists(copy, YESTERDAY).keys())
        )
    else:
        assert kept == 0
    assert_right(copy)


def test_a_corpus_that_was_made_again_after_its_neighbours_is_noticed(searched, tmp_path):
    """Their lists do not know a pin that came into the corpus of their day later."""
    copy = searched.copy(tmp_path / "data")
    late = copy.read(
        "SELECT min(pin_id) FROM corpus.pins WHERE dt = $day AND pin_id NOT IN "
        "(SELECT unnest(pin_ids) FROM retrieval.medoid_neighbours WHERE dt = $day)",
        day=YESTERDAY,
    ).item()
    # As if they had been made without it.
    copy.execute("DELETE FROM corpus.pins WHERE dt = $day AND pin_id = $late", day=YESTERDAY, late=late)
    search(copy, YESTERDAY)
    copy.execute("INSERT INTO corpus.pins BY NAME SELECT $day AS dt, $late AS pin_id", day=YESTERDAY, late=late)
    assert search(copy, LAST) == 0
    assert_right(copy)


def test_a_small_corpus_is_always_searched_exactly(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of(index={"exact_up_to": 10**6}))
    assert search(copy, YESTERDAY) == search(copy, LAST) == 0
    assert copy.partition(NEIGHBOURS, LAST)["corpus_fingerprint"].is_null().all()
