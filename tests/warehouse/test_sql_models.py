import datetime
import re
import shutil
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from pinnersage_assets.warehouse.figures import partition_metadata
from pinnersage_assets.warehouse.sql_assets import sql_asset
from pinnersage_assets.warehouse.sql_models import SqlModelError, load_sql_models
from pinnersage_assets.warehouse.tables import SQL_FOLDER, SchemaError, all_tables, load_models, load_sources

DAY = datetime.date(2026, 3, 1)
DAYS = {"first_dt": "2026-03-01", "last_dt": "2026-03-02", "dimensions": 4}


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copytree(SQL_FOLDER, tmp_path / "sql")
    return tmp_path / "sql"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def add_model(folder: Path, name: str, sql: str, ephemeral: bool = False) -> Path:
    """A mart with the columns dt and pin_id."""
    path = folder / "marts" / f"{name}.sql"
    path.write_text(sql)
    columns = """
    columns:
      - {name: dt, data_type: date, description: Day.}
      - {name: pin_id, data_type: bigint, description: Pin.}
"""
    with (folder / "marts" / "schema.yml").open("a") as schema:
        schema.write(f"\n  - name: {name}\n    description: A model.\n")
        schema.write("    config: {materialized: ephemeral}\n" if ephemeral else columns)
    return path


# The real folder.


def test_the_real_models_load_each_after_those_it_reads():
    models = load_sql_models()
    assert {"staging.actions", "staging.pins", "staging.rejected", "marts.interests"} <= set(models)
    assert not any("checked" in key for key in models)
    order = list(models)
    for key, model in models.items():
        assert all(order.index(other) < order.index(key) for other in model.reads - {key} if other in models)


def test_the_real_models_read_what_they_declare():
    for model in load_sql_models().values():
        query = model.render(DAYS)
        # The names that follow FROM and JOIN and have a schema; the models name nothing else so.
        read = set(re.findall(r"\b(?:from|join)\s+([a-z_]+\.[a-z_]+)", query, re.IGNORECASE))
        assert model.reads == read
        assert "{" not in query


def test_every_figure_and_chart_of_a_table_can_be_computed():
    with duckdb.connect(":memory:") as connection:
        for table in all_tables().values():
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {table.schema}")
            connection.execute(table.definition(4))
            # Of no rows, and of a row of nulls, which makes the chart too unless it leaves such rows out.
            assert partition_metadata(connection, table, [DAY])[DAY]["dagster/partition_row_count"] == 0
            connection.execute(f"INSERT INTO {table.key} (dt) VALUES (?)", [DAY])
            metadata = partition_metadata(connection, table, [DAY])[DAY]
            assert metadata["dagster/partition_row_count"] == 1
            assert set(table.meta.get("figures", {})) <= set(metadata)
            chart = table.meta.get("chart")
            bars = connection.sql(f"WITH partition AS (FROM {table.key}) {chart['query']}").fetchall() if chart else []
            assert bool(bars) == ("chart" in metadata)


# Models that cannot be used.

DT_AND_PIN = "select dt, pin_id from {{ ref('pins') }}"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select '{{ var(\"today\") }}' as dt", r"var\('today'\) is not declared in dbt_project.yml; declared are"),
        ("select * from {{ ref('nothing') }}", r"ref\('nothing'\) is not a model; models are .*actions"),
        ("select * from {{ source('raw', 'nothing') }}", r"source\('raw', 'nothing'\) is not declared"),
        ("select * from {{ source('nowhere', 'pins') }}", r"source\('nowhere', 'pins'\) is not declared"),
        ("select dt, pin_id from raw.pins", r"reads raw\.pins without ref\(\) or source\(\)"),
        (f'{DT_AND_PIN} union all select dt, pin_id from "raw"."pins"', r"reads raw\.pins without"),
        (f"{DT_AND_PIN} where pin_id in (select pin_id from staging.rejected)", r"reads staging\.rejected without"),
        ("select dt, pin_id from marts.bad", r"reads marts\.bad without"),
        ("select dt, pin_id from pins", "reads pins without"),
        ("select dt, pin_id from read_parquet('/tmp/*.parquet')", "not a query that DuckDB accepts"),
        ("select dt, pin_id from '/tmp/x.parquet'", "."),
        ("select dt, nothing from {{ this }}", "not a query that DuckDB accepts: Binder Error"),
        ("{{ config(materialized='table') }} " + DT_AND_PIN, "'config' is undefined"),
        ("select '{{ env_var('HOME') }}' as dt", "'env_var' is undefined"),
        ("select {{ range(3) | list }} as dt", "'range' is undefined"),
        ("select {{ nothing }} as dt", "'nothing' is undefined"),
        ("select {{ ref('pins').__class__ }} as dt", "."),
        ("select {{ 1 / 0 }} as dt", "division by zero"),
        ("select * from {{ ref('pins', 'actions') }}", "positional argument"),
        ("select * from {{ source('raw') }}", "positional argument"),
        ("select '{{ var('first_dt', 'x') }}' as dt", "positional argument"),
        ("select {{ ref('pins' }}", "unexpected"),
        ("{% for x in 'ab' %} select", "endfor"),
        ("selec dt, pin_id", "not a query that DuckDB accepts: Parser Error"),
        ("", "."),
        (f"{DT_AND_PIN}; drop table raw.pins", "not a query that DuckDB accepts"),
        ("select dt, nothing from {{ ref('pins') }}", "not a query that DuckDB accepts: Binder Error"),
        ("select dt, pin_id, title from {{ ref('pins') }}", r"gives other columns than its schema.yml .*title"),
        ("select dt from {{ ref('pins') }}", "gives other columns than its schema.yml describes.*pin_id"),
        ("select dt, pin_id::integer as pin_id from {{ ref('pins') }}", "gives other columns.*INTEGER"),
        ("select dt::timestamp as dt, pin_id from {{ ref('pins') }}", "gives other columns.*TIMESTAMP"),
    ],
)
def test_a_model_that_cannot_be_used_is_named(folder, sql, message):
    path = add_model(folder, "bad", sql)
    with pytest.raises(SqlModelError, match=f"{re.escape(str(path))}(?s:.*){message}"):
        load_sql_models(folder)


