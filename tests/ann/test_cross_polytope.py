import itertools

import numpy as np
import pytest

from pinnersage_assets.ann import cross_polytope
from pinnersage_assets.ann.cross_polytope import (
    LshParameters,
    build,
    parameters_for,
    probed_codes,
    probes_for_recall,
    search,
)
from pinnersage_assets.ann.exact import exact_search, recall

EVERYTHING = 10**9


def unit_vectors(seed: int, m: int, n: int = 16, topics: int = 0) -> np.ndarray:
    """Spread evenly, or about some topics, which are the same for every seed."""
    vectors = np.random.default_rng(seed).standard_normal((m, n))
    if topics:
        centres = np.random.default_rng(99).standard_normal((topics, n))
        vectors = centres[np.random.default_rng(seed + 1).integers(topics, size=m)] + 0.7 * vectors
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def values_along_vertices(tables, vector: np.ndarray) -> list[list[list[float]]]:
    """For each table and hash, the vector's coordinates along all vertices, +e_1, +e_2, ..., -e_1, -e_2, ..."""
    axes = iter(tables.axes.astype(np.float64))
    of_tables = []
    for _ in range(tables.parameters.tables):
        of_hashes = []
        for dimensions in tables.parameters.dimensions:
            coordinates = [float(next(axes) @ vector) for _ in range(dimensions)]
            of_hashes.append(coordinates + [-coordinate for coordinate in coordinates])
        of_tables.append(of_hashes)
    return of_tables


def code(parameters: LshParameters, table: int, vertices) -> int:
    number = table
    for dimensions, vertex in zip(parameters.dimensions, vertices, strict=True):
        number = number * 2 * dimensions + int(vertex)
    return number


def buckets(tables) -> dict[int, list[int]]:
    ends = itertools.pairwise(tables.starts.tolist())
    return {
        bucket: tables.rows[start:end].tolist()
        for bucket, (start, end) in zip(tables.codes.tolist(), ends, strict=True)
    }


@pytest.mark.parametrize(
    "parameters", [LshParameters(3, (16,)), LshParameters(2, (16, 3)), LshParameters(4, (5, 4, 1))]
)
def test_a_bucket_holds_the_vectors_nearest_to_its_vertices(parameters):
    vectors = unit_vectors(1, 200)
    tables = build(vectors, parameters, seed=5)
    expected = {}
    for row, vector in enumerate(vectors):
        for table, hashes in enumerate(values_along_vertices(tables, vector)):
            vertices = [int(np.argmax(values)) for values in hashes]
            expected.setdefault(code(parameters, table, vertices), []).append(row)
    assert buckets(tables) == expected
    assert tables.hashing_inner_products == parameters.tables * sum(parameters.dimensions)


def test_a_hash_of_all_dimensions_is_a_rotation_and_one_of_fewer_a_part_of_one():
    tables = build(unit_vectors(1, 10), LshParameters(3, (16, 5)), seed=2)
    for start, size in [(0, 16), (16, 5), (21, 16), (37, 5), (42, 16), (58, 5)]:
        axes = tables.axes[start : start + size].astype(np.float64)
        assert np.allclose(axes @ axes.T, np.eye(size), atol=1e-6)
    assert not np.allclose(tables.axes[:16], tables.axes[21:37])


@pytest.mark.parametrize("dimensions", [(16,), (8, 4), (5, 4, 2)])
def test_the_farther_apart_two_vectors_the_more_rarely_they_share_a_bucket(dimensions):
    pairs, tables = 400, 50
    one = unit_vectors(1, pairs)
    other = unit_vectors(2, pairs)
    across = other - np.einsum("ij,ij->i", one, other)[:, None] * one
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    shares = []
    for angle in np.radians([0, 10, 25, 45, 70, 90, 180]):
        rotated = (np.cos(angle) * one + np.sin(angle) * across).astype(np.float32)
        built = build(np.concatenate([one, rotated]), LshParameters(tables, dimensions), seed=3)
        together = sum(row + pairs in rows for rows in buckets(built).values() for row in rows if row < pairs)
        shares.append(together / pairs / tables)
    assert shares[0] == 1
    assert shares[-1] == 0
    assert all(near > far for near, far in itertools.pairwise(shares[:-1])), shares
    # At a right angle all vertices are equally likely.
    assert shares[-2] < 2 / np.prod([2 * d for d in dimensions])


