"""The one Definitions object: what Dagster loads. It assembles, and describes every asset by its table."""

import dagster as dg

from pinnersage_assets.jobs import EXECUTOR, JOBS, daily_schedule
from pinnersage_assets.lineage import corpus, evaluation, operations, raw, retrieval, sql, users
from pinnersage_assets.partitions import DAILY, ENVIRONMENT, SETTINGS
from pinnersage_assets.resources import build_resources
from pinnersage_assets.warehouse.checks import checks_of_tests, table_checks
from pinnersage_assets.warehouse.sql_models import load_sql_models
from pinnersage_assets.warehouse.tables import all_tables

_GROUPS = (raw, sql, corpus, users, retrieval, evaluation)


def _described(spec: dg.AssetSpec) -> dg.AssetSpec:
    table = all_tables()[".".join(spec.key.path)]
    columns = [dg.TableColumn(c.name, c.type.lower(), c.description) for c in table.columns]
    return spec.replace_attributes(
        group_name=table.schema,
        description=spec.description if spec.kinds & {"sql"} else table.description,
        kinds=spec.kinds | {"duckdb"},
    ).merge_attributes(
        metadata={
            "dagster/table_name": table.key,
            "dagster/column_schema": dg.TableSchema(columns=columns),
        }
    )


def _build() -> dg.Definitions:
    assets = [asset for group in _GROUPS for asset in group.ASSETS]
    assets.append(operations.publications([".".join(asset.key.path) for asset in assets]))
    own_checks = {key: checks for group in _GROUPS for key, checks in getattr(group, "CHECKS", {}).items()}
    table_of_model = {model.table.name: key for key, model in load_sql_models().items()}
    return dg.Definitions(
        assets=dg.map_asset_specs(_described, assets),
        asset_checks=[
            table_checks(table, [*checks_of_tests(table, table_of_model), *own_checks.get(key, [])], DAILY)
            for key, table in all_tables().items()
            if table.tests
        ],
        jobs=JOBS,
        schedules=[daily_schedule],
        resources=build_resources(ENVIRONMENT, SETTINGS),
        executor=EXECUTOR,
    )


defs = _build()
