"""Who is attached to a detached container: output, input, the terminal, and clients of all kinds."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from execdrivers import pidfd
from execdrivers.errors import InvalidState
from execdrivers.monitor import Attachment
from execdrivers.monitor.log import LogOptions


def attach(monitored: Any) -> Attachment:
    return Attachment(str(monitored.directory))


def read_until(attachment: Attachment, end: bytes) -> bytes:
    got = b""
    for _, part in attachment:
        got += part
        if got.endswith(end):
            break
    return got


def read_all(attachment: Attachment) -> dict[str, bytes]:
    got = {"stdout": b"", "stderr": b""}
    for stream, part in attachment:
        got[stream] += part
    return got


@contextmanager
def stopped(monitored: Any) -> Iterator[None]:
    """While entered, the monitor does nothing."""
    pidfd.send_signal(monitored.monitor.pidfd, signal.SIGSTOP)
    try:
        yield
    finally:
        pidfd.send_signal(monitored.monitor.pidfd, signal.SIGCONT)


def fill(attachment: Attachment) -> None:
    """Give input until no more is taken."""
    while attachment.send(bytes(32768)):
        pass


def test_output_and_exit(monitored: Any) -> None:
    monitored.prepare("echo out; echo err >&2; exit 3")
    with attach(monitored) as attachment:
        assert not attachment.tty and not attachment.stdin
        time.sleep(0.1)
        monitored.monitor.channels()
        got = read_all(attachment)
        assert attachment.exit is not None and attachment.exit.code == 3
    assert got["stderr"] == b"err\n" or not got["stderr"]  # it may have come before we were there
    assert monitored.output("stdout") == b"out\n"


def test_input_reaches_the_command_and_ends(monitored: Any) -> None:
    monitored.run("cat; echo over; exit 5", stdin=True)
    with attach(monitored) as attachment:
        assert attachment.stdin
        attachment.write(b"hello\n")
        assert read_until(attachment, b"\n") == b"hello\n"
        attachment.close_stdin()
        assert read_all(attachment) == {"stdout": b"over\n", "stderr": b""}
        assert attachment.exit is not None and attachment.exit.code == 5
        with pytest.raises(BrokenPipeError):
            attachment.write(b"more")


def test_stdin_stays_open_without_anybody(monitored: Any) -> None:
    monitored.run("read a; echo 1 $a; read b; echo 2 $b", stdin=True)
    for number, word in ((1, b"one"), (2, b"two")):
        with attach(monitored) as attachment:
            attachment.write(word + b"\n")
            assert read_until(attachment, b"\n") == b"%d %s\n" % (number, word)
    assert monitored.ended().status == 0


def test_much_input_waits_for_a_command_that_is_slow_to_read(monitored: Any) -> None:
    """Nothing is lost, nothing is kept by the monitor but a packet."""
    monitored.run("sleep 0.5; sha1sum", stdin=True)
    data = os.urandom(5_000_000)
    import hashlib

    with attach(monitored) as attachment:
        attachment.write(data)
        attachment.close_stdin()
        attachment.detach()
    monitored.ended()
    assert monitored.output().split()[0].decode() == hashlib.sha1(data).hexdigest()


def test_input_of_one_that_leaves_at_once_is_taken(monitored: Any) -> None:
    monitored.run("sleep 0.3; wc -c", stdin=True)
    for _ in range(3):
        with attach(monitored) as attachment:
            attachment.write(bytes(40_000))
    with attach(monitored) as attachment:
        attachment.close_stdin()
    monitored.ended()
    assert monitored.output().strip() == b"120000"


def test_a_resize_passes_input_that_waits(monitored: Any) -> None:
    script = "stty raw -echo; await; echo up; while ! [ $(stty size | cut -d' ' -f1) = 33 ]; do sleep 0.05; done"
    monitored.run(script, tty=True)
    with attach(monitored) as typist, attach(monitored) as resizer:
        monitored.let_on()
        read_until(resizer, b"up\n")
        with stopped(monitored):
            fill(typist)
            assert not typist.resize(34, 102)
            assert resizer.resize(33, 101)
        assert monitored.ended().status == 0


def test_the_last_comes_though_input_was_left_unread(monitored: Any) -> None:
    end = monitored.directory.parent / "end"
    script = f"stty raw -echo; await; echo up; while ! [ -e {end} ]; do sleep 0.02; done; echo bye; exit 3"
    monitored.run(script, tty=True)
    with attach(monitored) as reader, attach(monitored) as typist:
        monitored.let_on()
        for attachment in (reader, typist):
            read_until(attachment, b"up\n")
            fill(attachment)
        end.touch()
        monitored.ended()
        with pytest.raises(BrokenPipeError):
            typist.send(b"more")
        for attachment in (reader, typist):
            assert read_all(attachment)["stdout"] == b"bye\n"
            assert attachment.exit is not None and attachment.exit.code == 3


@pytest.mark.parametrize("name", ["write", "close_stdin"])
def test_letting_go_ends_the_wait_of_a_thread(monitored: Any, name: str) -> None:
    monitored.run("exec sleep 60", stdin=True)
    attachment = attach(monitored)
    raised: list[BaseException] = []

    def give() -> None:
        try:
            attachment.write(b"more") if name == "write" else attachment.close_stdin()
        except BrokenPipeError as error:
            raised.append(error)

    with stopped(monitored):
        fill(attachment)
        thread = threading.Thread(target=give, daemon=True)
        thread.start()
        time.sleep(0.1)
        attachment.detach()
        thread.join(10)
    assert len(raised) == 1


def test_a_fork_that_lets_go_does_not_do_so_for_us(monitored: Any) -> None:
    monitored.run("cat", stdin=True)
    with attach(monitored) as attachment:
        if not (child := os.fork()):
            attachment.detach()
            os._exit(0)
        os.waitpid(child, 0)
        attachment.write(b"word\n")
        assert read_until(attachment, b"\n") == b"word\n"


@pytest.mark.parametrize("tty", [False, True])
def test_input_after_its_end_comes_after_it(monitored: Any, tty: bool) -> None:
    """Though the monitor comes to hear of both at once; what others give at that time may come before."""
    monitored.run(f"{'stty -echo; ' * tty}await; cat; echo over; cat", stdin=not tty, tty=tty)
    with attach(monitored) as attachment:
        monitored.let_on()
        time.sleep(0.1)
        with stopped(monitored):
            attachment.write(b"one\n")
            attachment.close_stdin()
            attachment.write(b"two\n")
            attachment.close_stdin()
        got = read_all(attachment)["stdout"].replace(b"\r", b"")
    assert got == (b"one\nover\ntwo\n" if tty else b"one\nover\n")


def test_a_command_that_closes_its_input(monitored: Any) -> None:
    monitored.run("exec <&-; await; echo closed; sleep 2; exit 0", stdin=True)
    with attach(monitored) as attachment:
        monitored.let_on()
        read_until(attachment, b"closed\n")
        attachment.write(bytes(500_000))
    assert monitored.ended().status == 0


def test_a_terminal(monitored: Any) -> None:
    script = "await; echo ready; while read line; do stty size; echo got $line; done; echo end"
    monitored.run(script, tty=True)
    with attach(monitored) as attachment:
        assert attachment.tty and attachment.stdin
        monitored.let_on()
        read_until(attachment, b"ready\r\n")
        attachment.resize(43, 132)
        attachment.write(b"a\n")
        read_until(attachment, b"got a\r\n")
        attachment.resize(24, 80)
        attachment.write(b"b\n")
        read_until(attachment, b"got b\r\n")
        attachment.write(b"unfinished")
        attachment.close_stdin()
        assert read_all(attachment)["stdout"].endswith(b"end\r\n")
    text = monitored.output("stdout")
    assert b"43 132\r\n" in text and b"24 80\r\n" in text


def test_a_terminal_outlives_its_other_side(monitored: Any) -> None:
    """Closed by all and opened again, as a getty does; and the monitor does not spin meanwhile."""
    script = "t=$(readlink /proc/self/fd/0); exec </dev/null >/dev/null 2>&1; await"
    monitored.run(f"{script}; echo again >$t; read x <$t; echo $x >$t", tty=True)
    with attach(monitored) as attachment:
        time.sleep(0.3)
        assert any(monitored.sleeps(0.2) for _ in range(5))
        monitored.let_on()
        read_until(attachment, b"again\r\n")
        attachment.write(b"word\n")
        assert read_all(attachment)["stdout"].endswith(b"word\r\n")


def test_all_get_all(monitored: Any) -> None:
    monitored.run("read x; seq 3000; exit 9", stdin=True)
    attachments = [attach(monitored) for _ in range(16)]
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda one=one: got.append(read_all(one)["stdout"])) for one in attachments]
    for thread in threads:
        thread.start()
    attachments[3].write(b"\n")
    for thread in threads:
        thread.join(20)
    assert got == [b"".join(b"%d\n" % n for n in range(1, 3001))] * 16
    assert all(one.exit is not None and one.exit.code == 9 for one in attachments)
    for one in attachments:
        one.detach()


def test_one_too_many_is_told(monitored: Any) -> None:
    monitored.run("exec sleep 60", stdin=True)
    attachments = [attach(monitored) for _ in range(16)]
    with pytest.raises(InvalidState, match="as many attached"):
        attach(monitored)
    attachments.pop().detach()
    deadline = time.monotonic() + 10
    while True:
        try:
            attachments.append(attach(monitored))
            break
        except InvalidState:
            assert time.monotonic() < deadline
    for one in attachments:
        one.detach()


def test_one_that_does_not_read_holds_up_nobody(monitored: Any) -> None:
    """It is told how much it has missed, and the end."""
    size = 20_000_000
    monitored.run(f"read x; head -c {size} /dev/zero | tr '\\0' x; exit 0", stdin=True, log=LogOptions("64K", 2))
    slow, fast = attach(monitored), attach(monitored)
    fast.write(b"\n")
    total = 0
    for _, part in fast:
        total += len(part)
    monitored.ended()
    assert total + fast.skipped == size
    seen = len(read_all(slow)["stdout"])
    assert seen + slow.skipped == size and slow.skipped > 0
    assert slow.exit is not None and slow.exit.code == 0
    slow.detach()
    fast.detach()


def test_nobody_is_there(monitored: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidState, match="not started detached"):
        Attachment(str(tmp_path))
    monitored.run("exit 0")
    monitored.ended()
    assert not (monitored.directory / "attach").exists()
    with pytest.raises(InvalidState, match="not started detached, or has ended"):
        attach(monitored)


def test_a_monitor_that_is_killed(monitored: Any) -> None:
    child = monitored.run("exec sleep 60")
    attachment = attach(monitored)
    pidfd.send_signal(monitored.monitor.pidfd, 9)
    assert read_all(attachment) == {"stdout": b"", "stderr": b""}
    assert attachment.exit is None
    attachment.detach()
    with pytest.raises(InvalidState):
        attach(monitored)
    pidfd.send_signal(child.pidfd, 9)


def test_the_socket_is_its_owners_alone(monitored: Any) -> None:
    monitored.run("exec sleep 60")
    mode = (monitored.directory / "attach").stat().st_mode
    assert stat.S_ISSOCK(mode) and mode & 0o777 == 0o600


def test_rubbish_does_no_harm(monitored: Any) -> None:
    monitored.run("cat", stdin=True)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(monitored.directory, os.O_PATH)
    raw.connect(f"/proc/self/fd/{directory}/attach")
    os.close(directory)
    assert raw.recv(10)[:1] == b"h"
    for packet in (b"z", b"r", b"r\1", b"r" + b"\xff" * 40, b"i", b"\0", b"q" * 32769, b"i" + b"y" * 32768):
        raw.send(packet)
    raw.send(b"e")
    got = b""
    while packet := raw.recv(40_000):
        if packet[:1] == b"x":
            break
        got += packet[1:]
    assert got == b"y" * 32768
    raw.close()
    assert monitored.ended().status == 0


def test_clients_that_come_and_go(monitored: Any, tmp_path: Path) -> None:
    """Whatever they do, the log is whole, and the command ends as it does."""
    stop = tmp_path / "stop"
    script = f"cat >/dev/null <&3 & i=0; while ! [ -e {stop} ]; do echo $i; i=$((i + 1)); done; echo last; exit 6"
    monitored.run(f"exec 3<&0; {script}", stdin=True, log=LogOptions("1M", 1000))
    until = time.monotonic() + 3

    def visit(seed: int) -> None:
        choose = random.Random(seed)
        while time.monotonic() < until:
            try:
                attachment = attach(monitored)
            except InvalidState:
                continue
            with attachment:
                for _ in range(choose.randrange(6)):
                    if choose.random() < 0.5:
                        attachment.send(bytes(choose.randrange(1, 40_000)))
                    elif choose.random() < 0.5:
                        attachment.resize(1, 1)
                    else:
                        attachment.receive()

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.touch()
    assert monitored.ended().status == 6 << 8
    lines = monitored.output().split(b"\n")
    assert lines[-2:] == [b"last", b""]
    assert lines[:-2] == [b"%d" % n for n in range(len(lines) - 2)] and len(lines) > 100


def test_a_monitor_out_of_descriptors(monitored: Any) -> None:
    """Who comes then waits in vain; the monitor does not spin meanwhile, and takes others later."""
    monitored.run("exec sleep 60", stdin=True)
    pid = monitored.monitor.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), limits[1]))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        directory = os.open(monitored.directory, os.O_PATH)
        raw.connect(f"/proc/self/fd/{directory}/attach")
        os.close(directory)
        assert any(monitored.sleeps(0.3) for _ in range(5))  # but for once a second
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        raw.settimeout(20)
        assert raw.recv(10)[:1] == b"h"
