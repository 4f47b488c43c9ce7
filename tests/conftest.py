"""What all tests share: an environment that owes nothing to the machine they run on.

The package reads the environment when it is imported, so this is done before any test imports it.
"""

import functools
import os
import tempfile

import pytest

_DATA = tempfile.TemporaryDirectory(prefix="pinnersage-tests-")
for _name in [name for name in os.environ if name.startswith(("PINNERSAGE_", "DAGSTER_"))]:
    del os.environ[_name]
os.environ["PINNERSAGE_DATA_DIR"] = _DATA.name


def _remember_schemas():
    """Dagster infers the schema of all settings anew in every run, and tests make hundreds."""
    from dagster._config.pythonic_config import config, resource

    infer, known = config.infer_schema_from_config_class, {}

    @functools.wraps(infer)
    def remembered(model_cls, description=None, fields_to_omit=None, default=None):
        if default is not None:
            return infer(model_cls, description, fields_to_omit, default)
        key = model_cls, description, frozenset(fields_to_omit or ())
        if key not in known:
            known[key] = infer(model_cls, description, fields_to_omit)
        return known[key]

    config.infer_schema_from_config_class = resource.infer_schema_from_config_class = remembered


def pytest_configure(config):
    _remember_schemas()
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
