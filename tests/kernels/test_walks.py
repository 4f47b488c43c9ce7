"""A bucket of users and their walks: against one request at a time, filtered in plain Python."""

from dataclasses import asdict

import numpy as np
import polars as pl
import pytest

from pinnersage_assets.graph_files import write_graph
from pinnersage_assets.kernels import walks as module
from pinnersage_assets.kernels.walks import (
    NO_EDGES,
    NO_VISITS,
    NO_WEIGHT,
    NOTHING_LEFT,
    REASONS,
    recommend_by_walks,
    users_without_answers,
)
from pinnersage_assets.model.pin_board_graph import NO_FEATURE, PinBoardGraph
from pinnersage_assets.model.pixie import PixieParameters, Requests, recommend
from pinnersage_assets.model.randomness import keyed_bits

KEYS, BUDGET, LONELY = [3, 738_000], 12, 901
WALK = PixieParameters(400, 0.5, scaled=True, boosted=True, bias=0.3)
# Of a repeat the graph has the first; what is not below 80 may not be recommended.
IN_CORPUS = {pin: pin + (1_000 if pin % 7 == 0 else 0) for pin in range(80)}
NOBODY = {-4: NO_EDGES, 8: NO_WEIGHT, 9: NO_VISITS, 10: NOTHING_LEFT}


@pytest.fixture(scope="module")
def graph():
    rng = np.random.default_rng(0)
    pins, boards = 100 * rng.random(600) ** 2, rng.integers(60, size=600)
    # One board has a pin alone.
    return PinBoardGraph.of(
        [*pins.astype(int), LONELY], [*boards, 99], np.arange(100), np.where(np.arange(100) % 5, np.arange(100) % 3, -1)
    )


@pytest.fixture(scope="module")
def users(graph):
    """By user: weights of query pins, feature, and what has been seen."""
    rng = np.random.default_rng(1)
    known = graph.pin_ids[graph.pin_ids < 100]
    found = {
        user: (
            {int(pin): float(rng.random()) for pin in rng.choice([*known, 555, 556], 1 + user % 6, replace=False)},
            user % 4 - 1,
            sorted(IN_CORPUS[pin] for pin in rng.choice(80, user % 9, replace=False).tolist()),
        )
        for user in range(100, 140)
    }
    first = int(known[0])
    return found | {
        -4: ({777: 1.0, 778: 2.0}, NO_FEATURE, []),
        8: ({first: 0.0}, NO_FEATURE, []),
        9: ({LONELY: 1.0}, NO_FEATURE, []),
        10: ({first: 1.0}, NO_FEATURE, sorted(IN_CORPUS.values())),
    }


@pytest.fixture(scope="module")
def run(graph, users, tmp_path_factory):
    folder = tmp_path_factory.mktemp("walks")
    write_graph(folder / "pins.graph", graph)
    np.save(folder / "recommendable.npy", np.array([list(IN_CORPUS), list(IN_CORPUS.values())]))
    rows = [
        (user, place, pin, weight, feature, seen if seen and place == 0 else None)
        for user, (weights, feature, seen) in sorted(users.items())
        for place, (pin, weight) in enumerate(weights.items())
    ]
    schema = {"user_id": pl.Int64, "place": pl.Int64, "pin_id": pl.Int64, "weight": pl.Float64, "feature": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema | {"seen": pl.List(pl.Int64)}, orient="row")

    def run(some=lambda frame: frame, recommendable="recommendable.npy"):
        source, destination = folder / "source.parquet", folder / "found.parquet"
        some(frame).write_parquet(source)
        parameters = {
            "graph": str(folder / "pins.graph"),
            "recommendable": str(folder / recommendable),
            "pixie": asdict(WALK),
            "budget": BUDGET,
            "keys": KEYS,
        }
        made = recommend_by_walks(source, destination, parameters)
        found = pl.read_parquet(destination)
        assert made == len(found)
        unanswered = users_without_answers([destination])
        assert users_without_answers([destination] * 2) == {reason: 2 * n for reason, n in unanswered.items()}
        return found, unanswered

    np.save(folder / "nothing.npy", np.empty((2, 0), np.int64))
    return run


def expected(graph, user, weights, feature, seen):
    request = Requests(
        np.array(list(weights)),
        np.array(list(weights.values())),
        np.array([0, len(weights)]),
        keyed_bits(*KEYS, np.array([user])),
        np.array([feature]),
    )
    answer = recommend(graph, request, WALK)
    found = [
        (IN_CORPUS[pin], score)
        for pin, score in zip(answer.pin_ids.tolist(), answer.scores.tolist(), strict=True)
        if pin in IN_CORPUS and IN_CORPUS[pin] not in seen
    ]
    return [(user, rank, pin, score) for rank, (pin, score) in enumerate(found[:BUDGET], start=1)]


def test_candidates_are_what_is_visited_and_may_be_recommended_and_was_not_seen(graph, users, run):
    found, _ = run()
    assert found.sort("user_id", "rank").rows() == [
        row for user, asked in sorted(users.items()) for row in expected(graph, user, *asked)
    ]
    assert found["user_id"].n_unique() > 30
    assert (found["pin_id"] > 1_000).any()


def test_who_gets_nothing_is_counted_with_the_reason(run):
    found, unanswered = run()
    assert not set(NOBODY) & set(found["user_id"])
    for user, reason in NOBODY.items():
        _, of_one = run(lambda frame, user=user: frame.filter(user_id=user))
        assert of_one == dict.fromkeys(REASONS, 0) | {reason: 1}
    assert sum(unanswered.values()) + found["user_id"].n_unique() == 44


@pytest.mark.parametrize("at_once", [1, 7 * 400, 10**9])
def test_how_many_users_walk_at_once_makes_no_difference(run, monkeypatch, at_once):
    expected = run()
    monkeypatch.setattr(module, "_VISITED_AT_ONCE", at_once)
    found = run()
    assert found[0].equals(expected[0])
    assert found[1] == expected[1]


def test_an_empty_corpus_leaves_nothing(run):
    found, unanswered = run(recommendable="nothing.npy")
    assert found.is_empty()
    assert unanswered[NOTHING_LEFT] > 30
    assert sum(unanswered.values()) == 44


def test_of_no_files_nobody_is_without_an_answer():
    assert users_without_answers([]) == dict.fromkeys(REASONS, 0)
