"""``operations.clean_up``: what is large does not stay for ever.

All forgetting is here. First old rows go, and the ledger says `expired` of their partitions; where rows describe files,
the row stays and forgets its file. Then those files go that no row names, neither in the warehouse nor in the published
copy. As this comes before publishing, the next copy lacks old rows too; a file that the present copy names goes one
clean-up later.
"""

import datetime
from collections.abc import Sequence

import dagster as dg
import duckdb
import polars as pl

from pinnersage_assets.lineage.corpus_index import delete_unnamed_files, forget_old_files
from pinnersage_assets.lineage.graph_snapshot import delete_unnamed_graphs, forget_old_graphs
from pinnersage_assets.lineage.serving import delete_unnamed_snapshots, forget_old_snapshots
from pinnersage_assets.partitions import DAILY, after, partition_day
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import expire_partitions
from pinnersage_assets.warehouse.publishing import UnreadableCopyError

# Tables by the setting of section `retention` that says how long rows stay.
ROWS = {
    "raw_days": ("raw.actions", "raw.impressions", "raw.board_pins", "raw.pins"),
    "clusters_days": ("users.clusters",),
    "edges_days": ("graph.edges",),
    "medoids_days": ("users.medoids", "marts.interests"),
    "recommendations_days": (
        *("retrieval.recommendations", "retrieval.pixie_recommendations", "retrieval.blended_recommendations"),
        "marts.medoid_reuse",
    ),
    "neighbours_days": ("retrieval.medoid_neighbours",),
    "corpus_days": ("corpus.pins", "corpus.excluded"),
    "evaluation_days": ("evaluation.retrieval_users", "evaluation.ranking_users"),
}

# The same of tables whose rows describe files: what makes a row forget its file, and what deletes forgotten files.
FILES = {
    "index_days": ("retrieval.hnsw_index", forget_old_files, delete_unnamed_files),
    "graph_days": ("graph.snapshot", forget_old_graphs, delete_unnamed_graphs),
    "snapshot_days": ("serving.snapshot", forget_old_snapshots, delete_unnamed_snapshots),
}


def clean_up(specs: Sequence[dg.AssetSpec]) -> dg.AssetsDefinition:
    """The asset; it comes after all others but the publication."""

    @dg.asset(
        key=["operations", "clean_up"],
        partitions_def=DAILY,
        deps=after(specs),
        kinds={"file"},
        code_version="1",
    )
    def clean_up(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
        """Give up what is older than its retention, counted from the partition's day: old days can be redone."""
        day, found = partition_day(context), []
        warehouse.existing_file()
        with warehouse.get_connection() as connection:
            newest = _newest_published(connection)
            since = {name: _kept_since(day, days, newest) for name, days in dict(settings.retention).items()}
            for name, tables in ROWS.items():
                first = since[name]
                for table in tables:
                    rows = expire_partitions(connection, table, first) if first else {}
                    found.append((table, first, len(rows), sum(rows.values()), 0, 0))
            forgotten = {
                name: forget(connection, first) if (first := since[name]) else 0
                for name, (_, forget, _) in FILES.items()
            }
        for name, (table, _, delete) in FILES.items():
            try:
                sizes = delete(warehouse, settings)
            except UnreadableCopyError as error:
                # No reason to keep people waiting for a day: it is about to be published anew, and tomorrow comes too.
                context.log.warning(f"{table}: no file is deleted today, as the copy may name it. {error}")
                sizes = {}
            found.append((table, since[name], forgotten[name], 0, len(sizes), sum(sizes.values())))
            if sizes:
                context.log.info(f"{table}: deleted {', '.join(map(str, sizes))}")
        columns = ["table_name", "kept_since", "partitions", "rows", "files", "bytes"]
        return pl.DataFrame(found, schema=columns, orient="row", infer_schema_length=None).cast({"kept_since": pl.Date})

    return clean_up


def _newest_published(connection: duckdb.DuckDBPyConnection) -> datetime.date | None:
    [(newest,)] = connection.execute("SELECT max(dt) FROM operations.publications").fetchall()
    return newest


def _kept_since(day: datetime.date, days: int, newest: datetime.date | None) -> datetime.date | None:
    """The first day that is kept: never one after the newest published; None where all are."""
    return min(day - datetime.timedelta(days=days), newest or day) if days else None
