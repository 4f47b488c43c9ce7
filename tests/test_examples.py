"""The examples of data/examples do what they say, one after the other."""

import os
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def call(name, data):
    if not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("examples call .venv/bin/python, which `make install` makes")
    done = subprocess.run(
        ["sh", f"data/examples/{name}.sh"],
        cwd=ROOT,
        env={**os.environ, "PINNERSAGE_DATA_DIR": str(data), "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_events_become_recommendations_other_settings_other_clusters_and_queries_have_answers(tmp_path):
    brought = call("bring_your_events", tmp_path)
    assert re.search(r"rows written +1559", brought)
    assert "The whole lineage of 2026-03-16 to 2026-03-16 is done." in brought
    assert "recall" in brought
    before, after = map(float, re.findall(r"│ +(\d+\.\d+) │", call("change_the_clustering", tmp_path)))
    assert after > before
    assert not (tmp_path / "settings.toml").exists()
    assert re.search(r"│ c\d{3} ", call("query_interests", tmp_path))
