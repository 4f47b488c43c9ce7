"""A prompt for SQL on the published copy, for people without a DuckDB client."""

import contextlib
import sys
from pathlib import Path

import duckdb


def prompt(published: Path) -> None:
    """Run statements as they are typed, each up to its semicolon; or all of a script that is piped in.

    Raises:
        SystemExit: nothing is published yet, or a statement of a script is wrong.
    """
    if not published.exists():
        raise SystemExit(f"{published} does not exist yet: `make demo` or the daily job makes it")
    with duckdb.connect(str(published), read_only=True) as connection:
        if not sys.stdin.isatty():
            try:
                _run(connection, sys.stdin.read())
            except duckdb.Error as error:
                raise SystemExit(str(error)) from error
            return
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() a history, where the platform has it)
        print(f"{published}, read-only. Statements end with a semicolon; Ctrl-D leaves. Tables: SHOW ALL TABLES;")
        while (statement := _typed()) is not None:
            try:
                _run(connection, statement)
            except duckdb.Error as error:
                print(error)


def _run(connection: duckdb.DuckDBPyConnection, script: str) -> None:
    for statement in connection.extract_statements(script):
        result = connection.sql(statement.query)
        if result is not None:
            result.show(max_rows=100)


def _typed() -> str | None:
    """The next statement; None at the end of the input."""
    statement = ""
    while not statement.rstrip().endswith(";"):
        try:
            statement += input("... " if statement else "sql> ") + "\n"
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            statement = ""
    return statement
