"""The whole kit as one test module, for `execdrivers.testing.matrix`, which supplies the driver."""

from execdrivers.testing import *  # noqa: F403
