"""SCMP_ACT_NOTIFY: the listener reaches who is to decide, and what it decides holds."""

from __future__ import annotations

import array
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from execdrivers import PIPE, Container, ContainerSpec, Engine, LaunchError, SpecError

from . import supervisor

pytestmark = pytest.mark.needs("root")

EXECVE = {"x86_64": 59, "aarch64": 221}[os.uname().machine]


def notify(*names: str, **more: Any) -> Mapping[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}],
        **more,
    }


@pytest.fixture(params=["native", "lxc"])
def create(request: pytest.FixtureRequest, engine: Engine, rootfs: Path, driver_probe: Any) -> Iterator[Any]:
    driver = request.param
    assert "seccomp.notify" in driver_probe(driver).features
    made: list[Container] = []

    def create(script: str, profile: Mapping[str, Any], **fields: Any) -> Container:
        spec = ContainerSpec(["sh", "-c", script], rootfs=rootfs, seccomp=profile, **fields)
        made.append(engine.create(spec, driver=driver, stdout=PIPE, stderr=PIPE))
        return made[-1]

    yield create
    for container in made:
        container.delete(force=True)


@pytest.mark.parametrize("init", [False, True])
def test_a_system_call_is_answered_in_the_kernels_place(create: Any, init: bool) -> None:
    container = create("mkdir /dev/shm/x && ls -d /dev/shm/x; echo after $?", notify("mkdir", "mkdirat"), init=init)
    assert container.seccomp_listener is None
    container.start()
    call = supervisor.receive(container.seccomp_listener)
    assert call.pid in (container.pid, *container.pids())
    supervisor.answer(container.seccomp_listener, call)  # as if it were done
    out, err = container.communicate(timeout=20)
    assert (out, container.returncode) == (b"after 1\n", 0)
    assert b"No such file" in err
    assert container.seccomp_listener is None


def test_it_may_fail_or_go_on(create: Any) -> None:
    container = create("mkdir /dev/shm/a; mkdir /dev/shm/b; ls /dev/shm", notify("mkdir", "mkdirat"))
    container.start()
    supervisor.answer(container.seccomp_listener, supervisor.receive(container.seccomp_listener), errno=28)
    supervisor.go_on(container.seccomp_listener, supervisor.receive(container.seccomp_listener))
    out, err = container.communicate(timeout=20)
    assert out == b"b\n"
    assert b"/dev/shm/a" in err and b"No space" in err


@pytest.mark.parametrize("init", [False, True])
def test_the_execution_itself_may_wait(create: Any, init: bool) -> None:
    """`start` returns then, lest it wait for one who waits for it."""
    container = create("echo hello", notify("execve"), init=init)
    container.start()
    listener = os.dup(container.seccomp_listener)
    answered: list[int] = []

    def supervise() -> None:
        while supervisor.waits(listener, 20):
            call = supervisor.receive(listener)
            supervisor.go_on(listener, call)
            answered.append(call.number)

    thread = threading.Thread(target=supervise)
    thread.start()
    try:
        assert container.communicate(timeout=20)[0] == b"hello\n"
    finally:
        thread.join()
        os.close(listener)
    assert set(answered) == {EXECVE}


def test_an_executed_process_has_one_of_its_own(create: Any) -> None:
    container = create("sleep 1000", notify("mkdir", "mkdirat"))
    container.start()
    with container.exec(["mkdir", "/dev/shm/x"], stderr=PIPE) as process:
        supervisor.answer(process.seccomp_listener, supervisor.receive(process.seccomp_listener), errno=28)
        assert b"No space" in process.communicate(timeout=20)[1]


class Agent:
    """What a runtime's listenerPath is for: takes listeners, and answers every call with an errno."""

    def __init__(self, path: Path, errno: int) -> None:
        self.state: dict[str, Any] = {}
        self._errno = errno
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        with self._socket, self._socket.accept()[0] as connection:
            fds = array.array("i")
            data, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4))
            fds.frombytes(ancillary[0][2])
            while more := connection.recv(1 << 16):
                data += more
        self.state = json.loads(data)
        (listener,) = fds
        supervisor.answer(listener, supervisor.receive(listener), errno=self._errno)
        os.close(listener)


def test_an_agent_gets_it(create: Any, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent", errno=28)
    profile = notify("mkdir", "mkdirat", listenerPath=str(tmp_path / "agent"), listenerMetadata="of ours")
    container = create("mkdir /dev/shm/x", profile, annotations={"a": "b"})
    container.start()
    assert container.seccomp_listener is None
    pid = container.pid
    assert b"No space" in container.communicate(timeout=20)[1]
    agent.thread.join()
    assert agent.state["metadata"] == "of ours"
    assert agent.state["fds"] == ["seccompFd"]
    assert agent.state["pid"] == agent.state["state"]["pid"] == pid
    assert agent.state["state"]["id"] == container.id
    assert agent.state["state"]["annotations"] == {"a": "b"}


def test_an_agent_that_is_not_there(create: Any, tmp_path: Path) -> None:
    container = create("true", notify("mkdir", listenerPath=str(tmp_path / "agent")))
    with pytest.raises(LaunchError, match=r"listenerPath: .*No such file.*start the agent before"):
        container.start()


@pytest.mark.parametrize(
    ("profile", "fields", "words"),
    [
        (notify("sendmsg"), {}, "seccomp.syscalls.*sendmsg"),
        ({**notify("mkdir"), "defaultAction": "SCMP_ACT_NOTIFY"}, {}, "sendmsg"),
        (notify("mkdir"), {"no_new_privileges": False}, "takes no_new_privileges"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}, {}, r"seccomp\.listenerPath"),
    ],
)
def test_refused_where_the_launcher_would_wait_for_itself(
    create: Any, profile: Mapping[str, Any], fields: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        create("true", profile, **fields)
