"""``operations.*``: what runs did, and the copy that people query."""

import dagster as dg
import duckdb
import polars as pl

from pinnersage_assets.lineage.corpus_index import delete_unnamed_files, forget_old_files
from pinnersage_assets.lineage.serving import delete_unnamed_snapshots, forget_old_snapshots
from pinnersage_assets.partitions import DAILY, SAME_DAY, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.publishing import publish


def publications(everything: list[str]) -> dg.AssetsDefinition:
    """The last asset of the daily job; it comes after all others."""

    @dg.asset(
        key=["operations", "publications"],
        partitions_def=DAILY,
        deps=reads(SAME_DAY, *everything),
        kinds={"file"},
        code_version="2",
    )
    def publications(
        context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
    ) -> dg.MaterializeResult[pl.DataFrame]:
        """Replace the published copy by the warehouse as it is now, if all its partitions are good.

        Index files and snapshots past their retention go: first from their rows, and from the disk when no published
        row names them.
        """

        def forget(connection: duckdb.DuckDBPyConnection) -> None:
            forget_old_files(connection, settings.index.retention_days)
            forget_old_snapshots(connection, settings.serving.retention_days)

        publication = publish(warehouse, ledger_of="operations.publications", before_copying=forget)
        for name in [*delete_unnamed_files(warehouse), *delete_unnamed_snapshots(warehouse, settings)]:
            context.log.info(f"deleted {name}: no row names it")
        context.log.info(f"published {publication.bytes / 1e6:,.0f} MB at {warehouse.published}")
        return dg.MaterializeResult(
            value=pl.DataFrame({"run_id": [context.run.run_id], **{k: [v] for k, v in vars(publication).items()}}),
            metadata={"path": dg.MetadataValue.path(warehouse.published)},
        )

    return publications
