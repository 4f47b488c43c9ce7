"""Both stores, a Redis server of our own on a free port, and processes that are killed."""

import datetime
import gc
import multiprocessing
import shutil

import pytest
from redis_server import RedisServer

from pinnersage_assets.serving.store import open_store

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


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_of_other_tests():
    """Dagster's instances hold connections of SQLite that only the thread may close which made them.

    If they were collected by a thread of a service, this would fail, at worst in the middle of an import.
    """
    gc.collect()


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    return _PROCESSES


@pytest.fixture(scope="session")
def _server(tmp_path_factory):
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
