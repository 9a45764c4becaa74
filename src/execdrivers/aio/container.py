"""`Container`: a live container, for tasks of an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from execdrivers.aio.attachment import Attachment
from execdrivers.aio.cancellation import deferred, in_thread, submit, whole
from execdrivers.aio.following import Following
from execdrivers.aio.process import ExecProcess, Process, watched
from execdrivers.container import Container as SyncContainer
from execdrivers.errors import InvalidState

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    from execdrivers.exit import Exit
    from execdrivers.monitor import LogEntry
    from execdrivers.record import State
    from execdrivers.spec import Capabilities, ContainerSpec, Resources
    from execdrivers.stats import Stats
    from execdrivers.stdio import Input, Output

    class ExecOptions(TypedDict, total=False):
        """The keywords of `Container.exec`."""

        env: Mapping[str, str] | Iterable[str] | None
        cwd: str | None
        user: str | int | None
        additional_gids: Iterable[int] | None
        tty: bool
        console_size: tuple[int, int] | None
        capabilities: Capabilities | Mapping[str, Any] | None
        no_new_privileges: bool | None
        umask: int | str | None
        rlimits: Mapping[str, Any] | None
        stdin: Input
        stdout: Output
        stderr: Output


__all__ = ["Container"]

T = TypeVar("T")


class Container(Process):
    """A container: `Engine.create` makes one, `Engine.get` finds one again.

    What differs from `execdrivers.Container`: methods that do something are awaited; ``stdin``, ``stdout`` and
    ``stderr`` are streams; its end is noticed by itself. Use it as an async context manager, or await `delete`. What is
    cancelled half way is done nevertheless, or undone, before the cancellation goes on; a `wait` merely ends.
    """

    def __init__(self, container: SyncContainer) -> None:
        super().__init__(container)
        self._container = container
        if container.detached:
            self._stdin = None  # its monitor has it

    # --- what it is

    @property
    def id(self) -> str:
        """Its name in the store."""
        return self._container.id

    @property
    def name(self) -> str:
        """Another word for `id`."""
        return self._container.id

    @property
    def driver(self) -> str:
        """The name of its driver."""
        return self._container.driver

    @property
    def spec(self) -> ContainerSpec:
        """What it runs, after policy plugins have amended it."""
        return self._container.spec

    @property
    def detached(self) -> bool:
        """Whether it was created so, and outlives its maker once it is started."""
        return self._container.detached

    @property
    def guarantees(self) -> Mapping[str, Any]:
        """What is in force, as its driver reports."""
        return self._container.guarantees

    @property
    def stdio(self) -> Mapping[str, str]:
        """stdin, stdout and stderr, and what each is connected to."""
        return self._container.stdio

    @property
    def created_at(self) -> float | None:
        """Seconds since the epoch."""
        return self._container.created_at

    @property
    def started_at(self) -> float | None:
        """Seconds since the epoch; None before."""
        return self._container.started_at

    @property
    def finished_at(self) -> float | None:
        """When its end was noticed, in seconds since the epoch; None before."""
        return self._container.finished_at

    @property
    def state(self) -> State:
        """``created``, ``running``, ``paused`` or ``stopped``; while a call is under way that may change it, as it was
        before."""
        return self._now(lambda: self._container.state, lambda: self._container._known_state)

    @property
    def pid(self) -> int | None:
        """The host's pid of the first process; None once its end was noticed."""
        return self._now(lambda: self._container.pid, lambda: self._container._known_pid)

    @property
    def exit(self) -> Exit | None:
        """How it ended, as far as its maker or we know; None before."""
        return self._now(lambda: self._container.exit, lambda: self._container._exit)

    # --- what can be done with it

    async def start(self) -> None:
        """Execute the command. When that fails the container is deleted and the driver's `LaunchError` raised."""
        found = None

        def start() -> None:
            nonlocal found
            self._container.start()
            found = watched(self._container)

        try:
            await in_thread(start)
        finally:
            if self._drive is None:  # else it was started before
                if found is not None:
                    self._start_drive(*found)
                elif self._container._over:
                    self._release()

    async def signal(self, number: int | str, *, all: bool = False) -> None:
        """Send a signal (``15``, ``"SIGTERM"``) to the first process, or to ``all``. Raises as
        `execdrivers.Container.signal`."""
        await self._look()
        await in_thread(lambda: self._container.signal(number, all=all))

    async def stop(self, timeout: float | None = 10, *, signal: int | str | None = None) -> Exit:
        """Ask it to end by a signal (the spec's ``stop_signal``, or SIGTERM), and kill it after ``timeout`` seconds.

        None: it is never killed. One that is paused is resumed, lest it hear nothing.
        """
        await self._begin()
        try:
            await self.signal(signal if signal is not None else self.spec.stop_signal or "SIGTERM")
            if await in_thread(lambda: self._container.state) == "paused":
                await self.resume()
        except InvalidState:
            if not await self._ended(0):
                raise
        if not await self._ended(timeout):
            await self.kill()
        return await self.wait()

    async def pids(self) -> Sequence[int]:
        """The host's pids of all processes in it. Raises `UnsupportedFeature` where its driver cannot tell."""
        return await in_thread(self._container.pids)

    async def stats(self) -> Stats:
        """What it uses now, or has used. Raises as `execdrivers.Container.stats`."""
        await self._look()
        ended = self.exit is not None
        try:
            return await in_thread(self._container.stats)
        except InvalidState:
            if ended:
                raise
        await self._look()  # it ended meanwhile
        return await in_thread(self._container.stats)

    async def exec(self, args: Iterable[str], **options: Unpack[ExecOptions]) -> ExecProcess:
        """Run one more process in it; the arguments and errors are those of `execdrivers.Container.exec`."""
        process = await whole(lambda: self._container.exec(args, **options), lambda process: process.close())
        return ExecProcess(process)

    async def pause(self) -> None:
        """Freeze all its processes. Raises as `execdrivers.Container.pause`."""
        await in_thread(self._container.pause)

    async def resume(self) -> None:
        """Let it go on. Raises as `pause` does; no error when it is not paused."""
        await in_thread(self._container.resume)

    async def update(self, resources: Resources | None = None, **limits: Any) -> None:
        """Change limits while it runs. The arguments and errors are those of `execdrivers.Container.update`."""
        await in_thread(lambda: self._container.update(resources, **limits))

    def logs(
        self,
        *,
        follow: bool = False,
        since: float | None = None,
        until: float | None = None,
        tail: int | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> Following[LogEntry]:
        """What a detached container has written, as an async iterator; see `execdrivers.Container.logs`."""
        return Following(
            lambda: self._container._open_log(
                follow=follow, since=since, until=until, tail=tail, stdout=stdout, stderr=stderr
            )
        )

    async def attach(self) -> Attachment:
        """Connect to the stdio of a detached container. Raises as `execdrivers.Container.attach`."""
        return Attachment(await whole(self._container.attach, lambda attachment: attachment.detach()))

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal, in characters. Raises as `execdrivers.Container.resize`."""
        await in_thread(lambda: self._container.resize(rows, columns))

    async def delete(self, force: bool = False) -> None:
        """Free all that it took and forget it. No error when that is done already.

        Raises `InvalidState` while it runs, unless ``force``, which kills it. A cancellation waits until it is done.
        """
        with deferred() as patiently:
            drive = self._drive
            if drive is not None and drive.waits:
                if force:
                    await self._kill_and_wait(patiently)
                elif drive.over_now():
                    await patiently(drive.ended)
            if drive is not None and (force or not drive.waits):
                self._release()  # what is watched will be closed
            await patiently(submit(lambda: self._container.delete(force=force)))
            self._release()  # also who waits for a start

    async def detach(self) -> None:
        """Let it live on without this program, which then need not `delete` it. `Engine.get` finds it again."""
        await in_thread(self._container.detach)

    @property
    def _outlives(self) -> bool:
        """Whether it is to live on when its engine is closed."""
        return self._container._lasting

    def _now(self, look: Callable[[], T], known: Callable[[], T]) -> T:
        """What a look tells, or while a thread has it locked, for which the loop is not to wait, what is known."""
        if not self._container._lock.acquire(blocking=False):
            return known()
        try:
            return look()
        finally:
            self._container._lock.release()

    def _poll(self) -> Exit | None:
        return self._container.poll()

    async def _wait_or_expire(self, timeout: float | None) -> None:
        """As `run` waits: when its time is over it is killed, and the reason of its exit is ``timeout``."""
        if not await self._ended(timeout):
            self._container._timed_out = True
            with deferred() as patiently:
                await self._kill_and_wait(patiently)

    async def __aenter__(self) -> Container:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is GeneratorExit:
            return  # the loop is gone; what is dropped cleans up by itself
        if not self.detached or not self._outlives:
            await self.delete(force=True)

    def __repr__(self) -> str:
        return f"<aio {repr(self._container)[1:]}"
