"""What a terminal shows of runs that it started: what assets log, and the tracebacks of errors that nobody expected.

Dagster tells of a step that failed three times, and of each step that therefore did not run, with tracebacks even where
the message of the error says everything. The events are in the UI all the same.
"""

import logging

import dagster as dg
from dagster import DagsterEvent


def _terminal(_: dg.InitLoggerContext) -> logging.Logger:
    """Dagster's logger of the console, less what Dagster says of itself."""
    from dagster._utils.log import create_console_logger

    logger = create_console_logger("dagster", logging.INFO)
    # Dagster hands records to the handlers, past the logger.
    for handler in logger.handlers:
        handler.addFilter(_is_for_people)
    return logger


terminal = dg.LoggerDefinition(_terminal, description="What assets log, and unexpected errors.")


def causes(failure: DagsterEvent) -> list:
    """The error of a step, and what caused it, down to the first cause."""
    found, error = [], failure.step_failure_data.error
    while error is not None:
        found.append(error)
        error = error.cause
    return found


def is_interrupt(failure: DagsterEvent) -> bool:
    """Whether a step failed because somebody wanted it to end."""
    interrupts = ("KeyboardInterrupt", "DagsterExecutionInterruptedError")
    return any(error.cls_name in interrupts for error in causes(failure))


def _is_for_people(record: logging.LogRecord) -> bool:
    event = getattr(record, "dagster_meta", {}).get("dagster_event")
    if event is None:
        # No asset logs an error: it fails. Dagster logs what it did not execute.
        return record.levelno < logging.ERROR
    if not event.is_step_failure:
        return False
    # An error of this package is a message that says everything, and the last word of the command.
    told = any(error.message.startswith("pinnersage_assets.") or error.cls_name == "Failure" for error in causes(event))
    return not told and not is_interrupt(event)
