"""The init of native with programs that have jobs of their own: what the conformance kit's program is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from execdrivers import DEVNULL, PIPE, ContainerSpec, Engine
from execdrivers.testing import host

pytestmark = pytest.mark.needs("root", "busybox")


def test_a_shell_has_job_control(engine: Engine, rootfs: Path) -> None:
    """It stops its jobs and brings them back; the init, which sees the same signals, does not meddle."""
    spec = ContainerSpec.build(
        ["sh", "-i"], rootfs=rootfs, tty=True, init=True, env={"PS1": "> ", "begun": "BEGUN", "back": "BACK"}
    )
    with engine.create(spec, driver="native") as container:
        container.start()
        terminal = container.terminal
        assert terminal is not None
        seen = b""

        def until(text: bytes) -> None:
            nonlocal seen
            while text not in seen:
                seen += terminal.read(1024)
            seen = seen.split(text, 1)[1]

        # The shell changes the terminal's mode for each job, so each says when it is there.
        job = "trap 'echo $back' CONT; echo $begun; while :; do read x && echo got $x && [ $x = two ] && exit; done"
        until(b"> ")
        terminal.write(f'sh -c "{job}"\n'.replace("$b", "\\$b").replace("$x", "\\$x").encode())
        until(b"BEGUN")
        terminal.write(b"one\n")
        until(b"got one")
        terminal.write(b"\x1a")
        until(b"Stopped")
        until(b"> ")
        terminal.write(b"fg\n")
        until(b"BACK")
        terminal.write(b"two\n")
        until(b"got two")
        until(b"> ")
        terminal.write(b"exit 7\n")
        assert container.wait(timeout=20).code == 7


def test_many_orphans_at_once_are_reaped(engine: Engine, rootfs: Path) -> None:
    """SIGCHLD does not queue: one may stand for many."""
    script = "for i in $(seq 200); do (sleep 0.1 &) ; done; echo ready; read x"
    spec = ContainerSpec.build(["sh", "-c", script], rootfs=rootfs, init=True)
    with engine.create(spec, driver="native", stdin=PIPE, stdout=PIPE) as container:
        container.start()
        assert container.stdout is not None
        assert container.stdout.readline() == b"ready\n"
        host.until(lambda: len(container.pids()) == 2, "all are reaped")
        container.communicate(b"\n")


@pytest.mark.parametrize(("script", "expected"), [("exit 137", (137, None)), ("kill -9 $$", (None, 9))])
def test_the_exit_is_the_commands(engine: Engine, rootfs: Path, script: str, expected: tuple[int, int]) -> None:
    done = engine.run(["sh", "-c", script], rootfs=rootfs, driver="native", init=True, stdin=DEVNULL)
    assert (done.exit.code, done.exit.signal) == expected
