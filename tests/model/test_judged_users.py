from dataclasses import fields

import numpy as np
import pytest

from pinnersage_assets.model.judged_users import JudgedUsers, MomentsOfUsers

PINS, CORPUS, VECTORS = 40, 25, 60
KINDS = ("action", "seen", "target", "later", "seen_later", "recommended", "shown")


def made_up(users, seed):
    """Users with some rows of each kind, none of some."""
    chance = np.random.default_rng(seed)
    columns = {
        "user_ids": np.sort(chance.choice(10_000, users, replace=False)),
        "pin_ids": np.sort(chance.choice(10_000, PINS, replace=False)),
        "pin_rows": chance.permutation(VECTORS)[:PINS],
    }
    for kind in KINDS:
        counts = chance.integers(1 if kind in ("action", "target") else 0, 6, users)
        owners = np.repeat(np.arange(users), counts)
        columns[f"{kind}_users"] = owners
        for name in columns_of(kind)[1:]:
            if name.endswith(("ages", "days")):
                # Few different times, so that some are the same.
                columns[name] = chance.integers(0, 5, len(owners)) / 4
            elif name.endswith("corpus"):
                low = -1 if kind == "target" else 0
                columns[name] = chance.integers(low, CORPUS, len(owners))
            elif name.endswith("_rows"):
                columns[name] = chance.integers(0, VECTORS, len(owners))
                if kind == "target":
                    columns[name][::4] = -1
            else:
                columns[name] = chance.integers(0, PINS, len(owners))
    return JudgedUsers(**columns)


def columns_of(kind):
    return [
        field.name
        for field in fields(JudgedUsers)
        if field.name.startswith(f"{kind}_") and not (kind == "seen" and field.name.startswith("seen_later"))
    ]


def rows_of_user(users, number):
    """Everything of a user, pins by their ids."""
    found = {"user_id": int(users.user_ids[number])}
    for kind in KINDS:
        own = getattr(users, f"{kind}_users") == number
        for name in columns_of(kind)[1:]:
            values = getattr(users, name)[own]
            if name in ("action_pins", "later_pins"):
                values = list(zip(users.pin_ids[values].tolist(), users.pin_rows[values].tolist(), strict=True))
            found[name] = list(values)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_part_has_what_its_users_have_and_no_other_pins(seed):
    users = made_up(7, seed)
    for first, last in ((0, 7), (0, 3), (3, 4), (4, 7), (5, 5)):
        part = users.part(first, last)
        assert len(part.user_ids) == last - first
        for number in range(last - first):
            assert rows_of_user(part, number) == rows_of_user(users, first + number)
        assert (np.diff(part.pin_ids) > 0).all()
        assert set(range(len(part.pin_ids))) == {*part.action_pins.tolist(), *part.later_pins.tolist()}


def test_a_part_of_a_part_is_a_part():
    users = made_up(9, 1)
    one, other = users.part(2, 8).part(1, 3), users.part(3, 5)
    for field in fields(JudgedUsers):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name


def test_what_is_saved_is_loaded(tmp_path):
    users = made_up(6, 2)
    users.save(tmp_path / "users.npz")
    loaded = JudgedUsers.load(tmp_path / "users.npz")
    for field in fields(JudgedUsers):
        assert np.array_equal(getattr(loaded, field.name), getattr(users, field.name)), field.name
        assert getattr(loaded, field.name).dtype == getattr(users, field.name).dtype, field.name


def test_targets_without_a_vector_are_near_nothing():
    users = made_up(6, 3)
    vectors = np.random.default_rng(0).standard_normal((VECTORS, 8)).astype(np.float32)
    targets = users.targets(vectors)
    lacking = users.target_rows < 0
    assert lacking.any()
    assert (targets.vectors[lacking] == 0).all()
    assert np.array_equal(targets.vectors[~lacking], vectors[users.target_rows[~lacking]])


@pytest.mark.parametrize("seed", range(5))
def test_a_moment_knows_what_the_user_did_before_it_and_is_judged_by_what_came_then(seed):
    users = made_up(7, seed)
    vectors = np.random.default_rng(0).standard_normal((VECTORS, 8)).astype(np.float32)
    at = MomentsOfUsers.of(users, users.task(vectors, vectors[:CORPUS], 10, 0.8))
    # Every time at which a user first acted on a target, in order.
    expected = sorted(set(zip(users.target_users.tolist(), users.target_days.tolist(), strict=True)))
    assert list(zip(at.users.tolist(), at.moments.days_since.tolist(), strict=True)) == expected
    for moment, (user, now) in enumerate(expected):
        own = at.moments.action_moments == moment
        before = [
            (now - day, int(pin))
            for who, pin, day in zip(users.later_users, users.later_pins, users.later_days, strict=True)
            if who == user and day < now
        ]
        # The latest first.
        assert list(zip(at.moments.ages[own].tolist(), at.moments.pin_rows[own].tolist(), strict=True)) == sorted(
            before
        )
        seen = set(users.seen_corpus[users.seen_users == user].tolist())
        seen |= {
            int(row)
            for who, row, day in zip(
                users.seen_later_users, users.seen_later_corpus, users.seen_later_days, strict=True
            )
            if who == user and day < now
        }
        assert at.task.seen.rows[at.task.seen.users == moment].tolist() == sorted(seen)
        judging = (users.target_users == user) & (users.target_days == now)
        assert at.task.targets.corpus_rows[at.task.targets.users == moment].tolist() == (
            users.target_corpus[judging].tolist()
        )
