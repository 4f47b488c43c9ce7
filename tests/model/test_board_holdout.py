"""Boards whose last pin is held out, against plain loops."""

from collections import Counter

import numpy as np
import pytest

from pinnersage_assets.model.board_holdout import NOT_FOUND, JudgedBoards
from pinnersage_assets.model.pin_board_graph import NO_FEATURE

KEYS = (3, 7)


def some_edges(seed, boards=12, pins=30):
    """Edges of boards with two to nine pins each, in any order; some of a moment: board, pin, user, day."""
    chance = np.random.default_rng(seed)
    ids = np.sort(chance.choice(1_000, boards, replace=False)) - 500
    edges = [
        (int(board), int(pin), int(chance.integers(5)), float(chance.integers(8)) / 2)
        for board in ids
        for pin in chance.choice(pins, chance.integers(2, 10), replace=False)
    ]
    return [edges[n] for n in chance.permutation(len(edges))]


def judged(edges, most=4, keys=KEYS):
    return JudgedBoards.of(*map(np.array, zip(*edges, strict=True)), most, keys)


def by_board(edges):
    return {board: [edge for edge in edges if edge[0] == board] for board in sorted({edge[0] for edge in edges})}


def pins_of(boards, number):
    return boards.pin_ids[boards.of_board == number].tolist()


# --- What is held out


@pytest.mark.parametrize("seed", range(5))
def test_a_last_pin_is_held_out_and_those_before_it_are_asked_with_the_latest_first(seed):
    edges = some_edges(seed)
    boards = judged(edges)
    assert boards.board_ids.tolist() == list(by_board(edges))
    for number, own in enumerate(by_board(edges).values()):
        day_of, user_of = ({edge[1]: edge[column] for edge in own} for column in (3, 2))
        held_out, before = int(boards.held_out[number]), pins_of(boards, number)
        assert day_of[held_out] == max(day_of.values())
        assert boards.user_ids[number] == user_of[held_out]
        assert sorted([held_out, *before]) == sorted(day_of)
        days = [day_of[pin] for pin in before]
        assert days == sorted(days, reverse=True)
        assert boards.ages[boards.of_board == number].tolist() == [day_of[held_out] - day for day in days]
        asked = boards.is_query[boards.of_board == number].tolist()
        assert asked == [place < 4 for place in range(len(before))]


def test_neither_the_order_of_edges_nor_other_boards_matter():
    edges = some_edges(0)
    expected = judged(edges).arrays
    for name, array in judged(edges[::-1]).arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    part = judged([edge for own in list(by_board(edges).values())[3:8] for edge in own]).arrays
    for name, array in judged(edges).part(3, 8).arrays.items():
        np.testing.assert_array_equal(array, part[name])


def test_of_pins_of_one_moment_any_may_be_the_last():
    edges = [(board, pin, 1, 0.0) for board in range(3_000) for pin in (1, 2, 3)]
    counts = Counter(judged(edges).held_out.tolist())
    assert all(900 < counts[pin] < 1_100 for pin in (1, 2, 3))
    assert (judged(edges, keys=(3, 8)).held_out != judged(edges).held_out).any()


def test_a_board_with_one_pin_has_nothing_to_begin_with():
    with pytest.raises(ValueError, match="board 6 has one pin"):
        judged([(5, 1, 1, 0.0), (5, 2, 1, 1.0), (6, 1, 1, 0.0)])


def test_there_may_be_no_boards():
    nothing = np.empty(0, np.int64)
    boards = JudgedBoards.of(nothing, nothing, nothing, np.empty(0), 4, KEYS)
    assert (len(boards), boards.most_on_a_board()) == (0, 0)


def test_arrays_are_all_there_is():
    boards = judged(some_edges(1))
    again = JudgedBoards.of_arrays({**boards.arrays, "another": np.empty(0)})
    assert all(np.array_equal(getattr(again, name), array) for name, array in boards.arrays.items())


# --- What models begin with


