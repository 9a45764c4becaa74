"""`Engine` and `run`, for tasks of an event loop."""

from __future__ import annotations

import asyncio
import builtins
import os
import time
import weakref
from collections.abc import Collection, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from execdrivers.aio.cancellation import deferred, in_thread, submit, whole
from execdrivers.aio.container import Container
from execdrivers.aio.following import Following
from execdrivers.aio.process import watched
from execdrivers.completed import Call, CompletedContainer
from execdrivers.container import Container as SyncContainer
from execdrivers.driver import Plan
from execdrivers.engine import Engine as SyncEngine
from execdrivers.engine import default_engine
from execdrivers.process import OUTPUT_LIMIT

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from execdrivers.engine import RunOptions
    from execdrivers.events import Event
    from execdrivers.garbage import Garbage
    from execdrivers.monitor import LogOptions
    from execdrivers.record import Summary
    from execdrivers.registry import Registry
    from execdrivers.spec import ContainerSpec, SpecFields
    from execdrivers.stdio import Input, Output
    from execdrivers.watch import Watch

__all__ = ["Engine", "run"]


class Engine:
    """`execdrivers.Engine` for one event loop: what does something is awaited.

    As an async context manager it kills and deletes, at the end, the containers it made, unless they are detached or
    kept.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, registry: Registry | None = None) -> None:
        """The arguments are those of `execdrivers.Engine`."""
        self._engine = SyncEngine(root, registry=registry)
        #: Those that it made, and those that it found.
        self._containers: weakref.WeakValueDictionary[str, Container] = weakref.WeakValueDictionary()
        self._found: weakref.WeakSet[Container] = weakref.WeakSet()

    @property
    def root(self) -> str:
        """The directory that holds the records."""
        return self._engine.root

    @property
    def registry(self) -> Registry:
        """Its drivers and hooks: those of the program unless given."""
        return self._engine.registry

    async def run(self, args: ContainerSpec | Iterable[str], **options: Unpack[RunOptions]) -> CompletedContainer:
        """Run a command in a new container and wait for its end; nothing of it remains, unless ``keep``.

        Arguments, result and errors are those of `execdrivers.Engine.run`. Functions given as ``stdout`` or ``stderr``
        are called in the event loop; an iterable given as ``stdin`` is iterated there, but for what fits into the pipe
        at the start. When cancelled, all is killed and deleted before the cancellation goes on.
        """
        return await _run(self._engine, args, **options)

    async def create(
        self,
        spec: ContainerSpec,
        *,
        driver: str = "auto",
        name: str | None = None,
        stdin: Input = None,
        stdout: Output = None,
        stderr: Output = None,
        detach: bool = False,
        log: LogOptions | None = None,
        remove: bool = False,
        accounting: bool = False,
    ) -> Container:
        """Make a container, up to but not including the execution of its command.

        Arguments and errors are those of `execdrivers.Engine.create`; ``PIPE`` gives the container streams.
        """

        def make() -> SyncContainer:
            return self._engine.create(
                spec,
                driver=driver,
                name=name,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                detach=detach,
                log=log,
                remove=remove,
                accounting=accounting,
            )

        return self._wrapped(await whole(make, lambda container: container.delete(force=True)))

    async def explain(self, spec: ContainerSpec, *, driver: str = "auto", name: str | None = None) -> Plan:
        """What would be done for the spec, after policy."""
        return await in_thread(lambda: self._engine.explain(spec, driver=driver, name=name))

    async def get(self, name: str) -> Container:
        """The container of that name, whoever made it. Raises `ContainerNotFound`, `StoreError`."""
        return self._wrapped(await in_thread(lambda: self._engine.get(name)))

    async def list(self) -> list[Summary]:
        """All containers below the root, by name. A damaged record is one with an ``error``."""
        return await in_thread(self._engine.list)

    async def recover(self) -> builtins.list[Container]:
        """Every container below the root, as after a crash: see `execdrivers.Engine.recover`."""
        return [self._wrapped(container) for container in await in_thread(self._engine.recover)]

    async def gc(self, *, dry_run: bool = False) -> builtins.list[Garbage]:
        """Remove what crashes have left below the root: see `execdrivers.Engine.gc`."""
        return await in_thread(lambda: self._engine.gc(dry_run=dry_run))

    def events(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        types: Collection[str] | str | None = None,
        containers: Collection[str] | str | None = None,
        follow: bool = True,
    ) -> Following[Event]:
        """What happens to the containers below the root, whichever program does it, as an async iterator.

        It begins when it is entered (``async with``) or first iterated over. The arguments and errors are those of
        `execdrivers.Engine.events`.
        """
        return Following(
            lambda: self._engine.events(since=since, until=until, types=types, containers=containers, follow=follow)
        )

    async def delete(self, name: str, *, force: bool = False) -> None:
        """`Container.delete` by name; with ``force`` also of a record that makes no sense, whatever it was."""
        if (ours := await in_thread(lambda: self._engine._ours(name))) is not None:
            await self._wrapped(ours).delete(force=force)
        else:
            await in_thread(lambda: self._engine.delete(name, force=force))

    async def close(self) -> None:
        """Kill and delete what it made, but for what is detached or kept. That, and what it found, is waited for no
        more. May be called twice."""
        with deferred() as patiently:
            made = list(self._containers.values())
            # In a thread: another may have one locked for long.
            ours = await patiently(submit(lambda: [container for container in made if not container._outlives])) or []
            for container in {*made, *self._found} - {*ours}:
                container._release()
            deletions = [asyncio.ensure_future(container.delete(force=True)) for container in ours]
            if deletions:
                await patiently(asyncio.ensure_future(asyncio.wait(deletions)))
            await patiently(submit(self._engine.close))
            for deletion in deletions:
                deletion.result()

    def _wrapped(self, container: SyncContainer) -> Container:
        """The one object of this loop for a container of ours, or a new one."""
        known = self._containers.get(container.id)
        if known is not None and known._container is container:
            return known
        wrapped = Container(container)
        if self._engine._containers.get(container.id) is container:
            self._containers[container.id] = wrapped
        else:
            self._found.add(wrapped)
        return wrapped

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not GeneratorExit:  # the loop is gone; what is dropped cleans up by itself
            await self.close()

    def __repr__(self) -> str:
        return f"<aio {repr(self._engine)[1:]}"


async def run(args: ContainerSpec | Iterable[str], **options: Unpack[RunOptions]) -> CompletedContainer:
    """`Engine.run` of the program's default engine."""
    return await _run(default_engine(), args, **options)


