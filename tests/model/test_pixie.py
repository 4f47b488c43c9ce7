"""Walks: against exact personalised PageRank, against a loop that takes step after step, and each piece by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnersage_assets.model import pixie as module
from pinnersage_assets.model.pin_board_graph import NO_FEATURE, PinBoardGraph
from pinnersage_assets.model.pixie import PixieParameters, Requests, recommend, shared_steps
from pinnersage_assets.model.randomness import keyed_bits, stream_bits

PINS, BOARDS, FEATURES = 30, 12, 3


def small_graph(seed=0, n_edges=90):
    """Pin ids are odd numbers; pin 2 i + 1 has the feature i mod 3."""
    rng = np.random.default_rng(seed)
    pins = 2 * (PINS * rng.random(n_edges) ** 2).astype(int) + 1
    return PinBoardGraph.of(
        pins, rng.integers(BOARDS, size=n_edges), 2 * np.arange(PINS) + 1, np.arange(PINS) % FEATURES
    )


def asked(*requests, features=None, keys=None):
    """Requests that are dictionaries of weights by pin id."""
    return Requests(
        pin_ids=np.array([pin for request in requests for pin in request], dtype=np.int64),
        weights=np.array([weight for request in requests for weight in request.values()], dtype=np.float64),
        offsets=np.append(0, np.cumsum([len(request) for request in requests])).astype(np.int64),
        keys=keyed_bits(7, np.arange(len(requests)) if keys is None else np.array(keys, dtype=np.int64)),
        features=np.full(len(requests), NO_FEATURE) if features is None else np.array(features, dtype=np.int64),
    )


def answer(answers, i=0):
    own = slice(answers.offsets[i], answers.offsets[i + 1])
    return dict(zip(answers.pin_ids[own].tolist(), answers.scores[own].tolist(), strict=True))


def step_matrix(graph, feature=NO_FEATURE, bias=0.0):
    """Of each pin (column) the probabilities of the pins that a step leads to."""
    incidence = np.zeros((graph.n_boards, graph.n_pins))
    for pin in range(graph.n_pins):
        incidence[graph.pin_boards[graph.pin_offsets[pin] : graph.pin_offsets[pin + 1]], pin] = 1
    to_board = incidence / incidence.sum(axis=0)
    fitting = incidence * ((graph.pin_ids // 2) % FEATURES == feature)
    fitting[fitting.sum(axis=1) == 0] = incidence[fitting.sum(axis=1) == 0]
    to_pin = bias * fitting / fitting.sum(axis=1, keepdims=True)
    to_pin += (1 - bias) * incidence / incidence.sum(axis=1, keepdims=True)
    return to_pin.T @ to_board


@pytest.mark.parametrize("restart", [0.15, 0.5, 1.0])
@pytest.mark.parametrize("bias", [0.0, 0.4, 1.0])
def test_visits_are_in_proportion_to_personalised_pagerank(restart, bias):
    graph, feature, steps = small_graph(), 1, 400_000
    P = step_matrix(graph, feature, bias)
    for query in (0, 4, graph.n_pins - 1):
        start = np.eye(graph.n_pins)[query]
        exact = np.linalg.solve(np.eye(graph.n_pins) - (1 - restart) * P, restart * P @ start)
        assert exact.sum() == pytest.approx(1)
        parameters = PixieParameters(steps, restart, bias=bias)
        pin = int(graph.pin_ids[query])
        found = answer(recommend(graph, asked({pin: 1.0}, features=[feature]), parameters))
        assert pin not in found
        shares = np.array([found.get(int(other), 0) / steps for other in graph.pin_ids])
        exact[query] = 0
        # Visits of one walk depend on each other: hence a few more than the deviations of as many independent ones.
        deviations = np.sqrt(exact * (1 - exact) / steps)
        assert (np.abs(shares - exact) <= 8 * deviations).all()


def visits_by_a_loop(graph, pin, steps, key, parameters, feature=NO_FEATURE):
    """The paper's algorithm 2 for one query pin, without stopping: step after step."""
    start, query = keyed_bits("pixie", key, pin), int(graph.pin_rows(np.array([pin]))[0])
    visits, current = Counter(), query
    for step in range(steps):
        last, where, fitting = (int(stream_bits(start, np.uint64(3 * step + i))) for i in range(3))
        boards = graph.pin_boards[graph.pin_offsets[current] : graph.pin_offsets[current + 1]].tolist()
        board = boards[(where >> 32) * len(boards) >> 32]
        pins = graph.board_pins[graph.board_offsets[board] : graph.board_offsets[board + 1]].tolist()
        if fitting < parameters.bias * 2**64:
            pins = [pin for pin in pins if (graph.pin_ids[pin] // 2) % FEATURES == feature] or pins
        current = pins[(where % 2**32) * len(pins) >> 32]
        visits[int(graph.pin_ids[current])] += 1
        if last < parameters.restart * 2**64:
            current = query
    return visits


@pytest.mark.parametrize("feature", [NO_FEATURE, 2])
@pytest.mark.parametrize("boosted", [False, True])
def test_an_answer_is_that_of_a_loop_over_query_pins_and_steps(feature, boosted):
    graph = small_graph(1)
    parameters = PixieParameters(500, 0.4, boosted=boosted, scaled=True, bias=0.7 if feature >= 0 else 0.0)
    requests = asked({1: 1.0, 9: 2.5, 3: 0.5}, features=[feature], keys=[3])
    rows = graph.pin_rows(requests.pin_ids)
    steps = shared_steps(graph, rows, requests.weights, np.zeros(3, int), parameters)
    expected = Counter()
    for pin, own in zip(requests.pin_ids.tolist(), steps.tolist(), strict=True):
        for other, count in visits_by_a_loop(graph, pin, own, requests.keys[0], parameters, feature).items():
            expected[other] += math.sqrt(count) if boosted else count
    expected = {pin: v**2 if boosted else v for pin, v in expected.items() if pin not in (1, 9, 3)}
    answers = recommend(graph, requests, parameters)
    assert answer(answers) == pytest.approx(expected)
    assert answers.steps.tolist() == [steps.sum()]


def test_the_booster_by_hand():
    # Both query pins lead to pin 5 alone, or back.
    graph = PinBoardGraph.of([1, 5, 3, 5], [0, 0, 1, 1])
    plain, boosted = (
        answer(recommend(graph, asked({1: 1.0, 3: 1.0}), PixieParameters(2000, 1.0, boosted=on)))
        for on in (False, True)
    )
    single = [answer(recommend(graph, asked({pin: 1.0}), PixieParameters(1000, 1.0)))[5] for pin in (1, 3)]
    assert plain == {5: sum(single)}
    assert boosted == {5: pytest.approx((math.sqrt(single[0]) + math.sqrt(single[1])) ** 2)}


def test_steps_are_shared_out_by_the_formula():
    # Degrees 1, 2 and 4 of the pins 0, 1 and 2.
    graph = PinBoardGraph.of([0, 1, 1, 2, 2, 2, 2], [0, 0, 1, 0, 1, 2, 3])
    assert graph.largest_degree == 4
    s = [1 * (1 + math.log(4)), 2 * (1 + math.log(2)), 4]

    def shared(rows, weights, of_request=None, **parameters):
        of_request = np.zeros(len(rows), int) if of_request is None else np.array(of_request)
        parameters = PixieParameters(**{"steps": 1000, "restart": 0.5, "scaled": True, **parameters})
        return shared_steps(graph, np.array(rows, int), np.array(weights, float), of_request, parameters).tolist()

    assert shared([0, 1, 2], [1, 1, 1]) == [round(1000 * own / sum(s)) for own in s]
    assert shared([0, 1, 2], [7, 7, 7]) == shared([0, 1, 2], [1, 1, 1])
    weighted = s[0] + 3 * s[2]
    assert shared([0, 2], [0.1, 0.3]) == [round(1000 * s[0] / weighted), round(3000 * s[2] / weighted)]
    assert shared([0, 2], [1, 3], scaled=False) == [250, 750]
    # At least one each, and each request by itself.
    assert shared([0, 2, 1], [1e-9, 1, 1e300], [0, 0, 1]) == [1, 1000, 1000]
    assert shared([0, 1], [1e308, 1e308], scaled=False) == [500, 500]
    assert shared([0, 1, 2], [1, 1, 1], steps=1) == [1, 1, 1]
    assert shared([], []) == []


def test_more_boards_are_more_steps_up_to_the_most():
    degrees = np.arange(1, 60)
    pins = np.repeat(degrees, degrees)
    graph = PinBoardGraph.of(pins, np.arange(len(pins)))
    steps = shared_steps(graph, degrees - 1, np.ones(59), np.zeros(59, int), PixieParameters(10**7, 0.5, scaled=True))
    assert (np.diff(steps) > 0).all()
    # But less than in proportion.
    assert (np.diff(steps / degrees) < 0).all()


def test_all_in_one_step_where_no_degree_is_above_one():
    graph = PinBoardGraph.of([1, 2], [0, 0])
    answers = recommend(graph, asked({1: 1.0}), PixieParameters(100, 0.5, scaled=True))
    assert answers.steps.tolist() == [100]
    assert answers.pin_ids.tolist() == [2]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.integers(-3, 2 * PINS), st.sampled_from([0.0, 0.5, 1.0, 3.0]), max_size=5),
        min_size=1,
        max_size=6,
    ),
    st.data(),
)
def test_an_answer_does_not_depend_on_what_else_is_asked(requests, data):
    graph = small_graph(2)
    features = data.draw(st.lists(st.integers(-1, 4), min_size=len(requests), max_size=len(requests)))
    order = data.draw(st.permutations(range(len(requests))))
    stop_pins, bias = data.draw(st.sampled_from([0, 4])), data.draw(st.sampled_from([0.0, 0.6]))
    parameters = PixieParameters(200, 0.5, 10, True, True, stop_pins=stop_pins, stop_visits=3, bias=bias)
    together = recommend(graph, asked(*requests, features=features), parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STEPS_AT_ONCE", data.draw(st.sampled_from([1, 300, 10**6])))
        patch.setattr(module, "_REQUESTS_AT_ONCE", data.draw(st.sampled_from([2, 100])))
        # What fits is searched for in place of looked up.
        patch.setattr(module, "_BOARDS_PER_SEARCH", data.draw(st.sampled_from([0, 200])))
        shuffled = [dict(reversed(requests[i].items())) for i in order]
        again = recommend(graph, asked(*shuffled, features=[features[i] for i in order], keys=order), parameters)
    for place, i in enumerate(order):
        alone = recommend(graph, asked(requests[i], features=[features[i]], keys=[i]), parameters)
        for other, j in ((again, place), (alone, 0)):
            assert list(answer(together, i).items()) == list(answer(other, j).items())
            assert together.steps[i] == other.steps[j]
            assert together.unknown[i] == other.unknown[j]
            assert together.reasons[i] == other.reasons[j]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 2 * PINS), st.floats(0, 10), max_size=6),
    st.integers(1, 400),
    st.floats(0.05, 1),
    st.integers(1, 40),
)
def test_an_answer_is_sorted_has_no_query_pin_and_a_reason_if_it_is_empty(request, steps, restart, most):
    graph = small_graph(3)
    answers = recommend(graph, asked(request), PixieParameters(steps, restart, most, boosted=True, scaled=True))
    found = answer(answers)
    assert len(found) == len(answers.pin_ids) <= most
    assert not found.keys() & request.keys()
    assert list(found.items()) == sorted(found.items(), key=lambda item: (-item[1], item[0]))
    assert (answers.reasons[0] == "") == bool(found)
    walking = [pin for pin, weight in request.items() if weight > 0 and pin in graph.pin_ids]
    assert max(steps, len(walking)) * bool(walking) <= answers.steps[0] + len(walking)
    assert answers.steps[0] <= (steps + len(walking)) * bool(walking)
    assert answers.unknown[0] == len([pin for pin in request if pin not in graph.pin_ids])
    # What is cut off is the end.
    everything = recommend(graph, asked(request), PixieParameters(steps, restart, boosted=True, scaled=True))
    assert list(answer(everything).items())[:most] == list(found.items())


