"""Fixtures of these tests: coroutines are run by plain `asyncio.run`, in debug mode, each in a loop of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import ContainerSpec, aio


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The state root of `within`."""
    return tmp_path / "state"


@pytest.fixture
def within(no_leaks: None, root: Path) -> Callable[[Callable[[aio.Engine], Awaitable[Any]]], Any]:
    """An async function of an engine → what it returns, run to its end; neither on the machine nor in the store is
    anything left."""

    def within(main: Callable[[aio.Engine], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            async with aio.Engine(root) as engine:
                return await main(engine)

        result = asyncio.run(whole(), debug=True)
        left = [name for name in os.listdir(root) if not name.startswith(".")] if root.exists() else []
        assert left == []
        return result

    return within


@pytest.fixture
def sh(rootfs: Path) -> Callable[..., ContainerSpec]:
    """A shell command → the spec of a busybox container that runs it."""

    def sh(command: str, **fields: Any) -> ContainerSpec:
        return ContainerSpec.build(["sh", "-c", command], rootfs=rootfs, **fields)

    return sh
