"""A day that is not published in time is a warning, once; nothing else is."""

import datetime

import dagster as dg
import pytest
from world import START, on, small_settings

from pinnersage_assets import lateness
from pinnersage_assets.definitions import defs

KEY = dg.AssetKey(["operations", "publications"])
CHECK = dg.AssetCheckKey(KEY, "yesterday_is_published")
RESOURCES = {"settings": small_settings(checks={"hours_to_publish": 3})}


class Operator:
    """Looks at an instance whose sensor is on, at times of its own."""

    def __init__(self, instance, monkeypatch):
        self.instance, self.monkeypatch, self.cursor = instance, monkeypatch, None

    def publish(self, day):
        self.instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=str(day)))

    def set_clock(self, day, hour, minute=0):
        now = datetime.datetime.combine(day, datetime.time(hour, minute), datetime.UTC)
        self.monkeypatch.setattr(lateness, "_now", lambda: now)

    def tick(self, day, hour, minute=0):
        """What the daemon does: the events that the sensor asks to be entered, in words."""
        self.set_clock(day, hour, minute)
        sensor, repository = defs.resolve_sensor_def("late_days"), defs.get_repository_def()
        with dg.build_sensor_context(
            self.instance, self.cursor, repository_def=repository, resources=RESOURCES
        ) as context:
            answer = sensor.evaluate_tick(context)
        assert not answer.run_requests
        self.cursor = answer.cursor
        for event in answer.asset_events:
            self.instance.report_runless_asset_event(event)
        return ["passed" if event.passed else event.severity.value for event in answer.asset_events]

    def sees(self):
        """The newest result of the check."""
        [record] = self.instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=1)
        return record.evaluation


@pytest.fixture
def operator(monkeypatch):
    with dg.DagsterInstance.ephemeral() as instance:
        yield Operator(instance, monkeypatch)


def test_a_day_is_late_from_its_deadline_until_it_is_published(operator):
    operator.publish(START)
    # Three hours after the schedule's time, 01:00.
    assert operator.tick(on(2), 3, 59) == ["passed"]
    assert operator.tick(on(2), 4, 0) == ["WARN"]
    assert f"{on(1)} has not been published 3 hours after 01:00 UTC" in operator.sees().description
    assert f"make backfill FROM={on(1)} TO={on(1)}" in operator.sees().description
    assert operator.tick(on(2), 12) == []
    # Another day in its place is none, but the UI wants a result that is newer than it.
    operator.publish(START)
    assert operator.tick(on(2), 13) == ["WARN"]
    operator.publish(on(1))
    assert operator.tick(on(2), 14) == ["passed"]
    assert operator.sees().description == f"{on(1)} has been published."
    assert operator.tick(on(3), 3, 59) == []
    assert operator.tick(on(3), 4, 0) == ["WARN"]


def test_before_the_first_day_is_due_nothing_is_late(operator):
    assert operator.tick(on(1), 3, 59) == ["passed"]
    assert operator.sees().description == "No day is due yet."
    assert operator.tick(on(1), 4, 0) == ["WARN"]


def test_somebody_can_execute_the_check_which_blocks_nothing(operator):
    operator.set_clock(on(2), 5)
    alone = dg.Definitions(
        assets=[dg.AssetSpec(KEY)],
        asset_checks=[lateness.yesterday_is_published],
        jobs=[dg.define_asset_job("alone", dg.AssetSelection.checks(lateness.yesterday_is_published))],
        resources=RESOURCES,
    )
    result = alone.resolve_job_def("alone").execute_in_process(instance=operator.instance)
    [found] = result.get_asset_check_evaluations()
    assert (found.passed, found.severity, found.blocking) == (False, dg.AssetCheckSeverity.WARN, False)
    assert operator.sees() == found


def test_the_check_is_listed_with_its_asset_and_is_no_part_of_a_job():
    assert CHECK in defs.resolve_asset_graph().asset_check_keys
    for job in defs.jobs:
        checks = defs.resolve_job_def(job.name).asset_layer.asset_graph.asset_check_keys
        assert CHECK not in checks
        assert job.name != "daily" or len(checks) > 100
