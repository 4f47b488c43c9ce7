"""What the settings of retrieval promise, on copies of the small world, against plain loops."""

import numpy as np
import pytest
from conftest import LAST
from oracle import Oracle
from world import failures, small_settings

from pinnersage_assets.ann.exact import ExactIndex
from pinnersage_assets.ann.hnsw import HnswIndex
from pinnersage_assets.lineage.retrieval import drawn_medoids

TABLES = ["retrieval.hnsw_index", "retrieval.medoid_neighbours", "retrieval.recommendations"]
BUDGET = 60  # 60, 30 or 20 for each of a user's medoids


@pytest.fixture(scope="module")
def today(world):
    return Oracle(world, LAST)


@pytest.fixture(scope="module")
def medoids(world):
    """Of each user the medoids with their importance."""
    columns = ["medoid_pin_id", "importance"]
    users = world.partition("users.medoids", LAST).group_by("user_id").agg(columns)
    return {user: list(zip(pins, weights, strict=True)) for user, pins, weights in users.rows()}


@pytest.fixture
def changed(world, tmp_path):
    """A copy of the world with other settings of retrieval, with or without an HNSW index."""

    def changed(hnsw=False, **retrieval):
        settings = small_settings(
            window={"days": 8},
            # So narrow a search that not everything is a scan of the corpus.
            index={"recall_sample": 100, "exact_up_to": 0 if hnsw else 10**6, "expansion_search": 20},
            retrieval={"budget": BUDGET, "margin": 10} | retrieval,
        )
        return world.copy(tmp_path / f"data-{len(list(tmp_path.iterdir()))}", settings)

    return changed


def recommended(world):
    """Of each user the recommended pins, after running retrieval."""
    assert failures(world.run("daily", LAST, only=TABLES)) == {}
    return recommended_in(world)


def recommended_in(world):
    rows = world.partition("retrieval.recommendations", LAST)
    return {user: set(pins) for user, pins in rows.group_by("user_id").agg("pin_id").rows()}


def shares_of(world):
    """Of each user the drawn medoids with their shares."""
    drawn = drawn_medoids(world.warehouse, world.settings, LAST).group_by("user_id").agg("medoid_pin_id", "share")
    return {user: dict(zip(pins, shares, strict=True)) for user, pins, shares in drawn.rows()}


def union(today, user, shares, allowed=None):
    """The paper's set, but for the sizes of shares and the pins that may be recommended."""
    without = today.seen(user) | (set() if allowed is None else set(today.corpus) - allowed)
    return {pin for medoid, share in shares.items() for pin in today.nearest(today.pins[medoid][1], without, share)}


# --- How much each medoid brings


def test_shares_by_importance_are_what_medoids_bring(changed, today, medoids):
    world = changed(shares="importance")
    found, shares = recommended(world), shares_of(world)
    assert set(found) == set(medoids)
    unequal = 0
    for user, own in shares.items():
        # Drawn as ever; shared out in proportion.
        drawn = set(today.drawn(medoids, user))
        assert set(own) <= drawn
        total = sum(weight for medoid, weight in medoids[user] if medoid in drawn)
        exact = {medoid: BUDGET * weight / total for medoid, weight in medoids[user] if medoid in drawn}
        assert sum(own.values()) == BUDGET
        assert all(abs(own.get(medoid, 0) - exact[medoid]) < 1 for medoid in drawn)
        unequal += max(own.values()) > 2 * min(own.values())
        assert found[user] == union(today, user, own)
    assert unequal > 10


@pytest.mark.parametrize("shares", ["equal", "importance"])
def test_refilled_sets_are_full_and_hold_the_papers_set(changed, today, shares):
    world = changed(shares=shares, refill=True)
    found, small = recommended(world), 0
    for user, own in shares_of(world).items():
        paper = union(today, user, own)
        assert len(found[user]) == sum(own.values()) == BUDGET
        assert found[user] >= paper
        small += len(paper) < BUDGET
    assert small > 3


def test_a_set_that_cannot_be_full_is_all_that_the_user_has_not_seen(changed, today):
    world = changed(budget=3000, refill=True)
    for user, pins in recommended(world).items():
        assert pins == set(today.corpus) - today.seen(user)


# --- Users for whom the usual depth is not enough


@pytest.mark.parametrize("refill", [False, True])
def test_the_margin_makes_no_difference_to_what_is_recommended(changed, refill):
    """It only says how many users need another, deeper search."""
    found, searched = [], []
    for margin in (0, 200):
        world = changed(margin=margin, refill=refill)
        result = world.run("daily", LAST, only=TABLES)
        assert failures(result) == {}
        rows = world.partition("retrieval.recommendations", LAST)
        found.append({(user, pin, medoid): score for _, user, _, pin, medoid, score in rows.rows()})
        [event] = result.asset_materializations_for_node("retrieval__recommendations")
        searched.append(event.metadata["users for whom more neighbours were searched"].value)
    # Products of matrices of other shapes may be rounded otherwise.
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert searched[0] > 50
    assert searched[1] == 0


