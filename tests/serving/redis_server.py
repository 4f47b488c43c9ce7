"""A Redis server that tests start, kill and start again."""

import contextlib
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pinnersage_assets.serving.redis_store import RedisStore
from pinnersage_assets.serving.store import StoreError

PASSWORD = "pass word/of: our@own"


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
        return RedisStore(self.address, **options)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
