"""One user's answer at one moment, held against the batch's own functions over all neighbours of everything."""

import datetime
import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pinnersage_assets.ann.exact import ExactIndex
from pinnersage_assets.model.blending import blended, quotas
from pinnersage_assets.model.candidates import candidate_sets, shares
from pinnersage_assets.model.online import StoredClusters, update_clusters
from pinnersage_assets.model.pin_board_graph import NO_FEATURE, PinBoardGraph
from pinnersage_assets.model.pinnersage import draw_medoids
from pinnersage_assets.model.pixie import PixieParameters, Requests
from pinnersage_assets.model.pixie import recommend as walk
from pinnersage_assets.model.randomness import keyed_bits
from pinnersage_assets.serving.graph_walks import GraphWalks, NoGraphError
from pinnersage_assets.serving.packing import EventColumns
from pinnersage_assets.serving.pin_files import PinFiles
from pinnersage_assets.serving.recommender import Recommender, UnknownPinError
from pinnersage_assets.serving.records import StoredUser
from pinnersage_assets.settings import Settings

DAY = datetime.date(2026, 4, 10)
MIDNIGHT = datetime.datetime(2026, 4, 11, tzinfo=datetime.UTC)
NOON = MIDNIGHT + datetime.timedelta(hours=12)
CORPUS, OTHERS, DIMENSIONS = 300, 40, 16
UNKNOWN = 10**9


class InMemory:
    """What of a store is read."""

    def __init__(self, users, events):
        self.users, self.events = users, events

    def read_user(self, version, user_id):
        assert version == "v"
        return self.users.get(user_id)

    def recent(self, user_id, since, latest=None):
        own = sorted(
            (time, pin, action) for user, time, pin, action in self.events if user == user_id and time >= since
        )
        own = own[-latest:] if latest else own
        times = np.array([time.replace(tzinfo=None) for time, _, _ in own], dtype="datetime64[us]")
        pins = np.array([pin for _, pin, _ in own], dtype=np.int64)
        return EventColumns(np.full(len(own), user_id), pins, [action for _, _, action in own], times)


@pytest.fixture(scope="module")
def pins():
    """Ids 10, 20, ... of the corpus; odd ones of the others, of which every second repeats a pin of the corpus."""
    chance = np.random.default_rng(7)
    topics = chance.standard_normal((12, DIMENSIONS))
    vectors = topics[chance.integers(12, size=CORPUS + OTHERS)] + 0.4 * chance.standard_normal(
        (CORPUS + OTHERS, DIMENSIONS)
    )
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    stands_for = np.concatenate([np.arange(CORPUS), np.where(np.arange(OTHERS) % 2, np.arange(OTHERS), -1)])
    ids = np.concatenate([10 * np.arange(1, CORPUS + 1), 10 * np.arange(OTHERS) + 3])
    return PinFiles(
        ids,
        stands_for.astype(np.int32),
        vectors,
        np.ones(CORPUS, dtype=bool),
        np.empty(0, np.int64),
        np.zeros(1, np.int64),
        np.empty(0, np.int32),
        np.empty(0, np.float32),
        np.arange(CORPUS - 1, -1, -1, dtype=np.int32),
    )


def settings(pixie=None, blending=None, **retrieval):
    sections = {"pixie": pixie or {}, "blending": blending or {}}
    return Settings(retrieval={"budget": 30, "margin": 5, **retrieval}, seed=5, **sections)


def stored(pins, rows, seen_rows=()):
    clusters = StoredClusters(pins.ids[rows], np.arange(1, len(rows) + 1), 1.0 / np.arange(1, len(rows) + 1))
    return StoredUser(clusters, np.sort(pins.ids[list(seen_rows)]).astype(np.int64))


def recommender(pins, users=None, events=(), graph=None, **sections):
    index, chosen = ExactIndex(pins.ids[:CORPUS], pins.vectors[:CORPUS]), settings(**sections)
    walks = "there is no graph"
    if graph:
        repeats = (np.array(column) for column in zip(*sorted(FIRST.items()), strict=True))
        walks = GraphWalks(graph, pins, *repeats, chosen.pixie.parameters())
    return Recommender(DAY, "v", chosen, InMemory(users or {}, events), pins, index, walks)


