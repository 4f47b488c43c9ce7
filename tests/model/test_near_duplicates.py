"""Groups of near-duplicates against a plain loop over the pins in order."""

import numpy as np
import pytest

from pinnersage_assets.model import hyperplane_hashing
from pinnersage_assets.model import near_duplicates as module
from pinnersage_assets.model.hyperplane_hashing import hash_tables
from pinnersage_assets.model.near_duplicates import group_near_duplicates, nearest_representatives
from pinnersage_assets.model.selected_vectors import SelectedVectors
from pinnersage_assets.settings import SimulationSettings
from pinnersage_assets.sources.simulated_world import SimulatedWorld

THRESHOLD = 0.97  # the default


def candidates(vectors, threshold, seed):
    """(rows, rows) bool: which pairs hashing proposes."""
    tables = hash_tables(threshold, vectors.shape[1], seed)
    left, right = np.indices((len(vectors), len(vectors))).reshape(2, -1)
    hashes = tables.hashes(vectors)
    found = are_candidates(tables, [part[left] for part in hashes], [part[right] for part in hashes])
    return found.reshape(len(vectors), len(vectors))


def are_candidates(tables, left, right):
    """Of each pair of codes and sketches, whether hashing proposes it: a shared code, and sketches alike."""
    (left_codes, left_sketches), (right_codes, right_sketches) = left, right
    return (left_codes == right_codes).any(axis=1) & tables.have_like_sketches(left_sketches, right_sketches)


def one_after_another(vectors, threshold, proposed=None):
    """The groups, by a plain loop; of the pairs proposed, or of all."""
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    canonical, cosine = np.arange(len(wide)), np.ones(len(wide))
    representatives = []
    for row in range(len(wide)):
        cosines = wide[representatives] @ wide[row]
        if proposed is not None:
            cosines[~proposed[representatives, row]] = -np.inf
        if len(representatives) and cosines.max() >= threshold:
            canonical[row] = representatives[int(cosines.argmax())]
            cosine[row] = cosines.max()
        else:
            representatives.append(row)
    return canonical, cosine


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def crowded_pins(seed, rows, d):
    """Pins around some centres, of which a pin is often within the threshold of several earlier ones."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, rows // 12), d))
    spread = rng.choice([0.05, 0.2, 0.35], size=(rows, 1))
    return unit(centres[rng.integers(len(centres), size=rows)] + spread * rng.standard_normal((rows, d)))


def planted_pins(seed, rows, d, topics=20, share=0.3):
    """The simulator's pins with more repeats, and which pin each repeats or else itself."""
    world = SimulatedWorld(SimulationSettings(dimensions=d, topics=topics, near_duplicate_share=share), seed)
    pin_ids = np.arange(1, rows + 1)
    return world.vectors(pin_ids), world.planted_original(pin_ids) - 1


def use_way(monkeypatch, way):
    """Let every comparison go one way: tables that expand pairs, tables with products of buckets, or products alone."""
    monkeypatch.setattr(module, "_FEW_ROWS", np.inf if way == "products" else 0)
    monkeypatch.setattr(module, "_CODES_ROWS", 0)
    monkeypatch.setattr(module, "_CROWD_PAIRS", {"buckets": -1, "pairs": np.inf}.get(way, 500))
    monkeypatch.setattr(module, "_CROWD_FACTOR", 0)


