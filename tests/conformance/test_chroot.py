"""The chroot driver through the conformance kit."""

from __future__ import annotations

import pytest

from execdrivers.testing import *  # noqa: F403 - a test class per area
from execdrivers_chroot.driver import ChrootDriver

pytestmark = pytest.mark.needs("root")


@pytest.fixture(scope="session")
def driver() -> type[ChrootDriver]:
    """What the kit tries."""
    return ChrootDriver
