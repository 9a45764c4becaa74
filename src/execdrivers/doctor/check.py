"""What came of trying one thing."""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["Check", "Trial"]


@attrs.frozen(kw_only=True)
class Check:
    """One thing that was tried, and what came of it.

    ``result``: a ``problem`` keeps containers from running at all, a ``warning`` costs some features, ``ok`` nothing.
    ``remedy`` is a command where one is known, or else what to do.
    """

    name: str
    tried: str
    result: Literal["ok", "warning", "problem"]
    found: str
    remedy: str = ""


@attrs.frozen
class Trial:
    """One thing to be tried; its methods make the `Check`."""

    name: str
    tried: str

    def ok(self, found: str) -> Check:
        """It can be done."""
        return Check(name=self.name, tried=self.tried, result="ok", found=found)

    def warning(self, found: str, remedy: str) -> Check:
        """It cannot be done, and some features not be had."""
        return Check(name=self.name, tried=self.tried, result="warning", found=found, remedy=remedy)

    def problem(self, found: str, remedy: str) -> Check:
        """It cannot be done, and no container can be had."""
        return Check(name=self.name, tried=self.tried, result="problem", found=found, remedy=remedy)
