"""A prompt for SQL on the published copy, for people without a DuckDB client."""

import contextlib
from pathlib import Path

import duckdb


def prompt(published: Path) -> None:
    """Read statements up to a semicolon and print what they give, until the input ends."""
    if not published.exists():
        raise SystemExit(f"{published} does not exist yet: `make demo` or the daily job makes it")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() a history, where the platform has it)
    print(f"{published}, read-only. Statements end with a semicolon; `SHOW ALL TABLES;` lists tables; Ctrl-D leaves.")
    with duckdb.connect(str(published), read_only=True) as connection:
        statement = ""
        while True:
            try:
                statement += input("... " if statement else "sql> ") + "\n"
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                statement = ""
                print()
                continue
            if statement.rstrip().endswith(";"):
                try:
                    result = connection.sql(statement)
                    print(result if result is not None else "done")
                except duckdb.Error as error:
                    print(error)
                statement = ""
