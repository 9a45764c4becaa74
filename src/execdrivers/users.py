"""Users of a container: names to ids, as the root filesystem's own /etc/passwd and /etc/group have them.

The root filesystem is not trusted: its files are reached without ever leaving it, must be regular, and are read up to
a limit. Which entry counts follows Docker: the first of the name, or of the number when a number is given.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

import attrs

from execdrivers.errors import SpecError

__all__ = ["User", "open_in_root", "parse_id", "resolve"]

#: Most that is read of a passwd or group file, in bytes.
MAX_FILE = 1024 * 1024

#: As the kernel's MAXSYMLINKS.
_MAX_LINKS = 40


@attrs.frozen(kw_only=True)
class User:
    """Whom the process runs as. ``groups``: the supplementary ones; ``name``: empty when only a number is known."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"
    name: str = ""


def resolve(spec_user: str | None, rootfs: str | None, additional_gids: tuple[int, ...] | None = None) -> User:
    """The user that a spec means by its ``user``, ``rootfs`` and ``additional_gids``.

    No user given: root, or without a rootfs the unprivileged 65534. A number needs no entry in passwd; its gid is then
    0. Raises `SpecError` for an unknown name and for files that cannot be trusted.
    """
    if spec_user is None and rootfs is None:
        from execdrivers.defaults import UNPRIVILEGED_ID

        return User(uid=UNPRIVILEGED_ID, gid=UNPRIVILEGED_ID, groups=additional_gids or ())
    wanted, _, wanted_group = (spec_user or "0").partition(":")
    root = rootfs or "/"
    uid, gid, home, name = parse_id(wanted), 0, "/", ""
    number = uid
    for entry in _entries(root, "etc/passwd", 7):
        entry_uid = parse_id(entry[2])
        # A number is never a name: else an image with a user called "1000" and uid 0 would win (CVE-2016-3697).
        if entry_uid is None or (entry[0] != wanted if number is None else entry_uid != number):
            continue
        entry_gid = parse_id(entry[3])
        if entry_gid is not None:
            uid, gid, home, name = entry_uid, entry_gid, entry[5] or "/", entry[0]
            break
    if uid is None:
        raise SpecError("user", spec_user, f"is not in {root.rstrip('/')}/etc/passwd", _remedy("uid", wanted_group))
    # Without names to look up, /etc/group is not needed.
    numeric_group = parse_id(wanted_group)
    if wanted_group and numeric_group is not None:
        return User(uid=uid, gid=numeric_group, groups=additional_gids or (), home=home, name=name)
    groups: list[int] = []
    found: int | None = None
    for entry in _entries(root, "etc/group", 4) if wanted_group or (additional_gids is None and name) else ():
        entry_gid = parse_id(entry[2])
        if entry_gid is None:
            continue
        if wanted_group:
            if found is None and entry[0] == wanted_group:
                found = entry_gid
        elif name in entry[3].split(",") and entry_gid not in groups:
            groups.append(entry_gid)
    if wanted_group and found is None:
        problem = f"has a group that is not in {root.rstrip('/')}/etc/group"
        raise SpecError("user", spec_user, problem, _remedy("gid", ""))
    gid = gid if found is None else found
    supplementary = tuple(groups) if additional_gids is None else additional_gids
    return User(uid=uid, gid=gid, groups=supplementary, home=home, name=name)


def _remedy(what: str, group: str) -> str:
    number = f"<uid>:{group}" if group else "<uid>" if what == "uid" else "<user>:<gid>"
    return f"use a numeric {what} ({number}), or add the name to the file in the rootfs"


def parse_id(text: str) -> int | None:
    """The uid or gid that the text is the number of; None for a name."""
    if text.isascii() and text.isdigit() and len(text) <= 10:
        number = int(text)
        return number if number <= 2**32 - 2 else None
    return None


def _entries(root: str, path: str, fields: int) -> Iterator[list[str]]:
    for line in _read(root, path).split("\n"):
        entry = line.strip().split(":")
        if len(entry) >= fields and entry[0] and not line.startswith("#"):
            yield entry


def _read(root: str, path: str) -> str:
    """The file's text; empty when it does not exist."""
    try:
        descriptor = open_in_root(root, path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        problem = f"has an unusable /{path}: {error.strerror}"
        raise SpecError("rootfs", root, problem, "repair it in the rootfs") from None
    try:
        data = b""
        while len(data) <= MAX_FILE and (chunk := os.read(descriptor, MAX_FILE + 1 - len(data))):
            data += chunk
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE:
        raise SpecError("rootfs", root, f"has a /{path} of more than {MAX_FILE} bytes", "shorten it")
    return os.fsdecode(data)


def open_in_root(root: str, path: str) -> int:
    """Open a regular file for reading as a process with this root directory would see it; the caller closes it.

    Symbolic links lead no further than ``root``, absolute ones begin there. Every step holds the directory itself, so
    renaming while it goes leads nowhere else. Raises OSError, with EINVAL for what is no regular file.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    pending = path.split("/")[::-1]
    links = 0
    with contextlib.ExitStack() as opened:
        directories = [_keep(opened, os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))]
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(directories) > 1:
                    directories.pop()
                continue
            item = _keep(opened, os.open(part, flags, dir_fd=directories[-1]))
            mode = os.fstat(item).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink("", dir_fd=item)
                pending.extend(target.split("/")[::-1])
                if target.startswith("/"):
                    del directories[1:]
            elif any(piece not in ("", ".") for piece in pending):
                if not stat.S_ISDIR(mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                directories.append(item)
            else:
                return _open_regular(part, directories[-1], item, path)
    raise OSError(errno.EINVAL, "not a regular file", path)


def _keep(stack: contextlib.ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _open_regular(name: str, directory: int, item: int, path: str) -> int:
    # Looked at before it is opened, since opening a device acts; and after, since it may have been exchanged.
    expected = os.fstat(item)
    if not stat.S_ISREG(expected.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    if not os.path.samestat(expected, os.fstat(descriptor)):
        os.close(descriptor)
        raise OSError(errno.EAGAIN, "changed while it was opened", path)
    return descriptor
