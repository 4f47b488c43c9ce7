"""Pixie's candidates and the blend through the real assets: against plain loops over what users did."""

import math
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest
from conftest import LAST, PLANTS
from oracle import Oracle
from world import failures, small_settings

from pinnersage_assets.graph_files import open_graph
from pinnersage_assets.model.blending import blended, quotas
from pinnersage_assets.model.pixie import PixieParameters, Requests, recommend
from pinnersage_assets.model.randomness import keyed_bits

OWN, WALKS, BLEND = (
    f"retrieval.{name}" for name in ("recommendations", "pixie_recommendations", "blended_recommendations")
)
BUDGET = 60


@pytest.fixture(scope="module")
def today(world):
    return Oracle(world, LAST)


@pytest.fixture(scope="module")
def graph(world):
    [(path, sha256)] = world.read(
        "SELECT path, sha256 FROM graph.snapshot WHERE dt = $day AND graph = 'pruned'", day=LAST
    ).rows()
    return open_graph(world.data / path, sha256)


@pytest.fixture(scope="module")
def first(world):
    """By near-duplicate, the pin that it repeats."""
    return dict(
        world.read("SELECT pin_id, canonical_pin_id FROM corpus.near_duplicates WHERE dt <= $day", day=LAST).rows()
    )


@pytest.fixture(scope="module")
def codes(world):
    return dict(
        world.read(
            "SELECT pin_id, (md5_number_lower(category) >> 1)::BIGINT FROM staging.pins "
            "WHERE dt <= $day AND category IS NOT NULL",
            day=LAST,
        ).rows()
    )


def settings_of(**sections):
    usual = {"window": {"days": 8}, "simulation": {"users": 120}, "evaluation": {"users": 1000}}
    return small_settings(**usual | sections)


def remake(world, *tables):
    """The rows of some tables, made again, and the metadata of the first."""
    result = world.run("daily", LAST, only=tables)
    assert failures(result) == {}
    assert all(check.passed for check in result.get_asset_check_evaluations())
    [event] = result.asset_materializations_for_node(tables[0].replace(".", "__"))
    return world.partition(tables[0], LAST), {name: value.value for name, value in event.metadata.items()}


def latest_actions(world, first, most, decay, weights):
    """By user, the weights of the pins that were acted on last."""
    actions = world.read(
        "SELECT user_id, pin_id, action, ts FROM raw.actions WHERE dt > $day - 8 AND action IN ('repin', 'click') "
        "AND ts::DATE = dt GROUP BY ALL",
        day=LAST,
    ).rows()
    midnight = np.datetime64(LAST) + np.timedelta64(1, "D")
    found, latest = defaultdict(lambda: defaultdict(list)), defaultdict(dict)
    for user, pin, action, ts in actions:
        pin = first.get(pin, pin)
        age = (midnight - np.datetime64(ts)) / np.timedelta64(1, "D")
        found[user][pin].append(weights.get(action, 1.0) * math.exp(-decay * age))
        latest[user][pin] = max(ts, latest[user].get(pin, ts))
    return {
        user: {
            pin: math.fsum(of[pin]) for pin in sorted(of, key=lambda pin: (-latest[user][pin].timestamp(), pin))[:most]
        }
        for user, of in found.items()
    }


def important_medoids(world, first, most):
    """The same of the most important medoids."""
    found = defaultdict(Counter)
    for user, pin, weight in world.read(
        "SELECT user_id, medoid_pin_id, importance FROM users.medoids WHERE dt = $day", day=LAST
    ).rows():
        found[user][first.get(pin, pin)] += weight
    return {user: dict(sorted(of.items(), key=lambda pair: (-pair[1], pair[0]))[:most]) for user, of in found.items()}


def walked(queries, today, graph, first, codes, parameters, seed=3):
    """By user, the pins that walks from the query pins find, and their scores."""
    group_in_corpus = {first.get(pin, pin): pin for pin in today.corpus}
    found = {}
    for user, weights in queries.items():
        features = Counter(codes[pin] for pin in weights if pin in codes)
        feature = min(features, key=lambda code: (-features[code], code), default=-1)
        request = Requests(
            np.array(list(weights)),
            np.array(list(weights.values())),
            np.array([0, len(weights)]),
            keyed_bits(seed, LAST.toordinal(), np.array([user])),
            np.array([feature]),
        )
        answer, seen = recommend(graph, request, parameters), today.seen(user)
        pins = [
            (group_in_corpus[pin], score)
            for pin, score in zip(answer.pin_ids.tolist(), answer.scores.tolist(), strict=True)
            if pin in group_in_corpus and group_in_corpus[pin] not in seen
        ]
        if pins:
            found[user] = pins[:BUDGET]
    return found


def by_user(rows):
    found = defaultdict(list)
    for user, rank, pin, score in rows.sort("user_id", "rank").select("user_id", "rank", "pin_id", "score").rows():
        found[user].append((pin, score))
        assert rank == len(found[user])
    return dict(found)