def test_other_keys_are_other_walks():
    graph = small_graph()
    first, second, third = (
        answer(recommend(graph, asked({3: 1.0}, keys=[key]), PixieParameters(500, 0.5))) for key in (1, 2, 1)
    )
    assert first != second
    assert list(first.items()) == list(third.items())


def test_a_request_stops_once_enough_pins_have_enough_visits(monkeypatch):
    monkeypatch.setattr(module, "_STEPS_PER_PART", 500)
    graph = small_graph(4, 400)
    requests = asked({1: 1.0, 5: 1.0}, {3: 1.0})
    full = recommend(graph, requests, PixieParameters(4000, 0.5))
    parameters = PixieParameters(4000, 0.5, stop_pins=10, stop_visits=20)
    stopped = recommend(graph, requests, parameters)
    for i in range(2):
        early, whole = answer(stopped, i), answer(full, i)
        assert stopped.steps[i] < 3000
        assert sum(visits >= 20 for visits in early.values()) >= 10
        assert all(visits <= whole[pin] for pin, visits in early.items())
    # It never stops before: what was visited in one part less is not enough.
    monkeypatch.setattr(module, "_STEPS_PER_PART", 50)
    monkeypatch.setattr(module, "_MOST_PARTS", 80)
    finer = recommend(graph, requests, parameters)
    assert (finer.steps <= stopped.steps).all()
    assert (finer.steps > 200).all()
    # Where no pin has so many visits all steps are taken, and parts make no difference.
    most = int(max(answer(full, 0).values()))
    same = recommend(graph, requests, PixieParameters(4000, 0.5, stop_pins=1, stop_visits=10**6))
    np.testing.assert_array_equal(same.pin_ids, full.pin_ids)
    np.testing.assert_array_equal(same.scores, full.scores)
    assert same.steps.tolist() == [4000, 4000]
    just = recommend(graph, requests, PixieParameters(4000, 0.5, stop_pins=1, stop_visits=most + 1))
    assert just.steps[0] == 4000