@pytest.mark.parametrize("way", ["products", "pairs", "buckets"])
@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.97])
def test_groups_are_those_of_a_loop_over_the_candidates(monkeypatch, threshold, way):
    use_way(monkeypatch, way)
    monkeypatch.setattr(module, "_PAIR_BYTES", 2048)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 100)
    for seed, (rows, d) in enumerate([(1, 4), (300, 3), (300, 8), (500, 64)]):
        vectors = crowded_pins(seed, rows, d)
        # With longer codes many a pair is missed, the nearest among them.
        monkeypatch.setattr(hyperplane_hashing, "RECALL_AT_THRESHOLD", 0.6)
        proposed = candidates(vectors, threshold, seed)
        expected_canonical, expected_cosine = one_after_another(vectors, threshold, proposed)
        if rows == 500 and threshold == 0.9:
            assert not np.array_equal(expected_canonical, one_after_another(vectors, threshold)[0])
        for block_rows in (7, 100):
            monkeypatch.setattr(module, "_BLOCK_ROWS", block_rows)
            canonical, cosine = group_near_duplicates(vectors, threshold, seed=seed)
            np.testing.assert_array_equal(canonical, expected_canonical)
            np.testing.assert_allclose(cosine, expected_cosine, atol=1e-7)
            assert (canonical.dtype, cosine.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("d", [64, 256])
def test_planted_repeats_are_found_and_nothing_else(d):
    for seed in range(4):
        vectors, originals = planted_pins(seed, 6000, d)
        planted = originals != np.arange(len(vectors))
        assert 1500 < planted.sum() < 2100
        canonical, _ = group_near_duplicates(vectors, THRESHOLD, seed=seed)
        found = canonical != np.arange(len(vectors))
        right = (canonical == originals) & planted
        assert right.sum() >= 0.97 * planted.sum()
        assert right.sum() >= 0.99 * found.sum()


@pytest.mark.parametrize("threshold", [0.8, 0.9, THRESHOLD, 0.99])
def test_pairs_at_the_threshold_itself_are_nearly_all_found(threshold):
    rng = np.random.default_rng(9)
    left, noise = unit(rng.standard_normal((2, 4000, 128)).reshape(-1, 128)).reshape(2, 4000, 128)
    noise = unit(noise - (noise * left).sum(axis=1, keepdims=True) * left)
    right = unit((threshold + 1e-6) * left + np.sqrt(1 - threshold**2) * noise)
    tables = hash_tables(threshold, 128, seed=3)
    found = are_candidates(tables, tables.hashes(left), tables.hashes(right)).mean()
    assert found >= 0.96  # 0.97 expected, with a standard error of 0.003
    if threshold < 0.99:
        assert found <= 0.985  # more tables, or shorter codes, than the recall needs


def test_codes_are_of_each_vector_alone_to_the_last_bit():
    rng = np.random.default_rng(10)
    for d in (2, 64, 256, 1000):
        # Coordinates of few digits lie in planes more often than any others would.
        vectors = unit(np.concatenate([rng.standard_normal((300, d)), rng.choice([1, 2, 100], size=(40, d))]))
        tables = hash_tables(THRESHOLD, d, seed=0)
        codes, sketches = tables.hashes(vectors)
        integers = np.rint(vectors * np.float32(tables.scale)).astype(np.int64)
        sides = integers @ tables.planes.T.astype(np.int64) >= 0
        np.testing.assert_array_equal(
            np.unpackbits(sketches.view(np.uint8), axis=1), sides[:, : sketches.shape[1] * 64]
        )
        for table, sides_of_table in enumerate(np.split(sides, hyperplane_hashing.TABLES, axis=1)):
            _, number = np.unique(sides_of_table, axis=0, return_inverse=True)
            assert_same_groups(codes[:, table], number)
        largest = np.linalg.norm(integers, axis=1).max() * np.linalg.norm(tables.planes, axis=1).max()
        assert largest < 2**24  # so every partial sum is exact in float32
        for rows in (1, 3, 17):
            parts = np.array_split(vectors, len(vectors) // rows)
            np.testing.assert_array_equal(np.concatenate([tables.hashes(part)[0] for part in parts]), codes)
            np.testing.assert_array_equal(np.concatenate([tables.hashes(part)[1] for part in parts]), sketches)


def assert_same_groups(left, right):
    np.testing.assert_array_equal(left[:, None] == left, right[:, None] == right)


def test_another_seed_proposes_other_pairs_and_the_same_seed_the_same():
    vectors = crowded_pins(2, 400, 32)
    proposed = [candidates(vectors, 0.95, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(proposed[0], proposed[1])
    assert (proposed[0] != proposed[2]).any()


def test_how_the_work_is_divided_changes_nothing_at_all(monkeypatch):
    vectors, _ = planted_pins(5, 3000, 64)
    canonical, cosine = group_near_duplicates(vectors, 0.95)
    assert 100 < len(np.unique(canonical)) < 2900
    for way, block_rows in (("products", 13), ("pairs", 100), ("buckets", 100), ("pairs", 1000)):
        use_way(monkeypatch, way)
        monkeypatch.setattr(module, "_BLOCK_ROWS", block_rows)
        again_canonical, again_cosine = group_near_duplicates(vectors, 0.95)
        np.testing.assert_array_equal(again_canonical, canonical)
        np.testing.assert_array_equal(again_cosine, cosine)


@pytest.mark.parametrize("way", ["products", "pairs", "buckets"])
def test_day_by_day_gives_what_all_at_once_gives(monkeypatch, way):
    # The threshold is the very cosine of many pairs: it must fall on the same side every time.
    angles = 0.05 * np.arange(40)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rng = np.random.default_rng(6)
    vectors = unit(np.concatenate([ring[rng.integers(40, size=400)] @ rng.standard_normal((2, 48)), np.eye(48)]))
    vectors = np.concatenate([vectors, crowded_pins(6, 900, 48)])[rng.permutation(1348)]
    first, second = np.triu_indices(len(vectors), 1)
    frequent = np.sort(module._cosines(vectors, first, second))[[-20_000, -2_000]]
    # Some pairs are missed, and the same ones every time.
    monkeypatch.setattr(hyperplane_hashing, "RECALL_AT_THRESHOLD", 0.6)
    for threshold in (0.97, *frequent.tolist()):
        canonical, cosine = group_near_duplicates(vectors, threshold)
        with monkeypatch.context() as patch:
            use_way(patch, way)
            patch.setattr(module, "_BLOCK_ROWS", 50)
            by_day = day_by_day(vectors, threshold, [3, 3, 200, 201, 900])
        np.testing.assert_array_equal(by_day[0], canonical)
        np.testing.assert_array_equal(by_day[1], cosine)


def day_by_day(vectors, threshold, first_rows):
    known = np.empty(0, dtype=np.int64)
    canonical, cosine = [], []
    for day in np.array_split(np.arange(len(vectors)), first_rows):
        rows = np.concatenate([known, day])
        groups, cosines = group_near_duplicates(vectors[rows], threshold, n_representatives=len(known))
        np.testing.assert_array_equal(groups[: len(known)], np.arange(len(known)))
        np.testing.assert_array_equal(cosines[: len(known)], 1.0)
        canonical.append(rows[groups[len(known) :]])
        cosine.append(cosines[len(known) :])
        known = np.concatenate([known, day[groups[len(known) :] == np.arange(len(known), len(rows))]])
    return np.concatenate(canonical), np.concatenate(cosine)


@pytest.mark.parametrize("way", ["products", "pairs", "buckets"])
def test_representatives_may_be_looked_at_in_shards_of_any_size_and_order(monkeypatch, way):
    # Some pairs are missed, some pins are equally near to several representatives.
    monkeypatch.setattr(hyperplane_hashing, "RECALL_AT_THRESHOLD", 0.6)
    vectors, threshold, known, rng = crowded_pins(4, 900, 48), 0.9, 600, np.random.default_rng(4)
    vectors[rng.integers(known, 900, size=60)] = vectors[rng.integers(known, size=60)]
    vectors[1:known:40] = vectors[0:known:40]
    expected = group_near_duplicates(vectors, threshold, known)
    proposed = candidates(vectors, threshold, 0)
    use_way(monkeypatch, way)
    new = np.arange(known, 900)
    for number in (1, 3, 40):
        shards, joins = np.array_split(np.arange(known), number), []
        for shard in (shards[n] for n in rng.permutation(number)):
            rows = np.concatenate([shard, new])
            pins, representatives, cosines = nearest_representatives(
                SelectedVectors(vectors, rows), threshold, len(shard)
            )
            joins.append((rows[pins], rows[representatives], cosines))
            assert_nearest(vectors, threshold, proposed, shard, new, joins[-1])
        found = [np.concatenate(column) for column in zip(*joins, strict=True)]
        assert len(found[0]) > 30
        groups = group_near_duplicates(vectors, threshold, known, found=found)
        np.testing.assert_array_equal(groups[0], expected[0])
        np.testing.assert_array_equal(groups[1], expected[1])


def assert_nearest(vectors, threshold, proposed, representatives, new, joins):
    """Compare with a plain loop over the candidates."""
    wanted = []
    for row in new:
        cosines = module._cosines(vectors, np.full(len(representatives), row), representatives)
        cosines[~proposed[representatives, row]] = -np.inf
        if cosines.max() >= threshold:
            wanted.append((row, representatives[cosines.argmax()], cosines.max()))
    np.testing.assert_array_equal(np.array(wanted).reshape(-1, 3), np.stack(joins, axis=1))


def test_a_few_new_pins_do_not_take_the_codes_of_all_earlier_ones(monkeypatch):
    hashed = []
    hashes = hyperplane_hashing.HashTables.hashes

    def count(tables, vectors):
        hashed.append(len(vectors))
        return hashes(tables, vectors)

    vectors, originals = planted_pins(3, 5000, 64)
    monkeypatch.setattr(hyperplane_hashing.HashTables, "hashes", count)
    new, representatives, _ = nearest_representatives(vectors, THRESHOLD, 4900)
    np.testing.assert_array_equal(representatives[originals[new] == representatives], originals[new])
    assert 0 < sum(hashed) <= 2 * 100


def test_a_thousand_copies_are_compared_with_their_representative_alone(monkeypatch):
    compared = []
    compare = module._Search._compare

    def count(search, rows, representatives):
        compared.append(len(rows))
        compare(search, rows, representatives)

    monkeypatch.setattr(module._Search, "_compare", count)
    use_way(monkeypatch, "products")
    vectors = np.repeat(crowded_pins(1, 1, 32), 5000, axis=0)
    canonical, _ = group_near_duplicates(vectors, THRESHOLD)
    assert (canonical == 0).all()
    assert sum(compared) == 4999


def test_a_chain_of_small_steps_does_not_join_unlike_pins():
    angles = 0.15 * np.arange(9)  # one step is a cosine of 0.989, two are 0.955
    vectors = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    canonical, cosine = group_near_duplicates(vectors, 0.97)
    np.testing.assert_array_equal(canonical, [0, 0, 2, 2, 4, 4, 6, 6, 8])
    np.testing.assert_allclose(cosine[1::2], np.cos(0.15), atol=1e-6)
    np.testing.assert_array_equal(cosine[::2], 1.0)


@pytest.mark.parametrize("block_rows", [1, 2, 2048])
def test_a_pin_joins_the_nearest_representative_and_of_equal_ones_the_earliest(monkeypatch, block_rows):
    monkeypatch.setattr(module, "_BLOCK_ROWS", block_rows)
    nearest = unit(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    np.testing.assert_array_equal(group_near_duplicates(nearest, 0.5)[0], [0, 1, 1])
    equal = unit(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(group_near_duplicates(equal, 0.5)[0], [0, 1, 0])
    np.testing.assert_array_equal(group_near_duplicates(equal, 0.5, n_representatives=2)[0], [0, 1, 0])


def test_exact_copies_join_at_a_threshold_of_one_and_nothing_else_does():
    originals = unit(np.random.default_rng(7).standard_normal((50, 256)))
    canonical, cosine = group_near_duplicates(np.concatenate([originals, originals[::-1]]), 1.0)
    np.testing.assert_array_equal(canonical, np.concatenate([np.arange(50), np.arange(50)[::-1]]))
    np.testing.assert_array_equal(cosine, 1.0)


def test_known_representatives_are_never_reassigned_even_if_alike():
    vectors = unit(np.array([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02]]))
    canonical, _ = group_near_duplicates(vectors, 0.9, n_representatives=2)
    np.testing.assert_array_equal(canonical, [0, 1, 1])


def test_progress_is_reported_up_to_the_last_new_pin(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", 100)
    reports = []
    group_near_duplicates(crowded_pins(8, 270, 8), 0.9, 20, lambda done, total: reports.append((done, total)))
    assert reports == [(100, 250), (200, 250), (250, 250)]


def test_nothing_in_gives_nothing_out():
    canonical, cosine = group_near_duplicates(np.empty((0, 4), dtype=np.float32), 0.9)
    assert canonical.shape == cosine.shape == (0,)
    known = np.eye(4, dtype=np.float32)
    np.testing.assert_array_equal(group_near_duplicates(known, 0.9, 4)[0], np.arange(4))


EYE = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((EYE.astype(np.float64), 0.9), "^vectors must be float32"),
        ((EYE[0], 0.9), "^vectors must be float32 of shape"),
        ((EYE[:, :0], 0.9), "^vectors must be float32 of shape"),
        ((EYE * np.float32([[1], [1.001], [1]]), 0.9), "^vectors must have norm 1, .* in row 1"),
        ((EYE * np.float32([[1], [1], [np.nan]]), 0.9), "^vectors must have norm 1, .* in row 2"),
        ((EYE * np.float32(0), 0.9), "^vectors must have norm 1, .* in row 0"),
        ((EYE, 1.1), "^threshold must be a cosine"),
        ((EYE, np.nan), "^threshold must be a cosine"),
        ((EYE, 0.9, 4), "^n_representatives must be 0 to 3"),
        ((EYE, 0.9, -1), "^n_representatives must be 0 to 3"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        group_near_duplicates(*arguments)