def at(minutes, pin, action="click", user=1):
    return (user, MIDNIGHT + datetime.timedelta(minutes=minutes), int(pin), action)


def expected(pins, user, recent_rows, ages, seen_rows, **retrieval):
    """The batch's functions, one after another, over whole lists."""
    chosen = settings(**retrieval)
    vectors_of = dict(zip(pins.ids.tolist(), pins.vectors, strict=True))
    clusters = update_clusters(
        user.clusters,
        np.array([vectors_of[pin] for pin in user.clusters.medoid_pin_ids.tolist()], np.float32).reshape(
            -1, DIMENSIONS
        ),
        pins.ids[recent_rows],
        pins.vectors[recent_rows],
        np.array(ages, dtype=float),
        0.5,
        chosen.clustering.alpha,
        chosen.clustering.decay_per_day,
    )
    count = len(clusters.sizes)
    places = draw_medoids(
        np.full(count, 1), clusters.medoid_pin_ids, clusters.importances, 3, (chosen.seed, DAY.toordinal())
    )
    frame = pl.DataFrame(
        {"user_id": 1, "medoid_pin_id": clusters.medoid_pin_ids, "importance": clusters.importances}
    ).filter(pl.Series(places >= 0))
    by_importance = chosen.retrieval.shares == "importance"
    drawn = shares(frame, chosen.retrieval.budget, by_importance, chosen.retrieval.refill)
    lists = []
    for medoid in drawn["medoid_pin_id"]:
        cosines = pins.vectors[:CORPUS] @ vectors_of[medoid]
        order = np.argsort(-cosines, kind="stable")
        lists.append((medoid, pins.ids[order].tolist(), cosines[order].tolist(), True))
    neighbours = pl.DataFrame(
        lists,
        schema={
            "medoid_pin_id": pl.Int64,
            "pin_ids": pl.List(pl.Int64),
            "cosines": pl.List(pl.Float32),
            "whole": pl.Boolean,
        },
        orient="row",
    )
    seen = pl.DataFrame(
        {"user_id": 1, "pin_id": pins.ids[list(seen_rows)]}, schema={"user_id": pl.Int32, "pin_id": pl.Int64}
    )
    found, _ = candidate_sets(drawn, neighbours, seen, chosen.retrieval.refill)
    return found.sort("rank").select("pin_id", "medoid_pin_id").rows()


@pytest.mark.parametrize(
    "retrieval", [{}, {"refill": True}, {"shares": "importance"}, {"shares": "importance", "refill": True}]
)
def test_an_answer_is_what_the_batch_would_make_of_the_updated_clusters(pins, retrieval):
    chance = np.random.default_rng(3)
    for _ in range(20):
        medoids = chance.choice(CORPUS, chance.integers(0, 8), replace=False)
        before = chance.choice(CORPUS, 60, replace=False)
        recent = chance.choice(CORPUS + OTHERS, chance.integers(1, 9))
        user = stored(pins, medoids, before)
        events = [at(10 * place, pins.ids[row]) for place, row in enumerate(recent)]
        ages = [(720 - 10 * place) / 1440 for place in range(len(recent))]
        lately = pins.corpus_rows[recent]
        seen = np.union1d(before, lately[lately >= 0])
        answer = recommender(pins, {1: user}, events, **retrieval).recommend(1, NOON)
        assert answer.source == "clusters"
        found = [(candidate.pin_id, candidate.medoid_pin_id) for candidate in answer.candidates]
        assert found == expected(pins, user, recent, ages, seen, **retrieval)


@pytest.mark.parametrize("shares", ["equal", "importance"])
@pytest.mark.parametrize("size", [1, 2])
def test_fewer_pins_than_medoids_can_be_asked_for(pins, size, shares):
    answer = recommender(pins, {1: stored(pins, [1, 50, 99])}, shares=shares).recommend(1, NOON, size)
    assert len(answer.candidates) == size
    assert 1 <= len(answer.queries) <= size


