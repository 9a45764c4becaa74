"""The driver through execdrivers' conformance kit."""

from __future__ import annotations

import pytest

from execdrivers.testing import *  # noqa: F403 - a test class per area
from execdrivers_bubblewrap.driver import BubblewrapDriver


@pytest.fixture(scope="session")
def driver() -> type[BubblewrapDriver]:
    """What the kit tries."""
    return BubblewrapDriver
