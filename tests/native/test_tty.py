"""A terminal of the container's own devpts."""

from __future__ import annotations

import select
from pathlib import Path

import pytest

from execdrivers import PIPE, ContainerSpec
from execdrivers.engine import Engine

pytestmark = pytest.mark.needs("root", "busybox")


@pytest.mark.parametrize("init", [False, True])
def test_terminal_is_the_containers_own(engine: Engine, rootfs: Path, init: bool) -> None:
    script = "tty; stty size; test -c /dev/console && echo console; echo $TERM; cat /proc/self/stat | cut -d' ' -f7,8"
    spec = ContainerSpec.build(["sh", "-c", script], rootfs=rootfs, tty=True, console_size=(33, 99), init=init)
    with engine.create(spec, driver="native", stdin=PIPE, stdout=PIPE) as container:
        container.start()
        text, err = container.communicate(timeout=10)
    lines = text.decode().split("\r\n")
    assert err is None
    assert lines[:4] == ["/dev/pts/0", "33 99", "console", "xterm"]
    terminal, foreground = lines[4].split()
    assert int(terminal) != 0
    assert int(foreground) > 0


@pytest.mark.parametrize("init", [False, True])
def test_keys_resize_and_interrupt(engine: Engine, rootfs: Path, init: bool) -> None:
    traps = "trap 'echo interrupted; exit 5' INT; trap 'stty size' WINCH"
    script = f"{traps}; echo ready; while :; do read x && echo got $x; done"
    spec = ContainerSpec.build(["sh", "-c", script], rootfs=rootfs, tty=True, init=init)
    with engine.create(spec, driver="native") as container:
        container.start()
        terminal = container.terminal
        assert terminal is not None
        seen = b""

        def until(text: bytes) -> None:
            nonlocal seen
            while text not in seen:
                seen += terminal.read(1024)

        until(b"ready")
        terminal.write(b"key\n")
        until(b"got key")
        terminal.resize(11, 22)
        terminal.write(b"\n")
        until(b"11 22")
        terminal.write(b"\x03")
        # The shell looks for signals, and then reads: one that comes in between waits for the next key.
        while b"interrupted" not in seen:
            if select.select([terminal.fileno()], [], [], 1)[0]:
                seen += terminal.read(1024)
            else:
                terminal.write(b"\n")
        assert container.wait(timeout=5).code == 5