def test_users_who_have_seen_nearly_everything_get_what_is_left(changed, world, today, medoids):
    copy = changed()
    user, other, everybody_else = (*sorted(medoids)[10:12], sorted(medoids)[12:])
    corpus = np.array(today.corpus)
    left = np.random.default_rng(0).choice(corpus, 80, replace=False)
    for who, seen in ((user, np.setdiff1d(corpus, left)), (other, corpus)):
        copy.execute(
            "INSERT INTO staging.actions BY NAME SELECT $day AS dt, $who AS user_id, unnest($seen) AS pin_id, "
            "'hide' AS action, $day::TIMESTAMP AS ts",
            day=LAST,
            who=who,
            seen=seen.tolist(),
        )
    found, before = recommended(copy), recommended_in(world)
    mine, groups = Oracle(world, LAST), {today.group(pin) for pin in np.setdiff1d(corpus, left)}
    unseen = {pin for pin in left.tolist() if today.group(pin) not in groups} - today.seen(user)
    assert len(unseen) > 40
    assert found[user] == union(mine, user, shares_of(copy)[user], unseen)
    assert len(found[user]) > 20
    assert other not in found
    assert {who: found[who] for who in everybody_else} == {who: before[who] for who in everybody_else}


def test_a_graph_that_gives_few_neighbours_keeps_nobody_waiting(changed, today, monkeypatch):
    """However deep it is searched; only the scan of the corpus finds the rest."""
    world, searches = changed(hnsw=True, budget=9, margin=2), 0

    def finds_three(index, queries, k):
        nonlocal searches
        searches += 1
        assert searches < 100
        # The true neighbours, for what is asked here is not which of them a graph misses.
        pins, cosines = ExactIndex(index.ids, index.vectors).search(queries, k)
        if k < index.scans_from:
            pins[:, 3:], cosines[:, 3:] = -1, -np.inf
        return pins, cosines

    run = world.run("daily", LAST, only=TABLES[:1])
    assert failures(run) == {}
    with monkeypatch.context() as patch:
        patch.setattr(HnswIndex, "search", finds_three)
        assert failures(world.run("daily", LAST, only=TABLES[1:])) == {}
    found = recommended_in(world)
    for user, own in shares_of(world).items():
        assert found[user] == union(today, user, own)


# --- Only some pins


@pytest.fixture(scope="module")
def category(world):
    """Of each pin of the corpus, its category."""
    query = "SELECT pin_id, category FROM staging.pins WHERE pin_id IN (SELECT pin_id FROM corpus.pins WHERE dt = $day)"
    return dict(world.read(query, day=LAST).rows())


@pytest.mark.parametrize("refill", [False, True])
@pytest.mark.parametrize("some", [1, 8])
def test_only_pins_for_which_the_condition_holds_are_recommended(changed, today, category, some, refill):
    names = sorted(set(category.values()))[:some]
    listed = ", ".join(f"'{name}'" for name in names)
    allowed = {pin for pin, name in category.items() if name in names}
    world = changed(condition=f"category IN ({listed})", refill=refill)
    found = recommended(world)
    for user, own in shares_of(world).items():
        paper = union(today, user, own, allowed)
        assert found[user] <= allowed - today.seen(user)
        if refill:
            assert len(found[user]) == min(BUDGET, len(allowed - today.seen(user)))
            assert found[user] >= paper
        else:
            assert found[user] == paper


def test_a_condition_holds_for_an_hnsw_index_too(changed, today, medoids, monkeypatch):
    """Here so few neighbours are wanted that the graph is searched, and not the allowed scanned."""
    world = changed(hnsw=True, budget=15, margin=1, condition="pin_id % 2 = 0")
    assert failures(world.run("daily", LAST, only=TABLES[:1])) == {}
    searches, search = [], HnswIndex.search
    with monkeypatch.context() as patch:
        patch.setattr(HnswIndex, "search", lambda index, *asked: searches.append(index) or search(index, *asked))
        assert failures(world.run("daily", LAST, only=TABLES[1:])) == {}
    assert searches
    found, hits, wanted = recommended_in(world), 0, 0
    allowed = {pin for pin in today.corpus if pin % 2 == 0}
    for user, own in shares_of(world).items():
        expected = union(today, user, own, allowed)
        assert found[user] <= allowed - today.seen(user)
        assert len(found[user]) >= len(expected) - 3
        hits, wanted = hits + len(found[user] & expected), wanted + len(expected)
    assert set(found) == set(medoids)
    assert hits > 0.95 * wanted


def test_a_condition_may_hold_for_no_pin_or_for_all(changed, world):
    assert recommended(changed(condition="category = 'nothing of the kind'")) == {}
    assert recommended(changed(condition="category IS NULL OR true")) == recommended_in(world)


@pytest.mark.parametrize("condition", ["category = ", "no_such_column > 3", "category = 'unfinished", "width = 'wide'"])
def test_a_condition_that_is_not_sql_over_pins_is_named(changed, world, condition):
    copy = changed(condition=condition)
    [(step, message)] = failures(copy.run("daily", LAST, only=TABLES[1:])).items()
    assert step == "retrieval__medoid_neighbours"
    assert f"the setting retrieval.condition ({condition!r}) cannot be used: " in message
    assert copy.partition("retrieval.medoid_neighbours", LAST).equals(
        world.partition("retrieval.medoid_neighbours", LAST)
    )
