"""Calls a runtime: with a time limit, with nothing of ours but what it is given, and reads what it says."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re

import attrs

from execdrivers.errors import LaunchError, OperationError
from execdrivers.launcher import ToolError, call

__all__ = ["TIMEOUT", "Tool", "environment"]

#: Seconds that one call may take, hooks included, unless the spec's driver options say otherwise.
TIMEOUT = 30.0

#: Most that is read of a log, in bytes.
_LIMIT = 64 * 1024


@attrs.frozen
class Tool:
    """A runtime as one container's own: its state and logs are below the container's ``directory``."""

    path: str
    directory: str
    timeout: float = TIMEOUT

    @property
    def state(self) -> str:
        """Where the runtime keeps what it knows of the container."""
        return f"{self.directory}/runtime"

    def argv(self, log: str, verb: str, *args: str) -> tuple[str, ...]:
        """A command line. What goes wrong will be in the file that `log` reads."""
        log = f"{self.directory}/{log}.log"
        return (self.path, "--root", self.state, "--log", log, "--log-format", "json", verb, *args)

    def call(self, verb: str, *args: str) -> None:
        """Have it do something. Raises `ToolError` with its reason."""
        try:
            call(self.argv(verb, verb, *args), self.timeout, env=environment())
        except ToolError as error:
            raise ToolError(self.reason(verb) or str(error)) from None
        finally:
            self.forget(f"{verb}.log")

    def reason(self, log: str) -> str:
        """The last error that it has logged, or ""."""
        try:
            with open(f"{self.directory}/{log}.log", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LIMIT))
                lines = file.read(_LIMIT).splitlines()
        except OSError:
            return ""
        for line in reversed(lines):
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("level") in ("error", "fatal", "panic"):
                    return _PREFIX.sub("", str(entry.get("msg", ""))).strip()
        return ""

    def forget(self, *names: str) -> None:
        """Remove files below the directory."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/{name}")


#: What says no more than that something went wrong.
_PREFIX = re.compile(r"^(runc \w+ failed: )?(unable to start container process: )?(error during container init: )?")


def environment() -> dict[str, str]:
    """Of a runtime: what it would hand on to the container (LISTEN_FDS, NOTIFY_SOCKET) stays away."""
    return {"PATH": os.environ.get("PATH", os.defpath)}


# --- errors of ours ---------------------------------------------------------------------------------------------


def launch_error(step: str, text: str) -> LaunchError:
    """What a runtime gives as its reason, as an error of ours."""
    return LaunchError(f"{step}: {text}", step=step, errno=errno_in(text), remedy=_remedy(text))


def operation_error(operation: str, text: str) -> OperationError:
    """The same for a container that lives on."""
    return OperationError(f"{operation}: {text}", operation=operation, errno=errno_in(text), remedy=_remedy(text))


_ERRNOS = {
    **{os.strerror(number).lower(): number for number in errno.errorcode},
    "unable to set memory limit": errno.EBUSY,  # runc's own words for it
}


def errno_in(text: str) -> int:
    """The kernel's reason, by the last of its words in the text; 0 when there are none.

    Runtimes write them as the C library does, in Go without the capital.
    """
    text = text.lower()
    found = [(text.rfind(words) + len(words), len(words), number) for words, number in _ERRNOS.items() if words in text]
    return max(found)[2] if found else 0


_REMEDIES = (
    (r"rlimit", "a hard limit above the caller's own needs CAP_SYS_RESOURCE: ask for less"),
    (r"oom.killed|memory limit", "raise memory: the runtime's own start takes some 10 MB"),
    (r"cgroup.*(device or resource busy|invalid argument)", "the kernel does not take this value: see what is in use"),
    (r"read-only file system", "the rootfs is read-only and lacks the directory: make it beforehand"),
    (
        r"to rootfs at .*(not a directory|is a directory)",
        "source and destination must both be directories, or both not",
    ),
)


def _remedy(text: str) -> str:
    return next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text, re.IGNORECASE)), "")
