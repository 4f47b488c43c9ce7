"""Somebody is told of a failed run, if there is an address; and of nothing else, and nobody else."""

import contextlib
import http.server
import json
import threading

import dagster as dg
import pytest

from pinnersage_assets.alerts import failed_runs


@dg.op
def breaks():
    try:
        raise ValueError("the disk is full")
    except ValueError as error:
        raise RuntimeError("could not write") from error


@dg.job
def nightly():
    breaks()


@pytest.fixture(scope="module")
def failed():
    """A run that failed, and the instance that knows of it."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = nightly.execute_in_process(
            instance=instance, raise_on_error=False, tags={"dagster/partition": "2026-01-31"}
        )
        yield instance, result


def tick(failed):
    instance, result = failed
    return failed_runs(
        dg.build_run_status_sensor_context(
            "failed_runs", result.get_run_failure_event(), instance, result.dagster_run
        ).for_run_failure()
    )


@contextlib.contextmanager
def receiver(status=200):
    """A server on this machine that keeps what is posted to it."""
    posted = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook?token=secret", posted
        server.shutdown()
        thread.join()


def test_a_failed_run_is_posted_with_what_happened(failed, monkeypatch):
    with receiver() as (address, posted):
        monkeypatch.setenv("PINNERSAGE_FAILURE_URL", address)
        tick(failed)
    [told] = posted
    assert told["job"] == "nightly"
    assert told["partition"] == "2026-01-31"
    assert told["run_id"] == failed[1].run_id
    assert "the disk is full" in told["errors"]["breaks"]
    assert "2026-01-31 failed" in told["text"]
    assert "breaks: ValueError: the disk is full" in told["text"]


def test_each_failed_run_is_posted_once(failed, monkeypatch):
    instance, _ = failed
    cursor = None

    def tick_of_the_daemon():
        nonlocal cursor
        with dg.build_sensor_context(instance, cursor) as context:
            cursor = failed_runs.evaluate_tick(context).cursor

    with receiver() as (address, posted):
        monkeypatch.setenv("PINNERSAGE_FAILURE_URL", address)
        # What failed before the sensor was on is nobody's news.
        tick_of_the_daemon()
        later = [nightly.execute_in_process(instance=instance, raise_on_error=False) for _ in range(2)]
        tick_of_the_daemon()
        tick_of_the_daemon()
    assert [told["run_id"] for told in posted] == [run.run_id for run in later]


def test_without_an_address_nobody_is_told(failed, monkeypatch):
    monkeypatch.delenv("PINNERSAGE_FAILURE_URL", raising=False)
    assert "PINNERSAGE_FAILURE_URL is not set" in tick(failed).skip_message


@pytest.mark.parametrize("address", ["file:///etc/passwd", "example.org", "ftp://example.org"])
def test_only_web_addresses_are_posted_to(failed, monkeypatch, address):
    monkeypatch.setenv("PINNERSAGE_FAILURE_URL", address)
    with pytest.raises(ValueError, match="must begin with http"):
        tick(failed)


def test_a_receiver_that_refuses_is_an_error_that_keeps_the_secret(failed, monkeypatch):
    with receiver(500) as (address, posted):
        monkeypatch.setenv("PINNERSAGE_FAILURE_URL", address)
        with pytest.raises(ConnectionError, match="does not take messages") as raised:
            tick(failed)
    assert len(posted) == 1
    assert "secret" not in str(raised.value)
    monkeypatch.setenv("PINNERSAGE_FAILURE_URL", address)
    with pytest.raises(ConnectionError, match="does not take messages"):
        tick(failed)
