"""`Engine` takes a spec through policy, driver, supervision and store; `run` is the one call for all of it."""

from __future__ import annotations

import builtins
import errno
import os
import threading
import time
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from execdrivers import guard, interrupts
from execdrivers.completed import Call, CompletedContainer
from execdrivers.container import Container
from execdrivers.driver import CreateRequest, Plan
from execdrivers.errors import ContainerNotFound, InvalidState, SpecError, StoreError
from execdrivers.process import OUTPUT_LIMIT, deadline_after
from execdrivers.record import Record, Summary, own_process, spec_data
from execdrivers.registry import Registry, default_registry
from execdrivers.spec import ContainerSpec
from execdrivers.stdio import Input, Output, connect
from execdrivers.store import Store, free_id

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from typing_extensions import Unpack

    from execdrivers.driver import Handle
    from execdrivers.eventstream import EventStream
    from execdrivers.garbage import Garbage
    from execdrivers.monitor import LogOptions
    from execdrivers.spec import SpecFields
    from execdrivers.store import Entry

    class RunOptions(SpecFields, total=False):
        """The keywords of `Engine.run`."""

        driver: str
        name: str | None
        stdin: Input
        input: bytes | str | None
        stdout: Output
        stderr: Output
        capture_output: bool
        text: bool | None
        encoding: str | None
        errors: str | None
        timeout: float | None
        check: bool
        output_limit: int | None
        keep: bool
        accounting: bool


__all__ = ["CompletedContainer", "Engine", "default_engine", "run"]

#: Stands for the id in the plan of a container without a name, so that equal specs have equal plans.
_NO_ID = "ID"


