"""Benchmarks run: on little data, whatever they measure then."""

import subprocess
import sys
from pathlib import Path

import pytest

from pinnersage_assets.settings import Settings

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


# These make days of history first, or start many processes, or Ray, or take many steps whatever the size.
_SLOW = (
    *("ann", "daily_partition", "daily_peer", "disk", "evaluation", "online", "online_update", "pixie", "ray_nodes"),
    *("users", "ward"),
)


@pytest.mark.parametrize(
    "script",
    [pytest.param(s, marks=pytest.mark.slow) if s.stem in _SLOW else s for s in SCRIPTS],
    ids=lambda script: script.stem,
)
def test_a_benchmark_prints_its_table(script):
    small = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import {script.stem}; {script.stem}.main(100)"
    done = subprocess.run([sys.executable, "-c", small], capture_output=True, text=True, timeout=600)
    if "needs its peers" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" x ") >= 4


def test_the_benchmark_of_the_evaluation_has_the_settings_defaults(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS[0].parent)
    import evaluation

    settings = Settings()
    defaults = settings.evaluation.seeds, settings.retrieval.budget, settings.evaluation.largest_share
    defaults += (
        settings.evaluation.relevance_cosine,
        settings.evaluation.negatives_per_action,
        settings.clustering.alpha,
    )
    names = ("SEEDS", "BUDGET", "LARGEST_SHARE", "RELEVANCE_COSINE", "NEGATIVES_PER_ACTION", "ALPHA")
    assert tuple(getattr(evaluation, name) for name in names) == defaults
