"""SQL models: one file a table, in the part of dbt's language that a reader of SQL can guess.

A model is a SELECT with ``{{ ref('model') }}``, ``{{ source('schema', 'table') }}`` and ``{{ var('name') }}``, nothing
else. It gives the rows of the days from ``var('first_dt')`` to ``var('last_dt')``. Whatever can be wrong with a model
is found when the models load, and the error names the file. What belongs elsewhere: the assets made of models
(`sql_assets`), what a table is (`tables`).
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from pinnersage_assets.warehouse.tables import MODEL_SCHEMAS, SQL_FOLDER, Table, load_models, load_sources

_JINJA = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)


class SqlModelError(ValueError):
    """A SQL model cannot be used; the message names its file."""


@dataclass(frozen=True)
class SqlModel:
    """A model that loaded: its table, its file, its text with references resolved, and the tables it reads."""

    table: Table
    path: Path
    text: str
    reads: frozenset[str]

    @property
    def version(self) -> str:
        """Changes with the text, that of ephemeral models included."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    def render(self, variables: Mapping[str, Any]) -> str:
        """The SELECT statement for some values of the variables."""
        return _JINJA.from_string(self.text).render(var=variables.__getitem__)


class _Folder:
    """The models of a folder while they load."""

    def __init__(self, folder: Path) -> None:
        self.sources = load_sources(folder)
        project = yaml.safe_load((folder / "dbt_project.yml").read_text(encoding="utf-8"))
        self.variables: Mapping[str, Any] = project.get("vars", {})
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

        try:
            text = _JINJA.from_string(path.read_text(encoding="utf-8").strip()).render(ref=ref, source=source, var=var)
        except TemplateError as error:
            raise SqlModelError(f"{path}: {error}. Models may use ref(), source() and var() only") from error
        self.loaded[name] = SqlModel(table, path, text, frozenset(reads))
        return self.loaded[name]


@functools.cache
def load_sql_models(folder: Path = SQL_FOLDER) -> Mapping[str, SqlModel]:
    """The SQL models of a folder, by key such as ``staging.pins``, each after those that it reads.

    Raises:
        SqlModelError: a model is not described, refers to something that is not declared, reads a table without
            declaring it, is part of a cycle, is not a query that DuckDB accepts, or gives other columns than described.
    """
    files = _Folder(folder)
    for name in files.files:
        files.load(name)
    # `loaded` is in the order in which loading finished: each model after those that it refers to.
    models = {model.table.key: model for model in files.loaded.values() if not model.table.ephemeral}
    with duckdb.connect(":memory:", config={"python_enable_replacements": False}) as connection:
        for table in [*files.sources.values(), *(model.table for model in models.values())]:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {table.schema}")
            connection.execute(table.definition(files.variables["dimensions"]))
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
    if wanted.get("dt") != "DATE":
        raise SqlModelError(f"{model.path} has no column dt: every table is partitioned by day")
