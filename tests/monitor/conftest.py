"""A monitor with a directory of its own, and commands under it whose output it logs."""

from __future__ import annotations

import os
import pty
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers import pidfd
from execdrivers.launcher import Started
from execdrivers.monitor import Ended, Monitor, read_exit
from execdrivers.monitor.log import LogOptions, read_log

ENV = {"PATH": "/usr/bin:/bin"}


class Monitored:
    """A monitor, and the command that it stands by."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.monitor = Monitor.start()
        self.child: Started | None = None

    def run(self, script: str, *, stdin: bool = False, tty: bool = False, go: bool = True, **more: Any) -> Started:
        """Have it stand by a shell script, in which ``await`` waits for `let_on`."""
        self.prepare(script, stdin=stdin, tty=tty, **more)
        if go:
            self.monitor.channels()
        assert self.child is not None
        return self.child

    def let_on(self) -> None:
        """Once: what waits in the script goes on."""
        (self.directory.parent / "on").touch()

    def prepare(
        self, script: str, *, stdin: bool = False, tty: bool = False, log: LogOptions | None = None, **more: Any
    ) -> None:
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        null = os.open(os.devnull, os.O_RDWR)
        opened = [directory, null]
        script = script.replace("await", f"while ! [ -e {self.directory.parent}/on ]; do sleep 0.02; done")
        if tty:
            master, slave = pty.openpty()
            opened += [master, slave]
            inside, given = [slave] * 3, {"terminal": master}
            # A session's leader that opens a terminal has it from then on.
            script = f"exec <$(readlink /proc/self/fd/0) || exit 99; {script}"
        else:
            (out, out_end), (err, err_end) = os.pipe(), os.pipe()
            opened += [out, out_end, err, err_end]
            inside, given = [null, out_end, err_end], {"stdout": out, "stderr": err}
            if stdin:
                inside[0], given["stdin"] = os.pipe()
                opened += [inside[0], given["stdin"]]
        try:
            self.child = self.monitor.spawn("/bin/sh", ["sh", "-c", script], inside, ENV)
            self.monitor.keep(self.child.pid, self.child.pidfd, directory, log=log, **given, **more)
        finally:
            for fd in opened:
                os.close(fd)

    def ended(self, timeout: float = 20) -> Ended:
        """Wait for the end of the monitor; what it has left."""
        assert pidfd.wait(self.monitor.pidfd, timeout), "the monitor did not end"
        ended = read_exit(str(self.directory))
        assert ended is not None
        return ended

    def output(self, stream: str = "") -> bytes:
        """What was logged."""
        return b"".join(entry.data for entry in read_log(self.directory) if stream in ("", entry.stream))

    def sleeps(self, seconds: float) -> bool:
        """Whether the monitor is not woken for so long."""
        status = Path(f"/proc/{self.monitor.pid}/status")
        before = switches(status)
        time.sleep(seconds)
        return switches(status) == before

    def close(self) -> None:
        self.monitor.abort()
        if self.child is not None:
            os.close(self.child.pidfd)


@pytest.fixture
def monitored(no_leaks: None, tmp_path: Path) -> Iterator[Monitored]:
    directory = tmp_path / "container"
    directory.mkdir()
    monitored = Monitored(directory)
    yield monitored
    monitored.close()


def switches(status: Path) -> list[str]:
    return [line for line in status.read_text().splitlines() if "ctxt_switches" in line]
