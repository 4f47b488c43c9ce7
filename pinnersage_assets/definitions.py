"""The one Definitions object: what Dagster loads. It assembles, and describes every asset by its table."""

import dagster as dg

from pinnersage_assets.alerts import failed_runs
from pinnersage_assets.jobs import EXECUTOR, JOBS, changed_landing_files, daily_schedule, landed_events
from pinnersage_assets.lateness import late_days, yesterday_is_published
from pinnersage_assets.lineage import (
    clean_up,
    corpus,
    evaluation,
    graph,
    health,
    operations,
    raw,
    retrieval,
    serving,
    sql,
    stale_partitions,
    users,
    walks,
)
from pinnersage_assets.lineage.completeness import inputs_are_complete
from pinnersage_assets.partitions import DAILY, ENVIRONMENT, SETTINGS
from pinnersage_assets.resources import build_resources
from pinnersage_assets.warehouse.checks import checks_of_tests, table_checks
from pinnersage_assets.warehouse.column_lineage import column_lineage, declared_lineage, in_words
from pinnersage_assets.warehouse.sql_models import load_sql_models
from pinnersage_assets.warehouse.tables import all_tables

_GROUPS = (raw, sql, corpus, users, graph, retrieval, walks, serving, evaluation)


# Whom to ask; all other tables are the method's.
_OWNERS = dict.fromkeys(["raw", "staging", "operations"], "team:data-engineering")


def _described(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The asset as its table is described in schema.yml; the docstring of its function is for readers of the code."""
    table = all_tables()[".".join(spec.key.path)]
    model = load_sql_models().get(table.key)
    reads = {".".join(dep.asset_key.path) for dep in spec.deps}
    lineage = column_lineage(model, all_tables()) if model else declared_lineage(table, reads)
    origins = lineage.deps_by_column if lineage else {}
    # Dagster's own UI has no place for lineage but descriptions.
    columns = [
        dg.TableColumn(c.name, c.type.lower(), f"{c.description} {in_words(origins.get(c.name, []))}".rstrip())
        for c in table.columns
    ]
    return spec.replace_attributes(
        group_name=table.schema,
        description=spec.description if spec.kinds & {"sql"} else table.description,
        kinds=spec.kinds | {"duckdb"},
        owners=[_OWNERS.get(table.schema, "team:recommendations")],
        # To find, and to select, what is about people.
        tags={"personal-data": "yes" if "user_id" in {column.name for column in table.columns} else "no"},
    ).merge_attributes(
        metadata={
            "dagster/table_name": table.key,
            "dagster/column_schema": dg.TableSchema(columns=columns),
            **({"dagster/column_lineage": lineage} if lineage else {}),
        }
    )


def _checked(spec: dg.AssetSpec) -> dg.AssetChecksDefinition:
    key = ".".join(spec.key.path)
    checks = checks_of_tests(all_tables()[key], {model.table.name: key for key, model in load_sql_models().items()})
    checks += [
        check for group in (*_GROUPS, health, stale_partitions) for check in getattr(group, "CHECKS", {}).get(key, [])
    ]
    # Raw and staging read their own days; the rest reads windows and histories that may have gaps.
    if spec.key.path[0] not in ("raw", "staging") and (gaps := inputs_are_complete(spec)):
        checks.append(gaps)
    return table_checks(all_tables()[key], checks, DAILY)


def _build() -> dg.Definitions:
    assets = [asset for group in _GROUPS for asset in group.ASSETS]
    # Each of these comes after all before it.
    for last in (clean_up.clean_up, stale_partitions.stale_partitions, operations.publications):
        assets.append(last([spec for asset in assets for spec in asset.specs]))
    return dg.Definitions(
        assets=dg.with_source_code_references(dg.map_asset_specs(_described, assets)),
        asset_checks=[*(_checked(spec) for asset in assets for spec in asset.specs), yesterday_is_published],
        jobs=JOBS,
        schedules=[daily_schedule],
        sensors=[landed_events, changed_landing_files, late_days, failed_runs],
        resources=build_resources(ENVIRONMENT, SETTINGS),
        executor=EXECUTOR,
    )


defs = _build()