async def _run(
    engine: SyncEngine,
    args: ContainerSpec | Iterable[str],
    *,
    driver: str = "auto",
    name: str | None = None,
    stdin: Input = None,
    input: bytes | str | None = None,
    stdout: Output = None,
    stderr: Output = None,
    capture_output: bool = False,
    text: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    timeout: float | None = None,
    check: bool = False,
    output_limit: int | None = OUTPUT_LIMIT,
    keep: bool = False,
    accounting: bool = False,
    **fields: Unpack[SpecFields],
) -> CompletedContainer:
    def make() -> tuple[Call, SyncContainer, float, tuple[int, Watch | None]]:
        call = Call(
            args,
            fields,
            stdin=stdin,
            input=input,
            stdout=stdout,
            stderr=stderr,
            capture_output=capture_output,
            text=text,
            encoding=encoding,
            errors=errors,
            timeout=timeout,
            check=check,
            output_limit=output_limit,
        )
        made = engine._create(
            call.spec,
            driver,
            name,
            call.stdin,
            call.stdout,
            call.stderr,
            transient=not keep,
            keep=keep,
            accounting=accounting,
        )
        began = time.monotonic()
        made.start()
        return call, made, began, watched(made)

    call, made, began, found = await whole(make, lambda done: done[1].delete(force=True))
    container = Container(made)
    try:
        container._start_drive(*found)
        await container._wait_or_expire(timeout)
        if made.exit is not None:
            container._result()
    except GeneratorExit:
        raise  # the loop is gone; what is dropped cleans up by itself
    except BaseException:
        # What cannot be cleaned up now must not hide it.
        try:
            await container.delete(force=True)
        except Exception as error:
            import logging

            logging.getLogger("execdrivers").warning("container %r could not be cleaned up: %s", made.id, str(error))
        raise
    return call.completed(made, time.monotonic() - began)
