"""Negatives, scores and metrics of the ranking task against loops over users and over all orders of equals."""

from itertools import pairwise, permutations

import numpy as np
import pytest

from pinnersage_assets.model import ranking_metrics as module
from pinnersage_assets.model.medoids import sample_by_importance
from pinnersage_assets.model.ranking_metrics import Candidates, best_cosines, draw_negatives, rank_metrics
from pinnersage_assets.model.user_sets import Pairs

NONE = Pairs(np.empty(0, np.int64), np.empty(0, np.int64))


def candidates_of(*users):
    """Candidates of users 0, 1, ..., each given as a list of whether a candidate is an action."""
    owners = np.repeat(np.arange(len(users)), [len(user) for user in users])
    return Candidates(owners, np.arange(len(owners)), np.array([flag for user in users for flag in user], dtype=bool))


def metrics_of_all_orders(is_action, scores):
    """The mean of both metrics over every order that does not put a smaller score before a larger one."""
    found = []
    for order in permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            ranks = [rank for rank, candidate in enumerate(order, start=1) if is_action[candidate]]
            k = len(ranks)
            found.append((sum(rank <= k for rank in ranks) / k, sum(1 / rank for rank in ranks) / k))
    return np.mean(found, axis=0)


# Metrics


def test_metrics_worked_by_hand():
    # Actions at ranks 1, 3 and 6 of 6: two of three in the top 3, and (1 + 1/3 + 1/6) / 3.
    candidates = candidates_of([True, False, True, False, False, True])
    metrics = rank_metrics(candidates, np.array([0.9, 0.8, 0.7, 0.2, 0.1, -0.4]), 1)
    assert metrics.actions.tolist() == [3]
    np.testing.assert_allclose(metrics.r_precision, [2 / 3])
    np.testing.assert_allclose(metrics.reciprocal_rank, [0.5])


def test_ties_worked_by_hand():
    # One action among three equals after one better pin: never in the top 1, and at rank 2, 3 or 4 alike.
    metrics = rank_metrics(candidates_of([False, True, False, False, False]), np.array([0.9, 0.5, 0.5, 0.5, 0.1]), 1)
    np.testing.assert_allclose(metrics.r_precision, [0])
    np.testing.assert_allclose(metrics.reciprocal_rank, [(1 / 2 + 1 / 3 + 1 / 4) / 3])
    # All equal: what chance gives, 2 of 8 in the top 2.
    metrics = rank_metrics(candidates_of([True] * 2 + [False] * 6), np.zeros(8), 1)
    np.testing.assert_allclose(metrics.r_precision, [2 / 8])
    np.testing.assert_allclose(metrics.reciprocal_rank, [np.mean(1 / np.arange(1, 9))])


@pytest.mark.parametrize("levels", [1, 2, 3, 100])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_the_means_over_all_orders_of_equals(seed, levels):
    rng = np.random.default_rng(seed)
    users = []
    for _ in range(6):
        users.append(rng.random(rng.integers(1, 8)) < 0.4)
        users[-1][rng.integers(len(users[-1]))] = True
    candidates = candidates_of(*users)
    scores = rng.integers(levels, size=(3, len(candidates.users))) / 8.0
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    metrics = rank_metrics(candidates, scores, 6)
    for user, is_action in enumerate(users):
        for selection in range(3):
            expected = metrics_of_all_orders(is_action, scores[selection, candidates.users == user])
            found = metrics.r_precision[selection, user], metrics.reciprocal_rank[selection, user]
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert metrics.actions[user] == is_action.sum()


def test_without_ties_metrics_are_those_of_the_definition():
    rng = np.random.default_rng(5)
    flags = [rng.permutation(21 * k) < k for k in (1, 5, 40)]
    candidates = candidates_of(*flags)
    scores = rng.permutation(len(candidates.users)).astype(np.float32)
    metrics = rank_metrics(candidates, scores, 3)
    for user, k in enumerate((1, 5, 40)):
        own = np.flatnonzero(candidates.users == user)
        ranked = candidates.is_action[own[np.argsort(-scores[own])]]
        np.testing.assert_allclose(metrics.r_precision[user], ranked[:k].mean())
        np.testing.assert_allclose(metrics.reciprocal_rank[user], (1 / (1 + np.flatnonzero(ranked))).mean())


