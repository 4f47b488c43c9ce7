"""Benchmarks run: on little data, whatever they measure then."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_prints_its_table(script):
    small = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import {script.stem}; {script.stem}.main(100)"
    done = subprocess.run([sys.executable, "-c", small], capture_output=True, text=True, timeout=300)
    if "needs its peers" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" x ") >= 4
