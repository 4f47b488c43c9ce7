"""Rows that go through buckets come out as they went in."""

from pathlib import Path

import duckdb
import polars as pl
import pytest

from pinnersage_assets.warehouse.buckets import BucketError, collect, write_buckets

USERS, PINS = 300, 20_000


@pytest.fixture
def rows():
    """Users of very different size, in no order."""
    with duckdb.connect() as connection:
        return connection.sql(
            f"""
            SELECT ((pin * pin) % {USERS} - 7)::BIGINT AS user_id, pin AS pin_id, pin / 3 AS value
            FROM range({PINS}) AS pins(pin) ORDER BY hash(pin)
            """
        ).pl()


def bucketed(rows, folder, rows_a_bucket):
    folder.mkdir()
    with duckdb.connect() as connection:
        connection.register("given", rows)
        return write_buckets(connection, "FROM given", "user_id", ["pin_id"], rows_a_bucket, folder)


def scratch(warehouse):
    return [path for folder in Path(warehouse.database).parent.glob("scratch/*") for path in folder.iterdir()]


@pytest.mark.parametrize("rows_a_bucket", [1, 900, 7_000, PINS, 10 * PINS])
def test_buckets_hold_whole_users_and_every_row_once(rows, tmp_path, rows_a_bucket):
    buckets = bucketed(rows, tmp_path / "buckets", rows_a_bucket)
    frames = [pl.read_parquet(bucket.path) for bucket in buckets]
    assert [len(frame) for frame in frames] == [bucket.rows for bucket in buckets]
    assert min(bucket.rows for bucket in buckets) > 0
    assert len({bucket.key for bucket in buckets}) == len(buckets)
    assert sum(frame["user_id"].n_unique() for frame in frames) == rows["user_id"].n_unique()
    assert all(frame.equals(frame.sort("user_id", "pin_id")) for frame in frames)
    assert pl.concat(frames).sort("pin_id").equals(rows.sort("pin_id"))
    if rows_a_bucket >= PINS:
        assert len(buckets) == 1
    elif rows_a_bucket > 1:
        # Fewer where one was left without a user.
        assert PINS / rows_a_bucket / 2 < len(buckets) <= -(-PINS // rows_a_bucket)


def test_the_same_rows_become_the_same_buckets(rows, tmp_path):
    one = bucketed(rows, tmp_path / "one", 900)
    other = bucketed(rows.sample(fraction=1, shuffle=True, seed=1), tmp_path / "other", 900)
    assert [bucket.key for bucket in one] == [bucket.key for bucket in other]
    for ours, theirs in zip(one, other, strict=True):
        assert pl.read_parquet(ours.path).equals(pl.read_parquet(theirs.path))


def test_nobody_is_no_bucket(rows, tmp_path):
    assert bucketed(rows.clear(), tmp_path / "buckets", 900) == []


@pytest.mark.parametrize("rows_a_bucket", [900, 10 * PINS])
def test_what_is_collected_does_not_depend_on_the_buckets(rows, tmp_path, warehouse, rows_a_bucket):
    # A folder name as of Hive partitions must not become a column.
    files = [bucket.path for bucket in bucketed(rows, tmp_path / "dt=2026-01-01", rows_a_bucket)]
    collected = collect(warehouse, files[::-1], {"count(*)": PINS}, ["user_id", "pin_id"], ["user_id", "pin_id"])
    [path] = collected.paths
    assert pl.read_parquet(path, hive_partitioning=False).equals(rows.sort("user_id", "pin_id"))
    assert list(collected.folder.iterdir()) == [path]


def test_rows_that_are_missing_or_come_twice_are_refused(rows, tmp_path, warehouse):
    files = [bucket.path for bucket in bucketed(rows, tmp_path / "buckets", 900)]
    missing = PINS - len(pl.read_parquet(files[0]))
    with pytest.raises(BucketError, match=rf"^count\(\*\) of the results is {missing:,} and must be 20,000"):
        collect(warehouse, files[1:], {"count(*)": PINS}, ["pin_id"], ["pin_id"])
    twice = pl.read_parquet(files[0]).head(1)
    twice.write_parquet(tmp_path / "twice.parquet")
    pl.read_parquet(files[0])[1:].write_parquet(files[0])
    files += [tmp_path / "twice.parquet"] * 2
    with pytest.raises(BucketError, match=rf"have \(pin_id\) = \({twice['pin_id'][0]},\) more than once"):
        collect(warehouse, files, {"count(*)": PINS + 1}, ["pin_id"], ["pin_id"])
    assert scratch(warehouse) == []


@pytest.mark.parametrize(
    ("ranks", "refused"),
    [
        ([1, 2, 3], False),
        ([3, 1, 2], False),
        ([1, 2, 4], True),
        ([0, 1, 2], True),
        ([1, 3, 3], True),
        ([1, 1, 3], True),
    ],
)
def test_ranks_of_an_owner_are_counted_from_one_without_a_gap(tmp_path, warehouse, ranks, refused):
    file = tmp_path / "sets.parquet"
    pl.DataFrame({"user_id": [7, 7, 7, 8], "pin_id": [1, 2, 3, 4], "rank": [*ranks, 1]}).write_parquet(file)
    arguments = [file], {"count(*)": 4}, ["user_id", "pin_id"], ["user_id", "rank"], ("user_id", "rank")
    if refused:
        with pytest.raises(BucketError, match=r"the ranks of user_id 7 are not 1, 2, \.\.\.: nothing is written"):
            collect(warehouse, *arguments)
        assert scratch(warehouse) == []
    else:
        [path] = collect(warehouse, *arguments).paths
        assert pl.read_parquet(path)["rank"].to_list() == [1, 2, 3, 1]
