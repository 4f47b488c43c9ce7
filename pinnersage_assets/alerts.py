"""Telling somebody: a sensor that posts failed runs to an address, if there is one.

Nothing is sent unless ``PINNERSAGE_FAILURE_URL`` is set, where the daemon runs.
"""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

import dagster as dg

_TIMEOUT_SECONDS = 10
# Of a long message what is posted: the first lines say what happened.
_MOST_CHARACTERS = 2_000


def failure_message(run: dg.DagsterRun, failures: Sequence[dg.DagsterEvent], message: str) -> dict[str, object]:
    """What is posted of a failed run: JSON with a ``text`` for people, as chat services take it, and its parts.

    Args:
        run: the run.
        failures: the failures of its steps.
        message: what Dagster says of the run as a whole.
    """
    partition = run.tags.get("dagster/partition") or " to ".join(
        run.tags[tag]
        for tag in ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
        if tag in run.tags
    )
    errors = {failure.step_key: _first_cause(failure) for failure in failures}
    lines = [f"{step}: {error}" for step, error in errors.items()] or [message]
    text = f"Run {run.run_id} of {run.job_name} {partition} failed.\n" + "\n".join(lines)
    return {
        "text": text[:_MOST_CHARACTERS],
        "run_id": run.run_id,
        "job": run.job_name,
        "partition": partition,
        "errors": errors,
    }


def _first_cause(failure: dg.DagsterEvent) -> str:
    error = failure.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip()[:_MOST_CHARACTERS] if error else str(failure.message)


@dg.run_failure_sensor(
    name="failed_runs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts what failed, as JSON, to the address in PINNERSAGE_FAILURE_URL; without one it does nothing.",
)
def failed_runs(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Post one failed run; a receiver that cannot be reached fails the tick, which the UI shows."""
    address = os.environ.get("PINNERSAGE_FAILURE_URL")
    if not address:
        return dg.SkipReason("PINNERSAGE_FAILURE_URL is not set: nobody is told")
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise ValueError("PINNERSAGE_FAILURE_URL must begin with http:// or https://")
    body = failure_message(context.dagster_run, context.get_step_failure_events(), context.failure_event.message or "")
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
            context.log.info(f"told of run {context.dagster_run.run_id}")
    except (urllib.error.URLError, OSError) as error:
        # The address may hold a secret: it is not repeated.
        raise ConnectionError(f"the address in PINNERSAGE_FAILURE_URL does not take messages: {error}") from error
    return None