def test_scores_are_the_cosines_to_the_medoid_that_brings_a_pin(pins):
    answer = recommender(pins, {1: stored(pins, [1, 50, 99])}).recommend(1, NOON)
    vectors = dict(zip(pins.ids.tolist(), pins.vectors, strict=True))
    for candidate in answer.candidates:
        assert candidate.score == pytest.approx(
            float(vectors[candidate.pin_id] @ vectors[candidate.medoid_pin_id]), abs=1e-6
        )
    assert [c.score for c in answer.candidates] == sorted((c.score for c in answer.candidates), reverse=True)
    assert {candidate.medoid_pin_id for candidate in answer.candidates} <= {
        query.medoid_pin_id for query in answer.queries
    }


def test_somebody_who_saw_nearly_everything_gets_what_is_left(pins):
    user = stored(pins, [1, 50], range(5, CORPUS))
    found = {candidate.pin_id for candidate in recommender(pins, {1: user}, refill=True).recommend(1, NOON).candidates}
    assert found == set(pins.ids[:5].tolist())


def test_an_unknown_user_gets_popular_pins_that_say_so(pins):
    asked = recommender(pins, events=[at(1, pins.ids[CORPUS - 1], "hide")])
    answer = asked.recommend(1, NOON, 3)
    assert answer.source == "popular"
    assert [candidate.pin_id for candidate in answer.candidates] == pins.ids[
        [CORPUS - 2, CORPUS - 3, CORPUS - 4]
    ].tolist()
    assert {candidate.medoid_pin_id for candidate in answer.candidates} == {None}


def test_only_actions_of_interest_make_clusters_but_no_action_comes_back(pins):
    hidden, clicked = int(pins.ids[7]), int(pins.ids[8])
    asked = recommender(pins, events=[at(1, hidden, "hide"), at(2, clicked)])
    [interest] = asked.interests(1, NOON)
    assert (interest.medoid_pin_id, interest.recent_pin_ids, interest.is_new) == (clicked, [clicked], True)
    found = {candidate.pin_id for candidate in asked.recommend(1, NOON, 299).candidates}
    assert found.isdisjoint({hidden, clicked})


def test_the_latest_twenty_actions_count(pins):
    events = [at(place, pins.ids[place]) for place in range(25)]
    interests = recommender(pins, events=events).interests(1, NOON)
    taken = sorted(pin for interest in interests for pin in interest.recent_pin_ids)
    assert taken == sorted(pins.ids[5:25].tolist())
    assert sum(interest.actions for interest in interests) == 20


def test_what_was_done_before_the_batch_is_in_the_batch(pins):
    events = [(1, MIDNIGHT - datetime.timedelta(microseconds=1), int(pins.ids[0]), "click")]
    assert recommender(pins, events=events).interests(1, NOON) == []


def test_pins_that_are_not_known_yet_are_named(pins):
    answer = recommender(pins, {1: stored(pins, [1])}, [at(1, UNKNOWN), at(2, pins.ids[4]), at(3, UNKNOWN)]).recommend(
        1, NOON
    )
    assert answer.unknown_pin_ids == [UNKNOWN]


def test_importance_fades_until_the_request(pins):
    asked = recommender(pins, {1: stored(pins, [1, 200])})
    now, later = (asked.interests(1, moment) for moment in (MIDNIGHT, MIDNIGHT + datetime.timedelta(days=10)))
    assert [interest.importance for interest in later] == pytest.approx([i.importance * np.exp(-0.1) for i in now])
    assert sum(interest.share for interest in later) == pytest.approx(1)


def test_a_clock_that_is_behind_makes_nobody_older_than_now(pins):
    asked = recommender(pins, {1: stored(pins, [1])}, [at(60, pins.ids[2])])
    assert asked.recommend(1, MIDNIGHT - datetime.timedelta(hours=1)).candidates


def test_lists_are_at_hand_the_second_time(pins):
    asked = recommender(pins, {1: stored(pins, [1, 50, 99])})
    assert [query.is_cached for query in asked.recommend(1, NOON).queries] == [False] * 3
    assert [query.is_cached for query in asked.recommend(1, NOON).queries] == [True] * 3
    assert len(asked.recommend(1, NOON, 200).candidates) > 150


