"""Snapshots: whole or not at all, the same in both stores, and read while the next is written."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pinnersage_assets.model.online import StoredClusters
from pinnersage_assets.serving.records import CorruptRecordError, StoredUser, decode, encode
from pinnersage_assets.serving.store import MissingSnapshotError, StoreError, open_store, snapshot_day


def stored(user_id: int, k: int = 3, seen: int = 2) -> StoredUser:
    rng = np.random.default_rng(abs(user_id))
    return StoredUser(
        StoredClusters(rng.integers(-(2**63), 2**63 - 1, k), rng.integers(1, 100, k), rng.random(k)),
        np.sort(rng.integers(0, 2**40, seen)),
    )


def same(a: StoredUser, b: StoredUser) -> bool:
    arrays = [(u.clusters.medoid_pin_ids, u.clusters.sizes, u.clusters.importances, u.seen_pin_ids) for u in (a, b)]
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(*arrays, strict=True))


USERS = {
    -(2**63): stored(1, 0, 0),
    -1: stored(2, 1, 0),
    0: stored(3, 0, 5),
    7: stored(4),
    2**63 - 1: stored(5, 200, 500),
}


@pytest.mark.parametrize("user", USERS.values())
def test_a_record_comes_back_and_has_the_layout_that_is_documented(user):
    data = encode(user)
    assert same(decode(data), user)
    assert len(data) == 16 + 24 * len(user.clusters.sizes) + 8 * len(user.seen_pin_ids)
    assert data[0] == 1


def test_a_record_that_is_none_is_an_error():
    data = encode(stored(1))
    for wrong in (b"", data[:10], data[:-1], data + b"x", b"\x02" + data[1:]):
        with pytest.raises(CorruptRecordError, match="write the snapshot again"):
            decode(wrong)
    clusters = stored(1).clusters
    with pytest.raises(ValueError, match="3 medoids, 2 sizes"):
        encode(
            StoredUser(StoredClusters(clusters.medoid_pin_ids, clusters.sizes[:2], clusters.importances), np.zeros(0))
        )


def test_what_is_written_is_read(store):
    store.write_snapshot("2026-03-01", USERS.items())
    for user_id, user in USERS.items():
        assert same(store.read_user("2026-03-01", user_id), user)
    assert store.read_user("2026-03-01", 8) is None
    content = store.describe("2026-03-01")
    assert (content.users, content.clusters) == (5, 204)


def test_both_stores_describe_the_same_content_by_the_same_checksum(server, tmp_path):
    users = {user_id: stored(user_id) for user_id in range(-1500, 1500)}
    contents = []
    for store in (open_store("lmdb", tmp_path), server.store()):
        store.write_snapshot("2026-03-01", users.items())
        contents.append(store.describe("2026-03-01"))
    assert contents[0] == contents[1]
    assert contents[0].users == 3000


def test_a_snapshot_without_users_is_there(store):
    store.write_snapshot("2026-03-01", [])
    assert store.read_user("2026-03-01", 1) is None
    assert store.describe("2026-03-01").users == 0
    assert store.versions() == ["2026-03-01"]


def test_a_version_that_is_not_there_is_an_error_which_says_what_is(store):
    store.write_snapshot("2026-03-01", [])
    for ask in (lambda: store.read_user("2026-03-02", 1), lambda: store.describe("2026-03-02")):
        with pytest.raises(MissingSnapshotError, match=r"no snapshot 2026-03-02 .*the latest: 2026-03-01"):
            ask()


@pytest.mark.parametrize("version", ["", "../x", "a/b", ".hidden", "x" * 101])
def test_a_version_is_a_name(store, version):
    with pytest.raises(ValueError, match="cannot be a snapshot's version"):
        store.write_snapshot(version, [])


def failing_half_way():
    yield 1, stored(1)
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "users", [failing_half_way, lambda: [(2, stored(2)), (1, stored(1))], lambda: [(1, stored(1))] * 2]
)
def test_a_snapshot_that_fails_leaves_the_old_one(store, users, tmp_path):
    store.write_snapshot("2026-03-01", [(9, stored(9))])
    with pytest.raises((ZeroDivisionError, ValueError)):
        store.write_snapshot("2026-03-01", users())
    with pytest.raises((ZeroDivisionError, ValueError)):
        store.write_snapshot("2026-03-02", users())
    assert store.versions() == ["2026-03-01"]
    assert same(store.read_user("2026-03-01", 9), stored(9))
    assert store.read_user("2026-03-01", 1) is None
    if store.name == "lmdb":
        assert os.listdir(tmp_path / "serving" / "snapshots") == ["2026-03-01.lmdb"]
    else:
        assert not list(store.client.scan_iter("pinnersage:filling*"))


def test_a_snapshot_written_again_is_the_new_one_to_readers_that_had_the_old_one(store, address, tmp_path):
    reader = open_store(address, tmp_path / "serving")
    store.write_snapshot("2026-03-01", [(1, stored(1))])
    assert same(reader.read_user("2026-03-01", 1), stored(1))
    store.write_snapshot("2026-03-01", [(1, stored(2))])
    assert same(reader.read_user("2026-03-01", 1), stored(2))


def test_snapshots_that_are_not_kept_go(store):
    for day in (1, 2, 3):
        store.write_snapshot(f"2026-03-0{day}", [(1, stored(day))])
    assert store.drop_snapshots(["2026-03-03", "2026-03-04"]) == ["2026-03-01", "2026-03-02"]
    assert store.versions() == ["2026-03-03"]
    with pytest.raises(MissingSnapshotError):
        store.read_user("2026-03-01", 1)
    assert store.drop_snapshots(["2026-03-03"]) == []


def test_who_has_a_dropped_file_open_goes_on_reading_it(tmp_path):
    writer, reader = open_store("lmdb", tmp_path), open_store("lmdb", tmp_path)
    writer.write_snapshot("2026-03-01", [(1, stored(1))])
    reader.read_user("2026-03-01", 1)
    writer.drop_snapshots([])
    assert same(reader.read_user("2026-03-01", 1), stored(1))
    reader.close()
    with pytest.raises(MissingSnapshotError):
        reader.read_user("2026-03-01", 1)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * len(data)]
)
def test_a_damaged_file_is_an_error_and_not_the_end_of_the_process(tmp_path, damage):
    store = open_store("lmdb", tmp_path)
    store.write_snapshot("2026-03-01", ((user_id, stored(user_id)) for user_id in range(1000)))
    path = tmp_path / "snapshots" / "2026-03-01.lmdb"
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(damage(whole))
    with pytest.raises(StoreError, match=r"2026-03-01\.lmdb"):
        store.read_user("2026-03-01", 1)


def test_readers_go_on_while_the_next_one_is_written(store, address, tmp_path):
    """Whole records of one of the two, never a snapshot that is not there."""
    versions = [{user_id: stored(user_id + 1000 * n) for user_id in range(300)} for n in range(2)]
    store.write_snapshot("2026-03-01", versions[0].items())
    done, wrong, reads = threading.Event(), [], [0]

    def read(anew):
        reader = open_store(address, tmp_path / "serving")
        while not done.is_set():
            if anew:
                # One lets go of a file while the other opens it.
                reader.close()
                reader = open_store(address, tmp_path / "serving")
            for user_id in (0, 150, 299):
                found = reader.read_user("2026-03-01", user_id)
                reads[0] += 1
                if not any(same(found, version[user_id]) for version in versions):
                    wrong.append(found)

    pool = ThreadPoolExecutor(3)
    readers = [pool.submit(read, anew) for anew in (False, True, True)]
    for n in range(1, 15):
        store.write_snapshot("2026-03-01", versions[n % 2].items())
        store.write_snapshot(f"2026-04-{n:02}", versions[0].items())
        store.drop_snapshots(["2026-03-01"])
    done.set()
    for reader in readers:
        reader.result()
    assert not wrong
    assert reads[0] > 50


def write_and_be_killed(address, folder):
    def users():
        for user_id in range(50_000):
            if user_id == 45_000:
                os.kill(os.getpid(), signal.SIGKILL)
            yield user_id, stored(0)

    open_store(address, folder).write_snapshot("2026-03-01", users())


def test_a_killed_writer_leaves_the_old_snapshot_and_its_remains_go(store, address, tmp_path, processes):
    store.write_snapshot("2026-03-01", [(1, stored(1))])
    process = processes.Process(target=write_and_be_killed, args=(address, tmp_path / "serving"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert store.versions() == ["2026-03-01"]
    assert same(store.read_user("2026-03-01", 1), stored(1))
    if store.name == "lmdb":
        assert len(os.listdir(tmp_path / "serving" / "snapshots")) == 2
        store.drop_snapshots(["2026-03-01"])
        assert os.listdir(tmp_path / "serving" / "snapshots") == ["2026-03-01.lmdb"]
    else:
        [left] = store.client.scan_iter("pinnersage:filling*")
        assert 0 < store.client.ttl(left) <= 3600


def test_the_day_of_a_version():
    assert str(snapshot_day("2026-03-01")) == "2026-03-01"
    assert str(snapshot_day("2026-03-01-abc")) == "2026-03-01"
    assert snapshot_day("20260301xx") is None
    assert snapshot_day("latest") is None
