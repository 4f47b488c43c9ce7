import datetime
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from pinnersage_assets.ann.fingerprints import pin_digests
from pinnersage_assets.warehouse import pin_vectors as store
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

DAYS = [datetime.date(2026, 3, 1) + datetime.timedelta(offset) for offset in range(6)]
WIDTH = 8


def vectors_of(ids, seed=0):
    chance = np.random.default_rng(seed)
    vectors = chance.standard_normal((len(ids), WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def write_pins(write):
    """Write a day's partition of staging.pins: ids and vectors."""

    def write_pins(day, ids, seed=0):
        vectors = vectors_of(ids, seed)
        columns = {"pin_id": pl.Series(ids, dtype=pl.Int64), "created_at": datetime.datetime(2026, 1, 1)}
        texts = dict.fromkeys(("title", "category", "image_url"), pl.lit(None, pl.String))
        numbers = dict.fromkeys(("width", "height"), pl.lit(None, pl.Int32))
        embeddings = pl.Series(vectors, dtype=pl.Array(pl.Float32, WIDTH))
        rows = pl.DataFrame(columns).with_columns(
            embedding=embeddings, text_fraction=pl.lit(None, pl.Float32), **texts, **numbers
        )
        # The length of embeddings is that of the first raw pins.
        write("raw.pins", day, rows.with_columns(pl.col("embedding").arr.to_list(), file=pl.lit(None, pl.String)))
        write("staging.pins", day, rows)
        return dict(zip(ids, vectors.tolist(), strict=True))

    return write_pins


def held(warehouse, day):
    """What the store has as of a day, by id."""
    pins = pin_vectors(warehouse, day)
    vectors = pins.select(pins.ids)[:]
    assert np.array_equal(pins.digests, pin_digests(pins.ids, vectors))
    assert (np.diff(pins.ids) > 0).all()
    return dict(zip(pins.ids.tolist(), vectors.tolist(), strict=True))


def files(warehouse):
    return sorted(path.name for path in (warehouse.data_folder / "vectors").iterdir() if path.suffix != ".lock")


def test_it_holds_what_the_table_holds_as_of_each_day(warehouse, write_pins):
    expected, day_of = {}, np.random.default_rng(1).permutation(np.repeat(np.arange(6), 50))
    for number in np.random.default_rng(2).permutation(6):
        ids = (np.flatnonzero(day_of == number) + 1)[::-1].tolist()
        expected[number] = write_pins(DAYS[number], ids, seed=int(number))
        # Days come in any order; some are asked for in between, some are not.
        for asked in (number, 5)[: 1 + number % 2]:
            known = {pin: vector for n, of_day in expected.items() if n <= asked for pin, vector in of_day.items()}
            assert held(warehouse, DAYS[asked]) == known
    for asked in range(6):
        assert held(warehouse, DAYS[asked]).keys() == set((np.flatnonzero(day_of <= asked) + 1).tolist())


def test_a_partition_that_is_written_again_counts_and_who_has_opened_the_old_one_keeps_it(warehouse, write_pins):
    first, old = write_pins(DAYS[0], [1, 2, 3]), write_pins(DAYS[1], [4, 5], seed=1)
    opened = pin_vectors(warehouse, DAYS[1])
    source = opened.source
    new = write_pins(DAYS[1], [5, 6], seed=2)
    assert held(warehouse, DAYS[1]) == first | new
    assert dict(zip(opened.ids.tolist(), source[opened.rows].tolist(), strict=True)) == first | old


def test_what_is_there_is_not_read_again(warehouse, write_pins, monkeypatch):
    write_pins(DAYS[0], [1, 2, 3])
    held(warehouse, DAYS[0])
    write_pins(DAYS[1], [4], seed=1)
    read, parts = [], store.vectors_in_parts
    monkeypatch.setattr(
        store, "vectors_in_parts", lambda connection, query, scope, rows: read.append(scope) or parts(
            connection, query, scope, rows
        )
    )  # fmt: skip
    for _ in range(2):
        assert held(warehouse, DAYS[1]).keys() == {1, 2, 3, 4}
    assert read == [{"day": DAYS[1].isoformat()}]


def test_what_a_killed_process_had_begun_is_written_over(warehouse, write_pins):
    first = write_pins(DAYS[0], [1, 2, 3])
    held(warehouse, DAYS[0])
    for path in (warehouse.data_folder / "vectors").glob("*.[kv]*"):
        with path.open("ab") as file:
            file.write(b"begun, and never named" * 7)
    second = write_pins(DAYS[1], [4, 5], seed=1)
    assert held(warehouse, DAYS[1]) == first | second


@pytest.mark.parametrize("suffix", ["keys", "vectors"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_files_are_made_again_with_a_warning(warehouse, write_pins, caplog, suffix, damage):
    first = write_pins(DAYS[0], [1, 2, 3])
    held(warehouse, DAYS[0])
    [path] = (warehouse.data_folder / "vectors").glob(f"*.{suffix}")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert held(warehouse, DAYS[0]) == first
    assert "is missing or damaged: it is made again" in caplog.text
    caplog.clear()
    assert held(warehouse, DAYS[0]) == first
    assert caplog.text == ""


def test_a_file_of_which_most_belongs_to_nobody_is_made_anew(warehouse, write_pins, monkeypatch):
    first = write_pins(DAYS[0], list(range(1, 11)))
    held(warehouse, DAYS[0])
    for seed in range(1, 9):
        second = write_pins(DAYS[1], list(range(11, 21)), seed)
        assert held(warehouse, DAYS[1]) == first | second
        said = json.loads((warehouse.data_folder / "vectors" / "contents.json").read_text())
        assert said["rows"] <= 50
    # Files that were used a moment ago stay, for a worker may have their names.
    assert len(files(warehouse)) > 3
    monkeypatch.setattr(store, "_DELETED_AFTER_SECONDS", -1)
    for seed in range(9, 14):
        write_pins(DAYS[1], list(range(11, 21)), seed)
        held(warehouse, DAYS[1])
    assert len(files(warehouse)) <= 5


def test_many_may_ask_at_once(warehouse, write_pins):
    expected = {}
    for number, day in enumerate(DAYS):
        expected |= write_pins(day, list(range(100 * number + 1, 100 * number + 101)), number)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: held(warehouse, DAYS[-1]), range(16)))
    assert all(one == expected for one in found)
    said = json.loads((warehouse.data_folder / "vectors" / "contents.json").read_text())
    assert said["rows"] == 600


def test_without_pins_it_is_empty(warehouse, write_pins):
    write_pins(DAYS[1], [1])
    assert held(warehouse, DAYS[0]) == {}
    assert pin_vectors(warehouse, DAYS[0]).known(np.array([1]))[0].tolist() == []


def test_pins_that_are_not_known_are_left_out_or_named(warehouse, write_pins):
    expected = write_pins(DAYS[0], [3, 5, 7])
    pins = pin_vectors(warehouse, DAYS[0])
    ids, vectors = pins.known(np.array([7, 4, 3, 7]))
    assert dict(zip(ids.tolist(), vectors.tolist(), strict=True)) == {pin: expected[pin] for pin in (3, 7)}
    with pytest.raises(ValueError, match="such as 4"):
        pins.select(np.array([3, 4]))
