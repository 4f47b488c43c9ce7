"""Events in the store: the same of both, against a plain model; and what each does when its medium fails."""

import datetime
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis_server import PASSWORD, RedisServer

from pinnersage_assets.serving import lmdb_store
from pinnersage_assets.serving.events import Event
from pinnersage_assets.serving.packing import microseconds
from pinnersage_assets.serving.store import (
    Committed,
    Landing,
    Refused,
    StoreError,
    StoreUnavailableError,
    open_store,
)

UTC = datetime.UTC
DAYS = [datetime.date(2026, 3, day) for day in (1, 2, 3)]
NOW = datetime.datetime(2026, 3, 4, tzinfo=UTC)


def at(day: int, hour: int = 0, microsecond: int = 0) -> datetime.datetime:
    return datetime.datetime(2026, 3, day, hour, 0, 0, microsecond, UTC)


def event(event_id: str, user_id: int = 1, pin_id: int = 10, action: str = "repin", time=None) -> Event:
    return Event(event_id, user_id, pin_id, action, time or at(1))


def refused(n: int, source: str = "a.jsonl:0") -> Refused:
    return Refused("no event", source, f"line {n}", NOW.isoformat())


def rows(columns) -> list[tuple]:
    return list(
        zip(
            columns.user_ids.tolist(),
            columns.pin_ids.tolist(),
            columns.actions,
            columns.times.astype(int).tolist(),
            strict=True,
        )
    )


def row(e: Event) -> tuple:
    return e.user_id, e.pin_id, e.action, microseconds(e.time)


def in_time(events) -> list[Event]:
    return sorted(events, key=lambda e: (e.time, e.event_id.encode()))


# --- Against a model


USERS = [-(2**63), -1, 0, 7, 2**63 - 1]
SOME_EVENTS = st.builds(
    event,
    st.sampled_from(["a", "b", "ab", "é", "z" * 200, *map(str, range(20))]),
    st.sampled_from(USERS),
    st.sampled_from([-1, 5]),
    st.sampled_from(["repin", "click" * 40, "ü"]),
    st.sampled_from([at(day, hour, us) for day in (1, 2, 3) for hour in (0, 23) for us in (0, 1)]),
)


class AnyStore(RuleBasedStateMachine):
    """What a store says is what a few dictionaries say."""

    def __init__(self):
        super().__init__()
        self.store = self.new_store()
        self.known: dict[str, Event] = {}
        self.visible: dict[str, Event] = {}
        self.waiting: dict[str, Event] = {}
        self.landed: dict[Landing, list[Event]] = {}
        self.confirmed: set[Landing] = set()
        self.events_before = self.ids_before = datetime.date.min
        self.position, self.totals, self.refused = {}, Committed(), set()

    @rule(
        events=st.lists(SOME_EVENTS, max_size=8),
        places=st.dictionaries(st.sampled_from("xy"), st.sampled_from(["", "1"])),
    )
    def commit(self, events, places):
        new = repeated = kept = 0
        for e in events:
            if e.time.date() < self.ids_before or self.known.get(e.event_id, e) != e:
                kept += e not in self.refused
                self.refused.add(e)
            elif e.event_id in self.known:
                repeated += 1
            else:
                new += 1
                self.known[e.event_id] = self.waiting[e.event_id] = e
                if e.time.date() >= self.events_before:
                    self.visible[e.event_id] = e
        done = Committed(new, repeated, kept)
        assert self.store.commit(events, places or None) == done
        self.totals += done
        self.position = {part: place for part, place in {**self.position, **places}.items() if place}

    @rule(day=st.sampled_from(DAYS), step=st.integers(0, 1))
    def claim(self, day, step):
        landing = Landing(day, self.store.landings(day) + step)
        events = [e for e in self.waiting.values() if e.time.date() == day]
        assert self.store.claim(landing) == bool(events)
        if events:
            self.landed[landing] = in_time(events)
            self.waiting = {i: e for i, e in self.waiting.items() if e not in events}
            assert not self.store.claim(landing)
            assert self.store.landings(day) == landing.number + 1

    @precondition(lambda self: self.landed.keys() - self.confirmed)
    @rule()
    def confirm(self):
        landing = min(self.landed.keys() - self.confirmed)
        self.store.confirm(landing)
        self.confirmed.add(landing)

    @rule(events_before=st.sampled_from([None, *DAYS]), ids_before=st.sampled_from(DAYS))
    def forget(self, events_before, ids_before):
        self.store.forget(events_before, ids_before)
        old, self.events_before = self.events_before, max(self.events_before, events_before or datetime.date.min)
        self.ids_before = max(self.ids_before, ids_before)
        for landing in sorted(self.confirmed):
            if old <= landing.day < self.events_before or landing.day < self.ids_before:
                for e in self.landed[landing]:
                    self.visible.pop(e.event_id, None)
            if landing.day < self.ids_before:
                for e in self.landed.pop(landing):
                    self.known.pop(e.event_id)
                self.confirmed.remove(landing)

    @rule()
    def drop_refused(self):
        kept = self.store.refused(1000)
        numbers = [number for number, _ in kept]
        assert numbers == list(range(self.totals.refused - len(kept), self.totals.refused))
        assert len(kept) == len(self.refused)
        assert {one.source for _, one in kept} == {f"event {e.event_id}" for e in self.refused}
        if kept:
            self.store.drop_refused(numbers[-1])
            self.refused = set()

    @rule(
        user=st.sampled_from(USERS),
        since=st.sampled_from([at(1), at(1, 23, 1), at(2), at(3)]),
        latest=st.integers(0, 3),
    )
    def recent(self, user, since, latest):
        expected = [row(e) for e in in_time(self.visible.values()) if e.user_id == user and e.time >= since]
        assert rows(self.store.recent(user, since)) == expected
        assert rows(self.store.recent(user, since, latest)) == expected[max(0, len(expected) - latest) :]

    @invariant()
    def says_the_same(self):
        assert self.store.days_waiting() == sorted({e.time.date() for e in self.waiting.values()})
        assert self.store.unconfirmed() == sorted(self.landed.keys() - self.confirmed)
        assert self.store.position() == self.position
        assert self.store.totals() == self.totals
        for landing, events in self.landed.items():
            assert rows(self.store.events_of(landing)) == [row(e) for e in events]

    def teardown(self):
        self.store.close()


