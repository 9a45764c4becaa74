"""Which OCI runtime there is and what it says of itself. Looking changes nothing; answers are kept per program file."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers.driver import Problem
from execdrivers.launcher import ToolError, call
from execdrivers_oci import tool

if TYPE_CHECKING:
    from execdrivers.cgroups import Layout

__all__ = ["ENVIRONMENT", "KNOWN", "Runtime", "ask", "find"]

#: Names a runtime, or its path, where the spec does not.
ENVIRONMENT = "EXECDRIVERS_OCI_RUNTIME"

#: In the order in which they are looked for on PATH.
KNOWN = ("runc", "crun", "youki", "runsc")
#: Older ones lack what the driver asks of every runtime (``exec --preserve-fds``, ``--console-socket`` …).
_MINIMUM = {"runc": (1, 1), "crun": (1, 8), "youki": (0, 3)}
#: Those that put all they know of a container below ``--root`` and into its cgroups, and so need no ``delete``.
_TIDY = frozenset({"runc", "crun"})

#: Seconds for a runtime to say who it is.
_PATIENCE = 5.0

_VERSION = re.compile(r"^([A-Za-z][\w.-]*) version (\S+)$", re.MULTILINE)
_SPEC_VERSION = re.compile(r"^spec: (\S+)$", re.MULTILINE)
_REMEDY = "name another in driver_options={'oci': {'runtime': …}} or " + ENVIRONMENT


@attrs.frozen
class Runtime:
    """A program, and what ``--version`` and ``features`` say of it.

    ``features`` is the OCI features structure (features.md of the runtime specification), empty where the program does
    not have that command. ``problem`` is why it cannot be used whatever the host.
    """

    path: str
    name: str = ""
    version: str = ""
    spec_version: str = ""
    features: Mapping[str, Any] = attrs.field(factory=dict)
    switches: frozenset[str] = frozenset()
    problem: Problem | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.name else self.path

    @property
    def tidy(self) -> bool:
        """Whether nothing of a dead container is left once its cgroups and its state directory are removed."""
        return self.name in _TIDY

    def problem_on(self, layout: Layout) -> Problem | None:
        """Why it cannot be used on a host with these cgroups."""
        if self.problem is None and self.name == "crun" and layout.kind == "hybrid":
            reason = f"{self.path}: crun does not work where cgroup v1 and v2 are both mounted"
            return Problem(reason, "use runc, or boot with systemd.unified_cgroup_hierarchy=1")
        return self.problem

    def has(self, *path: str, otherwise: bool = False) -> bool:
        """Whether the features structure says so; ``otherwise``, when it says nothing."""
        value: Any = self.features
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value if isinstance(value, bool) else otherwise

    def knows_mount_option(self, option: str) -> bool:
        """Whether the option, given for a bind mount, has an effect; the unknown ones are ignored."""
        if not self.shares_mounts and option.endswith("shared"):
            return False
        known = self.features.get("mountOptions")
        return option in known if isinstance(known, list) else "nosymfollow" not in option

    @property
    def shares_mounts(self) -> bool:
        """Whether a mount can be made shared; crun makes all private afterwards."""
        return self.name != "crun"

    @property
    def leaves_all(self) -> bool:
        """Whether what it has made is its parent's as soon as ``run --detach`` ends; of crun a helper may be left."""
        return self.name == "runc"

    @property
    def keeps_tmpfs_mode(self) -> bool:
        """Whether ``mode=`` holds for a tmpfs that is mounted on a directory; not in runc before 1.1.9."""
        return self.name != "runc" or self._numbers >= (1, 1, 9)

    @property
    def poststart_in_time(self) -> bool:
        """Whether poststart hooks run after the start; in runc before 1.2 at the creation."""
        return self.name != "runc" or self._numbers >= (1, 2)

    @property
    def _numbers(self) -> tuple[int, ...]:
        return numbers(self.version)

    @property
    def seccomp(self) -> bool:
        """Whether it was built with seccomp."""
        return self.has("linux", "seccomp", "enabled", otherwise="SECCOMP" in self.switches)

    @property
    def apparmor(self) -> bool:
        """Whether it was built with AppArmor."""
        return self.has("linux", "apparmor", "enabled", otherwise="APPARMOR" in self.switches)


def numbers(version: str) -> tuple[int, ...]:
    """``1.1.5+ds1`` → (1, 1, 5)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def find(wanted: str, layout: Layout) -> tuple[Runtime | None, tuple[Problem, ...]]:
    """The runtime of that name or absolute path; "": of the environment's choice, or the first on PATH that will do.

    And why those that come before it will not do.
    """
    wanted = wanted or os.environ.get(ENVIRONMENT, "")
    problems: list[Problem] = []
    for name in (wanted,) if wanted else KNOWN:
        path = _which(name)
        if path is None:
            continue
        runtime = ask(path)
        problem = runtime.problem_on(layout)
        if problem is None:
            return runtime, tuple(problems)
        problems.append(problem)
    if not problems:
        known = ", ".join(KNOWN[:-1])
        reason = f"there is no program {wanted!r}" if wanted else f"no OCI runtime is on PATH ({known})"
        problems.append(Problem(reason, "install one, for instance: apt-get install runc"))
    return None, tuple(problems)


def _which(name: str) -> str | None:
    # sbin is where Debian has runc, and not on every user's PATH.
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(name, path=path)


def ask(path: str) -> Runtime:
    """What the program at that path says of itself; never raises."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Runtime(path, problem=Problem(f"{path}: {error.strerror}", _REMEDY))
    return _ask(path, status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _ask(path: str, *identity: int) -> Runtime:
    try:
        text = call((path, "--version"), _PATIENCE, env=tool.environment())
    except ToolError as error:
        return Runtime(path, problem=Problem(f"{path} --version: {error}", _REMEDY))
    match = _VERSION.search(text)
    if match is None:
        said = text.strip().partition("\n")[0][:80]
        return Runtime(path, problem=Problem(f"{path} --version says {said!r}: it is no OCI runtime", _REMEDY))
    name, version = match.groups()
    spec_version = _SPEC_VERSION.search(text)
    runtime = Runtime(
        path,
        name,
        version,
        spec_version[1] if spec_version else "",
        switches=frozenset(re.findall(r"\+([A-Z]+)\b", text)),
        problem=_known_problem(path, name, version),
    )
    return runtime if runtime.problem else attrs.evolve(runtime, features=_features(path))


def _known_problem(path: str, name: str, version: str) -> Problem | None:
    if name == "runsc":
        reason = "processes of its containers are none of the host's, so that their pids and exits cannot be told truly"
        return Problem(f"{path}: {reason}", "use runc or crun")
    minimum = _MINIMUM.get(name)
    if minimum and numbers(version) < minimum:
        needed = ".".join(map(str, minimum))
        return Problem(f"{path} is {name} {version}", f"install {name} {needed} or later")
    return None


def _features(path: str) -> Mapping[str, Any]:
    try:
        answer = json.loads(call((path, "features"), _PATIENCE, env=tool.environment()))
    except (ToolError, ValueError):
        return {}  # it came with runc 1.1, and crun 1.8.2; what is not said is not relied on
    return answer if isinstance(answer, dict) else {}