@pytest.mark.parametrize("m", [0, 1, 2, 500])
def test_every_table_holds_every_vector_once(m):
    parameters = LshParameters(4, (6, 3))
    tables = build(unit_vectors(1, m, topics=20), parameters, seed=1)
    assert (np.diff(tables.codes) > 0).all()
    assert (np.diff(tables.starts) > 0).all()
    assert (tables.starts[0], tables.starts[-1]) == (0, 4 * m)
    for table in range(4):
        inside = tables.codes // parameters.buckets == table
        starts, ends = tables.starts[:-1][inside], tables.starts[1:][inside]
        rows = [row for start, end in zip(starts, ends, strict=True) for row in tables.rows[start:end]]
        assert sorted(rows) == list(range(m))


def test_vectors_hashed_in_parts_are_in_the_same_buckets(monkeypatch):
    vectors = unit_vectors(1, 100)
    whole = buckets(build(vectors, LshParameters(3, (8, 2)), seed=1))
    monkeypatch.setattr(cross_polytope, "_ROWS_AT_ONCE", 7)
    assert buckets(build(vectors, LshParameters(3, (8, 2)), seed=1)) == whole


@pytest.mark.parametrize("parameters", [LshParameters(3, (4,)), LshParameters(2, (4, 2)), LshParameters(3, (3, 2, 3))])
@pytest.mark.parametrize("scores_at_once", [1, 500_000])
def test_buckets_are_probed_in_the_order_of_their_gaps(parameters, scores_at_once, monkeypatch):
    monkeypatch.setattr(cross_polytope, "_SCORES_AT_ONCE", scores_at_once)
    tables = build(unit_vectors(1, 30, n=4), parameters, seed=1)
    queries = unit_vectors(2, 8, n=4)
    every = parameters.tables * parameters.buckets
    expected = []
    for query in queries:
        scores = {}
        for table, hashes in enumerate(values_along_vertices(tables, query)):
            for vertices in itertools.product(*[range(len(values)) for values in hashes]):
                gaps = [(max(values) - values[v]) ** 2 for values, v in zip(hashes, vertices, strict=True)]
                scores[code(parameters, table, vertices)] = sum(gaps)
        expected.append(scores)
    for probes in [1, 2, 3, 5, 10, every // 2, every - 1, every, EVERYTHING]:
        found = list(probed_codes(tables, queries, probes))
        assert len(found) == len(queries)
        for codes, scores in zip(found, expected, strict=True):
            # Scores and not codes: all tables' own buckets have 0, and rounding may exchange others.
            assert len(set(codes.tolist())) == len(codes) == min(probes, every)
            assert np.allclose([scores[c] for c in codes.tolist()], sorted(scores.values())[:probes], atol=1e-6)


def test_fewer_probes_are_the_beginning_of_more_also_where_scores_are_equal():
    # Axes of a permutation, and queries on the diagonals: nearly all sums are equal.
    tables = build(unit_vectors(1, 30, n=4), LshParameters(3, (4, 2, 3)), seed=1)
    axes = np.eye(4, dtype=np.float32)[np.arange(27) % 4]
    tables = cross_polytope.LshTables(tables.vectors, tables.parameters, axes, tables.codes, tables.starts, tables.rows)
    queries = np.array(list(itertools.product([-0.5, 0.5], repeat=4)), np.float32)
    queries = np.concatenate([queries, np.eye(4, dtype=np.float32)])
    every = np.array(list(probed_codes(tables, queries, EVERYTHING)))
    assert every.shape == (20, 3 * 8 * 4 * 6)
    for probes in [1, 2, 3, 4, 7, 50, 300, 575]:
        assert np.array_equal(list(probed_codes(tables, queries, probes)), every[:, :probes])


@pytest.mark.parametrize("probes", [1, 4, 30, EVERYTHING])
def test_it_finds_the_best_of_what_it_looked_at(probes):
    vectors, queries, k = unit_vectors(1, 600, topics=30), unit_vectors(2, 40, topics=30), 25
    tables = build(vectors, LshParameters(4, (8, 4)), seed=1)
    rows, cosines, computed = search(tables, queries, k, probes)
    assert (rows.shape, rows.dtype, cosines.dtype, computed.dtype) == ((40, k), np.int64, np.float32, np.int64)
    members = buckets(tables)
    for query, codes in enumerate(probed_codes(tables, queries, probes)):
        seen = sorted({row for c in codes.tolist() for row in members.get(c, [])})
        assert computed[query] == len(seen)
        best, exact = exact_search(queries[query : query + 1], vectors[seen], k)
        found = len(best[0])
        assert rows[query, :found].tolist() == np.array(seen, np.int64)[best[0]].tolist()
        assert np.allclose(cosines[query, :found], exact[0], atol=1e-6)
        assert (rows[query, found:] == -1).all()
        assert (cosines[query, found:] == -np.inf).all()


def test_all_probes_find_all_and_more_probes_never_lose_a_neighbour():
    vectors, queries = unit_vectors(1, 500, topics=30), unit_vectors(2, 30, topics=30)
    tables = build(vectors, LshParameters(3, (8, 4)), seed=1)
    exact = exact_search(queries, vectors, 20)[0]
    before, looked_at = np.zeros((30, 20), np.bool_), np.zeros(30, np.int64)
    for probes in [1, 2, 3, 5, 10, 20, 50, 100, 200, 384, EVERYTHING]:
        rows, _, computed = search(tables, queries, 20, probes)
        hits = np.array([np.isin(wanted, found) for wanted, found in zip(exact, rows, strict=True)])
        assert (hits >= before).all()
        assert (computed >= looked_at).all()
        before, looked_at = hits, computed
    assert before.all()
    assert (looked_at == 500).all()


def test_it_looks_at_few_to_find_most_where_neighbours_are_near():
    vectors, queries = unit_vectors(1, 5000, n=32, topics=300), unit_vectors(5, 100, n=32, topics=300)
    tables = build(vectors, parameters_for(5000, 32), seed=1)
    exact = exact_search(queries, vectors, 10)[0]
    probes = probes_for_recall(tables, queries, exact, 0.9)
    rows, _, computed = search(tables, queries, 10, probes)
    assert recall(rows, exact) >= 0.9
    assert computed.mean() < 0.15 * 5000


@pytest.mark.parametrize("target", [0.01, 0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("parameters", [LshParameters(1, (16,)), LshParameters(5, (6, 3)), LshParameters(4, (4, 4, 2))])
def test_the_probes_for_a_recall_reach_it_and_one_fewer_does_not(parameters, target):
    vectors, queries = unit_vectors(1, 400, topics=30), unit_vectors(2, 33, topics=30)
    tables = build(vectors, parameters, seed=1)
    exact = exact_search(queries, vectors, 10)[0]
    probes = probes_for_recall(tables, queries, exact, target)
    assert recall(search(tables, queries, 10, probes)[0], exact) >= target
    if probes > 1:
        assert recall(search(tables, queries, 10, probes - 1)[0], exact) < target
        assert probes_for_recall(tables, queries, exact, target, most_probes=probes - 1) is None
    assert probes_for_recall(tables, queries, exact, target, most_probes=probes) == probes


@pytest.mark.parametrize(
    ("exact", "target", "message"),
    [
        (np.zeros((2, 3), np.int64), 0.9, "its shape is"),
        (np.zeros((4, 0), np.int64), 0.9, "its shape is"),
        (np.full((4, 3), -1), 0.9, "goes -1 to -1"),
        (np.full((4, 3), 20), 0.9, "goes 20 to 20"),
        (np.zeros((4, 3), np.int64), 0.0, "recall must be"),
        (np.zeros((4, 3), np.int64), 1.1, "recall must be"),
    ],
)
def test_a_recall_of_something_else_is_refused(exact, target, message):
    tables = build(unit_vectors(1, 20), LshParameters(2, (4,)), seed=1)
    with pytest.raises(ValueError, match=message):
        probes_for_recall(tables, unit_vectors(2, 4), exact, target)


def test_the_seed_alone_decides():
    vectors, queries = unit_vectors(1, 300, topics=20), unit_vectors(2, 20, topics=20)
    one, again, other = (build(vectors, LshParameters(3, (8, 4)), seed) for seed in (1, 1, 2))
    assert buckets(one) == buckets(again) != buckets(other)
    for a, b in zip(search(one, queries, 5, 9), search(again, queries, 5, 9), strict=True):
        assert np.array_equal(a, b)


def test_equal_vectors_are_found_in_the_order_of_rows():
    vectors = np.repeat(unit_vectors(1, 1), 50, axis=0)
    tables = build(vectors, LshParameters(3, (8, 4)), seed=1)
    assert len(tables.codes) == 3
    rows, cosines, computed = search(tables, vectors[:2], 7, probes=1)
    assert rows.tolist() == [list(range(7))] * 2
    assert np.allclose(cosines, 1)
    assert computed.tolist() == [50, 50]


@pytest.mark.parametrize(("m", "q", "k"), [(0, 4, 3), (0, 0, 3), (5, 0, 3), (5, 4, 0), (1, 4, 3), (5, 4, 9)])
def test_of_few_or_none_it_finds_few_or_none(m, q, k):
    vectors, queries = unit_vectors(1, m), unit_vectors(2, q)
    rows, cosines, computed = search(build(vectors, parameters_for(m, 16), seed=1), queries, k, EVERYTHING)
    assert rows.shape == cosines.shape == (q, k)
    found = min(m, k)
    assert np.array_equal(rows[:, :found], exact_search(queries, vectors, k)[0])
    assert (rows[:, found:] == -1).all()
    assert (cosines[:, found:] == -np.inf).all()
    assert computed.tolist() == [m] * q


@pytest.mark.parametrize("n", [1, 2, 3, 64, 256])
@pytest.mark.parametrize("m", [0, 1, 10, 1000, 30_000, 1_000_000])
def test_chosen_parameters_fit_the_vectors(m, n):
    parameters = parameters_for(m, n)
    assert parameters.tables >= 1
    assert all(1 <= d <= n for d in parameters.dimensions)
    assert parameters.buckets >= m / 2
    assert parameters.buckets <= 8 * max(m, 1) or n == 1
    # Hashing costs less than looking at a tenth, once there are enough vectors for it to matter.
    assert parameters.tables * sum(parameters.dimensions) <= max(m / 10, 100)


@pytest.mark.parametrize(
    "parameters",
    [
        LshParameters(0, (4,)),
        LshParameters(2, ()),
        LshParameters(2, (4, 0)),
        LshParameters(2, (17,)),
        LshParameters(2, (16,) * 13),
    ],
)
def test_impossible_parameters_are_refused(parameters):
    with pytest.raises(ValueError, match="LshParameters"):
        build(unit_vectors(1, 5), parameters, seed=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (unit_vectors(1, 5)[0], "two dimensions"),
        (unit_vectors(1, 5).astype(np.float64), "float32"),
        (np.empty((5, 0), np.float32), "two dimensions"),
        (2 * unit_vectors(1, 5), "row 0 is 2"),
        (np.full((5, 16), np.nan, np.float32), "row 0 is nan"),
    ],
)
def test_wrong_vectors_and_queries_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        build(wrong, LshParameters(2, (4,)), seed=1)
    tables = build(unit_vectors(1, 5), LshParameters(2, (4,)), seed=1)
    with pytest.raises(ValueError, match=message):
        search(tables, wrong, 1, 1)


def test_queries_of_other_dimensions_and_wrong_counts_are_refused():
    tables = build(unit_vectors(1, 5), LshParameters(2, (4,)), seed=1)
    with pytest.raises(ValueError, match="do not fit"):
        search(tables, unit_vectors(1, 5, n=8), 1, 1)
    for k, probes in [(-1, 1), (1, 0)]:
        with pytest.raises(ValueError, match="probes 1 or more"):
            search(tables, unit_vectors(1, 5), k, probes)