_SOME = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def test_lmdb_does_what_a_model_does():
    folder = tempfile.mkdtemp()

    class Lmdb(AnyStore):
        def new_store(self):
            return open_store("lmdb", Path(tempfile.mkdtemp(dir=folder)), lambda: NOW)

    run_state_machine_as_test(Lmdb, settings=_SOME)
    shutil.rmtree(folder)


def test_redis_does_what_a_model_does(server):
    class Redis(AnyStore):
        def new_store(self):
            store = server.store(now=lambda: NOW)
            store.client.flushall()
            return store

    run_state_machine_as_test(Redis, settings=_SOME)


# --- What is worth saying on its own


def test_an_event_counts_once_and_the_first_of_an_id_stays(store):
    assert store.commit([event("a"), event("a"), event("b")], None) == Committed(new=2, repeated=1)
    assert store.commit([event("a"), event("a", pin_id=11)], None) == Committed(repeated=1, refused=1)
    assert store.commit([event("a", pin_id=11)], None) == Committed()
    [(_, one)] = store.refused(10)
    assert "event_id: has come before, with other content, for 2026-03-01" in one.reason
    assert '"pin_id": 11' in one.data
    assert store.recent(1, at(1)).pin_ids.tolist() == [10, 10]


def test_what_comes_again_after_it_has_landed_and_left_counts_once(store):
    store.commit([event("a")], None)
    assert store.claim(Landing(DAYS[0], 0))
    store.confirm(Landing(DAYS[0], 0))
    store.forget(DAYS[1], DAYS[0])
    assert len(store.recent(1, at(1))) == 0
    assert store.commit([event("a")], None) == Committed(repeated=1)
    # Late, and nobody reads that day any more; but it lands.
    assert store.commit([event("b")], None) == Committed(new=1)
    assert len(store.recent(1, at(1))) == 0
    assert store.days_waiting() == [DAYS[0]]
    # Once its id is forgotten, it cannot be told.
    store.forget(DAYS[1], DAYS[1])
    assert store.commit([event("c")], None) == Committed(refused=1)
    assert "ids of events before 2026-03-02 are forgotten" in store.refused(1)[0][1].reason


def test_numbers_of_what_was_refused_are_never_used_again(store):
    store.commit([], None, [refused(0), refused(1), refused(1)])
    assert [number for number, _ in store.refused(10)] == [0, 1]
    assert store.refused(1)[0][1] == refused(0)
    store.drop_refused(0)
    store.commit([], None, [refused(0), refused(1)])
    assert [(number, one.data) for number, one in store.refused(10)] == [(1, "line 1"), (2, "line 0")]


def test_more_than_one_transaction_takes_at_once(store):
    events = [event(f"e{n:05}", user_id=n % 3, time=at(1, 0, n)) for n in range(2500)]
    assert store.commit(events, {"a": "1"}).new == 2500
    assert store.claim(Landing(DAYS[0], 0))
    assert rows(store.events_of(Landing(DAYS[0], 0))) == [row(e) for e in events]
    store.confirm(Landing(DAYS[0], 0))
    store.forget(DAYS[2], DAYS[2])
    assert len(store.recent(1, at(1))) == 0