def test_a_cycle_names_its_files(folder):
    one = add_model(folder, "one", "select dt, pin_id from {{ ref('two') }}")
    two = add_model(folder, "two", "select dt, pin_id from {{ ref('one') }}")
    with pytest.raises(SqlModelError, match=f"cycle: {re.escape(f'{one} -> {two} -> {one}')}"):
        load_sql_models(folder)


def test_a_model_may_read_its_own_table_as_this(folder):
    known = "(select pin_id from {{ this }} where dt < '{{ var('first_dt') }}')"
    add_model(folder, "own", f"select dt, pin_id from {{{{ ref('pins') }}}} where pin_id not in {known}")
    model = load_sql_models(folder)["marts.own"]
    assert model.reads == {"staging.pins", "marts.own"}
    assert "from marts.own where" in model.render(DAYS)


def test_a_model_that_refers_to_itself_is_a_cycle(folder):
    path = add_model(folder, "own", "select dt, pin_id from {{ ref('own') }}")
    with pytest.raises(SqlModelError, match=f"cycle: {re.escape(f'{path} -> {path}')}"):
        load_sql_models(folder)


def test_a_file_without_a_description_and_a_description_without_a_file(folder):
    path = folder / "staging" / "stray.sql"
    path.write_text(DT_AND_PIN)
    with pytest.raises(SqlModelError, match=f"{re.escape(str(path))} is not described in .*schema.yml"):
        load_sql_models(folder)
    path.unlink()
    (folder / "marts" / "interests.sql").unlink()
    with pytest.raises(SqlModelError, match=r"marts/schema.yml describes \['interests'\], which have no file"):
        load_sql_models(folder)


def test_two_models_of_one_name_in_two_folders(folder):
    path = add_model(folder, "pins", DT_AND_PIN)
    with pytest.raises(SqlModelError, match=f"{re.escape(str(path))} and .*staging/pins.sql have the same name"):
        load_sql_models(folder)


def test_inputs_named_in_meta_must_be_read(folder):
    replace(folder / "marts" / "schema.yml", "reads: {staging.pins: history}", "reads: {staging.actions: history}")
    with pytest.raises(SqlModelError, match=r"interests.sql does not read staging.actions, which its schema.yml names"):
        load_sql_models(folder)


def test_a_mapping_that_nobody_knows_is_named():
    model = load_sql_models()["marts.interests"]
    daily = dg.DailyPartitionsDefinition("2026-03-01")
    with pytest.raises(SqlModelError, match=r"marts/interests.sql is read by unknown mappings .*: history"):
        sql_asset(model, daily, {"same_day": dg.TimeWindowPartitionMapping()}, None, lambda context: [])


# Schema files that cannot be used.

NOT_NULL = "name: dt, data_type: date, description: The day (UTC)., data_tests: [not_null]"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (NOT_NULL, "name: dt, data_type: date, data_tests: [not_null]", "column 'dt' of actions has no description"),
        (NOT_NULL, "name: dt, data_type: date, description: ''", "column 'dt' of actions has no description"),
        (NOT_NULL, "name: dt, description: Day", "column 'dt' of actions has no data_type"),
        (NOT_NULL, "data_type: date, description: Day", "column None of actions has no name"),
        (NOT_NULL, NOT_NULL.replace("name: dt", "name: day"), "actions has no column dt of type date"),
        (NOT_NULL, NOT_NULL.replace("date,", "timestamp,"), "actions has no column dt of type date"),
        (NOT_NULL, NOT_NULL.replace("not_null", "not_nul"), "actions asks for the test 'not_nul'; known are not_null"),
        (NOT_NULL, NOT_NULL.replace("not_null", "accepted_values"), "needs the arguments ['values']"),
        (
            NOT_NULL,
            NOT_NULL.replace("[not_null]", "[relationships: {arguments: {to: x}}]"),
            "needs the arguments ['field', 'to']",
        ),
        (
            NOT_NULL,
            NOT_NULL.replace("[not_null]", "[not_null: {config: {severity: eror}}]"),
            "test not_null of actions has the severity 'eror'; it must be error or warn",
        ),
        ("column_name: ", "colum_name: ", "test unique of actions needs the arguments none"),
        (
            "data_type: bigint, description: Who acted.",
            "data_type: bigit, description: x",
            "actions is not a table that DuckDB accepts",
        ),
        ("name: user_id", "name: dt", "actions is not a table that DuckDB accepts"),
        ("  - name: impressions\n", "  - name: actions\n", "describes actions twice"),
        (
            "  - name: impressions\n",
            "  - nam: impressions\n",
            "not laid out as dbt's schema files are (KeyError('name'))",
        ),
        ("models:", "modells:", "not laid out"),
        ("models:", "models: {", "is not YAML"),
        ("models:", "- models:", "is not YAML"),
        ("description: Raw actions with the reason for which staging refuses them.", "", "has no description"),
    ],
)
def test_a_schema_file_that_cannot_be_used_is_named(folder, old, new, message):
    path = folder / "staging" / "schema.yml"
    replace(path, old, new)
    with pytest.raises(SchemaError, match=f"{re.escape(str(path))}.*{re.escape(message)}"):
        load_sql_models(folder)


