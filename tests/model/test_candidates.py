"""Candidate sets against plain loops over users, medoids and neighbours."""

from fractions import Fraction

import numpy as np
import polars as pl
import pytest

from pinnersage_assets.model import candidates
from pinnersage_assets.model.candidates import candidate_sets, shares

SEEDS = range(8)
MODES = pytest.mark.parametrize("refill", [False, True], ids=["paper", "refill"])


def ranked(best):
    """Rows of a user: pins with their (score, medoid), the best first."""
    order = sorted(best, key=lambda pin: (-best[pin][0], pin))
    return [(rank, pin, best[pin][1], best[pin][0]) for rank, pin in enumerate(order, start=1)]


def unseen_neighbours(drawn, neighbours, seen, user):
    """Of each drawn medoid of a user, by id: its share, and its unseen neighbours as (pin, cosine)."""
    lists, seen = {row["medoid_pin_id"]: row for row in neighbours.to_dicts()}, set(seen.rows())
    for medoid, share in sorted(drawn.filter(user_id=user).select("medoid_pin_id", "share").rows()):
        row = lists.get(medoid, {"pin_ids": [], "cosines": []})
        near = zip(row["pin_ids"], row["cosines"], strict=True)
        yield medoid, share, [(pin, cosine) for pin, cosine in near if (user, pin) not in seen]


def one_after_another(drawn, neighbours, seen):
    """The paper's sets."""
    rows = []
    for user in sorted(set(drawn["user_id"])):
        best = {}
        for medoid, share, unseen in unseen_neighbours(drawn, neighbours, seen, user):
            for pin, cosine in unseen[:share]:
                if pin not in best or cosine > best[pin][0]:
                    best[pin] = (cosine, medoid)
        rows += [(user, *row) for row in ranked(best)]
    return rows


def refilled(drawn, neighbours, seen):
    """The sets with what overlaps replaced: medoids advance at a pace in proportion to their shares."""
    rows = []
    for user in sorted(set(drawn["user_id"])):
        steps, budget = [], 0
        for medoid, share, unseen in unseen_neighbours(drawn, neighbours, seen, user):
            budget += share
            steps += [(Fraction(place, share), pin, medoid, cosine) for place, (pin, cosine) in enumerate(unseen)]
        wanted, last = set(), Fraction(0)
        for depth, pin, _, _ in sorted(steps):
            if pin not in wanted and len(wanted) < budget:
                wanted.add(pin)
                last = depth
        best = {}
        for depth, pin, medoid, cosine in sorted(steps, key=lambda step: step[2]):
            brought = pin in wanted and (depth < 1 or depth <= last)
            if brought and (pin not in best or cosine > best[pin][0]):
                best[pin] = (cosine, medoid)
        rows += [(user, *row) for row in ranked(best)]
    return rows


ORACLES = {False: one_after_another, True: refilled}


