"""The length n of embeddings: recorded once, as the type ``FLOAT[n]`` of ``staging.pins.embedding``.

A data set has one n. It is what most of the usable vectors of its first pins have; later vectors of another length are
rejected rows, and another n altogether means a new data directory.
"""

import duckdb

# Before any vector has come in, tables still need a type. It is replaced while the table is empty.
UNKNOWN = 1


def embedding_dimensions(connection: duckdb.DuckDBPyConnection) -> int:
    """The recorded length of embeddings, or what the first pins suggest, or `UNKNOWN`."""
    recorded = _column_type(connection, "staging", "pins")
    if recorded and connection.execute("SELECT 1 FROM staging.pins LIMIT 1").fetchall():
        return int(recorded.removeprefix("FLOAT[").removesuffix("]"))
    if _column_type(connection, "raw", "pins"):
        usual = connection.execute(
            """
            WITH usable AS (
                -- What staging would keep, the length aside: where n is known, staging.pins gets rows and records it.
                SELECT dt, len(embedding) AS dimensions FROM raw.pins
                WHERE pin_id <> -1 AND created_at < dt + INTERVAL 1 DAY AND list_count(embedding) = len(embedding)
                    AND list_bool_and(list_transform(embedding, lambda x: isfinite(x)))
                    AND list_bool_or(list_transform(embedding, lambda x: x <> 0))
            )
            SELECT dimensions FROM usable WHERE dt = (SELECT min(dt) FROM usable)
            GROUP BY dimensions ORDER BY count(*) DESC, dimensions DESC LIMIT 1
            """
        ).fetchall()
        if usual:
            return usual[0][0]
    return UNKNOWN


def _column_type(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> str | None:
    found = connection.execute(
        "SELECT data_type FROM duckdb_columns() WHERE database_name = current_database() "
        "AND schema_name = ? AND table_name = ? AND column_name = 'embedding'",
        [schema, table],
    ).fetchall()
    return found[0][0] if found else None