def test_what_rounding_tells_apart_is_a_tie_and_more_is_not():
    candidates = candidates_of([True, False])
    for less, expected in ((1e-7, 0.5), (2e-6, 0.0)):
        metrics = rank_metrics(candidates, np.float32([0.7 - less, 0.7]), 1)
        np.testing.assert_allclose(metrics.r_precision, [expected])
    # Of two users, equal scores are nobody's tie.
    metrics = rank_metrics(candidates_of([False, True], [True, False]), np.array([0.9, 0.5, 0.5, 0.1]), 2)
    assert metrics.r_precision.tolist() == [0, 1]


def test_an_action_without_a_vector_is_last_among_its_like():
    # Ranks 1, and 3 or 4 alike, as two candidates cannot be scored.
    candidates = candidates_of([True, True, False, False])
    metrics = rank_metrics(candidates, np.array([0.3, -np.inf, 0.2, -np.inf]), 1)
    np.testing.assert_allclose(metrics.r_precision, [1 / 2])
    np.testing.assert_allclose(metrics.reciprocal_rank, [(1 + (1 / 3 + 1 / 4) / 2) / 2])


def test_the_order_of_candidates_and_other_users_do_not_matter():
    rng = np.random.default_rng(6)
    candidates = candidates_of(*(rng.random(30) < 0.3 for _ in range(5)))
    scores = rng.integers(8, size=150) / 8
    metrics = rank_metrics(candidates, scores, 5)
    order = np.lexsort((rng.random(150), candidates.users))
    shuffled = Candidates(candidates.users, candidates.rows[order], candidates.is_action[order])
    np.testing.assert_allclose(rank_metrics(shuffled, scores[order], 5).reciprocal_rank, metrics.reciprocal_rank)
    own = candidates.users == 3
    alone = Candidates(np.zeros(30, int), candidates.rows[own], candidates.is_action[own])
    assert rank_metrics(alone, scores[own], 1).reciprocal_rank == metrics.reciprocal_rank[3]


def test_users_without_actions_or_candidates_have_no_metrics():
    metrics = rank_metrics(candidates_of([], [False, False], [True], []), np.zeros(3), 4)
    assert metrics.actions.tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(metrics.r_precision, [np.nan, np.nan, 1, np.nan])
    np.testing.assert_array_equal(metrics.reciprocal_rank, [np.nan, np.nan, 1, np.nan])
    assert rank_metrics(candidates_of(), np.empty((2, 0)), 0).r_precision.shape == (2, 0)
    assert np.isnan(rank_metrics(candidates_of(), np.empty(0), 2).r_precision).all()


# Scores


