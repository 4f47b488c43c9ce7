"""Streams deliver everything at least once, and say so where something is missing."""

import datetime
import os

import pytest

from pinnersage_assets.serving.file_stream import FileStream
from pinnersage_assets.serving.redis_stream import GROUP, STREAM, RedisStream
from pinnersage_assets.serving.store import StoreError, StoreUnavailableError

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "events").mkdir()
    return tmp_path / "events"


def data(batch) -> list[bytes]:
    return [line.data for line in batch.lines]


def read_all(stream) -> list[bytes]:
    """What comes, the position committed after each batch."""
    came = []
    while batch := stream.read(100, 0):
        came += data(batch)
        stream.acknowledge(batch)
        if not batch.lines:
            return came


def reader(folder, position=None) -> FileStream:
    stream = FileStream(folder, lambda: NOW)
    stream.resume(position or {})
    return stream


def append(path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


# --- Files


def test_lines_come_in_order_with_their_places(folder):
    (folder / "b.jsonl").write_bytes(b"1\n\n  \n22\r\n")
    (folder / "a.jsonl").write_bytes(b"x\n")
    (folder / ".c.jsonl").write_bytes(b"hidden\n")
    (folder / "c.json").write_bytes(b"another name\n")
    (folder / "d.jsonl").mkdir()
    batch = reader(folder).read(100, 0)
    assert [(line.source, line.data) for line in batch.lines] == [
        ("a.jsonl:0", b"x"),
        ("b.jsonl:0", b"1"),
        ("b.jsonl:6", b"22\r"),
    ]
    assert batch.position.keys() == {"a.jsonl", "b.jsonl"}


def test_a_line_counts_when_its_end_is_written(folder):
    stream = reader(folder)
    assert data(stream.read(100, 0)) == []
    append(folder / "a.jsonl", b"one\ntw")
    assert data(stream.read(100, 0)) == [b"one"]
    assert data(stream.read(100, 0)) == []
    append(folder / "a.jsonl", b"o\n")
    assert data(stream.read(100, 0)) == [b"two"]


def test_a_reader_goes_on_from_any_committed_position(folder):
    lines = [f"{n}{'x' * (37 * n % 300)}".encode() for n in range(60)]
    (folder / "a.jsonl").write_bytes(b"\n".join(lines[:40]) + b"\n")
    (folder / "b.jsonl").write_bytes(b"\n".join(lines[40:]) + b"\n")
    for most in (1, 7, 100):
        position, came = {}, []
        while True:
            batch = reader(folder, position).read(most, 0)
            assert len(batch.lines) <= most
            if not batch.lines:
                break
            came += data(batch)
            position |= batch.position
        assert sorted(came) == sorted(lines)


def test_what_was_read_and_not_committed_comes_again(folder):
    (folder / "a.jsonl").write_bytes(b"1\n2\n")
    stream = reader(folder)
    first = stream.read(1, 0)
    assert data(stream.read(1, 0)) == [b"2"]
    stream.resume(first.position)
    assert data(stream.read(5, 0)) == [b"2"]
    stream.resume({})
    assert data(stream.read(5, 0)) == [b"1", b"2"]


def test_more_than_is_read_at_once(folder, monkeypatch):
    monkeypatch.setattr("pinnersage_assets.serving.file_stream._READ", 64)
    monkeypatch.setattr("pinnersage_assets.serving.file_stream.LARGEST_EVENT", 30)
    lines = [b"x" * (n % 20) + b"!" for n in range(50)]
    (folder / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    stream = reader(folder)
    assert stream.read(100, 0).more
    stream.resume({})
    assert read_all(stream) == lines
    assert not stream.read(100, 0).more
    # A line that is never over does not hold up other files, and is refused once it is.
    append(folder / "a.jsonl", b"y" * 1000)
    append(folder / "b.jsonl", b"other\n")
    assert read_all(stream) == [b"other"]
    append(folder / "a.jsonl", b"y" * 500 + b"\nnext\n")
    [long, following] = [line for _ in range(3) for line in stream.read(100, 0).lines]
    assert long.problem == "is 1500 bytes long; an event has at most 30"
    assert long.data == b"y" * 30
    assert following.data == b"next"
    assert read_all(stream) == []


@pytest.mark.parametrize("in_place", [True, False])
def test_what_replaces_a_line_too_long_is_read_from_its_own_lines(folder, monkeypatch, in_place):
    import pinnersage_assets.serving.file_stream as module

    monkeypatch.setattr(module, "_READ", 1000)
    path = folder / "a.jsonl"
    path.write_bytes(b"x" * 5000)
    stream = reader(folder)
    assert read_all(stream) == []
    # A text that is longer can be told from the old one by its file alone.
    text = b"1\n" + b"y" * 1500 + b"\n2\n" + b"3\n" * (100 if in_place else 3000)
    written = path if in_place else folder / "new"
    written.write_bytes(text)
    os.replace(written, path)
    came = read_all(stream)
    assert [line[:1] for line in came[:3]] == [b"1", b"y", b"2"]
    assert came.count(b"3") == text.count(b"3\n")


def test_a_name_that_is_no_text_holds_up_no_other_file(folder, caplog):
    (folder / os.fsdecode(b"\xff.jsonl")).write_bytes(b"1\n")
    (folder / "b.jsonl").write_bytes(b"2\n")
    stream = reader(folder)
    assert read_all(stream) == [b"2"]
    assert read_all(stream) == []
    assert caplog.messages == [f"{folder}/\\xff.jsonl has a name that is not UTF-8: rename it; its events wait"]


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("text", [b"new\n", b"new and longer than before\nand more\n", b""])
def test_a_file_that_is_cut_or_replaced_is_an_error_in_the_log_and_is_read_anew(folder, caplog, text, running):
    (folder / "a.jsonl").write_bytes(b"first\nsecond\n")
    stream = reader(folder)
    position = stream.read(100, 0).position
    (folder / "new").write_bytes(text)
    os.replace(folder / "new", folder / "a.jsonl")
    if not running:
        stream = reader(folder, position)
    assert read_all(stream) == text.split(b"\n")[:-1]
    assert "a.jsonl was cut or replaced after 13 bytes" in caplog.text
    assert len(caplog.records) == 1
    append(folder / "a.jsonl", b"more\n")
    assert read_all(stream) == [b"more"]


def test_a_deleted_file_is_forgotten_and_may_come_back(folder, caplog):
    (folder / "a.jsonl").write_bytes(b"1\n")
    stream = reader(folder)
    stream.read(100, 0)
    (folder / "a.jsonl").unlink()
    assert stream.read(100, 0).position == {"a.jsonl": ""}
    assert not caplog.records
    (folder / "a.jsonl").write_bytes(b"1\n2\nha")
    assert read_all(stream) == [b"1", b"2"]
    (folder / "a.jsonl").unlink()
    stream.read(100, 0)
    assert "a.jsonl was deleted, and 2 bytes of it had not been read" in caplog.text


def test_a_file_that_cannot_be_read_holds_up_no_other(folder, caplog):
    (folder / "a.jsonl").write_bytes(b"1\n")
    (folder / "b.jsonl").write_bytes(b"2\n")
    import pinnersage_assets.serving.file_stream as module

    real = module._read_at

    def read_at(path, *arguments):
        if path.name == "a.jsonl":
            raise PermissionError("not yours")
        return real(path, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_read_at", read_at)
        stream = reader(folder)
        assert read_all(stream) == [b"2"]
        assert caplog.text.count("a.jsonl cannot be read: not yours; its events wait") == 1
    assert read_all(stream) == [b"1"]


def test_the_folder_must_be_one(tmp_path):
    (tmp_path / "events").write_text("")
    with pytest.raises(StoreError, match="must be a folder"):
        reader(tmp_path / "events").read(1, 0)


def test_sent_lines_come_also_after_half_a_line(folder):
    stream = reader(folder)
    stream.send([b"1", b"2"])
    append(folder / "2026-03-01.jsonl", b"hal")
    stream.send([b"3"])
    assert read_all(stream) == [b"1", b"2", b"hal", b"3"]


# --- Redis


@pytest.fixture
def stream(server):
    return open_consumer(server, "one")


def open_consumer(server, name) -> RedisStream:
    stream = RedisStream(server.store().client, "here", name, lambda: NOW)
    stream.resume({})
    return stream


def test_entries_come_once_they_are_acknowledged(server, stream):
    stream.send(b"%d" % n for n in range(10))
    first = stream.read(4, 0)
    assert data(first) == [b"0", b"1", b"2", b"3"]
    assert first.lines[0].source.startswith(f"{STREAM} ")
    # Killed before the acknowledgement; it comes again to the same consumer, in parts too.
    again = open_consumer(server, "one")
    assert data(again.read(3, 0)) == [b"0", b"1", b"2"]
    rest = again.read(3, 0)
    assert data(rest) == [b"3"]
    # What is new waits still.
    assert rest.more
    again.acknowledge(first)
    assert read_all(again) == [b"4", b"5", b"6", b"7", b"8", b"9"]
    assert read_all(open_consumer(server, "one")) == []


def test_what_another_consumer_left_behind_is_claimed(server, stream, monkeypatch):
    stream.send([b"1", b"2"])
    stream.read(10, 0)
    assert read_all(open_consumer(server, "two")) == []
    monkeypatch.setattr("pinnersage_assets.serving.redis_stream._LEFT_BEHIND", 0)
    assert read_all(open_consumer(server, "two")) == [b"1", b"2"]


def test_an_entry_of_another_form_has_a_problem(stream, server):
    server.store().client.xadd(STREAM, {"evnt": "{}", "b": b"\xff"})
    [line] = stream.read(10, 0).lines
    assert line.problem == "must have one field, `event`, and has others"
    assert line.data == b'{"evnt": "{}", "b": "\\ufffd"}'


def test_an_entry_deleted_before_it_was_taken_is_not_silent(server, stream, monkeypatch, caplog):
    stream.send([b"1", b"2"])
    entries = stream.read(10, 0).receipt
    server.store().client.xdel(STREAM, entries[0])
    assert [line.problem for line in open_consumer(server, "one").read(10, 0).lines] == [
        "was deleted from the stream before it was taken",
        "",
    ]
    monkeypatch.setattr("pinnersage_assets.serving.redis_stream._LEFT_BEHIND", 0)
    assert read_all(open_consumer(server, "two")) == [b"2"]
    assert "was deleted before it was taken" in caplog.text


@pytest.mark.parametrize(
    ("lose", "message"),
    [
        (
            lambda client: client.xtrim(STREAM, maxlen=2, approximate=False),
            "5 entries of pinnersage:events were trimmed",
        ),
        (lambda client: client.xdel(STREAM, client.xrevrange(STREAM)[0][0]), "was deleted before it was read"),
    ],
)
def test_entries_lost_before_they_were_read_are_not_silent(server, stream, caplog, lose, message):
    stream.send(b"%d" % n for n in range(10))
    stream.acknowledge(stream.read(3, 0))
    lose(server.store().client)
    again = open_consumer(server, "one")
    assert not caplog.records
    read_all(again)
    assert message in caplog.text
    assert len(caplog.records) == 1


def test_a_deleted_stream_is_not_silent_and_begins_anew(server, stream, caplog):
    stream.send([b"1"])
    batch = stream.read(10, 0)
    stream.acknowledge(batch)
    server.store().client.delete(STREAM)
    with pytest.raises(StoreError, match="NOGROUP"):
        stream.read(10, 0)
    stream.resume(batch.position)
    assert "or its group was deleted after entry" in caplog.text
    stream.send([b"2"])
    assert data(stream.read(10, 0)) == [b"2"]


def test_old_entries_go_once_they_are_acknowledged_by_all_groups(server, stream):
    client = server.store().client
    old = NOW - datetime.timedelta(days=2)
    for n in range(6):
        client.xadd(STREAM, {"event": n}, id=f"{int(old.timestamp() * 1000)}-{n + 1}")
    client.xadd(STREAM, {"event": 6}, id=f"{int(NOW.timestamp() * 1000)}-0")
    batch = stream.read(4, 0)
    stream.tidy()
    assert client.xlen(STREAM) == 7
    stream.acknowledge(batch)
    client.xgroup_create(STREAM, "others", id=batch.receipt[1])
    stream.tidy()
    assert client.xlen(STREAM) == 6
    client.xgroup_destroy(STREAM, "others")
    stream.tidy()
    assert client.xlen(STREAM) == 4
    assert read_all(stream) == [b"4", b"5", b"6"]
    stream.tidy()
    assert [fields[b"event"] for _, fields in client.xrange(STREAM)] == [b"6"]


def test_two_consumers_share_the_stream(server, stream):
    other = open_consumer(server, "two")
    stream.send(b"%d" % n for n in range(10))
    assert sorted(data(stream.read(5, 0)) + data(other.read(5, 0))) == [b"%d" % n for n in range(10)]
    assert server.store().client.xinfo_groups(STREAM)[0]["name"] == GROUP.encode()


def test_a_server_that_is_away_is_an_error(tmp_path, server):
    stream = RedisStream(server.store().client, "here", "one")
    stream._client.connection_pool.connection_kwargs["port"] = 1
    stream._client.connection_pool.disconnect()
    with pytest.raises(StoreUnavailableError, match="here cannot be reached"):
        stream.resume({})


# --- Erasure

LINES = [b'{"user_id": 5, "event_id": "a"}', b'{"user_id": 6, "pin_id": 5}', b"5, cut", b'{"user_id": 7}']


def test_lines_of_erased_users_are_gone_from_files_and_the_rest_is_read_once(folder):
    path = folder / "a.jsonl"
    append(path, b"\n".join(LINES[:3]) + b"\n")
    stream = reader(folder)
    position = dict(stream.read(2, 0).position)
    append(path, LINES[3] + b"\n" + LINES[0] + b"\n")
    size = path.stat().st_size
    assert stream.search([5]) == 3

    position |= stream.erase([5], position)

    assert stream.search([5]) == 0
    assert path.stat().st_size == size
    assert [line.strip() for line in path.read_bytes().split(b"\n") if line.strip()] == [LINES[1], LINES[3]]
    assert data(reader(folder, position).read(9, 0)) == [LINES[3]]


def test_lines_of_erased_users_are_gone_from_a_server(server):
    stream = RedisStream(server.store().client, server.address)
    stream.resume({})
    stream.send(LINES)
    assert len(stream.read(1, 0).lines) == 1
    assert stream.search([5]) == 2
    assert stream.erase([5], {}) == {}
    assert stream.search([5]) == 0
    stream.resume({})
    assert [line for line in read_all(stream) if line] == [LINES[1], LINES[3]]
