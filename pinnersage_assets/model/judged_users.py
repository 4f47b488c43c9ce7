"""Users by whom models are judged: what models may know of them, and what they did next (paper, section 5.3).

Plain arrays over users numbered 0 to U - 1, so that any of the users can be taken apart from the others, and judged
elsewhere. What belongs here: who did what when. What does not: which models there are, and what is asked of them.
"""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.moments import Moments
from pinnersage_assets.model.population import ranges
from pinnersage_assets.model.retrieval_task import RetrievalTask, Targets
from pinnersage_assets.model.selected_vectors import Vectors
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import UserEmbeddings


@dataclass(frozen=True)
class JudgedUsers:
    """U users. Columns of a kind are as long as each other, and those whose name ends in ``users`` ascend.

    Pins of actions are rows of ``pin_ids``; those that may be recommended are rows of the corpus; vectors are rows of
    whatever holds those of all pins. Days are counted from T_now, before it in ages, after it in days.
    """

    user_ids: NDArray[np.int64]
    """(U,) ascending."""
    pin_ids: NDArray[np.int64]
    """(p,) ascending: pins that somebody acted on before T_now, or after it and known by then."""
    pin_rows: NDArray[np.int64]
    """(p,) their vectors."""
    action_users: NDArray[np.int64]
    """(a,) of actions of interest before T_now."""
    action_pins: NDArray[np.int64]
    action_ages: NDArray[np.float64]
    seen_users: NDArray[np.int64]
    """(s,) of corpus pins that must not be recommended."""
    seen_corpus: NDArray[np.int64]
    target_users: NDArray[np.int64]
    """(t,) of what they did next: the pins that a good candidate set contains."""
    target_corpus: NDArray[np.int64]
    """(t,) -1 where it is not in the corpus."""
    target_rows: NDArray[np.int64]
    """(t,) its vector, -1 where it has none."""
    target_days: NDArray[np.float64]
    """(t,) when they first acted on it."""
    later_users: NDArray[np.int64]
    """(l,) of actions of interest since T_now, of pins known by then."""
    later_pins: NDArray[np.int64]
    later_days: NDArray[np.float64]
    seen_later_users: NDArray[np.int64]
    """(r,) of corpus pins that must not be recommended after some moment since T_now."""
    seen_later_corpus: NDArray[np.int64]
    seen_later_days: NDArray[np.float64]
    recommended_users: NDArray[np.int64]
    """(c,) of corpus pins that were really recommended."""
    recommended_by: NDArray[np.int64]
    """(c,) numbers of whatever recommended them, from 0."""
    recommended_corpus: NDArray[np.int64]
    shown_users: NDArray[np.int64]
    """(i,) of pins that they were shown since T_now, and did not act on."""
    shown_pin_ids: NDArray[np.int64]
    shown_rows: NDArray[np.int64]
    """(i,) their vectors."""
    target_pin_ids: NDArray[np.int64]
    """(t,) any number where it has no vector."""

    def part(self, first: int, last: int) -> "JudgedUsers":
        """Users from first up to last, and their pins alone."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        columns["user_ids"] = self.user_ids[first:last]
        for kind, names in _COLUMNS.items():
            own = slice(*np.searchsorted(columns[f"{kind}_users"], [first, last]))
            for name in names:
                columns[name] = columns[name][own]
            columns[f"{kind}_users"] = columns[f"{kind}_users"] - first
        pins = np.union1d(columns["action_pins"], columns["later_pins"])
        columns["pin_ids"], columns["pin_rows"] = self.pin_ids[pins], self.pin_rows[pins]
        for name in ("action_pins", "later_pins"):
            columns[name] = np.searchsorted(pins, columns[name])
        return JudgedUsers(**columns)

    @classmethod
    def load(cls, path) -> Self:
        """From a file that `save` wrote."""
        with np.load(path, allow_pickle=False) as columns:
            return cls(**{field.name: columns[field.name] for field in fields(cls)})

    def save(self, path) -> None:
        """Write a ``.npz`` file."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def seen(self) -> Pairs:
        """Corpus rows that must not be recommended."""
        return Pairs.of(self.seen_users, self.seen_corpus)

    def recommended(self, by: int) -> Pairs:
        """Corpus rows that something recommended."""
        own = self.recommended_by == by
        return Pairs.of(self.recommended_users[own], self.recommended_corpus[own])

    def population(self, vectors: NDArray[np.float32], alpha: float, keys: tuple[int, ...]) -> UserEmbeddings:
        """What models may know: the users' embeddings in any variant; see there for the arguments."""
        return UserEmbeddings(
            self.user_ids[self.action_users],
            self.action_pins,
            self.action_ages,
            self.pin_ids,
            vectors[self.pin_rows],
            alpha,
            keys,
        )

    def targets(self, vectors: NDArray[np.float32]) -> Targets:
        """What they did next, with vectors."""
        wanted = vectors[np.maximum(self.target_rows, 0)] if len(vectors) else vectors[:0]
        wanted = np.where((self.target_rows >= 0)[:, None], wanted, np.float32(0))
        return Targets(self.target_users, self.target_corpus, wanted)

    def task(
        self, vectors: NDArray[np.float32], corpus: Vectors, budget: int, relevance_cosine: float
    ) -> RetrievalTask:
        """What is asked of every model."""
        return RetrievalTask(len(self.user_ids), corpus, self.seen, self.targets(vectors), budget, relevance_cosine)


