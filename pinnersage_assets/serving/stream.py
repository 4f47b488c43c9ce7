"""Where events come from, behind one small interface.

A stream delivers every event at least once: what has been read and not acknowledged comes again. That events count
once is the store's business.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pinnersage_assets.serving.store import Position, Store

if TYPE_CHECKING:
    from pinnersage_assets.settings import ServingSettings


class Line(NamedTuple):
    """One thing that came.

    Attributes:
        source: where it is in the stream.
        data: an event as JSON, or whatever came instead.
        problem: why it cannot be an event, where the stream knows that already.
    """

    source: str
    data: bytes
    problem: str = ""


@dataclass(frozen=True)
class Batch:
    """What was read at once.

    Attributes:
        lines: in the order of the stream.
        position: to be committed together with the lines.
        receipt: what the stream acknowledges them by.
        more: whether more may be there already.
    """

    lines: list[Line] = field(default_factory=list)
    position: Position = field(default_factory=dict)
    receipt: tuple = ()
    more: bool = False


class Stream(Protocol):
    """Events in, at least once each.

    Every method raises a StoreError where the stream fails; `resume` then starts over from what was committed.
    """

    def resume(self, position: Position) -> None:
        """Go on from a position, as committed; what has been read beyond it comes again."""

    def read(self, most: int, seconds: float) -> Batch:
        """Up to so many lines, which may be none; waits at most so long for the first."""

    def acknowledge(self, batch: Batch) -> None:
        """Say that a batch is committed and need not come again."""

    def tidy(self) -> None:
        """Let go of what nobody needs; called now and then, when nothing waits to be read."""

    def send(self, lines: Iterable[bytes]) -> None:
        """Put events, JSON each, into the stream; what producers in Python may use."""

    def search(self, user_ids: Collection[int]) -> int:
        """How many lines there are of some users, read or not."""

    def erase(self, user_ids: Collection[int], position: Position) -> Position:
        """Remove these lines.

        Args:
            user_ids: of whom.
            position: as committed.

        Returns:
            What has to be committed instead: nothing comes again, and nothing is passed over.
        """


def open_stream(settings: "ServingSettings", store: Store, folder: Path) -> Stream:
    """The stream that the setting `serving.stream` names.

    Args:
        settings: of the service; `stream` can be redis only where the store is.
        store: the store that the events go to.
        folder: `serving` in the data directory.
    """
    if settings.stream == "redis":
        from pinnersage_assets.serving.redis_store import RedisStore
        from pinnersage_assets.serving.redis_stream import RedisStream

        assert isinstance(store, RedisStore)  # settings see to it
        return RedisStream(store.client, store.place)
    from pinnersage_assets.serving.file_stream import FileStream

    return FileStream(folder / "events")
