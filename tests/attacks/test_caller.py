"""What is the caller's: its descriptors, memory, environment, terminal, keys and sockets."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, PIPE, ContainerSpec, Engine

from .report import won

pytestmark = pytest.mark.needs("root", "busybox")

Attack = Callable[..., list[str]]
_LAUNCHES = pytest.mark.parametrize("options", [{}, {"init": True}, {"tty": True}, {"user": "alice"}], ids=str)


@_LAUNCHES
def test_memory_environment_and_command_line(attack: Attack, secret: str, options: dict[str, Any]) -> None:
    if options.get("init"):  # the init must not be looked into even by who may trace
        options = {**options, "capabilities": {"add": ["SYS_PTRACE"]}}
    assert attack("scan", secret, **options) == ["scanned"]


def test_control_a_mere_child_finds_it(attack_program: Path, secret: str) -> None:
    alone = ["unshare", "--pid", "--fork", "--mount-proc"]  # else it looks into all processes of the host
    done = subprocess.run([*alone, attack_program, "scan", secret], capture_output=True, text=True, check=True)
    assert {"environ", "memory"} <= set(won(done.stdout.splitlines()))


@contextlib.contextmanager
def open_everything(witness: Path) -> Iterator[None]:
    """Descriptors of every kind, inheritable."""
    with contextlib.ExitStack() as stack:
        fds = [os.open(witness, os.O_RDONLY), os.open("/", os.O_RDONLY), *os.pipe(), os.memfd_create("replay")]
        fds += [each.detach() for each in socket.socketpair()]
        for fd in fds:
            os.set_inheritable(fd, True)
            stack.callback(os.close, fd)
        yield


@_LAUNCHES
def test_no_descriptor_but_those_given(engine: Engine, hostile: Path, witness: Path, options: dict[str, Any]) -> None:
    spec = ContainerSpec.build(["sleep", "60"], rootfs=hostile, **options)
    streams = {} if options.get("tty") else {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
    with open_everything(witness), engine.create(spec, driver="native", **streams) as container:
        container.start()
        command = ["sh", "-c", "ls /proc/$$/fd; readlink /proc/1/fd/4"]
        process = container.exec(command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
        assert (process.communicate(timeout=20)[0] or b"").split() == [b"0", b"1", b"2"]
        # The init keeps the socket on which it tells of the end, and nothing inside can take that from it.
        first = {"4"} if options.get("init") else {"0", "1", "2"}
        assert set(os.listdir(f"/proc/{container.pid}/fd")) == first


def test_control_a_mere_child_has_them(witness: Path) -> None:
    with open_everything(witness):
        done = subprocess.run(["ls", "/proc/self/fd"], close_fds=False, capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) > 8


# --- terminal -----------------------------------------------------------------------------------------------------

#: Takes a terminal as its own, as a shell has it, and has something run on it.
_SHELL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if sys.argv[1] == "bare":
    os.execv(sys.argv[2], sys.argv[2:])
import execdrivers
with execdrivers.Engine(root=sys.argv[2]) as engine:
    options = {"tty": True} if sys.argv[1] == "tty" else {}
    engine.run(["/bin/attack", "tiocsti", "OWNED"], rootfs=sys.argv[3], driver="native", timeout=20, **options)
"""


def typed_into(*command: object) -> bytes:
    """What comes to be typed at a terminal on which the command runs."""
    master, slave = pty.openpty()
    try:
        # Not echoed, and whatever is typed may be read at once.
        attributes = termios.tcgetattr(slave)
        attributes[3] = 0
        termios.tcsetattr(slave, 0, attributes)
        subprocess.run(
            [sys.executable, "-c", _SHELL, *map(str, command)], stdin=slave, stdout=DEVNULL, check=True, timeout=60
        )
        readable, _, _ = select.select([slave], [], [], 0)
        return os.read(slave, 100) if readable else b""
    finally:
        os.close(slave)
        os.close(master)


@pytest.mark.parametrize("how", ["stdio", "tty"])
def test_nothing_is_typed_into_the_callers_terminal(hostile: Path, tmp_path: Path, no_leaks: None, how: str) -> None:
    assert typed_into(how, tmp_path / "state", hostile) == b""


def test_control_a_mere_child_types(attack_program: Path) -> None:
    assert typed_into("bare", attack_program, "tiocsti", "OWNED") == b"OWNED"


# --- keys, sockets ------------------------------------------------------------------------------------------------


def test_the_callers_keys(attack: Attack, key: tuple[str, int]) -> None:
    assert not won(attack("keyring", *key))


def test_control_a_mere_child_reads_the_key(attack_program: Path, key: tuple[str, int]) -> None:
    done = subprocess.run([attack_program, "keyring", *map(str, key)], capture_output=True, text=True, check=True)
    assert {"session", "number"} <= set(won(done.stdout.splitlines()))


@pytest.fixture
def listening() -> Iterator[str]:
    """An abstract socket of the host's (CVE-2020-15257: containerd's was one)."""
    name = f"replay-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        yield name


def test_an_abstract_socket_of_the_hosts(attack: Attack, listening: str) -> None:
    assert not won(attack("abstract", listening))


def test_control_in_the_hosts_network_it_answers(attack: Attack, listening: str) -> None:
    assert won(attack("abstract", listening, network="host")) == ["connect"]