def test_very_many_events_land_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr("pinnersage_assets.serving.lmdb_store._LARGEST_LANDING", 2)
    monkeypatch.setattr("pinnersage_assets.serving.lmdb_store._AT_ONCE", 2)
    store = open_store("lmdb", tmp_path)
    store.commit([event(name) for name in "abcde"], None)
    sizes = []
    while store.claim(landing := Landing(DAYS[0], len(sizes))):
        sizes.append(len(store.events_of(landing)))
        store.confirm(landing)
    assert sizes == [2, 2, 1]
    store.forget(DAYS[1], DAYS[1])
    assert store.landings(DAYS[0]) == 0
    assert len(store.recent(1, at(1))) == 0


def test_two_stores_of_a_process_share_its_files(tmp_path):
    writer, reader = open_store("lmdb", tmp_path), open_store("lmdb", tmp_path)
    assert len(reader.recent(1, at(1))) == 0
    writer.commit([event("a")], None)
    writer.close()
    assert len(reader.recent(1, at(1))) == 1
    reader.close()
    assert len(open_store("lmdb", tmp_path).recent(1, at(1))) == 1


def test_events_that_are_moved_away_while_they_are_opened_are_opened_anew(tmp_path, monkeypatch):
    opened = lmdb_store._Opened

    def moved_away(path, *arguments, **options):
        environment = opened(path, *arguments, **options)
        monkeypatch.setattr(lmdb_store, "_Opened", opened)
        path.rename(tmp_path / "moved")
        return environment

    monkeypatch.setattr(lmdb_store, "_Opened", moved_away)
    store = open_store("lmdb", tmp_path)
    store.commit([event("a")], None)
    assert (tmp_path / "moved").exists()
    assert len(store.recent(1, at(1))) == 1


def test_a_store_in_a_forked_child_opens_files_of_its_own(tmp_path):
    store = open_store("lmdb", tmp_path)
    store.commit([event("a")], None)
    child = os.fork()
    if not child:
        try:
            status = 0 if len(store.recent(1, at(1))) == 1 else 1
            store.commit([event("b")], None)
        except BaseException:
            status = 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(store.recent(1, at(1))) == 2


def read_on_and_on(address, folder, pipe, stop):
    store, seen = open_store(address, folder), 0
    store.totals()
    pipe.send("ready")
    while not stop.is_set():
        found = len(store.recent(1, at(1)))
        if found < seen or found % 10:
            pipe.send((seen, found))
        seen = found
    pipe.send(seen)


def test_another_process_reads_whole_batches_while_the_consumer_writes(store, address, tmp_path, processes):
    store.commit([], None)
    stop = processes.Event()
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=read_on_and_on, args=(address, tmp_path / "serving", theirs, stop))
    process.start()
    assert ours.recv() == "ready"
    for batch in range(40):
        store.commit([event(f"{batch}-{n}", time=at(1, 1, n)) for n in range(10)], None)
    stop.set()
    process.join()
    last = ours.recv()
    assert isinstance(last, int)
    assert last > 0


def commit_on_a_full_disk(folder, pipe):
    store = open_store("lmdb", folder)
    size = (folder / "events.lmdb" / "data.mdb").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, resource.RLIM_INFINITY))
    try:
        store.commit([event(f"b{n}") for n in range(20_000)], {"a": "2"})
    except StoreError as error:
        pipe.send(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    pipe.send(store.position())
    pipe.send(store.commit([event(f"b{n}") for n in range(20_000)], {"a": "2"}).new)


def test_a_full_disk_is_an_error_that_leaves_nothing_half_done(tmp_path, processes):
    store = open_store("lmdb", tmp_path)
    store.commit([event("a")], {"a": "1"})
    store.close()
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=commit_on_a_full_disk, args=(tmp_path, theirs))
    process.start()
    process.join()
    assert "cannot be read or written" in (message := ours.recv())
    assert "If the disk is full, make room" in message
    assert ours.recv() == {"a": "1"}
    assert ours.recv() == 20_000
    assert len(store.recent(1, at(1))) == 20_001


# --- Redis as a server


def test_a_wrong_password_is_an_error_that_names_the_variable_and_not_the_password(server, monkeypatch):
    address = f"redis://127.0.0.1:{server.port}/0"
    monkeypatch.setenv("PINNERSAGE_REDIS_PASSWORD", "wrong")
    with pytest.raises(StoreError, match=r"refuses: .*PINNERSAGE_REDIS_PASSWORD") as error:
        open_store(address, Path()).totals()
    assert "wrong" not in str(error.value)
    monkeypatch.setenv("PINNERSAGE_REDIS_PASSWORD", PASSWORD)
    assert open_store(address, Path()).totals() == Committed()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("redis://:secret@localhost:port/0", "cannot be used: Port could not be cast"),
        ("redis://:secret@localhost:1/0?nonsense=1", "cannot be used: .*nonsense"),
        ("memcached://localhost", "must be lmdb, redis"),
    ],
)
def test_an_address_that_means_nothing_is_an_error(address, message):
    with pytest.raises(ValueError, match=message) as error:
        open_store(address, Path())
    assert "secret" not in str(error.value)


