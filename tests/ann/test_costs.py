import numpy as np
import pytest

from pinnersage_assets.ann.costs import hnsw_cost, orthoplex_cost, unrefined_cost
from pinnersage_assets.ann.hnsw import HnswParameters, build

PARAMETERS = HnswParameters(connectivity=16, expansion_add=128, expansion_search=64, dtype="f32")


def in_topics(seed: int, m: int, n: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((40, n))
    vectors = (centres[rng.integers(40, size=m)] + 0.5 * rng.standard_normal((m, n))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, QUERIES = in_topics(1, 3000), in_topics(2, 40)
IDS = np.arange(3000) * 7


@pytest.fixture(scope="module")
def refined():
    return build(IDS, VECTORS, PARAMETERS, threads=1)


def test_hnsw_computes_fewer_distances_than_a_scan_and_a_wider_search_more(refined):
    cost = hnsw_cost(refined, QUERIES, 10)
    assert 0.9 < cost.recall <= 1
    assert 64 < cost.distances < 3000
    assert cost.seconds > 0
    deep = hnsw_cost(refined, QUERIES, 200)
    assert deep.distances > cost.distances


def test_hnsw_costs_what_its_queries_cost_one_by_one(refined):
    alone = [hnsw_cost(refined, QUERIES[q : q + 1], 10) for q in range(10)]
    together = hnsw_cost(refined, QUERIES[:10], 10)
    assert together.recall == pytest.approx(np.mean([cost.recall for cost in alone]))
    assert together.distances == pytest.approx(np.mean([cost.distances for cost in alone]))


@pytest.mark.parametrize("target", [0.5, 0.9, 0.97, 1.0])
def test_lsh_looks_as_far_as_the_recall_takes(target):
    cost = orthoplex_cost(VECTORS, QUERIES, 10, target, seed=0)
    assert cost.recall >= target
    least = orthoplex_cost(VECTORS, QUERIES, 10, 0.1, seed=0)
    assert least.recall <= cost.recall
    assert least.distances <= cost.distances


def test_an_index_of_repeats_is_asked_for_more_until_it_gives_as_much(refined):
    # Each pin five times: of a hundred neighbours twenty are wanted.
    ids = (IDS[:, None] + np.arange(5)).ravel()
    full = build(ids, np.repeat(VECTORS, 5, axis=0), PARAMETERS, threads=1)
    found, _ = full.nearest_ids(QUERIES, 20)
    assert np.isin(found, IDS).mean() < 0.5
    own, other = hnsw_cost(refined, QUERIES, 20), unrefined_cost(full, refined, QUERIES, 20)
    assert other.recall >= own.recall > 0.9
    # It is asked for some hundred, and ef is no less.
    assert other.distances > 100


def test_an_index_without_anything_to_refine_costs_the_same(refined):
    assert unrefined_cost(refined, refined, QUERIES, 20).distances == hnsw_cost(refined, QUERIES, 20).distances


def test_all_pins_asked_for_ends_the_search():
    few = build(IDS[:30], VECTORS[:30], PARAMETERS, threads=1)
    one = build(IDS[:1], VECTORS[:1], PARAMETERS, threads=1)
    assert unrefined_cost(few, one, QUERIES, 1).recall == 1