def test_visits_to_query_pins_stop_nothing():
    # Half of the visits are to the query pin; the others are spread over many.
    graph = PinBoardGraph.of(np.append(np.zeros(200, int), np.arange(1, 201)), np.tile(np.arange(200), 2))
    answers = recommend(graph, asked({0: 1.0}), PixieParameters(1000, 1.0, stop_pins=1, stop_visits=100))
    assert answers.steps.tolist() == [1000]


def test_a_bias_keeps_to_what_fits_where_something_does():
    # The feature 1 is on both boards of pin 1, the feature 2 on the second alone.
    graph = PinBoardGraph.of([1, 2, 3, 1, 4, 5], [0, 0, 0, 1, 1, 1], [2, 3, 4, 5], [1, 7, 1, 2])
    found = {
        feature: answer(recommend(graph, asked({1: 1.0}, features=[feature]), PixieParameters(900, 1.0, bias=1.0)))
        for feature in (1, 2, 9)
    }
    assert found[1].keys() == {2, 4}
    assert found[2].keys() == {2, 3, 5}
    assert found[9].keys() == {2, 3, 4, 5}


def test_what_leads_nowhere_has_a_reason():
    # Pins 1 and 3 have a board of their own each; 5 and 7 share one.
    graph = PinBoardGraph.of([1, 3, 5, 7], [0, 1, 2, 2])
    requests = asked({1: 1.0}, {}, {2: 1.0, 4: 1.0}, {5: 0.0, 2: 1.0}, {5: 1.0, 7: 1.0}, {5: 1.0, 8: 1.0})
    answers = recommend(graph, requests, PixieParameters(50, 0.2))
    assert answers.reasons == [
        "in 50 steps no walk came to a pin that is not a query pin",
        "the request has no query pins",
        "none of the 2 query pins has an edge in the graph",
        "of 2 query pins 1 have no edge in the graph, and the weights of the others are 0",
        "in 50 steps no walk came to a pin that is not a query pin",
        "",
    ]
    assert answers.unknown.tolist() == [0, 0, 2, 1, 0, 1]
    assert answers.steps.tolist() == [50, 0, 0, 0, 50, 50]
    assert answers.pin_ids.tolist() == [7]
    empty = recommend(PinBoardGraph.of([], []), asked({1: 1.0}, {}), PixieParameters(50, 0.2, bias=1.0, scaled=True))
    assert empty.reasons == ["none of the 1 query pins has an edge in the graph", "the request has no query pins"]
    nobody = recommend(graph, asked(), PixieParameters(50, 0.2))
    assert (nobody.offsets.tolist(), nobody.reasons) == ([0], [])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"answers": 0}, "answers must be at least 1, not 0"),
        ({"stop_pins": -1}, "stop_pins must be at least 0, not -1"),
        ({"stop_visits": 0}, "stop_visits must be at least 1, not 0"),
        ({"restart": 0}, "restart must be above 0 and at most 1, not 0"),
        ({"restart": math.nan}, "restart must be above 0"),
        ({"bias": 1.5}, "bias must lie in 0 to 1, not 1.5"),
    ],
)
def test_parameters_that_make_no_walk_are_said(changed, message):
    with pytest.raises(ValueError, match=message):
        PixieParameters(**{"steps": 10, "restart": 0.5, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pin_ids": np.array([1.0, 2.0])}, r"pin_ids must be i8 of shape \(2,\), not float64 of \(2,\)"),
        ({"weights": np.ones(3)}, r"weights must be f8 of shape \(2,\), not float64 of \(3,\)"),
        ({"weights": np.array([1.0, -1.0])}, "weights must be finite and not negative"),
        ({"weights": np.array([1.0, np.inf])}, "weights must be finite and not negative"),
        ({"offsets": np.array([0, 1])}, "offsets must ascend from 0 to the 2 query pins"),
        ({"offsets": np.array([0, 1, 2])}, r"offsets must be i8 of shape \(2,\)"),
        ({"keys": np.array([1])}, r"keys must be u8 of shape \(1,\), not int64"),
        ({"features": np.array([1], np.int32)}, r"features must be i8 of shape \(1,\), not int32"),
        ({"pin_ids": np.array([4, 4])}, "pin 4 is twice in request 0: add up its weights"),
    ],
)
def test_requests_that_do_not_fit_are_said(changed, message):
    right = {
        "pin_ids": np.array([1, 2]),
        "weights": np.ones(2),
        "offsets": np.array([0, 2]),
        "keys": np.zeros(1, np.uint64),
        "features": np.array([NO_FEATURE]),
    }
    with pytest.raises(ValueError, match=message):
        Requests(**{**right, **changed})