def unit_vectors(rng, n, d=6):
    vectors = rng.standard_normal((n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def scene(seed, selections):
    """Twenty users with 1 to 6 embeddings, their candidates (of user 4 none), and selections of the embeddings."""
    rng = np.random.default_rng(seed)
    vectors = unit_vectors(rng, 50)
    owners = np.sort(np.append(np.arange(20), rng.integers(20, size=50)))
    users = np.sort(rng.integers(20, size=300))
    users = users[users != 4]
    rows = rng.integers(-1, 50, size=len(users))
    selected = rng.random((selections, len(owners))) < 0.4
    selected[:, np.searchsorted(owners, np.arange(20))] = True
    candidates = Candidates(users, rows, rng.random(len(users)) < 0.2)
    return candidates, vectors, owners, unit_vectors(rng, len(owners)), selected


@pytest.mark.parametrize("at_once", [1, 4, 2048])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_a_loop(monkeypatch, seed, at_once):
    monkeypatch.setattr(module, "_CANDIDATES_AT_ONCE", at_once)
    candidates, vectors, owners, embeddings, selected = scene(seed, 4)
    found = best_cosines(candidates, vectors, owners, embeddings, selected)
    everything = best_cosines(candidates, vectors, owners, embeddings)
    assert (found.shape, found.dtype) == ((4, len(candidates.users)), np.float32)
    for place, (user, row) in enumerate(zip(candidates.users, candidates.rows, strict=True)):
        for selection in range(4):
            own = embeddings[(owners == user) & selected[selection]]
            expected = max(float(vectors[row] @ one) for one in own) if row >= 0 else -np.inf
            np.testing.assert_allclose(found[selection, place], expected, atol=1e-6)
        expected = (embeddings[owners == user] @ vectors[row]).max() if row >= 0 else -np.inf
        np.testing.assert_allclose(everything[place], expected, atol=1e-6)
    assert np.isneginf(found).any()


def test_a_selection_scores_as_its_embeddings_alone_do():
    candidates, vectors, owners, embeddings, selected = scene(7, 3)
    found = best_cosines(candidates, vectors, owners, embeddings, selected)
    for selection, own in enumerate(selected):
        alone = best_cosines(candidates, vectors, owners[own], embeddings[own])
        np.testing.assert_allclose(found[selection], alone, atol=1e-6)


def test_parts_that_are_scored_together_score_as_alone():
    _, vectors, owners, embeddings, selected = scene(7, 3)
    parts = [scene(seed, 0)[0] for seed in (1, 2, 3)]
    together, part = Candidates.joined(parts)
    assert (np.diff(together.users) >= 0).all()
    found = best_cosines(together, vectors, owners, embeddings, selected)
    for number, own in enumerate(parts):
        for name in vars(own):
            np.testing.assert_array_equal(getattr(together, name)[part == number], getattr(own, name))
        alone = best_cosines(own, vectors, owners, embeddings, selected)
        np.testing.assert_allclose(found[:, part == number], alone, atol=1e-6)


def test_many_users_are_ranked_one_by_one():
    """More than 16 bits can tell apart."""
    users = 70_000
    candidates = Candidates(np.repeat(np.arange(users), 2), np.zeros(2 * users, int), np.tile([True, False], users))
    is_first = np.random.default_rng(0).random(users) < 0.5
    scores = np.stack([np.where(is_first, 0.9, 0.1), np.full(users, 0.5)], axis=1).ravel()
    np.testing.assert_array_equal(rank_metrics(candidates, scores, users).reciprocal_rank, np.where(is_first, 1, 0.5))


def test_pins_of_the_same_vector_tie_wherever_they_stand():
    rng = np.random.default_rng(8)
    vectors = np.repeat(unit_vectors(rng, 1, 256), 63, axis=0)
    candidates = candidates_of([True] * 3 + [False] * 60)
    scores = best_cosines(candidates, vectors, np.zeros(7, int), unit_vectors(rng, 7, 256))
    np.testing.assert_allclose(rank_metrics(candidates, scores, 1).r_precision, [3 / 63], rtol=1e-12)


def test_an_embedding_without_direction_ranks_at_random():
    candidates = candidates_of([True] + [False] * 20)
    vectors = unit_vectors(np.random.default_rng(9), 21)
    scores = best_cosines(candidates, vectors, np.array([0]), np.zeros((1, 6), np.float32))
    np.testing.assert_allclose(rank_metrics(candidates, scores, 1).r_precision, [1 / 21])


def test_nobody_is_scored():
    nobody = np.empty(0, np.int64)
    candidates = Candidates(nobody, nobody, np.empty(0, bool))
    nothing = np.empty((0, 6), np.float32)
    assert best_cosines(candidates, nothing, nobody, nothing).shape == (0,)
    assert best_cosines(candidates, nothing, nobody, nothing, np.empty((3, 0), bool)).shape == (3, 0)
    scores = best_cosines(*scene(0, 0))
    assert rank_metrics(scene(0, 0)[0], scores, 20).r_precision.shape == (0, 20)


# Negatives

USERS, PINS = 40, 60
USER_IDS, PIN_IDS = np.arange(USERS) * 3 - 2**62, np.arange(PINS) * 10 + 5
DAY = (0, 739_000)


def people(seed):
    """Some users with many impressions, some with few or none; user 7 does nothing; unknown pins are acted on."""
    rng = np.random.default_rng(seed)
    acted = Pairs.of(rng.integers(USERS, size=80), rng.integers(PINS, size=80))
    own = acted.users != 7
    users, rows = np.append(acted.users[own], [3, 3]), np.append(acted.rows[own], [-1, -1])
    impressions = Pairs.of(
        np.append(rng.integers(USERS // 2, size=400), users), np.append(rng.integers(PINS, size=400), rows.clip(0))
    )
    return users, rows, impressions, Pairs.of(rng.integers(USERS, size=200), rng.integers(PINS, size=200))


def by_user(pairs, users=USERS):
    return [set(pairs.rows[pairs.users == user].tolist()) for user in range(users)]


def pool_of(seed):
    weights = np.random.default_rng(seed).integers(1, 50, size=PINS).astype(float)
    weights[::4] = 0
    return weights


@pytest.mark.parametrize("per_action", [0, 1, 5, 20])
@pytest.mark.parametrize("seed", range(4))
def test_negatives_are_impressions_first_then_the_pool_and_never_what_the_user_knows(seed, per_action):
    users, rows, impressions, excluded = people(seed)
    weights = pool_of(seed)
    found = draw_negatives(users, rows, impressions, excluded, weights, per_action, USER_IDS, PIN_IDS, DAY)
    negatives, shown, seen = by_user(found.pairs), by_user(impressions), by_user(excluded)
    pool = set(np.flatnonzero(weights).tolist())
    for user in range(USERS):
        own = rows[users == user]
        wanted = per_action * len(own)
        allowed = shown[user] - seen[user] - set(own.tolist())
        rest = pool - seen[user] - set(own.tolist())
        from_impressions = min(wanted, len(allowed))
        assert negatives[user] <= allowed | rest
        if wanted >= len(allowed):
            assert allowed <= negatives[user]
            assert found.from_pool[user] == min(wanted - from_impressions, len(rest - allowed))
        else:
            assert negatives[user] <= allowed
            assert found.from_pool[user] == 0
        assert len(negatives[user]) == from_impressions + found.from_pool[user]
        assert found.missing[user] == wanted - len(negatives[user])
    assert found.pairs.users.dtype == np.int64
    if per_action == 20:
        assert (found.missing > 0).any()
        assert (found.missing == 0).any()
    assert not negatives[7]


@pytest.mark.parametrize("weights", [np.ones(PINS), 1e12 ** np.linspace(-1, 1, PINS), np.eye(1, PINS, 5)[0]])
def test_a_pool_is_used_up_however_unlike_its_weights(weights):
    users, rows = np.array([0, 0, 1]), np.array([1, 2, -1])
    excluded = Pairs.of(np.array([0, 1]), np.array([9, 9]))
    found = draw_negatives(users, rows, NONE, excluded, weights, 100, USER_IDS[:2], PIN_IDS, DAY)
    pool = set(np.flatnonzero(weights).tolist())
    assert by_user(found.pairs, 2) == [pool - {1, 2, 9}, pool - {9}]
    assert found.missing.tolist() == [200 - len(pool - {1, 2, 9}), 100 - len(pool - {9})]


@pytest.mark.parametrize(("per_action", "rounds"), [(1, 10), (2, 10), (8, 10), (8, 0)])
def test_a_users_negatives_depend_neither_on_other_users_nor_on_how_users_and_pins_are_numbered(
    monkeypatch, per_action, rounds
):
    monkeypatch.setattr(module, "_ROUNDS", rounds)
    users, rows, impressions, excluded = people(1)
    weights = pool_of(1)

    def negatives(keys):
        return draw_negatives(users, rows, impressions, excluded, weights, per_action, USER_IDS, PIN_IDS, keys)

    def moved(pairs, user):
        return Pairs(np.zeros(np.sum(pairs.users == user), int), place[pairs.rows[pairs.users == user]])

    # Pins that are neither shown nor in the pool stand between the others.
    ids = np.sort(np.append(PIN_IDS, PIN_IDS - 3))
    place = np.searchsorted(ids, PIN_IDS)
    moved_weights = np.zeros(len(ids))
    moved_weights[place] = weights
    found = negatives(DAY)
    for user in np.unique(users):
        own = rows[users == user][::-1]
        alone = draw_negatives(
            np.zeros(len(own), int),
            np.where(own >= 0, place[own], -1),
            moved(impressions, user),
            moved(excluded, user),
            moved_weights,
            per_action,
            USER_IDS[user : user + 1],
            ids,
            DAY,
        )
        assert ids[alone.pairs.rows].tolist() == PIN_IDS[found.pairs.rows[found.pairs.users == user]].tolist()
    assert by_user(negatives((0, 739_001)).pairs) != by_user(found.pairs)


def test_a_pool_is_looked_at_as_a_whole_only_where_draws_go_nowhere(monkeypatch):
    looked = []
    monkeypatch.setattr(module, "sample_by_importance", lambda *given: looked.append(1) or sample_by_importance(*given))
    weights = 1.0 / np.arange(1, 1001)
    for barred, expected in ((0, 1), (999, 2)):  # one look is at impressions
        excluded = Pairs.of(np.zeros(barred, int), np.arange(barred))
        weights[-1] = 1e-9
        looked.clear()
        found = draw_negatives(
            np.array([0, 1]), np.array([-1, -1]), NONE, excluded, weights, 150, np.arange(2), np.arange(1000), DAY
        )
        assert found.from_pool.tolist() == [min(150, 1000 - barred), 150]
        assert len(looked) == expected


def test_sampled_impressions_are_uniform():
    many = 6000
    users, shown = np.arange(many), np.repeat(np.arange(many), 10)
    impressions = Pairs(shown, np.tile(np.arange(10), many))
    found = draw_negatives(
        users, np.full(many, 9), impressions, NONE, np.zeros(10), 3, np.arange(many), np.arange(10), DAY
    )
    assert len(found.pairs.rows) == 3 * many
    np.testing.assert_allclose(np.bincount(found.pairs.rows, minlength=10)[:9] / many, 3 / 9, atol=0.025)


@pytest.mark.parametrize("rounds", [0, 1, 10])
def test_the_pool_is_drawn_in_proportion_to_weights_without_replacement(monkeypatch, rounds):
    monkeypatch.setattr(module, "_ROUNDS", rounds)
    many, weights = 10_000, np.array([5.0, 3, 1, 1, 0, 90])
    # Pin 5 is acted on, which leaves 5, 3, 1, 1; two are drawn.
    found = draw_negatives(
        np.arange(many), np.full(many, 5), NONE, NONE, weights, 2, np.arange(many), np.arange(6), DAY
    )
    p = np.array([0.5, 0.3, 0.1, 0.1])
    expected = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(4) if j != i) for i in range(4)]
    np.testing.assert_allclose(np.bincount(found.pairs.rows)[:4] / many, expected, atol=0.02)
    assert set(found.pairs.rows.tolist()) == {0, 1, 2, 3}
    assert found.from_pool.tolist() == [2] * many


def test_no_users_no_pins_and_no_pool():
    nothing = np.empty(0, np.int64)
    found = draw_negatives(nothing, nothing, NONE, NONE, np.empty(0), 20, nothing, nothing, DAY)
    assert (len(found.pairs.users), len(found.missing)) == (0, 0)
    for pins in (0, 4):
        found = draw_negatives(
            np.array([0]), np.array([-1]), NONE, NONE, np.zeros(pins), 20, np.array([9]), np.arange(pins), DAY
        )
        assert (found.from_pool.tolist(), found.missing.tolist()) == ([0], [20])


def test_candidates_are_actions_and_negatives_by_user():
    negatives = Pairs.of(np.array([0, 2, 2]), np.array([4, 5, 6]))
    candidates = Candidates.of(np.array([2, 0, 2]), np.array([-1, 3, -1]), negatives)
    assert candidates.users.tolist() == [0, 0, 2, 2, 2, 2]
    assert candidates.rows.tolist() == [3, 4, -1, -1, 5, 6]
    assert candidates.is_action.tolist() == [True, False, True, True, False, False]


def test_from_negatives_to_metrics_a_model_that_knows_wins_and_one_that_does_not_is_chance():
    rng = np.random.default_rng(10)
    vectors, many = unit_vectors(rng, 400, 32), 300
    users, rows = np.repeat(np.arange(many), 2), rng.integers(400, size=2 * many)
    rows[1::2] = (rows[::2] + 1 + rng.integers(399, size=many)) % 400
    drawn = draw_negatives(users, rows, NONE, NONE, np.ones(400), 20, np.arange(many), np.arange(400), DAY)
    candidates = Candidates.of(users, rows, drawn.pairs)
    knowing, chance = np.tile([True, True, False], many), np.tile([False, False, True], many)
    owners = np.repeat(np.arange(many), 3)
    embeddings = np.stack([vectors[rows[::2]], vectors[rows[1::2]], unit_vectors(rng, many, 32)], axis=1)
    scores = best_cosines(candidates, vectors, owners, embeddings.reshape(-1, 32), np.stack([knowing, chance]))
    metrics = rank_metrics(candidates, scores, many)
    np.testing.assert_allclose(metrics.r_precision[0], 1)
    np.testing.assert_allclose(metrics.reciprocal_rank[0], 0.75)
    assert abs(metrics.r_precision[1].mean() - 2 / 42) < 0.03


# Refusals


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"action_rows": np.array([0, 9])}, "^action_rows must be rows of pins, -1 to 3"),
        ({"action_users": np.array([0, 2])}, "^action_rows must be of users 0 to 1"),
        ({"action_users": np.array([0])}, "^action_rows must be as many as their users"),
        ({"impressions": Pairs.of(np.array([0]), np.array([-1]))}, "^impressions must be rows of pins, 0 to 3"),
        ({"excluded": Pairs.of(np.array([-1]), np.array([0]))}, "^excluded must be of users 0 to 1"),
        ({"pool_weights": np.ones(3)}, "^pool_weights must be 4 finite numbers >= 0"),
        ({"pool_weights": np.array([1, -1, 1, 1])}, "^pool_weights must be 4 finite numbers >= 0"),
        ({"pool_weights": np.array([1, np.nan, 1, 1])}, "^pool_weights must be 4 finite numbers >= 0"),
        ({"pin_ids": np.array([1, 3, 2, 4])}, "^pin_ids must be ascending"),
        ({"negatives_per_action": -1}, "^negatives_per_action must be >= 0, not -1"),
    ],
)
def test_draws_from_bad_input_are_refused_by_name(changed, message):
    good = {
        "action_users": np.array([0, 1]),
        "action_rows": np.array([0, -1]),
        "impressions": NONE,
        "excluded": NONE,
        "pool_weights": np.ones(4),
        "negatives_per_action": 2,
        "user_ids": np.array([8, 9]),
        "pin_ids": np.arange(4),
        "keys": DAY,
    }
    draw_negatives(**good)
    with pytest.raises(ValueError, match=message):
        draw_negatives(**good | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"candidates": candidates_of([True], [False] * 4)}, "^candidates must be rows of vectors, below 4"),
        (
            {"candidates": Candidates(np.array([1, 0]), np.array([0, 0]), np.array([True, True]))},
            "^candidates must be in ascending order of users",
        ),
        ({"owners": np.array([1, 0])}, "^owners must be ascending"),
        ({"embeddings": np.ones((2, 5), np.float32)}, r"^embeddings must be of shape \(2, 6\)"),
        ({"selections": np.ones((2, 3), bool)}, r"^selections must be bool of shape \(selections, 2\)"),
        ({"selections": np.ones((2, 2))}, "^selections must be bool"),
        ({"selections": np.array([[True, True], [True, False]])}, "^selections must .*: 1 has none of 1"),
        ({"owners": np.array([0, 0])}, "^selections must .*: 0 has none of 1"),
    ],
)
def test_scores_of_bad_input_are_refused_by_name(changed, message):
    good = {
        "candidates": candidates_of([True], [False] * 3),
        "vectors": unit_vectors(np.random.default_rng(0), 4),
        "owners": np.array([0, 1]),
        "embeddings": np.ones((2, 6), np.float32),
        "selections": None,
    }
    best_cosines(**good)
    with pytest.raises(ValueError, match=message):
        best_cosines(**good | changed)


@pytest.mark.parametrize(
    ("candidates", "scores", "users", "message"),
    [
        (candidates_of([True, False]), np.zeros(3), 1, "^scores must be .* one for each of 2 candidates"),
        (candidates_of([True, False]), np.array([0, np.nan]), 1, "^scores must be numbers or -inf"),
        (candidates_of([True, False]), np.array([0, np.inf]), 1, "^scores must be numbers or -inf"),
        (candidates_of([True], [False]), np.zeros(2), 1, "^candidates must be of users 0 to 0"),
        (Candidates(np.array([1, 0]), np.zeros(2, int), np.ones(2, bool)), np.zeros(2), 2, "^candidates .* ascending"),
    ],
)
def test_metrics_of_bad_input_are_refused_by_name(candidates, scores, users, message):
    with pytest.raises(ValueError, match=message):
        rank_metrics(candidates, scores, users)
