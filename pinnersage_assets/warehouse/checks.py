"""Asset checks: a check is a query for the rows of a partition that break it.

The tests of schema.yml become such queries; an asset adds its own with `PartitionCheck`. All checks of a table run in
one step after it, and enter their common result in the ledger, which is what publishing looks at.
"""

import datetime
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import duckdb
import polars as pl

from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.ledger import record_status, writing_times
from pinnersage_assets.warehouse.tables import SchemaError, Table, TableTest

# Failing rows that the UI shows.
_EXAMPLES = 5


@dataclass(frozen=True)
class PartitionCheck:
    """A check of the partitions of a table.

    ``failures`` is a query for the rows that break it, with a column ``dt`` that says in which partition. It may use
    the parameters ``$first`` and ``$last`` (the days that were written) and those that ``parameters`` gives. ``advice``
    says what to do when it fails; ``{day}`` in it is the first day that does, ``{last}`` the last.
    """

    name: str
    description: str
    failures: str
    blocking: bool = True
    reads: tuple[str, ...] = ()
    advice: str = ""
    parameters: Callable[[Any], Mapping[str, Any]] = lambda settings: {}


def checks_of_tests(table: Table, table_of_model: Mapping[str, str]) -> list[PartitionCheck]:
    """The tests of schema.yml as checks; ``table_of_model`` resolves the ``ref`` of relationships."""
    not_null = [test.expression for test in table.tests if test.kind == "not_null"]
    others = [_check_of_test(table, test, table_of_model) for test in table.tests if test.kind != "not_null"]
    return ([_not_null(table, not_null)] if not_null else []) + others


def _not_null(table: Table, columns: Sequence[str]) -> PartitionCheck:
    failures = " OR ".join(f"{column} IS NULL" for column in columns)
    return PartitionCheck(
        "not_null",
        f"{', '.join(f'`{column}`' for column in columns)}: never null.",
        # A null in dt itself is in no partition; the write refuses it.
        f"SELECT * FROM {table.key} WHERE dt BETWEEN $first AND $last AND ({failures})",
    )


def _check_of_test(table: Table, test: TableTest, table_of_model: Mapping[str, str]) -> PartitionCheck:
    expression, written = test.expression, f"SELECT * FROM {table.key} WHERE dt BETWEEN $first AND $last"
    reads: tuple[str, ...] = ()
    advice = ""
    if test.kind == "accepted_values":
        values = ", ".join("'" + str(value).replace("'", "''") + "'" for value in test.arguments["values"])
        description = f"`{expression}` is one of {values}."
        failures = f"FROM ({written}) WHERE {expression} NOT IN ({values})"
    elif test.kind == "relationships":
        model = test.arguments["to"].removeprefix("ref('").removesuffix("')")
        if model not in table_of_model:
            raise SchemaError(f"schema.yml: test {test.name} of {table.key} refers to {model!r}, which is not a model")
        other, column = table_of_model[model], test.arguments["field"]
        reads = (other,)
        description = f"`{expression}` is a `{column}` of `{other}`, known by then."
        failures = (
            f"FROM ({written}) AS child WHERE NOT EXISTS "
            f"(FROM {other} AS parent WHERE parent.{column} = child.{expression} AND parent.dt <= child.dt)"
        )
    else:
        # An expression without dt must be unique over all days, not only over those just written.
        daily = re.search(r"\bdt\b", expression)
        everywhere = written if daily else f"FROM {table.key}"
        description = f"`{expression}` is unique{'' if daily else ' over all days'}."
        failures = (
            "SELECT max(dt) FILTER (dt BETWEEN $first AND $last) AS dt, min(dt) AS first_day, max(dt) AS last_day, "
            f"{expression} AS repeated, count(*) AS times FROM ({everywhere}) "
            f"WHERE {expression} IS NOT NULL GROUP BY {expression} HAVING count(*) > 1 AND dt IS NOT NULL"
        )
        if not daily:
            # A day that is materialised again can take what a later day already has.
            advice = "Materialise the later of the days that share it again, with what is upstream, and then this one."
    return PartitionCheck(test.name, description, failures, test.blocking, reads, advice)


def table_checks(
    table: Table, checks: Sequence[PartitionCheck], partitions_def: dg.PartitionsDefinition
) -> dg.AssetChecksDefinition:
    """One step that evaluates all checks of a table and enters the result in the ledger."""
    key = dg.AssetKey([table.schema, table.name])
    specs = [
        dg.AssetCheckSpec(
            check.name,
            asset=key,
            description=check.description,
            blocking=check.blocking,
            partitions_def=partitions_def,
            additional_deps=[dg.AssetKey(other.split(".")) for other in check.reads if other != table.key],
        )
        for check in checks
    ]

    @dg.multi_asset_check(
        name=f"{table.schema}__{table.name}__checks",
        specs=specs,
        description=f"Checks of {table.key}, entered in the ledger.",
        can_subset=False,
    )
    def evaluate(
        context: dg.AssetCheckExecutionContext,
        warehouse: dg.ResourceParam[Warehouse],
        settings: dg.ResourceParam[Any],
    ) -> Iterable[dg.AssetCheckResult]:
        days = [datetime.date.fromisoformat(day) for day in context.partition_keys]
        results, failed = [], set()
        with warehouse.get_reader() as connection:
            checked = writing_times(connection, table.key, days)
            for check in checks:
                result, bad_days = _evaluate(connection, check, days, check.parameters(settings))
                results.append(result._replace(asset_key=key))
                failed |= bad_days if check.blocking else set()
        with warehouse.get_connection() as connection:
            record_status(connection, table.key, checked, failed)
        yield from results

    return evaluate


def _evaluate(
    connection: duckdb.DuckDBPyConnection,
    check: PartitionCheck,
    days: Sequence[datetime.date],
    parameters: Mapping[str, Any],
) -> tuple[dg.AssetCheckResult, set[datetime.date]]:
    named = {"first": days[0], "last": days[-1], **parameters}
    used = {name: value for name, value in named.items() if f"${name}" in check.failures}
    counts = dict(
        connection.execute(f"SELECT dt, count(*) FROM ({check.failures}) GROUP BY dt ORDER BY dt", used).fetchall()
    )
    # Only now, and only a few: a broken partition may have millions of broken rows.
    some = connection.sql(f"FROM ({check.failures}) LIMIT {_EXAMPLES}", params=used).pl() if counts else pl.DataFrame()
    failing = sum(counts.values())
    metadata: dict[str, Any] = {"failing rows": failing}
    if counts:
        records = [dg.TableRecord({name: str(value) for name, value in row.items()}) for row in some.to_dicts()]
        metadata["examples"] = dg.MetadataValue.table(records)
    return (
        dg.AssetCheckResult(
            check_name=check.name,
            passed=not counts,
            severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
            description=_verdict(check, failing, counts) if counts else None,
            metadata=metadata,
        ),
        set(counts),
    )


def _verdict(check: PartitionCheck, failing: int, days: Collection[datetime.date]) -> str:
    rows = "1 row breaks" if failing == 1 else f"{failing:,} rows break"
    advice = check.advice.format(day=min(days), last=max(days))
    return f"{check.description} {rows} it, first on {min(days)}. {advice}".strip()
