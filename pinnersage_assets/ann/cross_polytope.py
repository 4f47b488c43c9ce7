"""Locality-sensitive hashing with cross-polytopes ("LSH Orthoplex"): what the paper's Table 2 compares HNSW with.

A hash of x is the vertex of the cross-polytope that is nearest to a random rotation of x: the coordinate of largest
magnitude, and its sign (Terasawa and Tanaka, 2007; Andoni, Indyk, Laarhoven, Razenshteyn and Schmidt, "Practical and
Optimal LSH for Angular Distance", 2015). The vectors whose hashes in a table are all the same are a bucket. A query is
compared with the vectors of its own bucket in every table, and then with those of the buckets that it nearly fell into:
multi-probing. Where y is the query's largest coordinate and v its coordinate along another vertex, the latter has a
gap of (y - v)^2; buckets are probed in the order of the sum of their gaps, over all tables together.

What is counted: cosines computed, of distinct vectors, and beside them the inner products of hashing. What is not, as
it is not with HNSW: choosing what to look at, which here is in proportion to the probes, half of them of empty buckets.

Rotations are products with dense matrices, with which NumPy is faster than with fast Hadamard transforms: 1 against
29 ms for 500 queries and 3 rotations of 256 dimensions. Counted in operations it is the other way round: such a
rotation takes 3 n (1 + log2 n), as 14 inner products do, where a dense one takes 256 inner products.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, log, prod

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.population import LARGEST_CODE, ranges

_ROWS_AT_ONCE = 4096  # vectors hashed together when tables are built
_QUERIES_AT_ONCE = 1024  # hashed together
_SCORES_AT_ONCE = 500_000  # buckets scored together: 4 MB an array
_GATHERED_AT_ONCE = 1024  # vectors compared together: 1 MB at 256 dimensions, which stays in the processor's cache
_FIRST_LOOK = 16  # one query in so many tells about how many probes all of them need


@dataclass(frozen=True)
class LshParameters:
    """How many tables, and what makes a bucket.

    Attributes:
        tables: how many tables, 1 or more.
        dimensions: of each hash of a table, 1 to n. A hash of d dimensions takes d coordinates of a rotation and has
            2 d values; those of all hashes together number a table's buckets.
    """

    tables: int
    dimensions: tuple[int, ...]

    @property
    def buckets(self) -> int:
        """Of one table, empty ones included."""
        return prod(2 * d for d in self.dimensions)


@dataclass(frozen=True)
class LshTables:
    """The tables of some vectors as flat arrays, in which the rows of a bucket stand together.

    Attributes:
        vectors: (m, n) float32, the unit vectors themselves.
        parameters: how they are hashed.
        axes: (tables * sum of dimensions, n) float32, orthonormal within a hash: table by table, hash by hash.
        codes: (b,) int64 ascending, the buckets that are not empty. A code is a number of these digits: the table, and
            for each hash the vertex, j for +e_j and d + j for -e_j.
        starts: (b + 1,) int64, where in ``rows`` each bucket begins, and the end of the last.
        rows: (tables * m,) int32 into ``vectors``, ascending within a bucket.
    """

    vectors: NDArray[np.float32]
    parameters: LshParameters
    axes: NDArray[np.float32]
    codes: NDArray[np.int64]
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]

    @property
    def hashing_inner_products(self) -> int:
        """Inner products of n dimensions that hashing a query takes here, however many buckets are probed."""
        return len(self.axes)


def parameters_for(vectors: int, dimensions: int) -> LshParameters:
    """Choose parameters by which few cosines are computed for the 100 nearest at a recall of 0.95 to 0.98.

    Three hashes of d = m^(1/3) / 2 dimensions each make about as many buckets as there are vectors, and d tables keep
    the 3 d^2 inner products of hashing below the cosines. Found by trial on simulated pins, 1,000 to 100,000 of 64
    and of 256 dimensions: more buckets and tables save cosines, but more than that in hashing or in empty probes; two
    hashes of more dimensions need fewer probes but a tenth to a fifth more inner products in all.

    Args:
        vectors: m, how many will be in the tables; 0 is taken as 1.
        dimensions: n, of the vectors; where (2 n)^3 buckets are too few, there are more hashes.
    """
    vectors = max(vectors, 1)
    hashes = 3
    while (2 * dimensions) ** hashes < vectors:
        hashes += 1
    each = min(max(round(vectors ** (1 / hashes) / 2), 1), dimensions)
    last = min(max(round(vectors / (2 * each) ** (hashes - 1) / 2), 1), dimensions)
    return LshParameters(max(round(vectors ** (1 / 3) / 2), 1), (each,) * (hashes - 1) + (last,))


def build(vectors: NDArray[np.float32], parameters: LshParameters, seed: int) -> LshTables:
    """Hash vectors into tables.

    Args:
        vectors: (m, n) unit vectors; kept, not copied.
        parameters: how.
        seed: of the rotations.

    Raises:
        ValueError: vectors or parameters are not as described.
    """
    _check_vectors(vectors, "vectors")
    m, n = vectors.shape
    _check_parameters(parameters, n)
    axes = _axes(parameters, n, seed)
    codes, starts = [], []
    rows = np.empty((parameters.tables, m), dtype=np.int32)
    for table, of_table in enumerate(np.split(axes, parameters.tables)):
        hashed = np.empty(m, dtype=np.int64)
        for start in range(0, m, _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            hashed[part] = _codes(vectors[part] @ of_table.T, parameters.dimensions)
        rows[table] = np.argsort(hashed, kind="stable")
        hashed = hashed[rows[table]]
        first = np.flatnonzero(np.diff(hashed, prepend=-1))
        codes.append(table * parameters.buckets + hashed[first])
        starts.append(table * m + first)
    starts.append(np.array([rows.size]))
    return LshTables(vectors, parameters, axes, np.concatenate(codes), np.concatenate(starts), rows.ravel())


def search(
    tables: LshTables, queries: NDArray[np.float32], k: int, probes: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """The k vectors of highest cosine for each query, among those in the buckets probed.

    More probes look at the same vectors and at more.

    Args:
        tables: of the vectors.
        queries: (q, n) unit vectors.
        k: how many to find.
        probes: how many buckets of all tables together are looked up, empty ones included; the best bucket of every
            table comes first. More than there are are as good as all.

    Returns:
        rows (q, k) int64 into the vectors, and their cosines float32, highest first and equal ones by row; -1 and -inf
        where fewer were found. And (q,) int64, how many cosines were computed, each vector's once.

    Raises:
        ValueError: queries, k or probes are not as described.
    """
    _check_queries(tables, queries)
    if k < 0 or probes < 1:
        raise ValueError(f"k must be 0 or more and probes 1 or more; they are {k} and {probes}")
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
    computed = np.zeros(len(queries), dtype=np.int64)
    if len(tables.vectors) == 0:
        return rows, cosines, computed
    seen = np.zeros(len(tables.vectors), dtype=np.bool_)
    for query, codes in enumerate(probed_codes(tables, queries, probes)):
        # A mark a vector, and not a sort, makes them distinct: they come out ascending, which also gathers faster.
        seen[_rows_in(tables, codes)] = True
        candidates = np.flatnonzero(seen)
        seen[candidates] = False
        found = _cosines(tables.vectors, candidates, queries[query])
        best = _best(found, k)
        computed[query] = len(candidates)
        rows[query, : len(best)] = candidates[best]
        cosines[query, : len(best)] = found[best]
    return rows, cosines, computed


def probes_for_recall(
    tables: LshTables,
    queries: NDArray[np.float32],
    exact: NDArray[np.int64],
    recall: float,
    most_probes: int | None = None,
) -> int | None:
    """The smallest number of probes with which a search finds a share of the true neighbours.

    Nothing is searched: a neighbour is found as soon as one of its buckets is probed, and the rank of the first of them
    among the query's probes says when.

    Args:
        tables: of the vectors.
        queries: (q, n) unit vectors.
        exact: (q, k) rows of the true neighbours, as of exact_search.
        recall: the share to reach over all queries, above 0 and at most 1.
        most_probes: where to give up; None stands for all buckets, with which every vector is looked at.

    Returns:
        The number, or None where it is above ``most_probes``.

    Raises:
        ValueError: the arguments are not as described, or there is no neighbour to be found.
    """
    _check_queries(tables, queries)
    if exact.ndim != 2 or len(exact) != len(queries) or exact.size == 0:
        raise ValueError(
            f"exact must have k rows, k > 0, for each of {len(queries)} queries; its shape is {exact.shape}"
        )
    if exact.min() < 0 or exact.max() >= len(tables.vectors):
        raise ValueError(f"exact must be rows of {len(tables.vectors)} vectors; it goes {exact.min()} to {exact.max()}")
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be above 0 and at most 1; it is {recall}")
    most = tables.parameters.tables * tables.parameters.buckets
    most = most if most_probes is None else min(most, most_probes)
    wanted = _codes_of_rows(tables, exact)
    probes = min(most, 16 * tables.parameters.tables)
    for step in (_FIRST_LOOK, 1):
        while (found := _probes_within(tables, queries[::step], wanted[::step], recall, probes)) is None:
            if probes >= most:
                break
            probes = min(most, 2 * probes)
        # The few queries of the first look may need somewhat less than all.
        probes = min(most, ceil(1.1 * (found or most)))
    return found


def probed_codes(tables: LshTables, queries: NDArray[np.float32], probes: int) -> Iterator[NDArray[np.int64]]:
    """Yield for each query the buckets that are probed, those of the smallest sum of gaps first.

    Args:
        tables: of the vectors.
        queries: (q, n) unit vectors.
        probes: how many buckets, empty ones included.

    Yields:
        (min(probes, all buckets),) int64 codes as of LshTables. Of equal sums the order is fixed: for the same queries,
        fewer probes are the beginning of more.
    """
    parameters = tables.parameters
    probes = min(probes, parameters.tables * parameters.buckets)
    pairs = ceil(probes * (1 + log(probes)))
    of_a_table = sum(2 * d for d in parameters.dimensions) + parameters.buckets // (2 * parameters.dimensions[-1])
    at_once = max(1, _SCORES_AT_ONCE // (parameters.tables * min(of_a_table, pairs) + pairs))
    # Sums of a matrix product are rounded differently in other blocks: these must not depend on the probes.
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        products = queries[start : start + _QUERIES_AT_ONCE] @ tables.axes.T
        products = products.reshape(len(products), parameters.tables, -1)
        for first in range(0, len(products), at_once):
            yield from _lowest_sums(products[first : first + at_once], parameters.dimensions, probes)


def _lowest_sums(products: NDArray[np.float32], dimensions: tuple[int, ...], probes: int) -> NDArray[np.int64]:
    """(q, probes) int64 codes as probed_codes, of (q, tables, sum of dimensions) coordinates."""
    *inner, (gaps, vertices) = (_gaps(hashed) for hashed in _hashes(products, dimensions))
    scores = np.zeros((*products.shape[:2], 1), dtype=np.float32)
    codes = np.broadcast_to(np.arange(products.shape[1])[:, None], scores.shape)
    for more, digits in inner:
        left, right = _pairs(scores.shape[2], more.shape[2], probes)
        scores, pairs = _lowest(scores[:, :, left] + more[:, :, right], probes)
        codes = np.take_along_axis(codes, left[pairs], axis=2) * more.shape[2]
        codes += np.take_along_axis(digits, right[pairs], axis=2)
    return _merged(scores, codes, gaps, vertices, probes)


def _merged(
    scores: NDArray[np.float32],
    codes: NDArray[np.int64],
    gaps: NDArray[np.float32],
    vertices: NDArray[np.int64],
    probes: int,
) -> NDArray[np.int64]:
    """The codes of the lowest sums over all tables.

    Args:
        scores: (q, tables, w) sums over all hashes but the last, ascending.
        codes: (q, tables, w) int64, of which buckets they are so far.
        gaps: (q, tables, v) of the last hash, ascending.
        vertices: (q, tables, v) int64 that have them.
        probes: how many; at most those of all tables.
    """
    tables, w, v = *scores.shape[1:], gaps.shape[2]
    # The last bucket's score is at most that of as many buckets, chosen evenly from all tables.
    left, right = _pairs(w, v, ceil(probes / tables))
    some = (scores[:, :, left] + gaps[:, :, right]).reshape(len(scores), -1)
    bound = np.partition(some, probes - 1, axis=1)[:, probes - 1, None, None]
    # Rounding could otherwise cut off what is at the bound.
    room = bound * np.float32(1 + 1e-6) - gaps
    within = _count_up_to(scores, room)
    probed = np.empty((len(scores), probes), dtype=np.int64)
    scores, gaps = (a.reshape(len(a), -1) for a in (scores, gaps))
    codes, vertices = (a.reshape(len(a), -1) for a in (codes, vertices))
    begin = np.repeat(np.arange(tables) * w, v)
    for query, counts in enumerate(within.reshape(len(scores), -1)):
        left, right = ranges(begin, counts), np.repeat(np.arange(tables * v), counts)
        best = _lowest(scores[query, left] + gaps[query, right], probes)[1]
        probed[query] = codes[query, left[best]] * v + vertices[query, right[best]]
    return probed


def _count_up_to(ascending: NDArray[np.float32], bounds: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many of (..., w) ascending scores, 0 or more, are at most each of (..., v) bounds."""
    w = ascending.shape[-1]
    # One search for all: a row's number before the bits of its scores makes everything one ascending array.
    row = np.arange(ascending.size // w, dtype=np.uint64).reshape(*ascending.shape[:-1], 1) << np.uint64(32)
    places = np.searchsorted((row | _bits(ascending)).ravel(), row | _bits(np.maximum(bounds, 0)), side="right")
    return np.where(bounds < 0, 0, places - (row >> np.uint64(32)).astype(np.int64) * w)


def _gaps(hashed: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For (..., d) coordinates, (..., 2 d) squared gaps to the largest, ascending, and the vertices that have them."""
    values = np.concatenate([hashed, -hashed], axis=-1)
    return _lowest((values.max(axis=-1, keepdims=True) - values) ** 2, values.shape[-1])


def _lowest(scores: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The lowest of (..., w) scores, 0 or more, ascending, and their places; of equal ones the first."""
    # Score and place in one integer: no two are equal, and sorting integers is several times faster than argsort.
    keys = _bits(scores) << np.uint64(32) | np.arange(scores.shape[-1], dtype=np.uint64)
    if count < scores.shape[-1]:
        keys = np.partition(keys, count - 1, axis=-1)[..., :count]
    keys.sort(axis=-1)
    return (keys >> np.uint64(32)).astype(np.uint32).view(np.float32), (keys & np.uint64(2**32 - 1)).astype(np.int64)


def _bits(scores: NDArray[np.float32]) -> NDArray[np.uint64]:
    """The bits of float32 scores, 0 or more, which are in the order of the scores."""
    return scores.view(np.uint32).astype(np.uint64)


def _pairs(left: int, right: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs (i, j) of two ascending lists' places that can be among the ``count`` lowest sums, by i, then j.

    (i + 1) (j + 1) sums are at most the sum of i and j: its own, and those of all places before.
    """
    widths = np.minimum(count // np.arange(1, min(left, count) + 1), right)
    return np.repeat(np.arange(len(widths)), widths), ranges(np.zeros(len(widths), dtype=np.int64), widths)


def _axes(parameters: LshParameters, n: int, seed: int) -> NDArray[np.float32]:
    """Deal the axes of random rotations out to the hashes; each gets axes of one and the same rotation.

    Hashes of axes that are orthogonal to each other err more independently than those of axes drawn apart: a tenth
    fewer cosines. Columns of Q span a uniformly random rotation up to signs, which only rename vertices.
    """
    generator = np.random.default_rng(seed)
    axes, rotation = [], np.empty((0, n))
    for d in parameters.dimensions * parameters.tables:
        if len(rotation) < d:
            rotation = np.linalg.qr(generator.standard_normal((n, n)))[0].T
        axes.append(rotation[:d])
        rotation = rotation[d:]
    return np.concatenate(axes).astype(np.float32)


def _codes(products: NDArray[np.float32], dimensions: tuple[int, ...]) -> NDArray[np.int64]:
    """(rows,) int64 codes within one table of (rows, sum of dimensions) coordinates."""
    codes = np.zeros(len(products), dtype=np.int64)
    for hashed in _hashes(products, dimensions):
        d = hashed.shape[1]
        largest = np.abs(hashed).argmax(axis=1)
        codes = codes * (2 * d) + largest + d * (hashed[np.arange(len(hashed)), largest] < 0)
    return codes


def _hashes(products: NDArray[np.float32], dimensions: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """Split (..., sum of dimensions) coordinates into those of each hash."""
    return np.split(products, np.cumsum(dimensions)[:-1], axis=-1)


def _rows_in(tables: LshTables, codes: NDArray[np.int64]) -> NDArray[np.int32]:
    """The rows in buckets of those codes, a row as often as it is in one; there must be vectors."""
    codes = np.sort(codes)  # neighbouring needles are found faster
    places = np.minimum(np.searchsorted(tables.codes, codes), len(tables.codes) - 1)
    places = places[tables.codes[places] == codes]
    starts = tables.starts[places]
    return tables.rows[ranges(starts, tables.starts[places + 1] - starts)]


def _cosines(vectors: NDArray[np.float32], rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
    cosines = np.empty(len(rows), dtype=np.float32)
    gathered = np.empty((min(_GATHERED_AT_ONCE, len(rows)), vectors.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), _GATHERED_AT_ONCE):
        part = rows[start : start + _GATHERED_AT_ONCE]
        # Without a mode that needs no check, NumPy would gather into a buffer of its own first.
        np.take(vectors, part, axis=0, out=gathered[: len(part)], mode="clip")
        np.dot(gathered[: len(part)], query, out=cosines[start : start + len(part)])
    return cosines


def _best(cosines: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of the k highest, highest first; of equal ones the first."""
    places = np.arange(len(cosines))
    if 0 < k < len(cosines):
        places = np.flatnonzero(cosines >= np.partition(cosines, -k)[-k])
    return places[np.argsort(-cosines[places], kind="stable")[:k]]


def _probes_within(
    tables: LshTables, queries: NDArray[np.float32], wanted: NDArray[np.int64], recall: float, probes: int
) -> int | None:
    """As probes_for_recall, of (q, tables, k) codes of the neighbours' buckets."""
    ranks = np.empty((len(queries), wanted.shape[2]), dtype=np.int64)
    for query, codes in enumerate(probed_codes(tables, queries, probes)):
        order = np.argsort(codes)
        places = order[np.minimum(np.searchsorted(codes, wanted[query], sorter=order), len(codes) - 1)]
        ranks[query] = np.where(codes[places] == wanted[query], places + 1, probes + 1).min(axis=0)
    # As many neighbours as make the share; one that it exceeds by a rounding error alone is not asked for.
    last = ceil(recall * ranks.size * (1 - 1e-12)) - 1
    enough = int(np.partition(ranks, last, axis=None)[last])
    return enough if enough <= probes else None


def _codes_of_rows(tables: LshTables, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(q, tables, k) int64, in which bucket of each table (q, k) rows are."""
    m = len(tables.vectors)
    codes = np.empty((len(rows), tables.parameters.tables, rows.shape[1]), dtype=np.int64)
    of_place = np.repeat(tables.codes, np.diff(tables.starts))
    of_row = np.empty(m, dtype=np.int64)
    for table in range(tables.parameters.tables):
        places = slice(table * m, (table + 1) * m)
        of_row[tables.rows[places]] = of_place[places]
        codes[:, table] = of_row[rows]
    return codes


def _check_parameters(parameters: LshParameters, n: int) -> None:
    if parameters.tables < 1 or not parameters.dimensions or not all(1 <= d <= n for d in parameters.dimensions):
        raise ValueError(f"there must be tables, and hashes of 1 to {n} dimensions; {parameters} has not")
    if parameters.tables * parameters.buckets > LARGEST_CODE:
        raise ValueError(f"{parameters} has {parameters.buckets:.2g} buckets a table, too many for a code of 64 bits")


def _check_queries(tables: LshTables, queries: NDArray[np.float32]) -> None:
    _check_vectors(queries, "queries")
    if queries.shape[1] != tables.vectors.shape[1]:
        raise ValueError(f"queries of shape {queries.shape} do not fit vectors of shape {tables.vectors.shape}")


def _check_vectors(vectors: NDArray[np.float32], name: str) -> None:
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype != np.float32:
        raise ValueError(f"{name} must be float32 of two dimensions; they are {vectors.dtype} of shape {vectors.shape}")
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    if len(wrong := np.flatnonzero(~np.isclose(lengths, 1, atol=1e-3))):
        raise ValueError(f"{name} must have unit length; that of row {wrong[0]} is {lengths[wrong[0]]}")
