"""The store: one directory per container below a root, with a record of what is known of it.

``ROOT/ID/state.json``. Making the directory reserves the id. Whoever writes or removes a record holds a lock (flock)
on its directory; that of a container in the making is held from its reservation to its first record. A record is
always whole: it is written aside and renamed. Programs on one root need no other agreement.

Where the root is on a disk, making and removing a directory takes 0.15 ms. So that of a container without a name of its
own is put aside when it is empty again (``ROOT/.spare0`` …), and becomes that of another one, whose id was never used.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from types import TracebackType

from execdrivers.errors import ContainerExists, ContainerNotFound, SpecError, StoreError
from execdrivers.record import Record

__all__ = ["Entry", "Store", "damaged", "default_root", "free_id"]

_FILE = "state.json"
_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
#: Of what should be a file, and may be a pipe that nobody writes to.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
#: Directories put aside, at the most: as many as are taken and put back at the same time.
_SPARES = 8
_ELSEWHERE = "choose another root: Engine(root=…), or --root on the command line"


def default_root() -> str:
    """/run/execdrivers as root, else $XDG_RUNTIME_DIR/execdrivers, else /tmp/execdrivers-UID."""
    uid = os.geteuid()
    if uid == 0:
        return "/run/execdrivers"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.path.isdir(runtime):
        return os.path.join(runtime, "execdrivers")
    return f"/tmp/execdrivers-{uid}"


def check_id(id: str) -> str:
    """Raises `SpecError` unless it can be the id (name) of a container."""
    if not isinstance(id, str) or not _ID.fullmatch(id):
        problem = "is not a container name"
        raise SpecError("name", id, problem, "take 1 to 128 of a-z A-Z 0-9 _ . - and begin with a letter or digit")
    return id


def free_id() -> str:
    """A container's id that no container has or had."""
    return os.urandom(6).hex()


def _failed(action: str, path: str, error: OSError) -> StoreError:
    remedy = _ELSEWHERE
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = f"free some space there, or {_ELSEWHERE}"
    elif error.errno == errno.EACCES:
        remedy = f"run as who owns it, or {_ELSEWHERE}"
    message = f"cannot {action} {path}: {error.strerror or error}"
    return StoreError(message, errno=error.errno or 0, path=path, remedy=remedy)


def damaged(id: str, path: str, why: str) -> StoreError:
    """The error that a record makes no sense, at that path."""
    remedy = f"remove it: execdrivers rm --force {id}"
    if "newer version" in why:
        remedy = f"use that version of execdrivers, or {remedy}"
    return StoreError(f"the record of container {id!r} {why}: {path}", errno=errno.EBADMSG, path=path, remedy=remedy)


