"""The OCI driver through the conformance kit."""

from __future__ import annotations

import pytest

from execdrivers.testing import *  # noqa: F403 - a test class per area
from execdrivers_oci.driver import OciDriver


@pytest.fixture(scope="session")
def driver() -> type[OciDriver]:
    """What the kit tries."""
    return OciDriver
