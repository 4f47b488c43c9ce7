"""Both stores, a Redis server of our own on a free port, and processes that are killed."""

import contextlib
import datetime
import multiprocessing
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from pinnersage_assets.serving.store import StoreError, open_store

PASSWORD = "pass word/of: our@own"

_PROCESSES = multiprocessing.get_context("forkserver")
# Not the settings: they compute with Polars as they load, and its threads do not survive a fork.
_PROCESSES.set_forkserver_preload(
    [
        "pytest",
        "pinnersage_assets.serving.consumer",
        "pinnersage_assets.serving.file_stream",
        "pinnersage_assets.serving.lmdb_store",
        "pinnersage_assets.serving.redis_stream",
    ]
)


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    return _PROCESSES


@dataclass
class RedisServer:
    """A server in a folder; killed and started again, it goes on from its append-only file."""

    folder: Path
    options: list[str] = field(default_factory=list)
    scheme: str = "redis"
    parameters: str = ""
    port: int = 0

    def __post_init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def address(self) -> str:
        """With the password, so that other processes need not be told it."""
        return f"{self.scheme}://:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/0{self.parameters}"

    def start(self) -> None:
        port = ["--port", "0", "--tls-port", str(self.port)] if self.scheme == "rediss" else ["--port", str(self.port)]
        command = ["redis-server", *port, "--bind", "127.0.0.1", "--dir", str(self.folder), "--appendonly", "yes"]
        command += ["--save", "", "--requirepass", PASSWORD, *self.options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(200):
            if self._process.poll() is not None:
                raise RuntimeError(f"redis-server does not start: {(self.folder / 'log').read_text()[-500:]}")
            with contextlib.suppress(StoreError):
                self.store().totals()
                return
            time.sleep(0.02)
        raise RuntimeError("redis-server does not answer")

    def store(self, **options):
        from pinnersage_assets.serving.redis_store import RedisStore

        return RedisStore(self.address, **options)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="session")
def _server(tmp_path_factory):
    pytest.importorskip("redis")
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server on this machine")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        server.start()
    except (OSError, RuntimeError) as error:
        pytest.skip(f"redis-server cannot run here: {error}")
    yield server
    server.kill()


@pytest.fixture
def server(_server):
    """A running server, empty."""
    _server.store().client.flushall()
    return _server


@pytest.fixture(params=["lmdb", "redis"])
def address(request) -> str:
    """What `serving.store` says."""
    return "lmdb" if request.param == "lmdb" else request.getfixturevalue("server").address


@pytest.fixture
def store(address, tmp_path):
    store = open_store(address, tmp_path / "serving", lambda: datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC))
    yield store
    store.close()