def test_a_server_that_is_away_is_an_error_until_it_is_back(tmp_path, server):
    other = RedisServer(tmp_path)
    store = other.store()
    with pytest.raises(StoreUnavailableError, match=r"redis://127.0.0.1:\d+/0 cannot be reached"):
        store.totals()
    other.start()
    store.commit([event("a")], None)
    other.kill()
    with pytest.raises(StoreUnavailableError):
        store.recent(1, at(1))
    other.start()
    assert len(store.recent(1, at(1))) == 1
    other.kill()


def test_a_server_that_may_forget_is_warned_of(tmp_path, server, caplog):
    other = RedisServer(tmp_path, ["--appendonly", "no", "--maxmemory-policy", "allkeys-lru"])
    other.start()
    other.store().commit([event("a")], None)
    assert "set appendonly yes" in caplog.text
    assert "set noeviction" in caplog.text
    other.kill()
    caplog.clear()
    server.store().commit([event("a")], None)
    assert not caplog.text


def test_a_server_without_memory_is_an_error_that_leaves_nothing_half_done(tmp_path, server):
    other = RedisServer(tmp_path)
    other.start()
    store = other.store()
    store.commit([event("a")], None)
    store.client.config_set("maxmemory", 1)
    with pytest.raises(StoreError, match="make room"):
        store.commit([event("b")], {"a": "1"})
    assert store.position() == {}
    store.client.config_set("maxmemory", 0)
    assert store.commit([event("b")], {"a": "1"}) == Committed(new=1)
    other.kill()


def test_a_connection_may_be_encrypted(tmp_path, server):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    try:
        made = subprocess.run([*command.split(), "-keyout", key, "-out", certificate], capture_output=True, check=False)
    except OSError as error:
        pytest.skip(f"openssl cannot run here: {error}")
    assert made.returncode == 0, made.stderr
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    other = RedisServer(tmp_path, options, "rediss", f"?ssl_ca_certs={certificate}")
    try:
        other.start()
    except RuntimeError as error:
        if "tls" in str(error).lower():
            pytest.skip("this redis-server cannot do TLS")
        raise
    assert other.store().commit([event("a")], None).new == 1
    # Neither without encryption, nor with somebody whom nobody knows.
    without = other.address.partition("?")[0]
    for address in (without.replace("rediss", "redis"), without):
        with pytest.raises(StoreUnavailableError):
            open_store(address, tmp_path).totals()
    other.kill()


def test_several_threads_may_ask_one_store(store):
    store.commit([event(f"e{n}", time=at(1, 0, n)) for n in range(50)], None)
    wrong = []

    def ask():
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            if len(store.recent(1, at(1))) != 50:
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- Erasure


def test_users_are_erased_whatever_became_of_their_events_and_others_are_not(store):
    """Landed, claimed, waiting or refused; in a store of either kind."""
    mine, yours = ([event(f"{user}-{day}", user, time=at(day, 1)) for day in (1, 2, 3)] for user in (5, -5))
    said = [
        Refused("no event", f"a.jsonl:{n}", text, NOW.isoformat())
        for n, text in enumerate(('{"user_id": 5', "5.5, 15"))
    ]
    store.commit([*mine, *yours], {"a.jsonl": "7:x"}, said)
    for day in DAYS[:2]:
        assert store.claim(Landing(day, 0))
    store.confirm(Landing(DAYS[0], 0))
    found = store.search([5])
    # Twice under the user and in its landing, once as an id, for each event; and a line that was refused.
    assert found == 3 * 3 + 1
    others = store.search([-5])

    store.erase([5])

    assert store.search([5]) == 0
    assert len(store.recent(5, at(1))) == 0
    assert store.search([-5]) == others
    assert rows(store.recent(-5, at(1))) == [row(one) for one in yours]
    for day, one in zip(DAYS[:2], yours, strict=False):
        assert rows(store.events_of(Landing(day, 0))) == [row(one)]
    assert [one.data for _, one in store.refused(9)] == ["5.5, 15"]
    assert store.unconfirmed() == [Landing(DAYS[1], 0)]
    assert store.days_waiting() == DAYS[2:]
    assert store.position() == {"a.jsonl": "7:x"}
    # What is sent again counts as new, and nothing else does.
    assert store.commit([*mine, *yours], None) == Committed(new=3, repeated=3)


def test_a_day_of_which_nothing_waits_after_erasure_does_not_wait(store):
    store.commit([event("a", 5)], None)
    store.erase([5])
    assert store.days_waiting() == []
