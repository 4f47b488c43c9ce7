"""One daily partition of everything, the history being there: seconds and peak memory of each stage, and how they grow.

Run with ``python benchmarks/daily_partition.py``: 10,000, 30,000 and 100,000 simulated users with some 90 actions each
in 90 days, and ten pins of 256 dimensions for each of them. The history is materialised first: raw data, staging and
near-duplicates of all days, users and retrieval of the day before. Then the day, by the daily job, in a process of its
own, with work on many users in two workers; and the next day, which has that day to reuse. Memory is the most that was
resident while a stage ran, in all processes together: mapped files included, and what processes share counted once.
At the first size a plain script does users and retrieval of the day too (`daily_peer`, extra ``bench``).
"""

import contextlib
import datetime
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

SIZES = (10_000, 30_000, 100_000)
PINS_A_USER = 10
WORKERS = 2
START = datetime.date(2026, 1, 1)
DAY = START + datetime.timedelta(days=90)
NEXT = DAY + datetime.timedelta(days=1)
# Stages are shown that take this share of the day.
_SHOWN_SHARE = 0.01


def main(*sizes: int) -> None:
    """Print a table a size, and the growth of each stage."""
    found = {}
    for users in sizes or SIZES:
        folder = Path(tempfile.mkdtemp(prefix="daily_partition_"))
        try:
            _alone(_history, folder, users)
            days = [_alone(_day, folder, users, day) for day in (DAY, NEXT)]
            _show(users, *days)
            if not found:
                _show_peer(folder, days[0])
        finally:
            shutil.rmtree(folder)
        found[users] = days[0]
    _show_growth(found)


def _show(users: int, first: dict, second: dict) -> None:
    total, again = (sum(seconds for seconds, _ in stages.values()) for stages in (first, second))
    print(f"{users:,} users, {PINS_A_USER * users:,} pins: {total:.1f} s, {users / total:,.0f} users a second")
    print(f"{'':44}{'seconds':>10}{'MiB':>9}   next day, x of it")
    for stage, (seconds, memory) in sorted(first.items(), key=lambda item: -item[1][0]):
        if seconds >= _SHOWN_SHARE * total:
            print(f"  {stage:42}{seconds:10.1f}{memory:9,.0f}   x {second[stage][0] / seconds:5.2f}")
    most = max(memory for _, memory in first.values())
    print(f"  {'together':42}{total:10.1f}{most:9,.0f}   x {again / total:5.2f}", flush=True)


def _show_peer(folder: Path, first: dict) -> None:
    try:
        import daily_peer
    except SystemExit as without_peers:
        print(without_peers, flush=True)
    else:
        print(daily_peer.line(folder, first), flush=True)


def _show_growth(found: dict[int, dict]) -> None:
    sizes = sorted(found)
    if len(sizes) < 2:
        return
    total = sum(seconds for seconds, _ in found[sizes[-1]].values())
    print("growth of seconds, as a power of users and pins")
    for stage, (seconds, _) in sorted(found[sizes[-1]].items(), key=lambda item: -item[1][0]):
        if seconds >= _SHOWN_SHARE * total:
            times = [found[size][stage][0] for size in sizes]
            print(f"  {stage:42} to the {np.polyfit(np.log(sizes), np.log(times), 1)[0]:4.2f}")


def _alone(work, *arguments: object):
    """Run in a fresh process; its result."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, work, *arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def _answer(there, work, *arguments: object) -> None:
    there.send(work(*arguments))


def _world(folder: Path, users: int):
    """Definitions and resources over a data directory."""
    import dagster as dg

    from pinnersage_assets.definitions import defs
    from pinnersage_assets.resources import build_resources
    from pinnersage_assets.settings import Environment, Settings

    pins = PINS_A_USER * users
    settings = Settings(
        simulation={
            "users": users,
            "pins": pins,
            "new_pins_per_day": pins // 1_000,
            "topics": max(1, pins // 50),
            "impressions_per_action": 2,
        },
        engine={"kind": "processes", "workers": WORKERS},
    )
    parts = {name: getattr(defs, name) for name in ("assets", "asset_checks", "jobs", "executor")}
    resources = build_resources(Environment(folder, "simulated", START), settings)
    return dg.Definitions(**parts, resources=resources)


def _history(folder: Path, users: int) -> None:
    import dagster as dg

    from pinnersage_assets.backfill import plan_backfill

    definitions = _world(folder, users)
    with dg.DagsterInstance.ephemeral() as instance:
        for run in plan_backfill(definitions, {}, {}, START, 90, 1, DAY, DAY)[:-1]:
            started = time.perf_counter()
            _execute(definitions, instance, run)
            print(f"  {run}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def _day(folder: Path, users: int, day: datetime.date) -> dict[str, tuple[float, float]]:
    """Seconds and most MiB of each stage of a day."""
    import dagster as dg

    from pinnersage_assets.backfill import PlannedRun

    definitions = _world(folder, users)
    with dg.DagsterInstance.ephemeral() as instance, _Memory() as memory:
        run = _execute(definitions, instance, PlannedRun("daily", day, day))
        begun, stages = {}, {}
        for record in instance.all_logs(run.run_id):
            if not record.is_dagster_event:
                continue
            event, moment = record.dagster_event, record.timestamp
            if event.event_type_value == "STEP_START":
                begun[event.step_key] = moment
            elif event.event_type_value == "STEP_SUCCESS":
                first = begun[event.step_key]
                name = event.step_key.removesuffix("__checks").replace("__", ".")
                seconds, most = stages.get(name, (0.0, 0.0))
                stages[name] = seconds + moment - first, max(most, memory.most(first, moment))
    return stages


def _execute(definitions, instance, run):
    done = definitions.resolve_job_def(run.job).execute_in_process(
        instance=instance,
        **run.partitions,
        run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
    )
    assert done.success
    return done


class _Memory:
    """What is resident in this process and its children, a few times a second."""

    def __enter__(self) -> "_Memory":
        self._samples: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            own = sum(_proportional_share(process) for process in [os.getpid(), *_children(os.getpid())])
            self._samples.append((time.time(), own / 2**20))

    def most(self, first: float, last: float) -> float:
        """The most between two moments, MiB."""
        return max((memory for moment, memory in self._samples if first <= moment <= last), default=0.0)


def _children(process: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, thread.read_text().split())
    return found


def _proportional_share(process: int) -> int:
    """Bytes resident, of pages that several processes have mapped this one's share."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    # It has just ended.
    return 0


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
