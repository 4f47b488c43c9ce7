"""The consumer: reads the stream, commits to the store, acknowledges; and lands the events of days that are over.

It may be killed at any moment. Events and the stream's position are one transaction, the acknowledgement comes after
it, and a file is written from what the store has set aside for it: so nothing is lost, and nothing counts twice.
"""

import contextlib
import datetime
import logging
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from pinnersage_assets.files import HeldError, held
from pinnersage_assets.serving.event_landing import land, land_refused
from pinnersage_assets.serving.events import Event, parse
from pinnersage_assets.serving.store import Committed, Refused, Store, StoreError, open_store, snapshot_day, utc_now
from pinnersage_assets.serving.stream import Batch, Stream, open_stream

if TYPE_CHECKING:
    from pinnersage_assets.settings import Environment, ServingSettings

_log = logging.getLogger(__name__)

# Lines of a transaction, at most.
_BATCH = 5000
# Seconds that the stream may let us wait.
_WAIT = 1.0
# How often days that are over are looked for; late events of days that have landed cost a run of the daily job.
_TEND_EVERY = datetime.timedelta(seconds=10)
_LATE_EVERY = datetime.timedelta(hours=1)
# Seconds until the next try after an error, doubled until they are the most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
# Seconds between two lines in the log that say how much has come.
_REPORT_EVERY = 60.0


class Consumer:
    """One consumer of a stream.

    Args:
        store: where events go.
        stream: where they come from.
        data_dir: the data directory, for what lands and what is refused.
        grace_minutes: after midnight, until a day is over.
        remembered_days: for which ids are remembered.
        now: the clock.

    Attributes:
        counts: what this consumer has committed.
    """

    def __init__(
        self,
        store: Store,
        stream: Stream,
        data_dir: Path,
        grace_minutes: float,
        remembered_days: int,
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> None:
        self.counts = Committed()
        self._store, self._stream, self._now = store, stream, now
        self._landing_folder = data_dir / "landing"
        self._refused_folder = data_dir / "serving" / "refused"
        self._grace = datetime.timedelta(minutes=grace_minutes)
        self._remembered = datetime.timedelta(days=remembered_days)
        self._tended = self._tended_late = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        # The latest day of which events have come to this consumer.
        self._newest: datetime.date | None = None
        self._forgotten: tuple | None = None

    def run(self, stop: threading.Event) -> None:
        """Until told to stop, which is heeded between two batches; an error is logged, and tried again."""
        pause, resumed, reported = _FIRST_PAUSE, False, time.monotonic()
        while not stop.is_set():
            try:
                if not resumed:
                    self.resume()
                    resumed = True
                self.step(_WAIT)
                pause = _FIRST_PAUSE
            except StoreError as error:
                _log.error("%s. Trying again in %.1f s; nothing is lost", error, pause)
                resumed = False
                stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            if time.monotonic() - reported >= _REPORT_EVERY:
                reported = time.monotonic()
                _log.info("since the start: %s", self.counts)

    def resume(self) -> None:
        """Go on from what is committed."""
        self._stream.resume(self._store.position())

    def step(self, seconds: float) -> int:
        """Read one batch and commit it, and land what is to be landed where that was all.

        Args:
            seconds: how long to wait for the first line.

        Returns:
            How many lines were read.
        """
        batch = self._stream.read(_BATCH, seconds)
        if batch.lines or batch.position:
            events, refused = self._judged(batch)
            self.counts += self._store.commit(events, batch.position or None, refused)
            self._stream.acknowledge(batch)
            if events:
                newest = max(event.time for event in events).date()
                self._newest = max(newest, self._newest or newest)
        # A day whose events still wait in the stream does not land yet.
        if not batch.more:
            self._tend()
        return len(batch.lines)

    def _judged(self, batch: Batch) -> tuple[list[Event], list[Refused]]:
        events, refused, now = [], [], self._now()
        for line in batch.lines:
            event = line.problem or parse(line.data, now)
            if isinstance(event, Event):
                events.append(event)
            else:
                refused.append(Refused(event, line.source, line.data.decode(errors="replace"), now.isoformat()))
        if refused:
            _log.warning("refused %d lines, the first at %s: %s", len(refused), refused[0].source, refused[0].reason)
        return events, refused

    def _tend(self) -> None:
        """Land, forget and tidy up; what fails is tried again later, and events go on coming in meanwhile."""
        now = self._now()
        if _is_within(now - self._tended, _TEND_EVERY):
            return
        self._tended = now
        late = not _is_within(now - self._tended_late, _LATE_EVERY)
        try:
            for path in land(self._store, self._landing_folder, now, self._grace, late):
                _log.info("landed %s", path)
            for path in land_refused(self._store, self._refused_folder):
                _log.warning("refused lines are in %s", path)
            self._forget(now)
            self._stream.tidy()
        except (StoreError, OSError) as error:
            _log.error("%s. Landing is tried again in %.0f s; nothing is lost", error, _TEND_EVERY.total_seconds())
        else:
            if late:
                self._tended_late = now

    def _forget(self, now: datetime.datetime) -> None:
        """Events stay while a snapshot is there that does not contain their day; ids as long as the settings say.

        What is forgotten is forgotten, so a clock that runs ahead is not believed: an event must have come that late.
        """
        if self._newest is None:
            return
        days = [day for day in map(snapshot_day, self._store.versions()) if day]
        events_before = min(days) + datetime.timedelta(days=1) if days else None
        forgotten = events_before, min(now.date(), self._newest) - self._remembered
        if forgotten != self._forgotten:
            self._store.forget(*forgotten)
            self._forgotten = forgotten


def _is_within(passed: datetime.timedelta, every: datetime.timedelta) -> bool:
    """Whether it is not time again; it is where the clock was set back."""
    return datetime.timedelta(0) <= passed < every


@contextlib.contextmanager
def consuming(
    environment: "Environment", settings: "ServingSettings", now: Callable[[], datetime.datetime] = utc_now
) -> Generator[Consumer]:
    """The consumer of a data directory, the only one there.

    Raises:
        ValueError: the store's address means nothing.
        StoreError: another consumer runs on this data directory.
    """
    folder = environment.data_dir / "serving"
    with alone(folder):
        store = open_store(settings.store, folder, now)
        try:
            stream = open_stream(settings, store, folder)
            yield Consumer(store, stream, environment.data_dir, settings.grace_minutes, settings.remembered_days, now)
        finally:
            store.close()


@contextlib.contextmanager
def alone(folder: Path) -> Generator[None]:
    """Nobody else may consume events into a folder meanwhile.

    Raises:
        StoreError: somebody does.
    """
    try:
        with held(folder / "consumer.lock"):
            yield
    except HeldError as error:
        raise StoreError(
            f"another consumer runs on {folder}; one is enough: end it first, or serve with --no-consume"
        ) from error
