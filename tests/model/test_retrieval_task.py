"""Judged candidate sets against loops over the definitions, and against the sets that recommendations are made of."""

from collections import defaultdict
from fractions import Fraction

import numpy as np
import polars as pl
import pytest

from pinnersage_assets.ann.exact import exact_search
from pinnersage_assets.model import retrieval_task
from pinnersage_assets.model.candidates import candidate_sets, shares
from pinnersage_assets.model.retrieval_task import (
    Neighbours,
    RetrievalTask,
    Targets,
    candidate_rows,
    judge_sets,
    judge_variants,
    popular_sets,
    random_sets,
)
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import VARIANTS, UserEmbeddings, Variant

USERS, PINS, BUDGET = 25, 300, 24
KEYS = {5: (5, 1), 6: (6, 1), 7: (7, 1)}


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class Case:
    """Users who acted on pins, 200 of which are the corpus, with what they have seen and what they did next."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.vectors = unit(
            rng.standard_normal((15, 8))[rng.integers(15, size=PINS)] + 0.5 * rng.standard_normal((PINS, 8))
        )
        self.user_ids = np.sort(rng.choice(10**6, USERS, replace=False)) - 500_000
        of_action = np.concatenate([np.arange(USERS), rng.integers(USERS, size=600), np.full(300, 3)])
        rows = rng.integers(PINS, size=len(of_action))
        ages = rng.uniform(0, 90, len(of_action))
        self.population = UserEmbeddings(
            self.user_ids[of_action], rows, ages, np.arange(PINS), self.vectors, 0.7, (0, 1)
        )
        self.corpus_pins = np.sort(rng.choice(PINS, 200, replace=False))
        corpus = self.vectors[self.corpus_pins]
        in_corpus = np.isin(rows, self.corpus_pins)
        seen = Pairs.of(of_action[in_corpus], np.searchsorted(self.corpus_pins, rows[in_corpus]))
        owners = np.sort(np.concatenate([np.arange(USERS), rng.integers(USERS, size=60)]))
        targets = rng.integers(PINS, size=len(owners))
        places = np.searchsorted(self.corpus_pins, targets).clip(max=199)
        corpus_rows = np.where(self.corpus_pins[places] == targets, places, -1)
        vectors = self.vectors[targets].copy()
        vectors[::9] = 0
        corpus_rows[::9] = -1
        self.task = RetrievalTask(USERS, corpus, seen, Targets(owners, corpus_rows, vectors), BUDGET, 0.8)

    def search(self, queries, k):
        return np.argsort(-(queries @ self.task.corpus.T), axis=1, kind="stable")[:, :k]

    def judged(self, candidates):
        """Per user relevant, recalled and size, of a dictionary of sets."""
        found = []
        for user in range(USERS):
            own = sorted(candidates[user])
            relevant = recalled = 0
            for owner, row, vector in zip(*vars(self.task.targets).values(), strict=True):
                if owner == user:
                    relevant += bool(own) and max(float(self.task.corpus[c] @ vector) for c in own) >= 0.8
                    recalled += row in own
            found.append((relevant, recalled, len(own)))
        return found

    def seen_by(self, user):
        return set(self.task.seen.rows[self.task.seen.users == user].tolist())


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.fixture(scope="module")
def judged(case):
    return judge_variants(
        case.population, case.user_ids, VARIANTS, KEYS, case.task, case.search, lambda done, total: None
    )


def sets_of(case, variant, keys):
    """The candidate sets of a variant, by the function that makes the recommendations."""
    chosen = case.population.select(variant, keys)
    frame = pl.DataFrame(
        {"user_id": chosen.user_ids, "importance": chosen.importances, "medoid_pin_id": np.arange(len(chosen.user_ids))}
    )
    frame = frame.filter(pl.int_range(pl.len()).over("user_id") < BUDGET)
    drawn = shares(frame, BUDGET, variant.shares == "importance", variant.refill).drop("importance")
    cosines = chosen.vectors[drawn["medoid_pin_id"].to_numpy()] @ case.task.corpus.T
    order = np.argsort(-cosines, axis=1, kind="stable")
    neighbours = pl.DataFrame(
        {
            "medoid_pin_id": drawn["medoid_pin_id"],
            "pin_ids": pl.Series(order.tolist(), dtype=pl.List(pl.Int64)),
            "cosines": pl.Series(np.take_along_axis(cosines, order, axis=1).tolist(), dtype=pl.List(pl.Float32)),
        }
    ).with_columns(whole=pl.lit(True))
    seen = pl.DataFrame({"user_id": case.user_ids[case.task.seen.users], "pin_id": case.task.seen.rows})
    found, wanting = candidate_sets(drawn, neighbours, seen, variant.refill)
    assert wanting.is_empty()
    sets = defaultdict(set)
    for user, pin in found.select("user_id", "pin_id").rows():
        sets[int(np.searchsorted(case.user_ids, user))].add(pin)
    return sets


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_judged_by_the_set_that_would_be_recommended(case, judged, name):
    sets, counts = judged
    own = [number for number, (model, _) in enumerate(sets) if model == name]
    assert len(own) == (3 if VARIANTS[name].selection == "sampled" else 1)
    for number in own:
        candidates = sets_of(case, VARIANTS[name], KEYS[sets[number][1]])
        found = zip(counts.relevant[number], counts.recalled[number], counts.set_size[number], strict=True)
        assert [tuple(map(int, row)) for row in found] == case.judged(candidates)


def test_refilled_sets_are_as_large_as_the_budget_whatever_the_model(case, judged):
    sets, counts = judged
    for number, (model, _) in enumerate(sets):
        if VARIANTS[model].refill:
            assert (counts.set_size[number] == BUDGET).all()
    assert counts.set_size[[model for model, _ in sets].index("pinnersage_not_refilled")].min() < BUDGET


@pytest.mark.parametrize(
    "changed",
    [
        {"_LEAST_DEPTH": 1, "_DEPTH_OF_SHARE": 1.0},
        {"_LEAST_DEPTH": 8, "_DEPTH_OF_SHARE": 1.0, "_DEEPER": 4},
        {"_LEAST_DEPTH": 1000},
        {"_REACH": 1.0, "_FURTHER": 1.1},
        {"_LISTS_AT_ONCE": 7, "_USERS_AT_ONCE": 7, "_CANDIDATES_AT_ONCE": 2, "_QUERIES_AT_ONCE": 3},
    ],
)
def test_neither_depths_nor_batches_make_a_difference(case, judged, monkeypatch, changed):
    """However many lists must be searched once more because of what is seen, and of overlaps."""
    for name, value in changed.items():
        monkeypatch.setattr(retrieval_task, name, value)
    again = judge_variants(case.population, case.user_ids, VARIANTS, KEYS, case.task, case.search, lambda *_: None)
    assert again[0] == judged[0]
    for name in vars(judged[1]):
        np.testing.assert_array_equal(getattr(again[1], name), getattr(judged[1], name))


def test_an_embedding_is_searched_for_once_unless_its_list_is_too_short(case, monkeypatch):
    asked = []

    def search(queries, k):
        asked.append(queries)
        return case.search(queries, k)

    def search_all(least_depth):
        asked.clear()
        monkeypatch.setattr(retrieval_task, "_LEAST_DEPTH", least_depth)
        monkeypatch.setattr(retrieval_task, "_DEPTH_OF_SHARE", 1.0)
        judge_variants(case.population, case.user_ids, VARIANTS, KEYS, case.task, search, lambda *_: None)
        return np.concatenate(asked)

    queries, rounding = search_all(1000), search_all(1)
    different = len(np.unique(queries, axis=0))
    # A cluster of one pin has that pin as its mean, which is the same vector for several models.
    assert different <= len(queries) < PINS + 8 * USERS * 20
    assert len(np.unique(rounding, axis=0)) == different
    assert len(queries) < len(rounding) <= 3 * len(queries) + PINS * USERS


def test_the_sets_are_kept_in_the_order_of_users(case, judged, monkeypatch):
    monkeypatch.setattr(retrieval_task, "_LEAST_DEPTH", 1)
    monkeypatch.setattr(retrieval_task, "_DEPTH_OF_SHARE", 1.0)
    variants = {name: VARIANTS[name] for name in ("pinnersage", "pinnersage_not_refilled", "all_pins", "last_pin")}
    kept = defaultdict(list)

    def keep(name, seed, user, rows):
        kept[name, seed].append((user, rows))

    judge_variants(case.population, case.user_ids, variants, KEYS, case.task, case.search, lambda *_: None, keep)
    assert len(kept) == 3 + 3 + 1 + 1
    for (name, seed), of_users in kept.items():
        expected = sets_of(case, VARIANTS[name], KEYS[seed])
        assert [user for user, _ in of_users] == list(range(USERS))
        for user, rows in of_users:
            assert len(set(rows.tolist())) == len(rows)
            assert set(rows.tolist()) == expected[user]


def test_a_corpus_smaller_than_the_budget_is_recommended_whole():
    case = Case(1)
    task = RetrievalTask(USERS, case.task.corpus, case.task.seen, case.task.targets, 1000, 0.8)
    _, counts = judge_variants(
        case.population, case.user_ids, {"it": Variant()}, KEYS, task, case.search, lambda *_: None
    )
    for user in range(USERS):
        assert (counts.set_size[:, user] == 200 - len(case.seen_by(user))).all()


def test_nobody_is_judged_where_nobody_acted():
    nobody = np.empty(0, np.int64)
    vectors = unit(np.eye(3))
    population = UserEmbeddings(nobody, nobody, np.empty(0), np.arange(3), vectors, 1.0, (0,))
    task = RetrievalTask(0, vectors, Pairs(nobody, nobody), Targets(nobody, nobody, vectors[:0]), 2, 0.8)
    _, counts = judge_variants(
        population, nobody, VARIANTS, KEYS, task, lambda q, k: np.empty((len(q), k)), lambda *_: 0
    )
    assert counts.recalled.shape[1] == 0


def candidates_of(lists, sets, refill, corpus_size, whole=True):
    """`candidate_rows` of lists of rows, and of sets given as (list, share) pairs; None where lists are too short."""
    starts = np.cumsum([0, *map(len, lists)])
    rows = np.array([row for own in lists for row in own], dtype=np.int64)
    unseen = Neighbours(rows, starts, np.full(len(lists), whole))
    of_set, which, share = np.array([(n, *pair) for n, pairs in enumerate(sets) for pair in pairs]).T
    found = [None] * len(sets)
    for numbers, some, sizes in candidate_rows(unseen, of_set, which, share, np.array(refill), corpus_size):
        assert sizes.sum() == len(some)
        for number, part in zip(numbers, np.split(some, np.cumsum(sizes)[:-1]), strict=True):
            assert found[number] is None
            found[number] = part.tolist()
    return found


def candidates_by_the_definition(lists, pairs, refill):
    """In exact fractions, as of `candidate_sets`."""
    least = {}
    for which, share in pairs:
        for place, row in enumerate(lists[which]):
            least[row] = min(least.get(row, np.inf), Fraction(place, share))
    order = sorted(least, key=lambda row: (least[row], row))
    return order[: sum(share for _, share in pairs)] if refill else [row for row in order if least[row] < 1]


def test_candidates_worked_out_by_hand():
    lists = [[1, 2, 3, 4, 5, 6], [2, 1, 7, 8, 9, 3]]
    sets = [[(0, 2), (1, 2)], [(0, 2), (1, 2)], [(0, 3), (1, 1)], [(0, 3), (1, 1)], [(1, 2)]]
    found = candidates_of(lists, sets, [False, True, False, True, True], 10)
    # Refilled: 1 and 2 at depth 0 and 1/2, then at depth 1 the 3 and the 7.
    assert found[:2] == [[1, 2], [1, 2, 3, 7]]
    # One brings 3 at depths 0, 1/3, 2/3, the other 2 at depth 0: the next is the first one's fourth, at depth 1,
    # before the other's second, which is there already.
    assert found[2:4] == [[1, 2, 3], [1, 2, 3, 4]]
    assert found[4] == [2, 1]


def test_shares_that_cannot_be_compared_exactly_are_refused():
    lists = [list(range(1000))] * 2
    with pytest.raises(ValueError, match=r"a share of 20,000 pins from lists of 1,000 .*lower retrieval\.budget"):
        candidates_of(lists, [[(0, 20_000), (1, 1)]], [True], 2**24)
    # As far as they can be, they are: sets are made one after another then.
    found = candidates_of(lists, [[(0, 14_000), (1, 1)]] * 3, [True] * 3, 2**24)
    assert [sorted(some) for some in found] == [list(range(1000))] * 3


@pytest.mark.parametrize("largest_code", [2**62, 2**26])
@pytest.mark.parametrize("corpus_size", [3, 12, 200])
@pytest.mark.parametrize("seed", range(6))
def test_candidates_are_those_of_the_definition(seed, corpus_size, largest_code, monkeypatch):
    """Sets of different sizes, shares and numbers of lists at once, from lists that end early because all is seen."""
    monkeypatch.setattr(retrieval_task, "LARGEST_CODE", largest_code * corpus_size)
    rng = np.random.default_rng(seed)
    for unseen in (corpus_size, corpus_size // 2, 0):
        left = rng.choice(corpus_size, unseen, replace=False)
        lists = [rng.permutation(left).tolist() for _ in range(8)]
        sets, refill = [], []
        for _ in range(40):
            chosen = rng.choice(8, rng.integers(1, 9), replace=False)
            equal = rng.integers(1, 12)
            draws = rng.integers(1, rng.choice([3, 12, 60]), size=len(chosen))
            sets.append([(which, equal if seed % 2 else draw) for which, draw in zip(chosen, draws, strict=True)])
            refill.append(bool(rng.random() < 0.6))
        found = candidates_of(lists, sets, refill, corpus_size)
        expected = [candidates_by_the_definition(lists, *each) for each in zip(sets, refill, strict=True)]
        assert found == expected
        # Shorter lists of a corpus that goes on give the same, or nothing.
        short = [own[: rng.integers(1, min(corpus_size, 12))] for own in lists]
        if unseen:
            several = candidates_of(short, sets, refill, corpus_size, whole=False)
            assert all(some in (None, right) for some, right in zip(several, expected, strict=True))
            assert corpus_size < 200 or (None in several and several != [None] * len(sets))


def test_a_short_list_says_nothing_of_what_may_come_before_the_next_row():
    lists = [[5, 6], [1, 2, 3, 4]]
    # The third row of the first list, at depth 2 / 2 as 3 is, may be smaller than 3, or one of the others.
    assert candidates_of(lists, [[(0, 2), (1, 2)]], [True], 10, whole=False) == [[1, 5, 2, 6]]
    assert candidates_of([[5, 1], [1, 2, 3, 4]], [[(0, 2), (1, 2)]], [True], 10, whole=False) == [None]
    assert candidates_of([[5, 1], [1, 2, 3, 4]], [[(0, 2), (1, 2)]], [False], 10, whole=False) == [[1, 5, 2]]
    assert candidates_of(lists, [[(0, 3), (1, 2)]], [False], 10, whole=False) == [None]


def test_copies_of_a_vector_are_in_the_order_of_rows():
    """Products of small whole numbers are exact: copies are equally near to the last bit."""
    rng = np.random.default_rng(3)
    vectors = np.concatenate([np.eye(8, dtype=np.float32)] * 12)[rng.permutation(96)]
    owners, rows = np.repeat(np.arange(5), 12), rng.integers(96, size=60)
    population = UserEmbeddings(owners, rows, rng.uniform(0, 9, 60), np.arange(96), vectors, 0.5, (0,))
    targets = Targets(np.arange(5), np.arange(5), vectors[:5])
    task = RetrievalTask(5, vectors, Pairs.of(owners, rows), targets, 20, 0.8)
    kept = {}

    def search(queries, k):
        return exact_search(queries, vectors, k)[0]

    def keep(name, seed, user, rows):
        kept[name, seed, user] = rows.tolist()

    variants = {name: one for name, one in VARIANTS.items() if one.representation == "medoid"}
    judge_variants(population, np.arange(5), variants, KEYS, task, search, lambda *_: None, keep)
    for name, variant in variants.items():
        chosen = population.select(variant, KEYS[5])
        for user in range(5):
            own = chosen.user_ids == user
            seen = set(rows[owners == user].tolist())
            frame = pl.DataFrame({"user_id": chosen.user_ids[own], "importance": chosen.importances[own]})
            lists = []
            for vector in chosen.vectors[own]:
                order = sorted(range(96), key=lambda row: (-float(vectors[row] @ vector), row))
                lists.append([row for row in order if row not in seen])
            share = shares(frame.with_row_index("list"), 20, variant.shares == "importance", variant.refill)
            pairs = [(which, part) for which, part in share.select("list", "share").rows()]
            assert kept[name, 5, user] == candidates_by_the_definition(lists, pairs, variant.refill)


# --- Sets that know nothing of the user


def test_given_sets_are_judged_by_the_definitions(case):
    rng = np.random.default_rng(2)
    given = [Pairs.of(rng.integers(USERS, size=200), rng.integers(200, size=200)) for _ in range(3)]
    counts = judge_sets(case.task, given)
    for number, pairs in enumerate(given):
        candidates = defaultdict(set)
        for user, row in zip(pairs.users.tolist(), pairs.rows.tolist(), strict=True):
            candidates[user].add(row)
        found = zip(counts.relevant[number], counts.recalled[number], counts.set_size[number], strict=True)
        assert [tuple(map(int, row)) for row in found] == case.judged(candidates)


def test_random_sets_are_unseen_and_belong_to_the_user_and_the_seed(case):
    keys = [(5, int(user)) for user in case.user_ids]
    found = random_sets(case.task, keys)
    for user in range(USERS):
        own = found.rows[found.users == user]
        assert len(own) == BUDGET
        assert not set(own.tolist()) & case.seen_by(user)
    again, other = random_sets(case.task, keys), random_sets(case.task, [(6, *key[1:]) for key in keys])
    np.testing.assert_array_equal(again.rows, found.rows)
    assert not np.array_equal(other.rows, found.rows)
    # Each pin is as likely as the next.
    many = np.concatenate([random_sets(case.task, [(seed, *key[1:]) for key in keys]).rows for seed in range(40)])
    assert np.bincount(many, minlength=200).min() > 40


def test_popular_sets_are_the_unseen_that_were_acted_on_most(case):
    actions = np.random.default_rng(0).integers(5, size=200)
    found = popular_sets(case.task, np.argsort(-actions, kind="stable"))
    for user in range(USERS):
        own, seen = found.rows[found.users == user], case.seen_by(user)
        others = set(range(200)) - set(own.tolist()) - seen
        assert len(own) == BUDGET
        assert not set(own.tolist()) & seen
        assert actions[own].min() >= max(actions[list(others)])


def test_only_as_many_popular_rows_are_needed_as_users_have_seen_and_want(case):
    popular = np.random.default_rng(0).permutation(200)
    some = popular[: BUDGET + max(len(case.seen_by(user)) for user in range(USERS))]
    assert len(some) < 200
    np.testing.assert_array_equal(popular_sets(case.task, some).rows, popular_sets(case.task, popular).rows)