class Entry:
    """A container's directory in the store, held open. Not for two threads at a time."""

    __slots__ = ("_depth", "_fd", "_identity", "_lock", "_seen", "_spares", "_there", "id", "path")

    def __init__(self, id: str, path: str, spares: Spares | None = None) -> None:
        """``spares``: where to put it aside when it is removed."""
        self.id = id
        self.path = path
        self._spares = spares
        #: While it is locked. Opened for that alone: who inherits the other, as a fork of this program or a monitor,
        #: would hold the lock on, should this program be killed.
        self._lock = -1
        self._depth = 0
        #: It was seen since it was locked, so that none but us can have removed it.
        self._there = False
        #: The record that was read last, and what tells its file from any other.
        self._seen: tuple[tuple[int, ...], Record] | None = None
        self._fd = -1
        self._fd = os.open(path, _DIRECTORY)
        status = os.fstat(self._fd)
        # As long as the descriptor is open nothing else can get this inode number.
        self._identity = status.st_dev, status.st_ino

    @property
    def root(self) -> str:
        """Of the store that it is in."""
        return self.path[: -len(self.id) - 1]

    @property
    def gone(self) -> bool:
        """Whether somebody has removed it, and perhaps made another of the same id."""
        if not self._there:
            found = self._found() == self._identity
            self._there = found and self._lock >= 0
            return not found
        return False

    @property
    def blank(self) -> bool:
        """Whether its record is not written yet, or removed already."""
        try:
            os.stat(_FILE, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return False

    @property
    def replaced(self) -> bool:
        """Whether somebody has removed it and made another of the same id."""
        return self.gone and self._found() is not None

    @property
    def empty(self) -> bool:
        """Whether nobody has left anything in it. Raises `StoreError`."""
        try:
            return not os.listdir(self._fd)
        except OSError as error:
            raise _failed("list", self.path, error) from error

    def _found(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def fileno(self) -> int:
        """Descriptor of the directory; -1 once closed."""
        return self._fd

    def __enter__(self) -> Entry:
        """Lock it against other programs, until the outermost ``with`` is left; waits."""
        try:
            self.lock()
            self._depth += 1
        except BaseException:  # an interrupt may come once it is locked
            if not self._depth:
                self._unlock()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._depth -= 1
        if self._depth <= 0:
            self._unlock()

    def lock(self) -> None:
        """Lock it, unless it is, until the next ``with`` is left; waits."""
        self._flock(fcntl.LOCK_EX)

    def lock_now(self) -> bool:
        """Lock it unless somebody else has; whether that was so."""
        try:
            self._flock(fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _flock(self, operation: int) -> None:
        if self._lock >= 0:
            return
        self._lock = self._open_lock()
        try:
            fcntl.flock(self._lock, operation)
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
                raise _failed("lock", self.path, error) from error
            raise

    def _open_lock(self) -> int:
        try:
            return os.open(".", _DIRECTORY, dir_fd=self._fd)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return self._fd  # that what there is can be freed where descriptors are used up
            raise _failed("lock", self.path, error) from error

    def _unlock(self) -> None:
        fd, self._lock = self._lock, -1
        self._there = False
        if fd >= 0:
            try:
                # A fork of just now has it too, so that closing it would not do.
                fcntl.flock(fd, fcntl.LOCK_UN)
            except OSError:
                pass
            if fd != self._fd:
                os.close(fd)

    def read(self) -> Record:
        """Its record, for the caller to change. ``status`` is ``creating`` while there is none.

        Raises `ContainerNotFound` when it was removed, `StoreError` when the record makes no sense.
        """
        return copy.copy(self.look())

    def look(self) -> Record:
        """As `read`, but not to be changed: while the record is the same it is parsed once, and always this one."""
        path = f"{self.path}/{_FILE}"
        try:
            self._check_owner(self._fd)
            if self._seen is not None:  # each record is a file of its own: another has another number, or is younger
                signature, record = self._seen
                if _signature(os.stat(_FILE, dir_fd=self._fd, follow_symlinks=False)) == signature:
                    return record
            fd = os.open(_FILE, _READ, dir_fd=self._fd)
        except FileNotFoundError:
            if self.gone:
                raise _not_found(self.id) from None
            return Record(id=self.id)
        except StoreError:
            raise
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise damaged(self.id, path, "is a symbolic link") from error
            raise _failed("read", path, error) from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise damaged(self.id, path, "is no file")
            self._check_owner(fd)
            parts = []
            while part := os.read(fd, 1 << 20):
                parts.append(part)
        except StoreError:
            raise
        except OSError as error:
            raise _failed("read", path, error) from error
        finally:
            os.close(fd)
        try:
            record = Record.from_json(b"".join(parts))
        except ValueError as error:
            raise damaged(self.id, path, str(error)) from error
        if record.id != self.id:
            if self.gone:
                raise _not_found(self.id)  # the directory is another container's by now
            raise damaged(self.id, path, f"is that of {record.id!r}")
        self._seen = _signature(found), record
        return record

    def _check_owner(self, fd: int) -> None:
        """What another user has written may name any process or cgroup as ours to kill."""
        owner = os.fstat(fd).st_uid
        if owner not in (os.geteuid(), 0):
            raise damaged(self.id, f"{self.path}/{_FILE}", f"belongs to uid {owner}, who could put anything there")

    def write(self, record: Record) -> None:
        """Put the record in place; call it locked. Raises `StoreError`; the record before then stands."""
        # Not synced to the disk: after a crash of the host there is no container either.
        data = record.to_json()
        temporary = f"{_FILE}.new"
        try:
            fd = os.open(temporary, _CREATE, 0o600, dir_fd=self._fd)
            try:
                while data:
                    data = data[os.write(fd, data) :]
            finally:
                os.close(fd)
            os.rename(temporary, _FILE, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            raise _failed("write", f"{self.path}/{_FILE}", error) from error

    def remove(self) -> None:
        """Remove the directory with all in it; call it locked. No error when it is gone already."""
        if self.gone:
            return
        try:
            self._there = False
            try:
                os.unlink(_FILE, dir_fd=self._fd)
            except FileNotFoundError:
                pass
            if self._spares is None or not self._spares.put(self._fd, self.path):
                os.rmdir(self.path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR):
                raise _failed("remove", self.path, error) from error
            _remove_tree(self.path)

    def close(self) -> None:
        """Let go of it, and of its lock. May be called twice."""
        self._unlock()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Spares:
    """Directories put aside below a root. For many threads and programs: who comes second finds none, or puts none."""

    def __init__(self, root: str) -> None:
        self._root = root
        #: Numbers of those that this program has put aside, as far as it knows; it uses the last one again.
        self._ours: list[int] = []
        self._free = list(reversed(range(_SPARES)))

    def take(self, path: str) -> bool:
        """Have one at that path, where nothing is; whether there was one."""
        try:
            number = self._ours.pop()
        except IndexError:
            return False
        self._free.append(number)
        try:
            os.rename(self._path(number), path)
        except OSError:
            return False
        return True

    def put(self, fd: int, path: str) -> bool:
        """Put aside the directory at a path, open as ``fd``, if there is room and it is as it was made; whether so."""
        found = os.fstat(fd)
        if (found.st_mode, found.st_uid) != (stat.S_IFDIR | 0o700, os.geteuid()) or os.listdir(fd):
            return False
        try:
            number = self._free.pop()
        except IndexError:
            return False
        try:
            os.rename(path, self._path(number))  # another program's, of the same number, is replaced
        except OSError:
            self._free.append(number)
            return False
        self._ours.append(number)
        return True

    def _path(self, number: int) -> str:
        return f"{self._root}/.spare{number}"


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _give_up(path: str) -> None:
    """Remove a reservation that has come to nothing, unless it is another's by now."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _remove_tree(path: str) -> None:
    """Remove what a driver left below its directory, but never what is mounted there."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ", 5)[4].replace(r"\040", " ") for line in file]
    below = os.path.realpath(path) + "/"
    mounted = [point for point in points if point.startswith(below)]
    if mounted:
        message = f"cannot remove {path}: {mounted[0]} is still mounted"
        raise StoreError(message, errno=errno.EBUSY, path=path, remedy=f"umount {' '.join(reversed(mounted))}")
    import shutil

    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _failed("remove", path, error) from error


def _not_found(id: str) -> ContainerNotFound:
    return ContainerNotFound(f"there is no container {id!r}", remedy="execdrivers ps --all lists those there are")


class Store:
    """The containers below one root directory, which is made when first needed. For many threads and programs."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = default_root() if root is None else os.path.abspath(os.fspath(root))
        self._ready = False
        self._spares = Spares(self.root)

    def reserve(self, id: str, *, free: bool = False) -> Entry:
        """A new container's directory, locked. ``free``: the id is one of `free_id`.

        Raises `ContainerExists` when the id is in use, `SpecError` when it cannot be one, `StoreError`.
        """
        check_id(id)
        self.prepare()
        path = f"{self.root}/{id}"
        while True:
            try:
                if not free or not self._spares.take(path):
                    os.mkdir(path, 0o700)
            except FileExistsError:
                remedy = f"choose another name, or remove that container: execdrivers rm {id}"
                raise ContainerExists(f"the container name {id!r} is in use", remedy=remedy) from None
            except FileNotFoundError as error:
                if os.path.isdir(self.root):
                    raise _failed("make", path, error) from error
                self._ready = False  # somebody has cleared the root away
                self.prepare()
                continue
            except OSError as error:
                raise _failed("make", path, error) from error
            try:
                entry = Entry(id, path, self._spares if free else None)
            except FileNotFoundError:
                continue  # removed before it was locked
            except OSError as error:
                _give_up(path)
                raise _failed("open", path, error) from error
            try:
                entry.lock()
                if not entry.gone and (free or entry.empty):
                    return entry
            except StoreError:
                entry.close()
                _give_up(path)
                raise
            # Others were between us and it. What is there may be the container of who reserved the same name.
            entry.close()

    def open(self, id: str) -> Entry:
        """An existing container's directory. Raises `ContainerNotFound`, `StoreError`."""
        if not isinstance(id, str) or not _ID.fullmatch(id):
            raise _not_found(id)
        self._check_existing()
        path = f"{self.root}/{id}"
        try:
            return Entry(id, path)
        except FileNotFoundError:
            raise _not_found(id) from None
        except NotADirectoryError as error:
            raise damaged(id, f"{path}/{_FILE}", "is in no directory") from error
        except OSError as error:
            raise _failed("open", path, error) from error

    def discard(self, id: str) -> None:
        """Remove what goes by that id, though it makes no sense. Raises `ContainerNotFound`, `StoreError`."""
        try:
            entry = self.open(id)
        except StoreError:
            path = f"{self.root}/{id}"
            try:
                return os.unlink(path)
            except OSError as error:
                raise _failed("remove", path, error) from error
        try:
            with entry:
                entry.remove()
        finally:
            entry.close()

    def list(self) -> Iterator[Record | StoreError]:
        """Each record by id, a `StoreError` in place of one that makes no sense; what vanishes meanwhile is skipped."""
        if not self._check_existing():
            return
        try:
            names = sorted(filter(_ID.fullmatch, os.listdir(self.root)))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed("list", self.root, error) from error
        for name in names:
            try:
                entry = self.open(name)
            except ContainerNotFound:
                continue
            except StoreError as error:
                error.filename = f"{self.root}/{name}/{_FILE}"  # whatever could not be opened: whose it is
                yield error
                continue
            try:
                yield entry.read()
            except ContainerNotFound:
                pass
            except StoreError as error:
                yield error
            finally:
                entry.close()

    def prepare(self) -> None:
        """Make the root where there is none. Raises `StoreError`, also where others could put records there."""
        if self._ready:
            return
        try:
            os.makedirs(self.root, 0o700, exist_ok=True)
        except FileExistsError as error:
            error.strerror = os.strerror(errno.ENOTDIR)
            raise _failed("use", self.root, error) from error
        except OSError as error:
            raise _failed("make", self.root, error) from error
        self._check_existing()
        self._ready = True

    def _check_existing(self) -> bool:
        """Whether the root exists. Raises `StoreError` unless nobody else can put records there."""
        if self._ready:
            return True
        try:
            status = os.stat(self.root, follow_symlinks=not self.root.startswith("/tmp/execdrivers-"))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _failed("use", self.root, error) from error
        if not stat.S_ISDIR(status.st_mode):
            raise _failed("use", self.root, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
        if status.st_uid not in (os.geteuid(), 0):
            why = f"it belongs to uid {status.st_uid}, who could put anything there"
            raise _failed("trust", self.root, PermissionError(errno.EPERM, why))
        if status.st_mode & 0o022:
            why = f"others may write there (mode {stat.S_IMODE(status.st_mode):04o})"
            refused = _failed("trust", self.root, PermissionError(errno.EPERM, why))
            raise StoreError(refused.message, errno=errno.EPERM, path=self.root, remedy=f"chmod go-w {self.root}")
        return True
