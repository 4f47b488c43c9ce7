"""SQL models: one file a table, in the part of dbt's language that a reader of SQL can guess.

A model is a SELECT with ``{{ ref('model') }}``, ``{{ source('schema', 'table') }}``, ``{{ var('name') }}`` and
``{{ this }}``, its own table, of earlier days; nothing else. It gives the rows of the days from ``var('first_dt')`` to
``var('last_dt')``. Whatever can be wrong with a model is found when the models load, and the error names the file. What
belongs elsewhere: the assets made of models (`sql_assets`), what a table is (`tables`).
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from jinja2 import StrictUndefined, meta
from jinja2.sandbox import SandboxedEnvironment

from pinnersage_assets.warehouse.tables import (
    MODEL_SCHEMAS,
    SQL_FOLDER,
    SchemaError,
    Table,
    load_models,
    load_sources,
    load_variables,
)

_JINJA = SandboxedEnvironment(undefined=StrictUndefined)
# Neither dict() nor range(): a model says ref(), source(), this and var(), and nothing else.
_JINJA.globals.clear()


class SqlModelError(ValueError):
    """A SQL model cannot be used; the message names its file."""


@dataclass(frozen=True)
class SqlModel:
    """A model that loaded: its table, its file, its text with references resolved, and the tables it reads."""

    table: Table
    path: Path
    text: str
    reads: frozenset[str]
    declared: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Changes with the text, that of ephemeral models included."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    def render(self, variables: Mapping[str, Any]) -> str:
        """The SELECT statement for what a run knows; other variables have their value in dbt_project.yml."""
        return _JINJA.from_string(self.text).render(var={**self.declared, **variables}.__getitem__)


class _Folder:
    """The models of a folder while they load."""

    def __init__(self, folder: Path) -> None:
        self.sources = load_sources(folder)
        self.variables = load_variables(folder)
        self.files: dict[str, tuple[Table, Path]] = {}
        self.loaded: dict[str, SqlModel] = {}
        for schema in MODEL_SCHEMAS:
            declared = load_models(folder, schema)
            for path in sorted((folder / schema).glob("*.sql")):
                if path.stem not in declared:
                    raise SqlModelError(f"{path} is not described in {path.parent / 'schema.yml'}")
                if path.stem in self.files:
                    raise SqlModelError(f"{path} and {self.files[path.stem][1]} have the same name")
                self.files[path.stem] = (declared.pop(path.stem), path)
            if declared:
                raise SqlModelError(
                    f"{folder / schema / 'schema.yml'} describes {sorted(declared)}, which have no file"
                )

    def load(self, name: str, referred_from: tuple[str, ...] = ()) -> SqlModel:
        """A model with the text of the ephemeral models that it refers to in the place of their names."""
        if name in self.loaded:
            return self.loaded[name]
        table, path = self.files[name]
        if name in referred_from:
            cycle = " -> ".join(str(self.files[other][1]) for other in (*referred_from, name))
            raise SqlModelError(f"models refer to each other in a cycle: {cycle}")
        reads: set[str] = set()

        def ref(other: str) -> str:
            if other not in self.files:
                raise SqlModelError(
                    f"{path}: ref({other!r}) is not a model; models are {', '.join(sorted(self.files))}"
                )
            model = self.load(other, (*referred_from, name))
            if model.table.ephemeral:
                reads.update(model.reads)
                return f"(\n{model.text}\n)"
            reads.add(model.table.key)
            return model.table.key

        def source(schema: str, table: str) -> str:
            key = f"{schema}.{table}"
            if key not in self.sources:
                raise SqlModelError(f"{path}: source({schema!r}, {table!r}) is not declared in sources/schema.yml")
            reads.add(key)
            return key

        def var(variable: str) -> str:
            if variable not in self.variables:
                known = ", ".join(sorted(self.variables))
                raise SqlModelError(
                    f"{path}: var({variable!r}) is not declared in dbt_project.yml; declared are {known}"
                )
            # Values come with each run.
            return "{{ var('" + variable + "') }}"

        known = {"ref": ref, "source": source, "var": var}
        try:
            written = path.read_text(encoding="utf-8").strip()
            if not table.ephemeral and "this" in meta.find_undeclared_variables(_JINJA.parse(written)):
                known["this"] = table.key
                reads.add(table.key)
            text = _JINJA.from_string(written).render(known)
        except SqlModelError:
            raise
        except Exception as error:
            # A template can fail in any way that an expression can.
            raise SqlModelError(f"{path}: {error}. Models may use ref(), source(), this and var() only") from error
        if unread := set(table.meta.get("reads", {})) - reads:
            raise SqlModelError(
                f"{path} does not read {', '.join(sorted(unread))}, which its schema.yml names under `meta: reads`"
            )
        self.loaded[name] = SqlModel(table, path, text, frozenset(reads), self.variables)
        return self.loaded[name]


@functools.cache
def load_sql_models(folder: Path = SQL_FOLDER) -> Mapping[str, SqlModel]:
    """The SQL models of a folder, by key such as ``staging.pins``, each after those that it reads.

    Raises:
        SchemaError: a schema.yml or dbt_project.yml cannot be used.
        SqlModelError: a model is not described, refers to something that is not declared, reads a table without
            declaring it, is part of a cycle, is not a query that DuckDB accepts, or gives other columns than described.
    """
    files = _Folder(folder)
    for name in files.files:
        files.load(name)
    # `loaded` is in the order in which loading finished: each model after those that it refers to.
    models = {model.table.key: model for model in files.loaded.values() if not model.table.ephemeral}
    # Without external access: a file that a model reads would be missing from its lineage.
    config: dict[str, Any] = {"python_enable_replacements": False, "enable_external_access": False}
    with duckdb.connect(":memory:", config=config) as connection:
        for table in [*files.sources.values(), *(model.table for model in models.values())]:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {table.schema}")
            try:
                connection.execute(table.definition(files.variables["dimensions"]))
            except duckdb.Error as error:
                raise SchemaError(
                    f"{table.described_in}: {table.name} is not a table that DuckDB accepts: {error}"
                ) from error
        for model in models.values():
            _check_against_duckdb(connection, model, files.variables)
    return models


def _check_against_duckdb(connection: duckdb.DuckDBPyConnection, model: SqlModel, variables: Mapping[str, Any]) -> None:
    """Bind the query to empty tables: what it reads must be declared, what it gives must be described."""
    query = model.render(variables)
    try:
        # DuckDB 2.0 gives the alias with the name: "staging.pins AS p".
        names = {name.split(" AS ")[0] for name in connection.get_table_names(query, qualified=True)}
        undeclared = names - model.reads
        if undeclared:
            raise SqlModelError(
                f"{model.path} reads {', '.join(sorted(undeclared))} without ref() or source(): its lineage would lie"
            )
        given = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {query}").fetchall()}
    except duckdb.Error as error:
        raise SqlModelError(f"{model.path} is not a query that DuckDB accepts: {error}") from error
    wanted = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {model.table.key}").fetchall()}
    if given != wanted:
        differences = sorted(given.items() ^ wanted.items())
        raise SqlModelError(f"{model.path} gives other columns than its schema.yml describes: {differences}")
