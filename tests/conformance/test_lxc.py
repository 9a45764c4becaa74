"""The LXC driver through the conformance kit."""

from __future__ import annotations

import pytest

from execdrivers.testing import *  # noqa: F403 - a test class per area
from execdrivers_lxc.driver import LxcDriver


@pytest.fixture(scope="session")
def driver() -> type[LxcDriver]:
    """What the kit tries."""
    return LxcDriver
