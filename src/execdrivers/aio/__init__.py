"""execdrivers for asyncio: `run`, `Engine` and its containers, awaited.

    >>> import asyncio
    >>> from execdrivers import aio
    >>> asyncio.run(aio.run(["id", "-u"], capture_output=True, text=True)).stdout
    '65534\\n'

A waiting container is one descriptor that the event loop watches, and no thread. What takes the kernel milliseconds
(making, changing and freeing a container) is done by threads of the loop's default executor. Any event loop will do
that has ``add_reader``.
"""

from __future__ import annotations

from execdrivers.aio.attachment import Attachment
from execdrivers.aio.container import Container
from execdrivers.aio.engine import Engine, run
from execdrivers.aio.following import Following
from execdrivers.aio.process import ExecProcess
from execdrivers.aio.streams import InputStream, OutputStream

__all__ = ["Attachment", "Container", "Engine", "ExecProcess", "Following", "InputStream", "OutputStream", "run"]