@pytest.mark.parametrize("content", ["", "[a, b]", "just words", "sources: 3", "sources: [{name: raw}]", "\t: x"])
def test_a_schema_file_of_another_form_is_named(folder, content):
    path = folder / "sources" / "schema.yml"
    path.write_text(content)
    with pytest.raises(SchemaError, match=re.escape(str(path))):
        load_sources(folder)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{staging.pns: [pin_id]}", "staging.pns, which is no table; tables are corpus.excluded, "),
        ("{staging.pins: [id]}", "staging.pins.id, which is no column; staging.pins has dt, pin_id, "),
        ("[staging.pins.pin_id]", "in another form than {schema.table: [column, ...]}"),
        ("{staging.pins: pin_id}", "in another form than {schema.table: [column, ...]}"),
    ],
)
def test_an_origin_that_is_not_there_is_named(folder, said, message):
    path = folder / "sources" / "schema.yml"
    replace(path, "from: {staging.pins: [pin_id]}", f"from: {said}")
    where = f"{path}: column 'pin_id' of near_duplicates has `meta: from` {message}"
    with pytest.raises(SchemaError, match=re.escape(where)):
        all_tables(folder)


def test_a_column_of_a_model_says_its_origins_in_sql_alone(folder):
    path = folder / "marts" / "schema.yml"
    of_user = "{name: user_id, data_type: bigint, description: The user."
    replace(path, of_user, f"{of_user}, config: {{meta: {{from: {{users.medoids: [user_id]}}}}}}")
    where = f"{path}: column 'user_id' of interests has `meta: from`, but what it is computed from is what its SQL says"
    with pytest.raises(SchemaError, match=re.escape(where)):
        all_tables(folder)


def test_a_missing_schema_file_is_named(folder):
    path = folder / "marts" / "schema.yml"
    path.unlink()
    with pytest.raises(SchemaError, match=f"{re.escape(str(path))} does not exist"):
        load_models(folder, "marts")


@pytest.mark.parametrize("content", ["vars: [", "name: x", "vars: {first_dt: x}", "vars: [first_dt]"])
def test_a_project_file_without_the_variables_of_a_run_is_named(folder, content):
    path = folder / "dbt_project.yml"
    path.write_text(content)
    with pytest.raises(SchemaError, match=re.escape(str(path))):
        load_sql_models(folder)


# Ephemeral models.


def test_ephemeral_models_are_inlined_also_nested(folder):
    add_model(folder, "inner_pins", "select dt, pin_id from {{ source('raw', 'pins') }} -- no line end", ephemeral=True)
    add_model(folder, "outer_pins", "select * from {{ ref('inner_pins') }} where pin_id > 1", ephemeral=True)
    add_model(
        folder,
        "top_pins",
        "select o.dt, o.pin_id from {{ ref('outer_pins') }} as o join {{ ref('pins') }} as p on o.pin_id = p.pin_id",
    )
    models = load_sql_models(folder)
    top = models["marts.top_pins"]
    assert top.reads == {"raw.pins", "staging.pins"}
    assert not {"marts.inner_pins", "marts.outer_pins"} & set(models)
    with duckdb.connect(":memory:") as connection:
        for schema in ("raw", "staging"):
            connection.execute(f"CREATE SCHEMA {schema}")
            connection.execute(
                f"CREATE TABLE {schema}.pins AS SELECT DATE '2026-03-01' AS dt, range AS pin_id FROM range(4)"
            )
        assert sorted(connection.execute(top.render(DAYS)).fetchall(), key=str)[0][1] == 2


def test_the_version_changes_with_an_ephemeral_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "changed")
    replace(tmp_path / "changed" / "staging" / "checked_actions.sql", "pin_id is null", "pin_id  is null")
    before, after = load_sql_models(folder), load_sql_models(tmp_path / "changed")
    changed = {key for key in before if before[key].version != after[key].version}
    assert changed == {"staging.actions", "staging.rejected"}
