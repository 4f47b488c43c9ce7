"""From the store to the landing folder: what users did on a day that is over, exactly once.

A day (UTC, by the time of an event) is over some minutes after midnight. Its events become
``landing/actions/dt=D/events-NNNN.parquet``, of which each is there whole or not at all; events that come later become
the next number. The store gives a number its events for good before the file is written, so a file that a crash leaves
in doubt is written once more, the same. What was refused goes to ``serving/refused/dt=D/refused-NNNNNNNN.jsonl``, D
being the day on which it was refused, and the number that of its first line.
"""

import datetime
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pinnersage_assets.files import remove_leftovers, sync, written_atomically
from pinnersage_assets.serving.store import Landing, Store
from pinnersage_assets.sources.landing import day_folder, write_parquet_atomically

_NAME = re.compile(r"events-(\d{4,})\.parquet")
# Lines of a file of what was refused, at most.
_REFUSED = 10_000


def land(
    store: Store, folder: Path, now: datetime.datetime, grace: datetime.timedelta, late: bool = True
) -> Iterator[Path]:
    """Write the events of days that are over; gives the files as they are written and confirmed.

    Args:
        store: where the events are.
        folder: the landing folder.
        now: the time.
        grace: how long after midnight a day is over.
        late: whether to land also what has come for days that have landed before.
    """
    for landing in store.unconfirmed():
        yield _write(store, folder, landing)
    for day in store.days_waiting():
        if now < end_of(day) + grace or (store.landings(day) and not late):
            continue
        # More than once where there is very much.
        while store.claim(landing := Landing(day, _next_number(store, folder, day))):
            yield _write(store, folder, landing)


def land_refused(store: Store, folder: Path) -> Iterator[Path]:
    """Write what was refused; gives the files as they are written.

    Args:
        store: where it is.
        folder: of what was refused.
    """
    while rows := store.refused(_REFUSED):
        (first, refused), (last, _) = rows[0], rows[-1]
        # A file that a crash leaves in doubt begins with the same number, so it is written over.
        path = folder / f"dt={refused.time[:10]}" / f"refused-{first:08}.jsonl"
        with written_atomically(path) as hidden:
            hidden.write_bytes(b"".join(one.to_json() + b"\n" for _, one in rows))
        sync(folder)
        store.drop_refused(last)
        yield path


def end_of(day: datetime.date) -> datetime.datetime:
    """The midnight that ends a day, UTC."""
    return datetime.datetime.combine(day + datetime.timedelta(days=1), datetime.time(), datetime.UTC)


def _write(store: Store, folder: Path, landing: Landing) -> Path:
    events = store.events_of(landing)
    frame = pl.DataFrame(
        {
            "user_id": events.user_ids,
            "pin_id": events.pin_ids,
            "action": pl.Series(events.actions, dtype=pl.String),
            "ts": pl.Series(events.times).cast(pl.Datetime("us")),
        }
    )
    path = day_folder(folder, "actions", landing.day) / f"events-{landing.number:04}.parquet"
    if path.parent.exists():
        remove_leftovers(path.parent)
    write_parquet_atomically(frame, path)
    # The day's folder may be new, and lasts once the folders above it say so.
    sync(path.parent.parent)
    sync(folder)
    store.confirm(landing)
    return path


def _next_number(store: Store, folder: Path, day: datetime.date) -> int:
    """Of the store and of files too: a store that was begun anew must not write over what another landed."""
    names = (_NAME.fullmatch(path.name) for path in day_folder(folder, "actions", day).glob("events-*.parquet"))
    return max([store.landings(day), *(int(name[1]) + 1 for name in names if name)])
