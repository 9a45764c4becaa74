"""The native driver through the conformance kit."""

from __future__ import annotations

import pytest

from execdrivers.testing import *  # noqa: F403 - a test class per area
from execdrivers_native.driver import NativeDriver

pytestmark = pytest.mark.needs("root")


@pytest.fixture(scope="session")
def driver() -> type[NativeDriver]:
    """What the kit tries."""
    return NativeDriver