_COLUMNS = {
    kind: [
        field.name
        for field in fields(JudgedUsers)
        if field.name.startswith(f"{kind}_") and not (kind == "seen" and field.name.startswith("seen_later"))
    ]
    for kind in ("action", "seen", "target", "later", "seen_later", "recommended", "shown")
}


@dataclass(frozen=True)
class MomentsOfUsers:
    """The M moments of users at which they first acted on targets, and what is asked at each: a task of M users.

    All targets of a user that come at the same time are one moment. The other models know users as of T_now; the online
    model is there for what they did since. At a moment it knows what the user did before, and is judged by the moment's
    targets alone.
    """

    users: NDArray[np.int64]
    """(M,) the number of each moment's user, ascending; every user has one at least."""
    moments: Moments
    task: RetrievalTask

    @classmethod
    def of(cls, judged: JudgedUsers, task: RetrievalTask) -> Self:
        """The moments of some users, given what is asked of the other models."""
        times, of_target = np.unique(
            np.column_stack([judged.target_users.astype(np.float64), judged.target_days]), axis=0, return_inverse=True
        )
        users, days_since = times[:, 0].astype(np.int64), times[:, 1]
        moments, before = _before(users, days_since, judged.later_users, judged.later_days)
        # The latest first; of the same time by pin, as of everything that must not depend on who comes first.
        order = np.lexsort((judged.later_pins[before], -judged.later_days[before], moments))
        moments, before = moments[order], before[order]
        known = Moments(
            judged.user_ids[users],
            days_since,
            moments,
            judged.later_pins[before],
            days_since[moments] - judged.later_days[before],
        )
        seen_moments, seen_before = _before(users, days_since, judged.seen_later_users, judged.seen_later_days)
        first, last = (np.searchsorted(task.seen.users, users, side) for side in ("left", "right"))
        seen = Pairs.of(
            np.append(np.repeat(np.arange(len(users)), last - first), seen_moments),
            np.append(task.seen.rows[ranges(first, last - first)], judged.seen_later_corpus[seen_before]),
        )
        order = np.argsort(of_target, kind="stable")
        targets = Targets(of_target[order], task.targets.corpus_rows[order], task.targets.vectors[order])
        return cls(
            users,
            known,
            RetrievalTask(len(users), task.corpus, seen, targets, task.budget, task.relevance_cosine),
        )


def _before(
    users: NDArray[np.int64], now: NDArray[np.float64], owners: NDArray[np.int64], days: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of a moment and a row of its user that came before it.

    Args:
        users: (M,) ascending.
        now: (M,) when each moment is.
        owners: (r,) ascending.
        days: (r,) when each row came.
    """
    first, last = (np.searchsorted(owners, users, side) for side in ("left", "right"))
    moments, rows = np.repeat(np.arange(len(users)), last - first), ranges(first, last - first)
    came_before = days[rows] < now[moments]
    return moments[came_before], rows[came_before]
