"""What every table is: its columns, their types and descriptions, and the tests its partitions must pass.

The definitions are the ``schema.yml`` files of ``dbt_like_sql``: tables that Python assets write are declared there as
dbt sources, tables that SQL models write as dbt models. Assets, checks and the DDL are all derived from them.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SQL_FOLDER = Path(__file__).parents[2] / "dbt_like_sql"
MODEL_SCHEMAS = ("staging", "marts")
# What a run tells its models: its days, and the length of embeddings.
RUN_VARIABLES = {"first_dt", "last_dt", "dimensions"}

# The one in C takes a tenth of the time, which every start waits for; PyYAML may have been built without it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class SchemaError(ValueError):
    """A schema.yml says something that cannot be used."""


@dataclass(frozen=True)
class Column:
    """One column; ``type`` is DuckDB's, with ``n`` standing for the recorded length of embeddings."""

    name: str
    type: str
    description: str
    is_result: bool = True
    """False of what another run over the same would say otherwise: the seconds it took, the name of a file."""
    origins: tuple[tuple[str, str], ...] = ()
    """Table and column of each from which Python computes this one, sorted; `column_lineage` says what counts."""


@dataclass(frozen=True)
class TableTest:
    """One of dbt's four generic tests.

    ``expression`` is a column, or an expression over columns such as ``(dt, user_id)``.
    """

    kind: str
    expression: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    blocking: bool = True

    @property
    def name(self) -> str:
        """A name that is unique within the table, such as ``unique_dt_user_id``."""
        words = "".join(letter if letter.isalnum() else " " for letter in self.expression).split()
        return "_".join([self.kind, *words])


@dataclass(frozen=True)
class Table:
    """One table of the warehouse."""

    schema: str
    name: str
    described_in: Path
    description: str
    columns: tuple[Column, ...]
    tests: tuple[TableTest, ...]
    meta: Mapping[str, Any]
    ephemeral: bool = False

    @property
    def key(self) -> str:
        """Such as ``users.medoids``: the table's name in SQL and, split at the dot, the asset's key."""
        return f"{self.schema}.{self.name}"

    @property
    def has_embeddings(self) -> bool:
        """Whether a column's type depends on the length of embeddings."""
        return any("[N]" in column.type for column in self.columns)

    def definition(self, dimensions: int) -> str:
        """The ``CREATE TABLE`` statement; ``dimensions`` is the length of embeddings."""
        columns = ", ".join(f'"{c.name}" {c.type.replace("[N]", f"[{dimensions}]")}' for c in self.columns)
        return f"CREATE TABLE {self.key} ({columns})"


@functools.cache
def all_tables(folder: Path = SQL_FOLDER) -> Mapping[str, Table]:
    """Every table of the warehouse, by key.

    Raises:
        SchemaError: a schema.yml cannot be used, or a column is said to come from one that is not there.
    """
    models = (table for schema in MODEL_SCHEMAS for table in load_models(folder, schema).values())
    tables = load_sources(folder) | {table.key: table for table in models if not table.ephemeral}
    for table in tables.values():
        _check_origins(table, tables)
    return tables


def load_sources(folder: Path = SQL_FOLDER) -> dict[str, Table]:
    """The tables that Python assets write, by key."""
    path = folder / "sources" / "schema.yml"
    return _by_name(
        path,
        lambda content: [
            (f"{source['name']}.{entry['name']}", _table(path, source["name"], entry))
            for source in content["sources"]
            for entry in source["tables"]
        ],
    )


def load_models(folder: Path, schema: str) -> dict[str, Table]:
    """The tables that the SQL models of one folder write, by model name."""
    path = folder / schema / "schema.yml"
    return _by_name(path, lambda content: [(entry["name"], _table(path, schema, entry)) for entry in content["models"]])


def load_variables(folder: Path) -> Mapping[str, Any]:
    """The variables that models may use, with the values that they have outside of a run."""
    path = folder / "dbt_project.yml"
    variables = _load_yaml(path).get("vars")
    if not isinstance(variables, dict) or not variables.keys() >= RUN_VARIABLES:
        raise SchemaError(f"{path} must give values to the vars {', '.join(sorted(RUN_VARIABLES))}")
    return variables


