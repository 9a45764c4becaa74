"""The contract between engine and driver, spoken to the driver directly."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from execdrivers import Exit, LaunchError, Resources, Stats, UnsupportedFeature
from execdrivers.driver import CreateRequest, ExecRequest, Handle, Stdio
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Command, Kit

__all__ = ["TestHandle"]


class TestHandle(Kit):
    """Each method of a `Handle`, in each state it may be called in."""

    @contextmanager
    def handle(
        self, *commands: Command, born: Callable[[Handle], object] | None = None, **fields: Any
    ) -> Iterator[tuple[Handle, Path]]:
        """A created container and its directory; stdin is empty, stdout and stderr go nowhere."""
        directory = self.tmp / "directory"
        directory.mkdir()
        with open(os.devnull, "r+b", buffering=0) as null:
            fd = null.fileno()
            request = CreateRequest(
                id=self.id,
                spec=self.spec(*(commands or ("sleep",)), **fields),
                stdio=Stdio(fd, fd, fd),
                directory=str(directory),
                born=born,
            )
            handle = self.subject.create(request)
            try:
                os.fstat(fd)
                yield handle, directory
                os.fstat(fd)  # the engine's descriptors are the engine's to close
            finally:
                handle.delete()
                shutil.rmtree(directory)  # as the engine does

    def ended(self, handle: Handle) -> Exit:
        """Wait for the end as the engine does."""
        poll = select.poll()
        poll.register(handle.exit_fd, select.POLLIN)
        assert poll.poll(20_000), "exit_fd never became readable"
        return handle.exit()

    def pid_of(self, handle: Handle) -> int | None:
        """As of now."""
        return handle.pid

    def test_created_started_ended_deleted(self) -> None:
        with self.handle("exit 7") as (handle, _):
            handle.start()
            assert handle.exit_fd >= 0
            assert handle.pid is not None
            assert self.ended(handle) == Exit(reason="exited", code=7)
            assert self.pid_of(handle) is None
        assert handle.exit_fd == -1

    def test_go_and_never_wait_for_the_start(self) -> None:
        born: list[tuple[int | None, Mapping[str, Any]]] = []
        with self.handle("exit 7", born=lambda handle: born.append((handle.pid, handle.state()))) as (handle, _):
            handle.go()
            assert self.ended(handle) == Exit(reason="exited", code=7)
            assert len(born) <= 1
            assert all(pid is not None and json.loads(json.dumps(state)) for pid, state in born)

    def test_go_tells_at_the_end_that_there_was_no_start(self) -> None:
        """Sooner will do; that it was an exit of the command will not."""

        def to_the_end(handle: Handle) -> Exit:
            handle.go()
            return self.ended(handle)

        with self.handle(born=lambda handle: None, args=["/nothing/here"]) as (handle, _):
            with pytest.raises(LaunchError) as caught:
                to_the_end(handle)
            assert caught.value.exit.code == 127

    def test_state_is_json_in_each_state(self) -> None:
        with self.handle() as (handle, _):
            steps: tuple[Callable[[], object], ...] = (dict, handle.start, handle.kill)
            for step in steps:
                step()
                state = dict(handle.state())
                assert json.loads(json.dumps(state)) == state

    def test_exit_fd_is_readable_at_the_end_and_not_before(self) -> None:
        with self.handle() as (handle, _):
            handle.start()
            poll = select.poll()
            poll.register(handle.exit_fd, select.POLLIN)
            assert poll.poll(50) == []
            handle.kill()
            self.ended(handle)

    def test_kill_before_the_start_and_after_the_end(self) -> None:
        with self.handle() as (handle, _):
            handle.kill()
        with self.handle("exit 0") as (handle, _):
            handle.start()
            self.ended(handle)
            handle.kill()

    def test_delete_in_each_state_and_twice(self) -> None:
        for steps in range(3):
            with self.handle() as (handle, _):
                if steps > 0:
                    handle.start()
                if steps > 1:
                    handle.kill()
                    self.ended(handle)
                handle.delete()
                handle.delete()
                assert handle.pid is None

    def test_close_twice_and_the_process_lives_on(self) -> None:
        with self.handle() as (handle, directory):
            handle.start()
            pid, state = handle.pid, json.loads(json.dumps(dict(handle.state())))
            assert pid is not None
            handle.close()
            handle.close()
            assert host.alive(pid)
            again = self.subject.recover(self.id, state, str(directory))
            assert again.pid == pid
            again.kill()
            self.ended(again)
            again.delete()

    @needs("signal")
    def test_signal_after_the_end_is_a_lookup_error(self) -> None:
        with self.handle("exit 0") as (handle, _):
            handle.start()
            self.ended(handle)
            with pytest.raises(ProcessLookupError):
                handle.signal(signal.SIGTERM)

    def test_recovered_before_the_end(self) -> None:
        with self.handle() as (handle, directory):
            handle.start()
            again = self.subject.recover(self.id, json.loads(json.dumps(dict(handle.state()))), str(directory))
            try:
                assert again.pid == handle.pid
                assert again.exit_fd >= 0 and again.exit_fd != handle.exit_fd
                again.kill()
                assert self.ended(handle) == Exit(reason="signaled", signal=9)
            finally:
                again.close()

    def test_recovered_after_the_end(self) -> None:
        with self.handle("exit 0") as (handle, directory):
            handle.start()
            state = json.loads(json.dumps(dict(handle.state())))
            self.ended(handle)
            again = self.subject.recover(self.id, state, str(directory))
            assert again.pid is None
            again.kill()
            again.delete()

    def test_failed_start_leaves_a_handle_to_delete(self) -> None:
        try:
            with self.handle(args=["/no/such"]) as (handle, _):
                with pytest.raises(LaunchError):
                    handle.start()
                handle.kill()
        except LaunchError:
            pass  # a driver may see at create already that it cannot be executed

    def test_called_from_other_threads(self) -> None:
        with self.handle() as (handle, _):
            failures: list[BaseException] = []

            def do(step: Callable[[], Any]) -> None:
                def body() -> None:
                    try:
                        step()
                    except BaseException as error:
                        failures.append(error)

                thread = threading.Thread(target=body)
                thread.start()
                thread.join()

            for step in (handle.start, handle.state, handle.guarantees, handle.kill):
                do(step)
            do(lambda: self.ended(handle))
            do(handle.delete)
            assert not failures

    def test_what_it_does_not_declare_raises_unsupported_feature(self) -> None:
        with self.handle() as (handle, directory):
            handle.start()
            request = ExecRequest(id="1", spec=self.spec("say x"), stdio=Stdio(-1, -1, -1), directory=str(directory))
            calls: dict[str, Callable[[], object]] = {
                "exec": lambda: handle.exec(request),
                "pause": handle.pause,
                "update": lambda: handle.update(Resources(pids=9)),
                "pids": handle.pids,
                "stats": handle.stats,
            }
            for feature, call in calls.items():
                if feature not in self.features:
                    with pytest.raises(UnsupportedFeature) as caught:
                        call()
                    assert caught.value.feature == feature

    def test_stats_in_each_state(self) -> None:
        if "stats" not in self.features:
            return  # see above
        with self.handle() as (handle, _):
            assert handle.stats().cpu.usage >= 0
            handle.start()
            running = handle.stats()
            assert running.pids.current >= 1 and Stats.from_dict(json.loads(json.dumps(running.to_dict()))) == running
            handle.kill()
            host.until(lambda: select.select([handle.exit_fd], [], [], 0)[0], "it ended")
            assert handle.stats().network is None  # its namespace is gone
            self.ended(handle)

    def test_pids_in_each_state(self) -> None:
        if "pids" not in self.features:
            return  # see above
        with self.handle() as (handle, _):
            assert isinstance(handle.pids(), Sequence)
            handle.start()
            assert handle.pid in handle.pids()
            handle.kill()
            self.ended(handle)
            assert not [pid for pid in handle.pids() if host.alive(pid)]