def lists_of(rows):
    schema = {"medoid_pin_id": pl.Int64, "pin_ids": pl.List(pl.Int64), "cosines": pl.List(pl.Float32)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def random_case(seed, users=20, pins=60, medoids=12, budget=20, overlap=True, by_importance=False):
    """Drawn medoids, the complete lists of their neighbours, and what was seen."""
    rng = np.random.default_rng(seed)
    drawn = pl.DataFrame(
        [
            (u, int(m), float(rng.choice([0.5, 1, 1, 2, 5])))
            for u in range(users)
            for m in rng.choice(medoids, rng.integers(1, 4), replace=False)
        ],
        schema={"user_id": pl.Int64, "medoid_pin_id": pl.Int64, "importance": pl.Float64},
        orient="row",
    )
    rows = []
    for medoid in range(medoids):
        # Few different cosines, so that many are equal; equal ones by pin id, as the index gives them.
        near = [(float(rng.choice([0.25, 0.5, 0.75, 1.0])), int(pin)) for pin in rng.permutation(pins)]
        near.sort(key=lambda pair: (-pair[0], pair[1]))
        own = [pin if overlap else 1000 * medoid + pin for _, pin in near]
        rows.append((medoid, own, [cosine for cosine, _ in near]))
    seen = pl.DataFrame(
        {"user_id": rng.integers(users, size=150), "pin_id": rng.integers(pins, size=150)},
        schema={"user_id": pl.Int64, "pin_id": pl.Int64},
    ).unique()
    return shares(drawn, budget, by_importance).drop("importance"), lists_of(rows), seen


def whole(neighbours):
    return neighbours.with_columns(whole=pl.lit(True))


def cut(neighbours, rng, pins, at_least=0):
    """The lists as a search of less depth gives them."""
    lengths = [
        int(rng.integers(at_least, len(some) + 1)) if rng.random() < 0.9 else len(some)
        for some in neighbours["pin_ids"]
    ]
    return first_of(neighbours, lengths, pins)


def first_of(neighbours, lengths, pins):
    rows = [
        (medoid, near[:length], cosines[:length])
        for (medoid, near, cosines), length in zip(neighbours.rows(), lengths, strict=True)
    ]
    return lists_of(rows).with_columns(whole=pl.Series([length >= pins for length in lengths], dtype=pl.Boolean))


# --- Sets of complete lists


@MODES
@pytest.mark.parametrize("by_importance", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_candidates_are_those_of_a_loop(seed, refill, by_importance):
    drawn, neighbours, seen = random_case(seed, by_importance=by_importance)
    found, wanting = candidate_sets(drawn, whole(neighbours), seen, refill)
    assert found.rows() == ORACLES[refill](drawn, neighbours, seen)
    assert wanting.is_empty()
    assert found.schema == {
        "user_id": pl.Int64,
        "rank": pl.Int32,
        "pin_id": pl.Int64,
        "medoid_pin_id": pl.Int64,
        "score": pl.Float32,
    }


@MODES
@pytest.mark.parametrize("seed", range(3))
def test_candidates_do_not_depend_on_the_order_of_rows_or_on_other_users(seed, refill):
    drawn, neighbours, seen = random_case(seed)
    neighbours = cut(neighbours, np.random.default_rng(seed), 60)
    found, wanting = candidate_sets(drawn, neighbours, seen, refill)
    assert len(wanting)
    shuffled = [frame.sample(fraction=1, shuffle=True, seed=seed) for frame in (drawn, neighbours, seen)]
    again = candidate_sets(*shuffled, refill)
    assert again[0].equals(found)
    assert again[1].sort(pl.all()).equals(wanting.sort(pl.all()))
    users = drawn.sort("user_id").partition_by("user_id", maintain_order=True)
    alone = [candidate_sets(own, neighbours, seen, refill) for own in users]
    assert pl.concat([sets for sets, _ in alone]).equals(found)
    assert pl.concat([lacking for _, lacking in alone]).sort(pl.all()).equals(wanting.sort(pl.all()))


@pytest.mark.parametrize("seed", SEEDS)
def test_without_overlap_there_is_nothing_to_refill(seed):
    drawn, neighbours, seen = random_case(seed, overlap=False)
    assert candidate_sets(drawn, whole(neighbours), seen, refill=True)[0].equals(
        candidate_sets(drawn, whole(neighbours), seen)[0]
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_refilling_adds_to_the_papers_set_until_it_is_full_or_nothing_is_left(seed):
    # With a budget above the number of pins, some users have seen so much that the rest is not enough.
    for budget in (20, 45, 58, 70):
        drawn, neighbours, seen = random_case(seed, budget=budget)
        paper, full = (candidate_sets(drawn, whole(neighbours), seen, refill)[0] for refill in (False, True))
        assert set(paper.select("user_id", "pin_id").rows()) <= set(full.select("user_id", "pin_id").rows())
        sizes = dict(full.group_by("user_id").len().rows())
        left = {user: 60 - n for user, n in seen.group_by("user_id").len().rows()}
        for user, share in drawn.group_by("user_id").agg(pl.sum("share")).rows():
            assert sizes[user] == min(share, left.get(user, 60))


def test_a_pin_belongs_to_the_nearest_of_the_medoids_that_bring_it():
    """Medoid 2 is nearer to pin 9 than medoid 1, which brings it, but has many that are nearer still."""
    drawn = pl.DataFrame({"user_id": [7, 7], "medoid_pin_id": [1, 2], "share": [2, 2]})
    rows = [(1, [9, 8, 7], [0.5, 0.4, 0.3]), (2, [10, 11, 12, 13, 14, 9], [0.99, 0.98, 0.97, 0.96, 0.95, 0.94])]
    nothing = pl.DataFrame(schema={"user_id": pl.Int64, "pin_id": pl.Int64})
    for refill in (False, True):
        found, _ = candidate_sets(drawn, whole(lists_of(rows)), nothing, refill)
        assert found.filter(pin_id=9)["medoid_pin_id"].to_list() == [1]
        assert set(found["pin_id"]) == {8, 9, 10, 11}


@MODES
def test_nothing_drawn_gives_nothing(refill):
    drawn, neighbours, seen = random_case(0)
    found, wanting = candidate_sets(drawn.clear(), whole(neighbours), seen, refill)
    assert found.is_empty()
    assert wanting.is_empty()
    assert found.columns == ["user_id", "rank", "pin_id", "medoid_pin_id", "score"]
    assert not candidate_sets(drawn, whole(neighbours), seen.clear(), refill)[0].is_empty()


@MODES
def test_without_any_neighbours_everybody_wants_some_unless_there_are_none(refill):
    drawn, neighbours, seen = random_case(0)
    found, wanting = candidate_sets(drawn, whole(neighbours).clear(), seen, refill)
    assert found.is_empty()
    assert sorted(wanting.rows()) == sorted(drawn.select("user_id", "medoid_pin_id").rows())
    found, wanting = candidate_sets(drawn, first_of(neighbours, [0] * 12, pins=0), seen, refill)
    assert found.is_empty()
    assert wanting.is_empty()


@MODES
def test_users_whose_codes_do_not_fit_together_have_the_same_sets(refill, monkeypatch):
    drawn, neighbours, seen = random_case(0)
    near = cut(neighbours, np.random.default_rng(0), 60)
    expected = candidate_sets(drawn, near, seen, refill)
    monkeypatch.setattr(candidates, "LARGEST_CODE", 3 * 61 * 20**2 * 61)
    found = candidate_sets(drawn, near, seen, refill)
    assert found[0].equals(expected[0])
    assert found[1].equals(expected[1])
    monkeypatch.setattr(candidates, "LARGEST_CODE", 1000)
    with pytest.raises(ValueError, match=r"the shares of user 0, up to \d+ pins, .*lower retrieval\.budget"):
        candidate_sets(drawn, near, seen, refill)


# --- Lists that end too early


@MODES
@pytest.mark.parametrize("by_importance", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_wherever_lists_end_nobodys_set_is_another(seed, refill, by_importance):
    """Whoever has a set has the one of complete lists; all others are told apart, and get theirs of deeper lists."""
    rng, waited = np.random.default_rng(seed), 0
    for at_least in (0, 10, 30, 50):
        drawn, neighbours, seen = random_case(seed, by_importance=by_importance)
        expected = candidate_sets(drawn, whole(neighbours), seen, refill)[0]
        near, sets, rounds = cut(neighbours, rng, 60, at_least), [], 0
        some = drawn
        while True:
            found, wanting = candidate_sets(some, near, seen, refill)
            sets.append(found)
            waiting = set(wanting["user_id"])
            assert waiting | set(found["user_id"]) == set(some["user_id"])
            assert not waiting & set(found["user_id"])
            if wanting.is_empty():
                break
            waited += len(waiting)
            # Only the medoids of the waiting are asked for, and none whose list is complete.
            assert set(wanting.rows()) <= set(some.select("user_id", "medoid_pin_id").rows())
            wanted = set(wanting["medoid_pin_id"])
            assert not wanted & set(near.filter(pl.col("whole"))["medoid_pin_id"])
            lengths = near["pin_ids"].list.len().to_list()
            deeper = [
                min(60, length + int(rng.integers(1, 20))) if medoid in wanted else length
                for medoid, length in zip(near["medoid_pin_id"], lengths, strict=True)
            ]
            near, some = first_of(neighbours, deeper, 60), some.filter(pl.col("user_id").is_in(waiting))
            rounds += 1
            assert rounds <= 60
        assert pl.concat(sets).sort("user_id", "rank").equals(expected)
    assert waited


@pytest.mark.parametrize("seed", range(3))
def test_nobody_waits_whose_lists_are_long_enough(seed):
    """A share and as many more as a user has seen are always enough for the paper's set."""
    drawn, neighbours, seen = random_case(seed)
    most_seen = seen.group_by("user_id").len()["len"].max()
    near = first_of(neighbours, [20 + most_seen] * 12, 60)
    assert not near["whole"].any()
    found, wanting = candidate_sets(drawn, near, seen)
    assert wanting.is_empty()
    assert found.rows() == one_after_another(drawn, neighbours, seen)


# --- Shares


@pytest.mark.parametrize(("budget", "drawn", "share"), [(400, 3, 133), (400, 2, 200), (400, 1, 400)])
def test_a_share_is_the_budget_by_the_medoids_drawn_rounded_down(budget, drawn, share):
    frame = pl.DataFrame({"user_id": [7] * drawn, "medoid_pin_id": range(drawn), "importance": [1.0] * drawn})
    assert shares(frame, budget)["share"].to_list() == [share] * drawn


def test_who_has_no_share_brings_nothing():
    frame = pl.DataFrame({"user_id": [7] * 3, "medoid_pin_id": [1, 2, 3], "importance": [1.0, 1, 1]})
    assert shares(frame, 2).is_empty()
    assert shares(frame, 2, refill=True)["medoid_pin_id"].to_list() == [1, 2]


@pytest.mark.parametrize(("budget", "expected"), [(400, [134, 133, 133]), (401, [134, 134, 133]), (399, [133] * 3)])
def test_equal_shares_of_sets_to_be_refilled_add_up_to_the_budget(budget, expected):
    frame = pl.DataFrame({"user_id": [7] * 3, "medoid_pin_id": [1, 2, 3], "importance": [9.0, 1, 1]})
    assert shares(frame, budget, refill=True)["share"].to_list() == expected


@pytest.mark.parametrize("budget", [1, 7, 60, 400])
def test_shares_by_importance_are_in_proportion_and_use_up_the_budget(budget):
    rng = np.random.default_rng(budget)
    users = np.sort(rng.integers(300, size=1000))
    importance = rng.choice([1e-300, 1e-9, 0.1, 1 / 3, 1, 2, 7, 1e6], 1000) * rng.choice([1, rng.random()], 1000)
    frame = pl.DataFrame({"user_id": users, "medoid_pin_id": np.arange(1000), "importance": importance})
    found = shares(frame, budget, by_importance=True)
    assert found.drop("share").equals(frame.filter(pl.col("medoid_pin_id").is_in(found["medoid_pin_id"].implode())))
    assert found["share"].dtype == pl.Int32
    share_of = dict(found.select("medoid_pin_id", "share").rows())
    assert min(share_of.values()) >= 1
    for (_,), own in frame.group_by("user_id"):
        got = [share_of.get(medoid, 0) for medoid in own["medoid_pin_id"]]
        assert sum(got) == budget
        exact = [budget * Fraction(weight) / sum(map(Fraction, own["importance"])) for weight in own["importance"]]
        assert all(abs(share - part) < 1 for share, part in zip(got, exact, strict=True))


def test_of_equal_remainders_the_first_rows_are_rounded_up():
    frame = pl.DataFrame(
        {
            "user_id": [1, 1, 1, 2, 2, 2, 2, 3],
            "medoid_pin_id": [5, 4, 3, 9, 8, 7, 6, 1],
            "importance": [0.1, 0.1, 0.1, 2.0, 1.0, 1.0, 2.0, 1e-320],
        }
    )
    found = shares(frame, 10, by_importance=True)
    assert found["share"].to_list() == [4, 3, 3, 3, 2, 2, 3, 10]
    found = shares(frame, 2, by_importance=True)
    assert found.select("medoid_pin_id", "share").rows() == [(5, 1), (4, 1), (9, 1), (6, 1), (1, 2)]


def test_importance_that_is_all_zero_is_as_good_as_equal():
    """That of actions so old that it underflows."""
    frame = pl.DataFrame({"user_id": [1, 1, 1, 2], "medoid_pin_id": [1, 2, 3, 1], "importance": [0.0] * 4})
    assert shares(frame, 400, by_importance=True)["share"].to_list() == [134, 133, 133, 400]
