"""What a crash left below a state root: found by the records, and removed.

Garbage is what nobody can want any more: a container whose maker died while making it, or before starting it; one that
was to end with a program that has ended; what a container holds that has ended with nobody there. Records that were
kept on purpose stay, as does all that somebody still lives for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from execdrivers.errors import ContainerNotFound, ExecDriverError, InvalidState, StoreError
from execdrivers.record import is_alive

if TYPE_CHECKING:
    from execdrivers.record import Record
    from execdrivers.recovered import Recovered
    from execdrivers.registry import Registry
    from execdrivers.store import Store

__all__ = ["Garbage", "collect", "recovered"]


@attrs.frozen
class Garbage:
    """Something that a crash left.

    ``what``: ``container`` (all of it, with its record) or ``resources`` (what it holds; the record stays). ``error``
    is set where it could not be removed.
    """

    id: str
    what: str
    why: str
    error: ExecDriverError | None = None

    def __str__(self) -> str:
        failed = f": {self.error}" if self.error is not None else ""
        return f"{self.id}: {self.what}: {self.why}{failed}"


def recovered(store: Store, registry: Registry, id: str) -> Recovered:
    """The container of that id, whoever made it. Raises `ContainerNotFound`, `StoreError`."""
    from execdrivers.recovered import Recovered

    entry = store.open(id)
    try:
        record = entry.read()
        if record.detached:
            from execdrivers.detached import Detached

            return Detached(registry, entry, record)
        return Recovered(registry, entry, record)
    except BaseException:
        entry.close()
        raise


def collect(
    store: Store, registry: Registry, *, owner: tuple[int, int] | None = None, dry_run: bool = False
) -> Iterator[Garbage]:
    """Remove the garbage below the root, or, with ``dry_run``, only name it.

    ``owner``: of what belongs to somebody only what belonged to that program (pid and start time), which has ended.
    Damaged records, and those of later versions, are passed over.
    """
    for record in list(store.list()):
        if not isinstance(record, StoreError):
            found = _collect(store, registry, record, owner, dry_run)
            if found is not None:
                yield found


def _collect(
    store: Store, registry: Registry, record: Record, owner: tuple[int, int] | None, dry_run: bool
) -> Garbage | None:
    while (found := _judge(store, record, owner)) is not None and not dry_run:
        try:
            if _remove(store, registry, record, found):
                break
            # Somebody has changed it meanwhile, who need not remove it: to be judged anew.
            with contextlib.closing(store.open(record.id)) as entry:
                record = entry.read()
        except ContainerNotFound:
            return None
        except ExecDriverError as error:
            return attrs.evolve(found, error=error)
        except Exception as error:  # a driver's: the others have their turn
            return attrs.evolve(found, error=ExecDriverError(f"{type(error).__name__}: {error}"))
    return found


def _judge(store: Store, record: Record, owner: tuple[int, int] | None) -> Garbage | None:
    """What of it is garbage; None: nothing."""
    if record.status == "creating":
        abandoned = record.owner in (None, owner) if owner else not record.owned
        if abandoned and _is_unlocked(store, record.id):
            return Garbage(record.id, "container", "its maker died while making it")
        return None
    if record.owner is not None:
        if record.owned or owner not in (None, record.owner):
            return None
        if record.status == "created":
            return Garbage(record.id, "container", "its maker died before starting it")
        return Garbage(record.id, "container", f"it was to end with process {record.owner[0]}, which has ended")
    if owner is not None or is_alive(record.process) or is_alive(record.monitor):
        return None
    if record.status == "created":
        return Garbage(record.id, "container", "its maker died before starting it")
    if record.status != "stopped" or record.handle is not None:
        what = "container" if record.remove else "resources"
        return Garbage(record.id, what, "it ended with nobody there")
    return None


def _is_unlocked(store: Store, id: str) -> bool:
    try:
        entry = store.open(id)
    except ExecDriverError:
        return False
    try:
        return entry.lock_now()
    except StoreError:
        return False
    finally:
        entry.close()


def _remove(store: Store, registry: Registry, record: Record, found: Garbage) -> bool:
    """Do so; False when it is not as it was judged any more. Raises `ContainerNotFound` when somebody else has."""
    container = recovered(store, registry, record.id)
    try:
        if container._record != record:
            return False
        if found.what == "container":
            container.delete(force=True)
        else:
            container.conclude()
    except InvalidState:
        return False  # another of that name is being made by now
    finally:
        container._release()
    return True