# --- Pixie


def test_candidates_are_what_walks_from_the_latest_pins_find(world, today, graph, first, codes):
    queries = latest_actions(world, first, 20, 0.05, {})
    expected = walked(queries, today, graph, first, codes, PixieParameters(5_000, 0.5, scaled=True, boosted=True))
    found = by_user(world.partition(WALKS, LAST))
    assert found.keys() == expected.keys()
    # A weight that is added up in another order may be another in the last bit, and a step be someone else's.
    assert sum(found[user] == expected[user] for user in found) > 0.97 * len(found)
    assert len(found) > 100
    assert max(map(len, queries.values())) == 20


def test_nothing_is_recommended_that_was_seen_or_is_not_in_the_corpus(world, today):
    for user, pins in by_user(world.partition(WALKS, LAST)).items():
        own = {pin for pin, _ in pins}
        assert own <= set(today.corpus)
        assert not own & today.seen(user)
        assert len(own) == len(pins) <= BUDGET


@pytest.mark.parametrize("queries", ["actions", "medoids"])
def test_every_setting_of_walks_is_heard(world, tmp_path, today, graph, first, codes, queries):
    pixie = {"steps": 700, "restart": 0.3, "scaled": False, "boosted": False, "bias": 0.6, "stop_pins": 20}
    pixie |= {"stop_visits": 2}
    mine = {"queries": queries, "query_pins": 4, "decay_per_day": 0.4, "action_weights": {"click": 0.25}, "budget": 9}
    copy = world.copy(tmp_path / "data", settings_of(pixie={**pixie, **mine}, seed=11))
    rows, _ = remake(copy, WALKS)
    if queries == "actions":
        asked = latest_actions(world, first, 4, 0.4, {"click": 0.25})
    else:
        asked = important_medoids(world, first, 4)
    expected = walked(asked, today, graph, first, codes, PixieParameters(**pixie), seed=11)
    found = by_user(rows)
    assert found.keys() == expected.keys()
    assert sum(found[user] == expected[user][:9] for user in found) > 0.97 * len(found)


def test_who_gets_nothing_is_counted_with_the_reason(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of(pixie={"action_weights": {"repin": 0.0, "click": 0.0}}))
    rows, metadata = remake(copy, WALKS)
    assert rows.is_empty()
    names = [name for name in metadata if name.startswith("users without an answer")]
    assert sum(metadata[name] for name in names) == metadata["users who asked"]
    assert metadata["users without an answer: query pins without weight"] > 100
    # Whose pins are not in the graph: the planted one acts on what never lands.
    copy.execute(
        "DELETE FROM staging.actions WHERE user_id <> $user OR pin_id < 10000", user=PLANTS.cold_but_for_unknown
    )
    _, metadata = remake(copy, WALKS)
    assert metadata["users who asked"] == metadata["users without an answer: query pins without edges"] == 1


def test_a_condition_holds_for_walks_too(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of(retrieval={"budget": BUDGET, "condition": "pin_id % 2 = 0"}))
    rows, _ = remake(copy, WALKS)
    assert len(rows) > 1_000
    assert (rows["pin_id"] % 2 == 0).all()
    unrestricted = by_user(world.partition(WALKS, LAST))
    for user, pins in by_user(rows).items():
        even = [pin for pin in unrestricted[user] if pin[0] % 2 == 0] if user in unrestricted else []
        assert pins[: len(even)] == even


def test_rows_are_the_same_whatever_the_engine_and_its_buckets(world, tmp_path):
    engine = {"kind": "processes", "workers": 2, "rows_a_bucket": 400}
    copy = world.copy(tmp_path / "data", settings_of(engine=engine))
    rows, metadata = remake(copy, WALKS)
    assert rows.equals(world.partition(WALKS, LAST))
    assert metadata["users who asked"] > 100


# --- The blend


def test_the_blend_is_both_lists_by_their_quotas(world, tmp_path, monkeypatch):
    own, walks = (world.partition(table, LAST) for table in (OWN, WALKS))
    columns = ["user_id", "rank", "pin_id", "score"]
    own, walks = own.select(columns), walks.select(columns)
    copy = world.copy(tmp_path / "data", settings_of(blending={"pixie_share": 0.25}))
    # In several parts.
    monkeypatch.setattr("pinnersage_assets.lineage.walks._USERS_AT_ONCE", 7)
    for share, rows in ((0.5, world.partition(BLEND, LAST)), (0.25, remake(copy, BLEND)[0])):
        expected = blended(own, walks, quotas(BUDGET, share))
        order = ["user_id", "rank"]
        assert rows.sort(order).select(expected.columns).equals(expected.sort(order))
        assert rows.group_by("user_id").agg(pl.len())["len"].max() == BUDGET
    assert world.partition(BLEND, LAST)["source"].value_counts()["count"].min() > 1_000
