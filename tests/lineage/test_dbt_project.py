"""The folder of SQL models is a dbt project as well: dbt builds the rows that Dagster builds."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from pinnersage_assets.warehouse.sql_models import load_sql_models
from pinnersage_assets.warehouse.tables import SQL_FOLDER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("dbt") is None, reason="dbt is not installed: pip install '.[dbt]'"),
]


def test_dbt_builds_the_same_rows(world, tmp_path):
    data, project = tmp_path / "data", tmp_path / "project"
    (data / "warehouse").mkdir(parents=True)
    warehouse = data / "warehouse" / "pinnersage.duckdb"
    shutil.copy(world.warehouse.published, warehouse)
    warehouse.chmod(0o644)
    shutil.copytree(SQL_FOLDER, project)
    with duckdb.connect(str(warehouse)) as connection:
        [(dimensions,)] = connection.execute("SELECT max(len(embedding)) FROM staging.pins").fetchall()
        [(last,)] = connection.execute("SELECT max(dt) FROM marts.interests").fetchall()
        expected = _rows(connection)
        for key in expected:
            connection.execute(f"DELETE FROM {key} WHERE dt = ?", [last])
    variables = f"{{first_dt: '{last}', last_dt: '{last}', dimensions: {dimensions}}}"
    done = subprocess.run(
        [Path(sys.executable).with_name("dbt"), "build", "--profiles-dir", ".", "--vars", variables],
        cwd=project,
        env={**os.environ, "PINNERSAGE_DBT_DATABASE": str(warehouse)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    with duckdb.connect(str(warehouse)) as connection:
        assert _rows(connection) == expected


def _rows(connection: duckdb.DuckDBPyConnection) -> dict[str, list]:
    return {
        key: connection.execute(f"SELECT count(*), sum(hash(t)) FROM {key} AS t").fetchall()
        for key in load_sql_models()
    }
