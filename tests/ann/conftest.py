"""Searches run on several threads here, also where `make test` gives each worker one."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    with threadpool_limits(2):
        yield