def test_requests_are_of_query_pins_that_fade_or_weigh_the_same():
    boards = judged(some_edges(2))
    features = np.arange(len(boards))
    faded, equal = (boards.requests(features, 0.5, equal, KEYS) for equal in (False, True))
    for number in range(len(boards)):
        own = slice(faded.offsets[number], faded.offsets[number + 1])
        assert faded.pin_ids[own].tolist() == pins_of(boards, number)[:4]
        ages = boards.ages[boards.of_board == number][:4]
        np.testing.assert_allclose(faded.weights[own], np.exp(-0.5 * ages))
    assert (equal.weights == 1).all()
    assert (equal.keys == faded.keys).all()
    assert len(np.unique(faded.keys)) == len(boards)


def test_a_boards_feature_is_that_of_most_query_pins():
    boards = judged(some_edges(3))
    feature_of = {pin: NO_FEATURE if pin % 3 == 0 else pin % 4 for pin in range(30)}
    found = boards.features(np.array([feature_of[pin] for pin in boards.pin_ids.tolist()]))
    for number, feature in enumerate(found.tolist()):
        counts = Counter(feature_of[pin] for pin in pins_of(boards, number)[:4])
        del counts[NO_FEATURE]
        assert feature == min(counts, key=lambda code: (-counts[code], code), default=NO_FEATURE)
    assert (boards.features(np.full(len(boards.pin_ids), NO_FEATURE)) == NO_FEATURE).all()


def test_centres_are_means_of_unit_length():
    boards = judged(some_edges(4))
    vectors = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    found = boards.centres(vectors[boards.pin_ids[boards.is_query]])
    for number, centre in enumerate(found):
        mean = vectors[pins_of(boards, number)[:4]].mean(axis=0)
        np.testing.assert_allclose(centre, mean / np.linalg.norm(mean), rtol=1e-5)
    opposite = judged([(1, 1, 1, 0.0), (1, 2, 1, 1.0), (1, 3, 1, 2.0)])
    assert (opposite.centres(np.array([[1, 0], [-1, 0]], np.float32)) == 0).all()


# --- Ranks


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_among_what_may_be_recommended_and_is_not_there_yet(seed):
    chance = np.random.default_rng(seed + 100)
    boards = judged(some_edges(seed))
    corpus = np.flatnonzero(chance.random(30) < 0.7)
    lists = [chance.permutation(30)[: chance.integers(0, 30)].tolist() for _ in range(len(boards))]
    expected = []
    for number, recommended in enumerate(lists):
        new = [pin for pin in recommended if pin in corpus and pin not in pins_of(boards, number)]
        held_out = boards.held_out[number]
        expected.append(new.index(held_out) + 1 if held_out in new else NOT_FOUND)
    of_board = np.repeat(np.arange(len(boards)), [len(pins) for pins in lists])
    found = boards.ranks(of_board, np.array([pin for pins in lists for pin in pins], np.int64), corpus)
    assert found.tolist() == expected
    assert 0 < np.count_nonzero(found) < len(found)


def test_where_nothing_is_recommended_nothing_is_found():
    boards, nothing = judged(some_edges(0)), np.empty(0, np.int64)
    assert (boards.ranks(nothing, nothing, np.arange(30)) == NOT_FOUND).all()
    assert (boards.ranks(np.arange(3), np.arange(3), nothing) == NOT_FOUND).all()
    assert (boards.random_ranks(nothing, KEYS) == NOT_FOUND).all()


def test_random_ranks_are_as_likely_as_each_other():
    boards = judged([(board, pin, 1, float(pin)) for board in range(4_000) for pin in (1, 2, 3)])
    corpus = np.arange(2, 8)
    counts = Counter(boards.random_ranks(corpus, KEYS).tolist())
    # Pin 3 is held out and pin 2 is there: five pins are left.
    assert sorted(counts) == [1, 2, 3, 4, 5]
    assert all(680 < count < 920 for count in counts.values())
    assert (boards.random_ranks(np.array([1, 2]), KEYS) == NOT_FOUND).all()
