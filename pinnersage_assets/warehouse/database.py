"""The connection to the DuckDB file that runs write.

DuckDB lets one process write a file, or many read it. So every connection here is short: it is opened for one read or
one write and closed at once, and whoever finds the file taken waits. People do not query this file but the published
copy (`publishing`), which no run ever waits for.
"""

import itertools
import os
import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
from dagster_duckdb import DuckDBResource
from numpy.typing import NDArray
from pydantic import Field

from pinnersage_assets.files import sync


class WarehouseLockedError(RuntimeError):
    """Another process kept the database file for longer than we wait."""


class Warehouse(DuckDBResource):
    """The warehouse: dagster-duckdb's resource with read-only connections and a lock that says who holds it."""

    published: str = Field(description="Path of the copy that people query.")
    lock_timeout_seconds: float = Field(default=120.0, description="How long to wait for another process's lock.")

    @property
    def data_folder(self) -> Path:
        """The data directory that the warehouse is part of."""
        return Path(self.database).parents[1]

    def existing_file(self) -> Path:
        """The database file.

        Raises:
            FileNotFoundError: nothing has been written yet.
        """
        path = Path(self.database)
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist yet: materialise something first (`make demo`, or raw in the UI)"
            )
        return path

    @contextmanager
    def get_connection(self) -> Generator[duckdb.DuckDBPyConnection]:
        """A connection that may write. Keep it for the write alone.

        Raises:
            WarehouseLockedError: another process held the file for the whole timeout.
        """
        Path(self.database).parent.mkdir(parents=True, exist_ok=True)
        with self._connect(read_only=False) as connection:
            yield connection

    @contextmanager
    def get_reader(self) -> Generator[duckdb.DuckDBPyConnection]:
        """A read-only connection, shared with other readers.

        Raises:
            FileNotFoundError: nothing has been written yet.
            WarehouseLockedError: another process wrote for the whole timeout.
        """
        self.existing_file()
        with self._connect(read_only=True) as connection:
            yield connection

    def read(self, query: str, parameters: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """The result of one query as a Polars frame, through a read-only connection."""
        with self.get_reader() as connection:
            return connection.sql(query, params=dict(parameters or {})).pl()

    def read_vectors(
        self, query: str, parameters: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Pin ids and their embeddings, without a Python object per row.

        Args:
            query: selects two columns, an id and a ``FLOAT[n]`` array, without nulls.
            parameters: the query's named parameters.

        Returns:
            ids (m,) int64, and vectors (m, n) float32 in the same order.
        """
        frame = self.read(query, parameters)
        ids, vectors = frame.get_columns()
        assert isinstance(vectors.dtype, pl.Array)
        return ids.to_numpy(), vectors.to_numpy().reshape(len(frame), *vectors.dtype.shape)

    @contextmanager
    def _connect(self, read_only: bool) -> Generator[duckdb.DuckDBPyConnection]:
        # What does not fit into memory goes where it would if the file were opened by itself.
        config = {"temp_directory": f"{self.database}.tmp", **self.connection_config}
        instance = _instance(config)
        connection = self._wait_for_connection(instance, read_only)
        try:
            yield connection
        finally:
            instance.release(self.database, connection)

    def _wait_for_connection(self, instance: "_Instance", read_only: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self.lock_timeout_seconds
        while True:
            try:
                return instance.connect(self.database, read_only)
            except duckdb.IOException as error:
                # The whole phrase: "lock" alone may be part of the file's path.
                if "could not set lock" not in str(error).lower():
                    raise
                if time.monotonic() > deadline:
                    raise WarehouseLockedError(self._locked_message(str(error))) from error
            # Waiting for a random time keeps two waiting processes from retrying in step.
            time.sleep(random.uniform(0.02, 0.1))

    def _locked_message(self, error: str) -> str:
        holder = re.search(r"held in (.+?\(PID \d+\))", error)
        return (
            f"{self.database} has been locked by {holder.group(1) if holder else 'another process'} for "
            f"{self.lock_timeout_seconds:.0f} s. Close it there: only runs open this file. "
            f"Query {self.published} instead, which never blocks a run."
        )


def put_in_place(new: Path, database: Path) -> None:
    """Let a database file that is whole and synced replace another; who has the old one open keeps it until closing."""
    # DuckDB would replay a write-ahead log that is left beside the old file into the new one, and fail.
    database.with_name(database.name + ".wal").unlink(missing_ok=True)
    os.replace(new, database)
    sync(database.parent)


def vectors_in_parts(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any], rows: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """As `Warehouse.read_vectors`, some thousands of rows at a time."""
    for batch in connection.sql(query, params=dict(parameters)).to_arrow_reader(rows):
        ids, vectors = batch.columns
        values = vectors.flatten().to_numpy().reshape(len(batch), vectors.type.list_size)
        yield ids.to_numpy(), values


@dataclass
class _Attached:
    alias: str
    connections: int = 0


class _Instance:
    """A DuckDB that lives as long as the process, to which files are attached while they are read or written.

    To start one takes as long as a dozen small queries, and a day's run makes hundreds of connections.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        # Python variables must never stand in for tables: a local called `pins` would shadow one.
        config = {"custom_user_agent": "dagster", "python_enable_replacements": False, **config}
        self._connection = duckdb.connect(":memory:", config=config)
        self._attached: dict[str, _Attached] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    def connect(self, path: str, read_only: bool) -> duckdb.DuckDBPyConnection:
        """A connection whose tables are those of a file.

        Raises:
            duckdb.IOException: the file cannot be attached: another process has it, for example, or it is to be
                written, and somebody in this one has it open.
        """
        with self._lock:
            connection = self._connection.cursor()
            file = self._attached.get(path)
            if file is None:
                file = _Attached(f"warehouse_{next(self._numbers)}")
                quoted, mode = path.replace("'", "''"), "READ_ONLY" if read_only else "READ_WRITE"
                connection.execute(f"ATTACH '{quoted}' AS {file.alias} ({mode})")
                self._attached[path] = file
            elif not read_only:
                connection.close()
                raise duckdb.IOException(f"Could not set lock on file {path}: this process has it open")
            file.connections += 1
            connection.execute(f"USE {file.alias}; SET TimeZone = 'UTC'")
            return connection

    def release(self, path: str, connection: duckdb.DuckDBPyConnection) -> None:
        """Take a connection back; the last one of a file detaches it, which lets go of its lock."""
        with self._lock:
            file = self._attached[path]
            file.connections -= 1
            connection.close()
            if not file.connections:
                del self._attached[path]
                self._connection.execute(f"DETACH {file.alias}")


_KEPT = 4
# By process: a fork needs instances of its own, and must not close its parent's, whose threads it does not have.
_instances: dict[int, OrderedDict[tuple, _Instance]] = {}
_finding = threading.Lock()


def _instance(config: dict[str, Any]) -> _Instance:
    """The instance of this process for a configuration; those used last are kept."""
    key = tuple(sorted(config.items()))
    with _finding:
        own = _instances.setdefault(os.getpid(), OrderedDict())
        if key not in own:
            own[key] = _Instance(config)
        own.move_to_end(key)
        if len(own) > _KEPT:
            own.popitem(last=False)
        return own[key]
