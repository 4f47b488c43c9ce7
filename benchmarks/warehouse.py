"""Writing and reading a partition of embeddings: our transactional write against plain ways of doing the same.

Run with ``python benchmarks/warehouse.py``. The peers are dagster-duckdb's stock write pattern (DELETE and INSERT in
two transactions) and executemany; for reading, DuckDB's fetchnumpy, which gives a Python object a row.
"""

import datetime
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import replace_partitions
from pinnersage_assets.warehouse.tables import Column, Table

PINS, DIMENSIONS = 200_000, 256
DAY = datetime.date(2026, 1, 1)
COLUMNS = (Column("dt", "DATE", ""), Column("pin_id", "BIGINT", ""), Column("embedding", f"FLOAT[{DIMENSIONS}]", ""))
TABLE = Table(schema="bench", name="pins", described_in=Path(), description="", columns=COLUMNS, tests=(), meta={})


def main(pins: int = PINS) -> None:
    """Print seconds and ratios."""
    vectors = np.random.default_rng(0).standard_normal((pins, DIMENSIONS), dtype=np.float32)
    frame = pl.DataFrame({"pin_id": np.arange(pins), "embedding": vectors})
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(database=str(Path(folder) / "warehouse" / "pinnersage.duckdb"), published="")
        stock = duckdb.connect(str(Path(folder) / "stock.duckdb"), config={"python_enable_replacements": False})
        stock.execute(TABLE.definition(DIMENSIONS).replace("bench.pins", "pins"))

        def ours() -> None:
            with warehouse.get_connection() as connection:
                replace_partitions(connection, TABLE, [DAY], frame, run_id="bench")

        def delete_and_insert() -> None:
            stock.register("frame", frame)
            stock.execute("DELETE FROM pins WHERE dt = ?", [DAY])
            stock.execute("INSERT INTO pins SELECT DATE '2026-01-01', * FROM frame")
            stock.execute("CHECKPOINT")

        def row_by_row() -> None:
            some = [(DAY, int(pin), vector.tolist()) for pin, vector in zip(range(2000), vectors, strict=False)]
            stock.executemany("INSERT INTO pins VALUES (?, ?, ?)", some)

        print(f"{pins:,} pins of {DIMENSIONS} floats, best of 3")
        report("write", {
            "replace_partitions (one transaction, ledger, open and close)": (ours, 1.0),
            "DELETE, INSERT, CHECKPOINT (two transactions, open file)": (delete_and_insert, 1.0),
            "executemany (2,000 rows, scaled up)": (row_by_row, pins / 2000),
        })  # fmt: skip

        def read_vectors() -> None:
            _, found = warehouse.read_vectors("SELECT pin_id, embedding FROM bench.pins")
            assert found.shape == vectors.shape

        def fetchnumpy() -> None:
            found = stock.execute("SELECT pin_id, embedding FROM pins LIMIT 20000").fetchnumpy()
            np.stack(found["embedding"])

        report("read into NumPy", {
            "read_vectors (open and close included)": (read_vectors, 1.0),
            "fetchnumpy and stack (20,000 rows, scaled up)": (fetchnumpy, pins / 20_000),
        })  # fmt: skip


def report(title: str, cases: dict[str, tuple[Callable[[], None], float]]) -> None:
    """Print the best of three runs of each case, and its ratio to the first."""
    first = None
    for name, (run, scale) in cases.items():
        times = []
        for _ in range(3):
            started = time.perf_counter()
            run()
            times.append((time.perf_counter() - started) * scale)
        first = first or min(times)
        print(f"{title:16} {name:64} {min(times):8.2f} s   x {min(times) / first:6.1f}")


if __name__ == "__main__":
    main()
