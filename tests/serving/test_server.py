"""``python -m pinnersage_assets serve`` as a process: what `make serve` runs."""

import contextlib
import datetime
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from served_data import pin_id, publish_day

SECONDS = 40


def children_of(process):
    """Whichever of its threads started them."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    return [int(pid) for file in files for pid in file.read_text().split()]


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def is_running(process):
    with contextlib.suppress(FileNotFoundError):
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    return False


@pytest.fixture
def environment(tmp_path):
    variables = os.environ | {"PINNERSAGE_DATA_DIR": str(tmp_path), "PINNERSAGE_SOURCE": "landing"}
    variables.pop("PINNERSAGE_API_KEY", None)
    (tmp_path / "settings.toml").write_text("[serving]\nport = 0\n")
    return variables


@pytest.fixture
def serving(tmp_path, environment):
    publish_day(tmp_path)
    command = [sys.executable, "-m", "pinnersage_assets", "serve"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            yield process, re.fullmatch(r"(http://127.0.0.1:\d+)/docs\n", process.stdout.readline())[1]
        finally:
            process.kill()
            print((tmp_path / "log").read_text())


def recent_pins(url):
    with urllib.request.urlopen(f"{url}/users/1/interests") as response:
        return {pin for interest in json.load(response)["interests"] for pin in interest["recent_pin_ids"]}


def health(url):
    with urllib.request.urlopen(f"{url}/health") as response:
        return json.load(response)


def append(tmp_path, name, pin):
    moment = datetime.datetime.now(datetime.UTC).isoformat()
    event = {"event_id": name, "user_id": 1, "pin_id": pin, "action": "click", "time": moment}
    folder = tmp_path / "serving" / "events"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mine.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def test_what_a_user_does_shows_at_once_and_also_after_the_consumer_was_killed(tmp_path, serving):
    process, url = serving
    append(tmp_path, "a", pin_id(60))
    assert until(lambda: recent_pins(url)) == {pin_id(60)}
    [consumer] = children_of(process.pid)
    os.kill(consumer, signal.SIGKILL)
    assert "the consumer ended with -9" in until(lambda: health(url)["problem"])
    append(tmp_path, "b", pin_id(90))
    assert until(lambda: recent_pins(url) - {pin_id(60)}) == {pin_id(90)}
    [another] = until(lambda: children_of(process.pid))
    process.terminate()
    assert process.wait(SECONDS) == 0
    assert not is_running(another)
    assert f"the consumer ended with {-signal.SIGKILL}; it is started again in 1 s" in (tmp_path / "log").read_text()


def test_a_consumer_does_not_outlive_the_service(serving):
    process, _ = serving
    [consumer] = until(lambda: children_of(process.pid))
    process.kill()
    until(lambda: not is_running(consumer))


def test_beyond_this_machine_it_does_not_start_without_a_key(tmp_path, environment):
    (tmp_path / "settings.toml").write_text('[serving]\nhost = "0.0.0.0"\n')
    command = [sys.executable, "-m", "pinnersage_assets", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "Error: serving.host is 0.0.0.0, which is not this machine alone: set PINNERSAGE_API_KEY"
    )


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path, environment):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (tmp_path / "settings.toml").write_text(f"[serving]\nport = {port}\n")
        command = [sys.executable, "-m", "pinnersage_assets", "serve"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: nothing can listen at 127.0.0.1, port {port}: Address already in use.")
    assert not done.stdout


def test_headers_may_not_be_of_any_size(serving):
    _, url = serving
    address = url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), SECONDS) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Large: " + 30_000 * b"a")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