def _check_origins(table: Table, tables: Mapping[str, Table]) -> None:
    for column in table.columns:
        where = f"{table.described_in}: column {column.name!r} of {table.name} has `meta: from`"
        if column.origins and table.schema in MODEL_SCHEMAS:
            raise SchemaError(f"{where}, but what it is computed from is what its SQL says: leave it out")
        for key, name in column.origins:
            if key not in tables:
                raise SchemaError(f"{where} {key}, which is no table; tables are {', '.join(sorted(tables))}")
            if name not in (known := [other.name for other in tables[key].columns]):
                raise SchemaError(f"{where} {key}.{name}, which is no column; {key} has {', '.join(known)}")


def _by_name(path: Path, tables: Callable[[dict[str, Any]], list[tuple[str, Table]]]) -> dict[str, Table]:
    content = _load_yaml(path)
    try:
        named = tables(content)
    except (KeyError, TypeError, AttributeError) as error:
        # Something is missing, or has another form than dbt's: a list where names should be, or the other way round.
        raise SchemaError(f"{path} is not laid out as dbt's schema files are ({error!r})") from error
    names = [name for name, _ in named]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise SchemaError(f"{path} describes {', '.join(sorted(repeated))} twice")
    return dict(named)


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except FileNotFoundError as error:
        raise SchemaError(f"{path} does not exist") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise SchemaError(f"{path} must be a mapping of names to values")
    return content


def _table(path: Path, schema: str, entry: Mapping[str, Any]) -> Table:
    name, config = entry["name"], entry.get("config", {})
    if not entry.get("description"):
        raise SchemaError(f"{path}: {name} has no description")
    columns, tests = [], []
    for column in entry.get("columns", []):
        if missing := [key for key in ("name", "data_type", "description") if not column.get(key)]:
            raise SchemaError(f"{path}: column {column.get('name')!r} of {name} has no {' and no '.join(missing)}")
        meta = column.get("config", {}).get("meta", {})
        columns.append(
            Column(
                column["name"],
                column["data_type"].upper(),
                column["description"].strip(),
                meta.get("is_result", True),
                _origins(f"{path}: column {column['name']!r} of {name}", meta.get("from", {})),
            )
        )
        tests += [_test(path, name, test, column["name"]) for test in column.get("data_tests", [])]
    tests += [_test(path, name, test, None) for test in entry.get("data_tests", [])]
    ephemeral = config.get("materialized") == "ephemeral"
    if not ephemeral and ("dt", "DATE") not in {(column.name, column.type) for column in columns}:
        raise SchemaError(f"{path}: {name} has no column dt of type date: every table is partitioned by day")
    return Table(
        schema,
        name,
        path,
        " ".join(entry["description"].split()),
        tuple(columns),
        tuple(tests),
        config.get("meta", {}),
        ephemeral=ephemeral,
    )


def _origins(where: str, declared: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(declared, dict) or not all(isinstance(columns, list) for columns in declared.values()):
        raise SchemaError(f"{where} has `meta: from` in another form than {{schema.table: [column, ...]}}")
    return tuple(sorted((table, column) for table, columns in declared.items() for column in columns))


def _test(path: Path, table: str, test: str | Mapping[str, Any], column: str | None) -> TableTest:
    kind, details = (test, {}) if isinstance(test, str) else next(iter(test.items()))
    arguments = dict(details.get("arguments", {}))
    needed = {"not_null": set(), "unique": set(), "accepted_values": {"values"}, "relationships": {"to", "field"}}
    if kind not in needed:
        raise SchemaError(f"{path}: {table} asks for the test {kind!r}; known are {', '.join(needed)}")
    expression = column or arguments.pop("column_name", None)
    if expression is None or set(arguments) != needed[kind]:
        raise SchemaError(f"{path}: test {kind} of {table} needs the arguments {sorted(needed[kind]) or 'none'}")
    severity = details.get("config", {}).get("severity", "error")
    if severity not in ("error", "warn"):
        raise SchemaError(f"{path}: test {kind} of {table} has the severity {severity!r}; it must be error or warn")
    return TableTest(kind, expression, arguments, blocking=severity == "error")
