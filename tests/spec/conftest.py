"""No deadline per example: the machine may be busy with other tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("execdrivers", deadline=None)
settings.load_profile("execdrivers")
