"""What all tests share: an environment that owes nothing to the machine they run on.

The package reads the environment when it is imported, so this is done before any test imports it.
"""

import os
import tempfile

import pytest

_DATA = tempfile.TemporaryDirectory(prefix="pinnersage-tests-")
for _name in [name for name in os.environ if name.startswith(("PINNERSAGE_", "DAGSTER_"))]:
    del os.environ[_name]
os.environ["PINNERSAGE_DATA_DIR"] = _DATA.name


def pytest_configure(config):
    # pytest resets the filters that the package sets; and these are Dagster's own affairs.
    for warning in (
        "ignore::dagster.BetaWarning",
        "ignore::dagster.PreviewWarning",
        "ignore:Asset job daily materializes assets with varying BackfillPolicies:UserWarning",
        "ignore:InitResourceContext.dagster_run is deprecated:DeprecationWarning",
        "ignore:Function `JobDefinition.run_request_for_partition` is deprecated:DeprecationWarning",
    ):
        config.addinivalue_line("filterwarnings", warning)


# What takes longest begins first, so that workers end together.
_LONG = ("tests/lineage/", "tests/worlds/", "tests/test_backfill.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """After pytest-randomly has shuffled them."""
    places = {start: place for place, start in enumerate(_LONG)}
    items.sort(key=lambda item: min((p for start, p in places.items() if item.nodeid.startswith(start)), default=9))


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    # A quiet pytest does not show the header that has it.
    if exitstatus and (seed := getattr(config.option, "randomly_seed", None)):
        terminalreporter.write_line(f"This order again: --randomly-seed={seed}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A module is tested by one worker; those of ``lineage`` all by the same, which makes their small world once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid):
            folder = "tests/lineage/"
            return folder if nodeid.startswith(folder) else super()._split_scope(nodeid)

    return Scheduler(config, log)
