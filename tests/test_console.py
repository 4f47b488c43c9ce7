"""What a terminal shows of a run: what assets log, and the tracebacks of errors that nobody expected."""

import dagster as dg
import pytest

from pinnersage_assets.console import terminal
from pinnersage_assets.sources.landing import LandingError


def shown(error: type[BaseException], message: str, capfd) -> str:
    @dg.asset
    def fails(context: dg.AssetExecutionContext) -> None:
        context.log.info("as far as here")
        raise error(message)

    @dg.asset(deps=[fails])
    def waits() -> None: ...

    job = dg.Definitions([fails, waits], jobs=[dg.define_asset_job("all")]).resolve_job_def("all")
    run_config = {"loggers": {"console": {}}}
    job.with_logger_defs({"console": terminal}).execute_in_process(run_config=run_config, raise_on_error=False)
    return capfd.readouterr().err


@pytest.mark.parametrize("error", [LandingError, dg.Failure, KeyboardInterrupt])
def test_what_the_last_message_says_needs_no_traceback(error, capfd):
    text = shown(error, "lacks a column", capfd)
    assert "as far as here" in text
    assert "Stack Trace" not in text
    assert "Not executing" not in text


def test_of_an_unexpected_error_the_traceback_is_there_once(capfd):
    text = shown(ZeroDivisionError, "nobody thought of it", capfd)
    assert text.count("nobody thought of it") == 1
    assert "Stack Trace" in text
    assert "Not executing" not in text