class Engine:
    """Makes containers, and knows those below one state root. Serves all threads of a program.

    As a context manager it kills and deletes, at the end, the containers it made, unless they are detached or kept.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, registry: Registry | None = None) -> None:
        """``root`` is made when first needed. None: /run/execdrivers as root, else $XDG_RUNTIME_DIR/execdrivers."""
        self._store = Store(root)
        self._registry = registry
        self._containers: weakref.WeakValueDictionary[str, Container] = weakref.WeakValueDictionary()
        #: Reentrant: the collector may drop a container anywhere.
        self._lock = threading.RLock()
        self._closed = False
        self._maker = os.getpid()

    @property
    def root(self) -> str:
        """The directory that holds the records."""
        return self._store.root

    @property
    def registry(self) -> Registry:
        """Its drivers and hooks: those of the program unless given."""
        if self._registry is None:
            self._registry = default_registry()
        return self._registry

    def run(
        self,
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
        """Run a command in a new container and wait for its end; nothing of it remains, unless ``keep``.

        ``args`` is the command, with fields of the spec (``rootfs=``, ``memory=`` …) as keywords, or a whole spec. The
        other arguments mean what they do for `subprocess.run`. ``stdout`` and ``stderr`` also take a function, called
        with bytes in this thread; ``stdin`` also bytes or an iterable of bytes. Of each captured stream the first
        ``output_limit`` bytes are kept (None: all). ``keep`` leaves a record of it, with its exit, in the store.
        ``accounting`` tells, as ``stats`` of what is returned or raised, what it used in all: processor time, peak of
        memory and the rest of `Stats`, counted by cgroups of its own; on v1 these take two milliseconds.

        Raises `ContainerTimeout` after ``timeout`` seconds, everything killed; with ``check`` `ContainerError` unless
        it exited with 0; `LaunchError` when the command could not be run; `SpecError`, `UnsupportedFeature` and others
        before anything was done.
        """
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
        container: Container | None = None
        try:
            with interrupts.deferred():
                container = self._create(
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
                container._start(go=not keep)
            if not container._supervise(deadline_after(timeout)):
                container.expire()
            container._raise_launch_failure()
        except BaseException:
            # An interrupt above all. What cannot be cleaned up now must not hide it.
            if container is not None:
                try:
                    container.delete(force=True)
                except Exception as error:
                    _log("container %r could not be cleaned up: %s", container.id, error)
            raise
        return call.completed(container, time.monotonic() - began)

    def create(
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

        stdin, stdout and stderr are as for `run`; with ``PIPE`` the container has file objects of these names. With
        ``accounting`` `Container.stats` counts from its birth, whatever is limited, and tells of all after its end.

        ``detach``: once started it outlives this program, its engine and its ``with`` block. A monitor logs its output,
        as much of it as ``log`` says (`Container.logs`), and keeps its exit; any program may wait for it. With
        ``stdin=PIPE`` its input stays open, for `Container.attach`; without, it is empty. Files and DEVNULL are as for
        `run`. ``remove``: its record goes, too, when it has ended.

        Raises `VetoError` and whatever else a policy plugin raises, `UnknownDriver`, `DriverUnavailable`,
        `UnsupportedFeature`, `ContainerExists`, `StoreError`, `LaunchError`; nothing is left behind then.
        """
        return interrupts.whole(
            lambda: self._create(
                spec,
                driver,
                name,
                stdin,
                stdout,
                stderr,
                detach=detach,
                log=log,
                remove=remove,
                accounting=accounting,
            ),
            lambda container: container.delete(force=True),
        )

    def explain(self, spec: ContainerSpec, *, driver: str = "auto", name: str | None = None) -> Plan:
        """What would be done for the spec, after policy; does nothing, and works where the driver itself does not."""
        spec = self.registry.amend(spec, driver)
        return self.registry.choose(driver, spec, to_run=False).plan(spec, name or _NO_ID)

    def get(self, name: str) -> Container:
        """The container of that name, whoever made it. Raises `ContainerNotFound`, `StoreError`."""
        if (ours := self._ours(name)) is not None:
            return ours
        from execdrivers.garbage import recovered

        return recovered(self._store, self.registry, name)

    def list(self) -> list[Summary]:
        """All containers below the root, by name. A damaged record is one with an ``error``."""
        return [Summary.of(record) for record in self._store.list()]

    def events(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        types: Collection[str] | str | None = None,
        containers: Collection[str] | str | None = None,
        follow: bool = True,
    ) -> EventStream:
        """What happens to the containers below the root, whichever program does it: iterate over it, and close it.

        From now on; with ``since`` (seconds since the epoch) from then on, as far as the journal goes back; until it is
        closed, or ``until``. Without ``follow`` only what has happened. ``types`` and ``containers`` (names): no
        others. While somebody follows, containers that leave nothing behind (`run`) are told of, too. Raises
        `SpecError` for a type that there is not, `StoreError`.
        """
        from execdrivers.announce import journal_at
        from execdrivers.eventstream import EventStream

        if follow:
            self._store.prepare()
        journal = journal_at(self._store.root)
        return EventStream(journal, since=since, until=until, types=types, containers=containers, follow=follow)

    def delete(self, name: str, *, force: bool = False) -> None:
        """`Container.delete` by name; with ``force`` also of a record that makes no sense, whatever it was."""
        from execdrivers.garbage import recovered

        try:
            if (ours := self._ours(name)) is not None:
                return ours.delete(force=force)
            found = recovered(self._store, self.registry, name)
            try:
                found.delete(force=force)
            finally:
                found._release()  # now, and not when an error that refers to it is freed
        except StoreError as error:
            if not force or error.errno != errno.EBADMSG:
                raise
            self._store.discard(name)

    def recover(self) -> builtins.list[Container]:
        """Every container below the root, as after a crash: by name, each with its true state.

        Those that ended with nobody there are concluded first: what they took is freed, and their exit recorded, as
        far as their monitor or the kernel knows it. A record that makes no sense is told to the logger ``execdrivers``
        and left (`list` has its error).
        """
        from execdrivers.garbage import recovered

        found: builtins.list[Container] = []
        for record in builtins.list(self._store.list()):
            if isinstance(record, StoreError):
                _log("%s", record)
                continue
            if (ours := self._ours(record.id)) is not None:
                found.append(ours)
                continue
            try:
                container = recovered(self._store, self.registry, record.id)
                container.conclude()
            except ContainerNotFound:
                continue
            except Exception as error:  # a driver's, for one: the others have their turn
                _log("container %r could not be recovered: %s", record.id, error)
                continue
            if not container._deleted:
                found.append(container)
        return found

    def gc(self, *, dry_run: bool = False) -> builtins.list[Garbage]:
        """Remove what crashes have left below the root, and only that; with ``dry_run`` only name it.

        That is: what was being made, or waited for its start, when its maker died; containers that were to end with a
        program that has ended (its guard does so itself, unless it was killed too); what detached ones still hold that
        ended with nobody there. What could not be removed has an ``error``.
        """
        from execdrivers.garbage import collect

        return builtins.list(collect(self._store, self.registry, dry_run=dry_run))

    @interrupts.deferring
    def close(self) -> None:
        """Kill and delete what it made, but for what is detached or kept. May be called twice."""
        self._closed = True
        if os.getpid() != self._maker:
            return  # a fork: they are its parent's
        failed: BaseException | None = None
        with self._lock:
            containers = list(self._containers.values())
        for container in containers:
            try:
                if not container._lasting:
                    container.delete(force=True)
            except Exception as error:
                failed = error
        if failed is not None:
            raise failed

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine root={self.root!r}{' closed' if self._closed else ''}>"

    def _create(
        self,
        spec: ContainerSpec,
        driver: str,
        name: str | None,
        stdin: Input,
        stdout: Output,
        stderr: Output,
        *,
        transient: bool = False,
        keep: bool = False,
        detach: bool = False,
        log: LogOptions | None = None,
        remove: bool = False,
        accounting: bool = False,
    ) -> Container:
        if self._closed:
            raise InvalidState("the engine is closed", remedy="make another Engine")
        if not isinstance(spec, ContainerSpec):
            raise SpecError("spec", spec, "is not a ContainerSpec", "use ContainerSpec(args, …), or run(args, …)")
        if not detach and (log is not None or remove):
            field, given = ("remove", remove) if log is None else ("log", log)
            raise SpecError(field, given, "is for detached containers", "add detach=True, or leave it out")
        registry = self.registry
        spec = registry.amend(spec, driver)
        chosen = registry.choose(driver, spec, also={"detach": "detach"} if detach else None)
        if accounting:
            registry.require(chosen.name, {"stats": "accounting"})
        if detach:
            from execdrivers.detached import Detached, Standby, connect_detached

            wiring = connect_detached(stdin, stdout, stderr, tty=spec.tty)
        else:
            wiring = connect(stdin, stdout, stderr, tty=spec.tty)
        standby = held = handle = None
        entry: Entry | None = None
        id = free_id() if name is None else name
        record = Record(id=id, driver=chosen.name, owner=own_process(), detached=detach, remove=remove)

        def reserved() -> Entry:
            nonlocal entry
            if entry is None:
                entry = self._store.reserve(id, free=name is None)
            return entry

        try:
            held = guard.hold(self.root)
            if name is not None or not transient:  # else nobody else knows the name, and there is time for that later
                reserved()
            if detach:
                standby = Standby.start(log)
                record.monitor = standby.identity

            def intend(state: Mapping[str, Any]) -> None:
                record.handle = state
                reserved().write(record)

            def born(handle: Handle) -> None:
                record.created_at = time.time()
                record.started_at = record.created_at if transient else None
                record.spec = spec_data(spec)
                # For others a transient one runs from the start: that saves a second write.
                record.status = "running" if transient else "created"
                record.process = handle.identity()
                record.handle = handle.state()
                record.guarantees = handle.guarantees()
                record.stdio = wiring.kinds
                record.accounting = request.accounting
                reserved().write(record)

            request = CreateRequest(
                id=id,
                spec=spec,
                stdio=wiring.stdio,
                directory=lambda: reserved().path,
                # Who looks at it later must find all that it has used.
                accounting=accounting or detach,
                intend=intend,
                spawner=None if standby is None else standby.monitor,
                born=born if transient else None,
            )
            handle = chosen.create(request)
            if record.status == "creating":
                born(handle)
        except BaseException:
            # The id is locked all the while, and free again only when all is gone.
            try:
                if standby is not None:
                    standby.monitor.abort()
                if handle is not None:
                    handle.delete()
                if entry is not None:
                    entry.remove()
                if held is not None:
                    held.release()
            finally:
                if entry is not None:
                    entry.close()
                wiring.close()
            raise
        options: dict[str, Any] = {
            "spec": spec, "handle": handle, "wiring": wiring, "held": held, "forget": self._forget,
        }  # fmt: skip
        container: Container
        if standby is not None:
            container = Detached(registry, reserved(), record, standby=standby, **options)
        else:
            container = Container(registry, reserved(), record, transient=transient, keep=keep, **options)
        container._created()
        if not self._remember(container) and not keep:
            container.delete(force=True)
            raise InvalidState("the engine was closed meanwhile", remedy="make another Engine")
        return container

    def _remember(self, container: Container) -> bool:
        """Keep it for `get` and `close`; whether the engine is still open, and not closed by another thread."""
        with self._lock:
            self._containers[container.id] = container
            return not self._closed

    def _ours(self, name: str) -> Container | None:
        """The container of that name as it was made here, and not by the program of which this is a fork."""
        with self._lock:
            ours = self._containers.get(name)
        return ours if ours is not None and ours._maker == os.getpid() and not ours._gone else None

    def _forget(self, container: Container) -> None:
        with self._lock:
            # The name may be another's by now.
            if self._containers.get(container.id) is container:
                del self._containers[container.id]


def _log(text: str, *values: object) -> None:
    import logging

    # Handlers may keep what is logged: an error, and with it all that its traceback holds.
    logging.getLogger("execdrivers").warning(text, *map(str, values))


_default: Engine | None = None
_default_lock = threading.Lock()


def default_engine() -> Engine:
    """The engine of this program, on the default root, made when first asked for."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = Engine()
    return _default


def run(args: ContainerSpec | Iterable[str], **options: Unpack[RunOptions]) -> CompletedContainer:
    """`Engine.run` of the `default_engine`."""
    return default_engine().run(args, **options)