def test_only_what_may_be_recommended_is(pins):
    allowed = np.arange(CORPUS) % 3 == 0
    some = replace(pins, recommendable=allowed)
    answer = recommender(some, {1: stored(pins, [1, 50])}, refill=True).recommend(1, NOON, 60)
    assert len(answer.candidates) == 60
    assert all(allowed[candidate.pin_id // 10 - 1] for candidate in answer.candidates)


def test_pins_like_a_pin_are_its_nearest_without_itself_and_its_repeats(pins):
    asked = recommender(pins)
    for row in (3, CORPUS + 2, CORPUS + 5):
        cosines = pins.vectors[:CORPUS] @ pins.vectors[row]
        order = [place for place in np.argsort(-cosines, kind="stable") if place != pins.corpus_rows[row]][:12]
        assert [candidate.pin_id for candidate in asked.like(int(pins.ids[row]), 12)] == pins.ids[order].tolist()
    with pytest.raises(UnknownPinError, match=f"pin {UNKNOWN} is not known on {DAY}"):
        asked.like(UNKNOWN, 3)


# --- Walks over pins and boards

# Near-duplicates and what they repeat: of some groups the first is not in the corpus, but another one.
FIRST = {10 * row + (3 if row % 4 == 1 else 10): 10 * row + (10 if row % 4 == 1 else 3) for row in range(1, OTHERS, 2)}
LONELY, ALONE = 210, 2_990


@pytest.fixture(scope="module")
def graph(pins):
    """Of most pins, those that repeat others left out; one is on a board by itself, and one on none."""
    chance = np.random.default_rng(2)
    known = np.setdiff1d(pins.ids, [*FIRST, LONELY, ALONE])
    boards = [chance.choice(known, 12, replace=False) for _ in range(150)]
    of_board = np.repeat(np.arange(150), 12)
    return PinBoardGraph.of([*np.concatenate(boards), ALONE], [*of_board, 999], known[::2], known[::2] % 3)


def walked(pins, graph, weights, key, seen_rows=(), **parameters):
    """The pins that walks from pins of the graph visit, in plain Python: (pin of the corpus, visits)."""
    codes = dict(zip(graph.pin_ids.tolist(), graph.pin_features.tolist(), strict=True))
    features = Counter(codes[pin] for pin in weights if codes[pin] != NO_FEATURE)
    feature = min(features, key=lambda code: (-features[code], code), default=NO_FEATURE)
    request = Requests(
        np.array(list(weights)),
        np.array(list(weights.values()), dtype=float),
        np.array([0, len(weights)]),
        np.atleast_1d(key),
        np.array([feature]),
    )
    usual = {"steps": 5_000, "restart": 0.5, "scaled": True, "boosted": True}
    answer = walk(graph, request, PixieParameters(**usual | parameters))
    in_corpus = {FIRST.get(pin, pin): pin for pin in pins.ids[:CORPUS].tolist()}
    seen = {int(pins.ids[row]) for row in seen_rows}
    found = [(in_corpus.get(pin), score) for pin, score in zip(answer.pin_ids.tolist(), answer.scores, strict=True)]
    return [(pin, score) for pin, score in found if pin is not None and pin not in seen]


def key_of(user):
    return keyed_bits(5, DAY.toordinal(), user)


def pins_and_scores(candidates):
    assert {candidate.medoid_pin_id for candidate in candidates} <= {None}
    return [(candidate.pin_id, candidate.score) for candidate in candidates]


@pytest.mark.parametrize("walking", [{}, {"bias": 0.7, "steps": 900, "scaled": False, "stop_pins": 5}])
def test_walks_begin_at_the_latest_pins_by_what_was_done_and_when(pins, graph, walking):
    chance = np.random.default_rng(6)
    weights = {"click": 0.25}
    for user in range(1, 9):
        rows = chance.choice(CORPUS + OTHERS, 40)
        events = [
            at(7 * place, pins.ids[row], ["click", "repin", "hide"][place % 3], user) for place, row in enumerate(rows)
        ]
        before = chance.choice(CORPUS, 30, replace=False)
        pixie = {"action_weights": weights, "decay_per_day": 3.0, "query_pins": 6, **walking}
        asked = recommender(pins, {user: stored(pins, [1, 2], before)}, events, graph, pixie=pixie)
        answer = asked.recommend(user, NOON, source="pixie")

        parts, latest = defaultdict(list), {}
        for _, time, pin, action in events:
            first = FIRST.get(pin, pin)
            if action != "hide" and first in graph.pin_ids:
                age = (NOON - time) / datetime.timedelta(days=1)
                parts[first].append(weights.get(action, 1.0) * math.exp(-3.0 * age))
                latest[first] = time
        chosen = sorted(parts, key=lambda pin: (-latest[pin].timestamp(), pin))[:6]
        assert answer.query_pin_ids == chosen
        lately = pins.corpus_rows[rows]
        seen = np.union1d(before, lately[lately >= 0])
        expected = walked(pins, graph, {pin: math.fsum(parts[pin]) for pin in chosen}, key_of(user), seen, **walking)
        assert (answer.source, answer.queries, answer.reason) == ("pixie", [], None)
        assert pins_and_scores(answer.candidates) == expected[:30]


def test_walks_of_who_does_nothing_begin_at_medoids(pins, graph):
    rows = [3, 5, 50, 99]
    user = stored(pins, rows, [7])
    asked = recommender(pins, {1: user}, [at(1, pins.ids[8], "hide"), at(2, UNKNOWN)], graph)
    answer = asked.recommend(1, NOON, source="pixie")
    firsts = [FIRST.get(pin, pin) for pin in pins.ids[rows].tolist()]
    assert firsts != pins.ids[rows].tolist()
    assert answer.query_pin_ids == firsts
    expected = walked(
        pins, graph, dict(zip(firsts, user.clusters.importances, strict=True)), key_of(1), [7, 8], steps=5_000
    )
    assert pins_and_scores(answer.candidates) == expected[:30]
    assert answer.unknown_pin_ids == [UNKNOWN]
    # By the settings, they begin there whatever the user does.
    events = [at(3, pins.ids[201])]
    asked = recommender(pins, {1: user}, events, graph, pixie={"queries": "medoids", "query_pins": 2})
    interests = asked.interests(1, NOON)
    firsts = [FIRST.get(i.medoid_pin_id, i.medoid_pin_id) for i in interests]
    assert asked.recommend(1, NOON, source="pixie").query_pin_ids == firsts[:2]


def test_the_same_request_gets_the_same_answer_whenever_it_comes(pins, graph):
    events = [at(place, pins.ids[3 * place]) for place in range(12)]
    for source in ("pixie", "blended"):
        first, again = (recommender(pins, events=events, graph=graph).recommend(1, NOON, 40, source) for _ in range(2))
        assert first == again
    asked = recommender(pins, events=events, graph=graph)
    later = NOON + datetime.timedelta(hours=7, seconds=11)
    assert asked.recommend(1, NOON, source="pixie") == asked.recommend(1, later, source="pixie")
    assert asked.related(20, 10) == recommender(pins, graph=graph).related(20, 10)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_blend_is_the_batchs_of_both_lists(pins, graph, share):
    events = [at(place, pins.ids[3 * place]) for place in range(12)]
    asked = recommender(pins, {1: stored(pins, [1, 50, 99], [9])}, events, graph, blending={"pixie_share": share})
    lists = []
    for source in ("pinnersage", "pixie"):
        found = asked.recommend(1, NOON, source=source).candidates
        rows = [(1, rank, candidate.pin_id, candidate.score) for rank, candidate in enumerate(found, start=1)]
        schema = {"user_id": pl.Int64, "rank": pl.Int32, "pin_id": pl.Int64, "score": pl.Float32}
        lists.append(pl.DataFrame(rows, schema=schema, orient="row"))
    answer = asked.recommend(1, NOON, source="blended")
    expected = blended(*lists, quotas(30, share))
    assert [(c.pin_id, c.score) for c in answer.candidates] == expected.select("pin_id", "score").rows()
    by_clusters = [candidate.medoid_pin_id is not None for candidate in answer.candidates]
    assert by_clusters == (expected["source"] == "pinnersage").to_list()
    assert (answer.source, len(answer.candidates), answer.reason) == ("blended", 30, None)
    assert answer.queries == asked.recommend(1, NOON).queries


def test_budgets_are_those_of_the_batch(pins, graph):
    asked = recommender(pins, {1: stored(pins, [1, 50])}, graph=graph, pixie={"budget": 7})
    sizes = [len(asked.recommend(1, NOON, source=source).candidates) for source in ("pixie", "blended")]
    assert sizes == [7, 30]
    assert len(asked.recommend(1, NOON, 3, "pixie").candidates) == 3


def test_where_walks_bring_nothing_the_answer_says_why(pins, graph):
    asked = recommender(pins, {1: stored(pins, [20])}, [at(1, UNKNOWN, user=2), at(1, ALONE, user=3)], graph)
    assert pins.ids[20] == LONELY
    for user, reason in (
        (1, f"nothing that is known of user 1 has an edge in the graph of {DAY}"),
        (2, f"nothing that is known of user 2 has an edge in the graph of {DAY}"),
        (3, "in 5000 steps no walk came to a pin that is not a query pin"),
    ):
        answer = asked.recommend(user, NOON, source="pixie")
        assert (answer.source, answer.reason, len(answer.candidates)) == ("popular", reason, 30)
        both = asked.recommend(user, NOON, source="blended")
        assert both.reason == reason
        assert both.candidates == asked.recommend(user, NOON).candidates
        assert both.source == ("popular" if user == 2 else "blended")
    allowed = replace(pins, recommendable=np.zeros(CORPUS, bool), popular_rows=np.empty(0, np.int32))
    asked = recommender(allowed, {1: stored(allowed, [1])}, graph=graph)
    answer = asked.recommend(1, NOON, source="pixie")
    assert answer.candidates == []
    assert "that walks visited were seen, or may not be recommended" in answer.reason


def test_related_pins_are_what_walks_from_a_pin_visit(pins, graph):
    asked = recommender(pins, graph=graph)
    for pin in (20, 13, 50, 33, 40, int(pins.ids[CORPUS + 2])):
        first = FIRST.get(pin, pin)
        expected = walked(pins, graph, {first: 1.0}, keyed_bits("related", 5, DAY.toordinal(), first))
        found = asked.related(pin, 15)
        assert pins_and_scores(found.candidates) == expected[:15]
        # Neither itself nor what repeats it.
        assert first not in {FIRST.get(candidate.pin_id, candidate.pin_id) for candidate in found.candidates}
        assert found.reason is None
    with pytest.raises(UnknownPinError, match=f"pin {UNKNOWN} is not known on {DAY}"):
        asked.related(UNKNOWN, 3)
    found = asked.related(LONELY, 3)
    assert found.candidates == []
    assert found.reason.startswith(f"pin {LONELY} has no edge in the graph of {DAY}")
    assert "no walk came to a pin" in asked.related(ALONE, 3).reason


def test_without_a_graph_walks_are_refused_and_all_else_is_answered(pins):
    asked = recommender(pins, {1: stored(pins, [1])})
    for ask in (lambda: asked.recommend(1, NOON, source="pixie"), lambda: asked.related(20, 3)):
        with pytest.raises(NoGraphError, match="there is no graph"):
            ask()
    _, usual, both = (asked.recommend(1, NOON, source=source) for source in ("pinnersage", "pinnersage", "blended"))
    assert both == replace(usual, source="blended", reason="there is no graph")
    assert len(usual.candidates) == 30


def test_pins_of_a_newer_graph_that_the_day_does_not_know_are_left_out(pins, graph):
    edges = np.repeat(graph.board_ids, np.diff(graph.board_offsets)), graph.pin_ids[graph.board_pins]
    newer = PinBoardGraph.of([*edges[1], *range(5_001, 5_040)], [*edges[0], *range(39)])
    found = recommender(pins, {1: stored(pins, [1, 50])}, graph=newer).recommend(1, NOON, 300, "pixie").candidates
    assert len(found) > 100
    assert {candidate.pin_id for candidate in found} <= set(pins.ids[:CORPUS].tolist())
