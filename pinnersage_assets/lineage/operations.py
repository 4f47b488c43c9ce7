"""``operations.publications``: the copy that people query."""

from collections.abc import Sequence

import dagster as dg
import polars as pl

from pinnersage_assets.partitions import DAILY, after
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.publishing import publish


def publications(specs: Sequence[dg.AssetSpec]) -> dg.AssetsDefinition:
    """The last asset of the daily job; it comes after all others."""

    @dg.asset(
        key=["operations", "publications"],
        partitions_def=DAILY,
        deps=after(specs),
        kinds={"file"},
        code_version="3",
    )
    def publications(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult[pl.DataFrame]:
        """Replace the published copy by the warehouse as it is now, if all its partitions are good."""
        publication = publish(warehouse, ledger_of="operations.publications")
        context.log.info(f"published {publication.bytes / 1e6:,.0f} MB at {warehouse.published}")
        return dg.MaterializeResult(
            value=pl.DataFrame({"run_id": [context.run.run_id], **{k: [v] for k, v in vars(publication).items()}}),
            metadata={"path": dg.MetadataValue.path(warehouse.published)},
        )

    return publications
