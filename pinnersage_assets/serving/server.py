"""`make serve`: the consumer of events in a process of its own, and the HTTP service in this one."""

import ipaddress
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import uvicorn
from threadpoolctl import threadpool_limits

from pinnersage_assets.serving.served_day import Follower
from pinnersage_assets.serving.service import create_app
from pinnersage_assets.serving.store import open_store
from pinnersage_assets.settings import Settings

# A consumer that ends by itself is started again, after a pause that doubles up to a minute.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
# One that ran for so long before it ended has not failed at once.
_RAN_WELL_SECONDS = 60.0
# What has run for so long is not ending again at once.
_RUNS_SECONDS = 10.0
# What a request may hold of headers.
_HEADER_BYTES = 16_384
_SECONDS_TO_END = 10.0

_log = logging.getLogger(__name__)


def serve(published: Path, data_folder: Path, settings: Settings, consume: bool = True) -> None:
    """Answer until SIGINT or SIGTERM.

    Args:
        published: the copy of the database that people query.
        data_folder: the data directory.
        settings: where the store is, where to listen, and limits.
        consume: also run the consumer; where several services share a Redis server, one is enough.

    Raises:
        ValueError: the service would listen beyond this machine without a key, or cannot listen where it should.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # The server raises again, when it has ended, what ended it; the consumer has to end after that.
        signal.signal(number, lambda *_: sys.exit(0))
    serving = settings.serving
    api_key = os.environ.get("PINNERSAGE_API_KEY") or None
    check_address(serving.host, api_key)
    # One request a thread: BLAS with threads of its own would only get into their way.
    with (
        threadpool_limits(1),
        _listen(serving.host, serving.port) as listening,
        closing(open_store(serving.store, data_folder / "serving")) as store,
    ):
        follower = Follower(published, data_folder, settings, store)
        consumer = _Supervised(_consumer()) if consume else None
        app = create_app(follower, serving, api_key, problem=lambda: consumer.problem if consumer else None)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                # Others may be installed, which take headers of any size.
                http="h11",
                ws="none",
                log_level="warning",
                access_log=False,
                server_header=False,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                timeout_graceful_shutdown=int(_SECONDS_TO_END),
            )
        )
        follower.start()
        try:
            # Who reads this may ask at once, and the port that 0 stands for is known.
            print(f"http://{serving.host}:{listening.getsockname()[1]}/docs", flush=True)
            server.run([listening])
        finally:
            follower.stop()
            if consumer:
                consumer.stop()


def check_address(host: str, api_key: str | None) -> None:
    """See that nobody beyond this machine is answered without a key.

    Raises:
        ValueError: says what to do.
    """
    try:
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local and api_key is None:
        raise ValueError(
            f"serving.host is {host}, which is not this machine alone: set PINNERSAGE_API_KEY to a key that requests "
            "must bring along in the header X-API-Key"
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]  # it repeats the address
        raise ValueError(
            f"nothing can listen at {host}, port {port}: {reason}. Is another service running? "
            "The settings serving.host and serving.port say where this one listens"
        ) from error


def _consumer() -> list[str]:
    return [sys.executable, "-m", "pinnersage_assets", "consume", "--parent", str(os.getpid())]


class _Supervised:
    """A command that is started again when it ends by itself."""

    def __init__(self, command: list[str]) -> None:
        self.problem: str | None = None
        """Why events may not be coming in; None while it has run for a while."""
        self._command = command
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _keep(self) -> None:
        pause = _SHORTEST_PAUSE
        while not self._stopping.is_set():
            started = time.monotonic()
            # Of a group of its own: an interrupt at the terminal is for us, who end it when answers have ended.
            with subprocess.Popen(self._command, start_new_session=True) as process:
                while process.poll() is None and not self._stopping.wait(0.1):
                    if time.monotonic() - started > _RUNS_SECONDS:
                        self.problem = None
                if process.poll() is None:
                    process.terminate()
                    try:
                        process.wait(_SECONDS_TO_END)
                    except subprocess.TimeoutExpired:
                        process.kill()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _RAN_WELL_SECONDS:
                pause = _SHORTEST_PAUSE
            self.problem = f"the consumer ended with {process.returncode}; it is started again in {pause:.0f} s"
            _log.error("%s", self.problem)
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
