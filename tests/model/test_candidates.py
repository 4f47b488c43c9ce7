"""Candidate sets against a plain loop over users, medoids and neighbours."""

import numpy as np
import polars as pl
import pytest

from pinnersage_assets.model.candidates import candidate_sets, shares


def one_after_another(drawn, neighbours, seen):
    rows, lists, unseen_by = [], {n["medoid_pin_id"]: n for n in neighbours.to_dicts()}, set(seen.rows())
    for user in sorted(set(drawn["user_id"])):
        best = {}
        for medoid, share in sorted(drawn.filter(user_id=user).select("medoid_pin_id", "share").rows()):
            found = lists.get(medoid, {"pin_ids": [], "cosines": []})
            near = zip(found["pin_ids"], found["cosines"], strict=True)
            unseen = [(pin, cosine) for pin, cosine in near if (user, pin) not in unseen_by]
            for pin, cosine in unseen[:share]:
                if pin not in best or cosine > best[pin][0]:
                    best[pin] = (cosine, medoid)
        for rank, pin in enumerate(sorted(best, key=lambda pin: (-best[pin][0], pin)), start=1):
            rows.append((user, rank, pin, best[pin][1], best[pin][0]))
    return rows


def random_case(seed, users=20, pins=60, medoids=12, depth=25):
    rng = np.random.default_rng(seed)
    drawn = pl.DataFrame(
        [(u, int(m)) for u in range(users) for m in rng.choice(medoids, rng.integers(1, 4), replace=False)],
        schema={"user_id": pl.Int64, "medoid_pin_id": pl.Int64},
        orient="row",
    )
    rows = []
    for medoid in range(medoids):
        # Few different cosines, so that many are equal; equal ones by pin id, as the index gives them.
        near = [(float(rng.choice([0.5, 0.75, 1.0])), int(pin)) for pin in rng.permutation(pins)[: rng.integers(depth)]]
        near.sort(key=lambda pair: (-pair[0], pair[1]))
        rows.append((medoid, [pin for _, pin in near], [cosine for cosine, _ in near]))
    schema = {"medoid_pin_id": pl.Int64, "pin_ids": pl.List(pl.Int64), "cosines": pl.List(pl.Float32)}
    neighbours = pl.DataFrame(rows, schema=schema, orient="row")
    seen = pl.DataFrame(
        {"user_id": rng.integers(users, size=150), "pin_id": rng.integers(pins, size=150)},
        schema={"user_id": pl.Int64, "pin_id": pl.Int64},
    ).unique()
    return shares(drawn, budget=20), neighbours, seen


@pytest.mark.parametrize("seed", range(8))
def test_candidates_are_those_of_a_loop(seed):
    drawn, neighbours, seen = random_case(seed)
    found = candidate_sets(drawn, neighbours, seen)
    assert found.rows() == one_after_another(drawn, neighbours, seen)
    assert found.schema == {
        "user_id": pl.Int64,
        "rank": pl.Int32,
        "pin_id": pl.Int64,
        "medoid_pin_id": pl.Int64,
        "score": pl.Float32,
    }


@pytest.mark.parametrize("seed", range(3))
def test_candidates_do_not_depend_on_the_order_of_rows_or_on_other_users(seed):
    drawn, neighbours, seen = random_case(seed)
    found = candidate_sets(drawn, neighbours, seen)
    shuffled = [frame.sample(fraction=1, shuffle=True, seed=seed) for frame in (drawn, neighbours, seen)]
    assert candidate_sets(*shuffled).equals(found)
    users = drawn.sort("user_id").partition_by("user_id", maintain_order=True)
    alone = [candidate_sets(own, neighbours, seen) for own in users]
    assert pl.concat(alone).equals(found)


@pytest.mark.parametrize(("budget", "drawn", "share"), [(400, 3, 133), (400, 2, 200), (400, 1, 400), (2, 3, 0)])
def test_a_share_is_the_budget_by_the_medoids_drawn_rounded_down(budget, drawn, share):
    frame = pl.DataFrame({"user_id": [7] * drawn, "medoid_pin_id": list(range(drawn))})
    assert shares(frame, budget)["share"].to_list() == [share] * drawn


def test_nothing_drawn_gives_nothing():
    drawn, neighbours, seen = random_case(0)
    for case in ((drawn.clear(), neighbours, seen), (drawn, neighbours.clear(), seen)):
        found = candidate_sets(*case)
        assert found.is_empty()
        assert found.columns == ["user_id", "rank", "pin_id", "medoid_pin_id", "score"]
    assert not candidate_sets(drawn, neighbours, seen.clear()).is_empty()
