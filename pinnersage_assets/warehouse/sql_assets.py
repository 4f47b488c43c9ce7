"""Each SQL model as an asset: it computes the rows of a run's days into Parquet, and the I/O manager writes them."""

import datetime
from collections.abc import Callable, Mapping, Sequence

import dagster as dg

from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.dimensions import embedding_dimensions
from pinnersage_assets.warehouse.partitions import ParquetFiles
from pinnersage_assets.warehouse.sql_models import SqlModel, SqlModelError


def sql_asset(
    model: SqlModel,
    partitions_def: dg.PartitionsDefinition,
    mappings: Mapping[str, dg.PartitionMapping],
    backfill_policy: dg.BackfillPolicy | None,
    days_of: Callable[[dg.AssetExecutionContext], Sequence[datetime.date]],
) -> dg.AssetsDefinition:
    """The asset of a model.

    Args:
        model: what to compute.
        partitions_def: the daily partitions.
        mappings: which partitions of an input a day reads, by the names that schema.yml uses under ``meta: reads``.
            An input that is not named there is read on the same day.
        backfill_policy: how many days one run may compute; None is one.
        days_of: the days of a run.
    """
    reads = model.table.meta.get("reads", {})
    if unknown := set(reads.values()) - set(mappings):
        raise SqlModelError(f"{model.path} is read by unknown mappings in its schema.yml: {', '.join(sorted(unknown))}")

    @dg.asset(
        key=[model.table.schema, model.table.name],
        partitions_def=partitions_def,
        backfill_policy=backfill_policy,
        deps=[
            dg.AssetDep(table.split("."), partition_mapping=mappings[reads.get(table, "same_day")])
            for table in sorted(model.reads)
        ],
        kinds={"sql"},
        metadata={
            "dagster/code_references": dg.CodeReferencesMetadataValue(
                code_references=[dg.LocalFileCodeReference(file_path=str(model.path), line_number=1)]
            )
        },
        code_version=model.version,
        description=f"{model.table.description}\n\n`{'/'.join(model.path.parts[-3:])}`\n\n```sql\n{model.path.read_text()}```",
    )
    def compute(context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]) -> ParquetFiles:
        days = days_of(context)
        with ParquetFiles.new(warehouse) as rows, warehouse.get_reader() as connection:
            variables = {
                "first_dt": days[0],
                "last_dt": days[-1],
                "dimensions": embedding_dimensions(connection),
            }
            connection.sql(model.render(variables)).write_parquet(str(rows.folder / "rows.parquet"), compression="lz4")
        return rows

    return compute
