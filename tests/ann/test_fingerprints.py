"""What a fingerprint tells apart, and what it does not depend on."""

import numpy as np
import pytest

from pinnersage_assets.ann.fingerprints import fingerprint, pin_digests

MODULUS = 2**64


def pins(seed: int, m: int, n: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(10**12, m, replace=False)) - 5 * 10**11
    return ids, rng.standard_normal((m, n)).astype(np.float32)


def print_of(ids: np.ndarray, vectors: np.ndarray) -> int:
    return fingerprint(pin_digests(ids, vectors))


def test_any_changed_bit_of_any_vector_changes_it():
    ids, vectors = pins(1, 5)
    prints = {print_of(ids, vectors)}
    for row in range(5):
        for column in range(8):
            for bit in range(32):
                changed = vectors.copy()
                changed.view(np.uint32)[row, column] ^= np.uint32(1 << bit)
                prints.add(print_of(ids, changed))
    assert len(prints) == 1 + 5 * 8 * 32


def test_any_changed_bit_of_any_id_changes_it():
    ids, vectors = pins(1, 5)
    prints = {print_of(ids, vectors)}
    for row in range(5):
        for bit in range(64):
            changed = ids.copy()
            changed.view(np.uint64)[row] ^= np.uint64(1 << bit)
            prints.add(print_of(changed, vectors))
    assert len(prints) == 1 + 5 * 64


@pytest.mark.parametrize("n", [1, 2, 256])
def test_pins_that_exchange_their_vectors_or_elements_change_it(n):
    ids, vectors = pins(2, 40, n)
    prints, cases = {print_of(ids, vectors)}, 1
    for one in range(40):
        for other in range(one):
            exchanged = vectors.copy()
            exchanged[[one, other]] = vectors[[other, one]]
            prints.add(print_of(ids, exchanged))
            exchanged = vectors.copy()
            exchanged[[one, other], 0] = vectors[[other, one], 0]
            prints.add(print_of(ids, exchanged))
            cases += 1 if n == 1 else 2
    assert len(prints) == cases


def test_elements_of_a_vector_that_change_places_change_it():
    ids, vectors = pins(3, 1, 16)
    prints = {print_of(ids, np.roll(vectors, shift, axis=1)) for shift in range(16)}
    assert len(prints) == 16


def test_pins_too_many_or_too_few_change_it():
    ids, vectors = pins(4, 100)
    prints = {print_of(ids[:end], vectors[:end]) for end in range(101)}
    prints |= {print_of(np.delete(ids, row), np.delete(vectors, row, axis=0)) for row in range(99)}
    assert len(prints) == 200


def test_it_does_not_depend_on_order_or_memory_layout():
    ids, vectors = pins(5, 300)
    order = np.random.default_rng(0).permutation(300)
    expected = print_of(ids, vectors)
    assert print_of(ids[order], vectors[order]) == expected
    assert print_of(ids, np.asfortranarray(vectors)) == expected
    assert print_of(ids[::-1], vectors[::-1]) == expected
    assert 0 <= expected < MODULUS


def test_those_of_parts_add_up_to_that_of_the_whole():
    """So that of an index which grew follows from what came and what went."""
    ids, vectors = pins(6, 10_000)
    whole = print_of(ids, vectors)
    for parts in (2, 3, 17):
        owners = np.random.default_rng(parts).integers(parts, size=10_000)
        total = sum(print_of(ids[owners == part], vectors[owners == part]) for part in range(parts))
        assert total % MODULUS == whole


def test_of_no_pins_it_is_zero():
    assert print_of(*pins(7, 0)) == 0


def test_a_pin_has_its_digest_whatever_pins_are_beside_it():
    ids, vectors = pins(8, 9000)
    digests = pin_digests(ids, vectors)
    assert digests.dtype == np.uint64
    for row in (0, 4095, 4096, 8999):
        assert pin_digests(ids[row : row + 1], vectors[row : row + 1]) == digests[row]
    assert len(set(digests.tolist())) == 9000
