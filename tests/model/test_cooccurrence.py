import numpy as np
import pytest

from pinnersage_assets.model.cooccurrence import cooccurrence_vectors


@pytest.fixture
def baskets() -> tuple[np.ndarray, np.ndarray]:
    """Two halves of 20 items that are bought together, a few baskets across; item 40 never occurs."""
    rng = np.random.default_rng(0)
    basket = np.repeat(np.arange(400), 5)
    half = (np.arange(400) % 2)[:, None] * 20
    item = half + rng.integers(0, 20, (400, 5))
    item[:20] = rng.integers(0, 40, (20, 5))
    return basket, item.ravel()


def reference(basket: np.ndarray, item: np.ndarray, n_items: int, dimensions: int) -> np.ndarray:
    """The docstring's formula with dense matrices."""
    B = np.zeros((basket.max() + 1, n_items))
    B[basket, item] = 1
    counts = B.sum(axis=0)
    C = B.T @ B / np.sqrt(np.outer(np.maximum(counts, 1), np.maximum(counts, 1)))
    values, vectors = np.linalg.eigh(C)
    rows = (vectors * values)[:, ::-1][:, :dimensions]
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def test_cosines_are_those_of_the_dense_formula(baskets):
    vectors = cooccurrence_vectors(*baskets, n_items=41, dimensions=8)
    expected = reference(*baskets, n_items=41, dimensions=8)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-5)


def test_items_bought_together_are_near_and_others_are_far(baskets):
    vectors = cooccurrence_vectors(*baskets, n_items=41, dimensions=2)
    cosines = vectors[:40] @ vectors[:40].T
    assert cosines[:20, :20].min() > 0.9
    assert cosines[:20, 20:].max() < 0.5


def test_rows_are_units_except_for_items_that_never_occur(baskets):
    lengths = np.linalg.norm(cooccurrence_vectors(*baskets, n_items=41, dimensions=8), axis=1)
    np.testing.assert_allclose(lengths[:40], 1, atol=1e-6)
    assert lengths[40] == 0


def test_an_item_that_shares_no_basket_gets_a_zero_row_instead_of_the_direction_of_rounding(baskets):
    basket, item = np.append(baskets[0], 9_999), np.append(baskets[1], 40)
    vectors = cooccurrence_vectors(basket, item, n_items=41, dimensions=2)
    assert not vectors[40].any()


def test_order_names_of_baskets_repeats_and_seed_do_not_matter(baskets):
    basket, item = baskets
    vectors = cooccurrence_vectors(basket, item, n_items=41, dimensions=8)
    shuffled = np.random.default_rng(1).permutation(np.tile(np.arange(len(basket)), 2))
    again = cooccurrence_vectors(basket[shuffled] * -7 + 3, item[shuffled], n_items=41, dimensions=8, seed=5)
    np.testing.assert_allclose(vectors, again, atol=1e-5)
    np.testing.assert_array_equal(vectors, cooccurrence_vectors(basket, item, n_items=41, dimensions=8))


@pytest.mark.parametrize(
    ("basket", "item", "n_items", "dimensions", "message"),
    [
        ([0, 1], [0], 2, 1, r"equally long"),
        ([0, 1], [0, 2], 2, 1, r"0 to 2.*n_items - 1 = 1"),
        ([0, 1], [-1, 0], 2, 1, r"-1 to 0"),
        ([], [], 2, 1, r"no baskets"),
        ([0, 1], [0, 1], 2, 0, r"at least 1"),
        ([0, 0, 1, 1], [0, 1, 2, 3], 4, 2, r"2 baskets of 4 items support 1 dimensions, not 2"),
        ([0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 2, 3, 2, 3], 4, 3, r"support 2 dimensions, not 3"),
    ],
)
def test_what_cannot_be_fitted_is_said(basket, item, n_items, dimensions, message):
    with pytest.raises(ValueError, match=message):
        cooccurrence_vectors(np.array(basket, int), np.array(item, int), n_items, dimensions)
