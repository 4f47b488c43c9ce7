"""Groups of near-duplicates against a plain loop over the pins in order."""

import numpy as np
import pytest

from pinnersage_assets.model import near_duplicates as module
from pinnersage_assets.model.near_duplicates import group_near_duplicates


def one_after_another(vectors, threshold, n_representatives=0):
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    canonical, cosine = np.arange(len(wide)), np.ones(len(wide))
    representatives = list(range(n_representatives))
    for row in range(n_representatives, len(wide)):
        cosines = wide[representatives] @ wide[row]
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


@pytest.mark.parametrize("block_rows", [1, 7, 64, 2048])
@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.97])
def test_groups_are_those_of_a_loop_over_the_pins(monkeypatch, threshold, block_rows):
    monkeypatch.setattr(module, "_BLOCK_ROWS", block_rows)
    monkeypatch.setattr(module, "_PAIR_BYTES", 2048)
    for seed, (rows, d) in enumerate([(1, 4), (300, 3), (300, 8), (500, 64)]):
        vectors = crowded_pins(seed, rows, d)
        canonical, cosine = group_near_duplicates(vectors, threshold)
        expected_canonical, expected_cosine = one_after_another(vectors, threshold)
        np.testing.assert_array_equal(canonical, expected_canonical)
        np.testing.assert_allclose(cosine, expected_cosine, atol=1e-7)
        assert (canonical.dtype, cosine.dtype) == (np.int64, np.float32)


def test_the_size_of_blocks_changes_nothing_at_all(monkeypatch):
    vectors = crowded_pins(5, 3000, 32)
    canonical, cosine = group_near_duplicates(vectors, 0.95)
    assert 100 < len(np.unique(canonical)) < 2900
    for block_rows in (13, 500):
        monkeypatch.setattr(module, "_BLOCK_ROWS", block_rows)
        again_canonical, again_cosine = group_near_duplicates(vectors, 0.95)
        np.testing.assert_array_equal(again_canonical, canonical)
        np.testing.assert_array_equal(again_cosine, cosine)


def test_day_by_day_gives_what_all_at_once_gives():
    # The threshold is the very cosine of many pairs: it must fall on the same side every time.
    angles = 0.05 * np.arange(40)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rng = np.random.default_rng(6)
    vectors = unit(np.concatenate([ring[rng.integers(40, size=400)] @ rng.standard_normal((2, 48)), np.eye(48)]))
    vectors = np.concatenate([vectors, crowded_pins(6, 900, 48)])[rng.permutation(1348)]
    first, second = np.triu_indices(len(vectors), 1)
    frequent = np.sort(module._cosines(vectors, first, second))[[-20_000, -5_000, -2_000]]
    for threshold in (0.97, *frequent.tolist()):
        canonical, cosine = group_near_duplicates(vectors, threshold)
        known = np.empty(0, dtype=np.int64)
        by_day_canonical, by_day_cosine = [], []
        for day in np.array_split(np.arange(len(vectors)), [3, 3, 200, 201, 900]):
            rows = np.concatenate([known, day])
            groups, cosines = group_near_duplicates(vectors[rows], threshold, n_representatives=len(known))
            np.testing.assert_array_equal(groups[: len(known)], np.arange(len(known)))
            np.testing.assert_array_equal(cosines[: len(known)], 1.0)
            by_day_canonical.append(rows[groups[len(known) :]])
            by_day_cosine.append(cosines[len(known) :])
            known = np.concatenate([known, day[groups[len(known) :] == np.arange(len(known), len(rows))]])
        np.testing.assert_array_equal(np.concatenate(by_day_canonical), canonical)
        np.testing.assert_array_equal(np.concatenate(by_day_cosine), cosine)


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
