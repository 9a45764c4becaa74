"""Standard input, output and error: what is written arrives, where it should, and all of it."""

from __future__ import annotations

import io
import os
import stat
import threading
from pathlib import Path

import pytest

from execdrivers import DEVNULL, PIPE, STDOUT
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit
from execdrivers.testing.program import Report, emitted, fnv

__all__ = ["TestStdio"]

#: More than a pipe holds, several times.
_MUCH = 3 << 20


class TestStdio(Kit):
    """Each way to connect the three streams."""

    def test_stdout_and_stderr_are_apart(self) -> None:
        done = self.run("say out", "complain err")
        assert (done.stdout, done.stderr) == (b"out\n", b"err\n")

    def test_stderr_into_stdout(self) -> None:
        done = self.run("say one", "complain two", "say three", stdout=PIPE, stderr=STDOUT)
        assert sorted(done.stdout.split()) == [b"one", b"three", b"two"] and done.stderr is None

    def test_every_byte_value_passes(self) -> None:
        assert self.run("emit 256").stdout == emitted(256)
        assert self.run("cat", input=bytes(range(256))).stdout == bytes(range(256))

    def test_much_output(self) -> None:
        done = self.run(f"emit {_MUCH}")
        assert fnv(done.stdout[:70000]) == fnv(emitted(70000)) and len(done.stdout) == _MUCH

    def test_much_of_both_at_once(self) -> None:
        done = self.run(f"emit {_MUCH // 4} 2", f"emit {_MUCH // 2}", f"emit {_MUCH // 4} 2")
        assert (len(done.stdout), len(done.stderr)) == (_MUCH // 2, _MUCH // 4 * 2)

    def test_much_input(self) -> None:
        data = emitted(300_000)
        assert self.run("swallow", input=data).stdout.decode().split() == [str(len(data)), fnv(data)]

    def test_much_through_and_back(self) -> None:
        data = os.urandom(_MUCH)
        assert self.run("cat", input=data).stdout == data

    def test_input_in_pieces(self) -> None:
        done = self.run("cat", stdin=(piece for piece in (b"one ", b"", b"two ", b"x" * 100_000)))
        assert done.stdout == b"one two " + b"x" * 100_000

    @pytest.mark.parametrize("given", [{}, {"input": b""}, {"stdin": DEVNULL}, {"stdin": b""}], ids=str)
    def test_no_input_is_the_end_of_input(self, given: dict[str, object]) -> None:
        if not given and os.isatty(0):
            host.lacking("a caller without a terminal")
        given = given or {"stdin": DEVNULL}
        assert self.run("swallow", **given).stdout.split()[0] == b"0"

    def test_output_to_nowhere(self) -> None:
        done = self.run("say x", "complain y", "report", stdout=DEVNULL, stderr=DEVNULL)
        assert (done.returncode, done.stdout, done.stderr) == (0, None, None)

    def test_output_to_files(self) -> None:
        with open(self.tmp / "out", "wb") as out, open(self.tmp / "err", "wb") as err:
            out.write(b"before ")
            out.flush()
            done = self.run("say out", "complain err", stdout=out, stderr=err)
        assert done.returncode == 0
        assert (self.tmp / "out").read_bytes() == b"before out\n"
        assert (self.tmp / "err").read_bytes() == b"err\n"

    def test_input_from_a_file(self) -> None:
        (self.tmp / "in").write_bytes(emitted(100_000))
        with open(self.tmp / "in", "rb") as file:
            done = self.run("swallow", stdin=file)
        assert done.stdout.decode().split() == ["100000", fnv(emitted(100_000))]

    def test_output_to_functions(self) -> None:
        out: list[bytes] = []
        err: list[bytes] = []
        self.run(f"emit {_MUCH}", "complain oops", stdout=out.append, stderr=err.append)
        assert sum(map(len, out)) == _MUCH and b"".join(err) == b"oops\n"

    def test_a_function_that_fails_ends_the_container(self) -> None:
        def fail(data: bytes) -> None:
            raise RuntimeError("told to fail")

        with pytest.raises(RuntimeError, match="told to fail"):
            self.run("say x", "sleep", stdout=fail)

    def test_output_beyond_the_limit_is_read_and_dropped(self) -> None:
        done = self.run(f"emit {_MUCH}", output_limit=1000)
        assert done.stdout == emitted(1000) and done.stdout_truncated and not done.stderr_truncated

    def test_text(self) -> None:
        assert self.run(("say", "grün"), text=True, encoding="utf-8").stdout == "grün\n"

    def test_a_conversation(self) -> None:
        container = self.start("line", "line", "cat")
        stdin = container.stdin
        assert isinstance(stdin, io.IOBase) or stdin is not None
        for word in ("one", "two", "three"):
            stdin.write(f"{word}\n".encode())
            stdin.flush()
            assert host.read_line(container.stdout) == word
        stdin.close()
        assert container.wait(20).code == 0

    def test_closing_the_input_ends_it(self) -> None:
        container = self.start("cat", "say done")
        assert container.stdin is not None
        container.stdin.close()
        assert host.read_line(container.stdout) == "done"

    def test_input_that_nobody_reads(self) -> None:
        assert self.run("exit 3", input=bytes(_MUCH)).returncode == 3

    def test_output_that_nobody_reads_any_more(self) -> None:
        container = self.start(f"emit {_MUCH}")
        assert container.stdout is not None
        container.stdout.close()
        ended = container.wait(20)
        # The first process of a pid namespace is spared by SIGPIPE and sees EPIPE instead.
        assert ended.signal == 13 or ended.code == 1

    def test_what_was_written_before_a_kill_is_read(self) -> None:
        container = self.start("say before", "complain so", "sleep")
        host.until(lambda: container.poll() is None, "it runs")
        assert host.read_line(container.stdout) == "before"
        assert container.stderr is not None and host.read_line(container.stderr) == "so"
        container.kill()
        container.wait(20)

    @needs("kill-all")
    def test_a_child_that_holds_the_output_open_does_not_hold_us(self) -> None:
        done = self.run("spread 2", "say x")
        assert done.stdout == b"x\n"

    def test_no_descriptors_but_the_three(self) -> None:
        descriptors = self.by_default()["fds"]
        assert sorted(descriptors) == ["0", "1", "2"]

    def test_descriptors_of_the_caller_stay_out(self) -> None:
        """Also those that are inheritable, low or high."""
        with open(self.tmp / "secret", "w+b") as file:
            extra = [os.dup(file.fileno()), 777]
            os.dup2(file.fileno(), 777, inheritable=True)
            os.set_inheritable(extra[0], True)
            try:
                assert sorted(self.report()["fds"]) == ["0", "1", "2"]
            finally:
                for fd in extra:
                    os.close(fd)

    def test_kinds_and_directions(self) -> None:
        fds = Report.parse(self.run("report", input=b"").stdout)["fds"]
        assert all(stat.S_ISFIFO(fds[name]["type"]) or stat.S_ISSOCK(fds[name]["type"]) for name in ("1", "2"))
        assert not any(item["tty"] for item in fds.values())
        assert fds["0"]["flags"] & 3 in (os.O_RDONLY, os.O_RDWR)
        assert fds["1"]["flags"] & 3 in (os.O_WRONLY, os.O_RDWR)

    def test_streams_block_as_programs_expect(self) -> None:
        fds = Report.parse(self.run("report", input=b"").stdout)["fds"]
        assert not any(item["flags"] & os.O_NONBLOCK for item in fds.values())

    def test_a_caller_without_standard_streams(self) -> None:
        """Its descriptors 0, 1 and 2 are closed, so that those of pipes are among them."""

        def closed() -> None:
            for fd in (0, 1, 2):
                try:
                    os.close(fd)
                except OSError:
                    pass
            with self.new_engine() as engine:
                done = engine.run(
                    self.spec("cat", "complain err", "report"), driver=self.name, input=b"in\n", capture_output=True
                )
            line, report = done.stdout.splitlines()
            assert (line, done.stderr, done.returncode) == (b"in", b"err\n", 0)
            assert sorted(Report.parse(report)["fds"]) == ["0", "1", "2"]

        host.in_child(closed)

    def test_many_talk_at_once(self) -> None:
        failures: list[object] = []

        def talk(number: int) -> None:
            try:
                data = bytes([number]) * 200_000
                assert self.run("cat", input=data).stdout == data
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    def test_a_socket_and_a_terminal_as_streams(self) -> None:
        import socket

        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert self.run("say x", stdout=theirs, stderr=DEVNULL).returncode == 0
            assert ours.recv(10) == b"x\n"

    def test_stream(self) -> None:
        container = self.start("say one", "complain two", "say three")
        pieces = list(container.stream(20))
        assert b"".join(data for name, data in pieces if name == "stdout") == b"one\nthree\n"
        assert b"".join(data for name, data in pieces if name == "stderr") == b"two\n"

    def test_communicate(self) -> None:
        container = self.start("cat", "complain end")
        assert container.communicate(b"x" * 100_000, timeout=20) == (b"x" * 100_000, b"end\n")

    def test_files_of_the_host_given_as_streams_are_not_reopened(self) -> None:
        """A file that has no name any more still takes the output."""
        path = Path(self.tmp / "gone")
        with open(path, "w+b") as file:
            path.unlink()
            self.run("say kept", stdout=file)
            file.seek(0)
            assert file.read() == b"kept\n"
