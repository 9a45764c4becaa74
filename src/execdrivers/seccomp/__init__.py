"""Filters of system calls, for drivers: the default profile, and any of OCI's form, compiled by libseccomp.

`compile` gives the program and how to install it; `default` and `resolve` the profile, for who hands it on;
`problem` says why there is none to be had. profile.py has the profiles, compiler.py makes programs of them, shorten.py
makes these shorter, cache.py keeps them, _library.py calls libseccomp, default.json is the default profile.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import attrs

from execdrivers.driver import Problem
from execdrivers.errors import SpecError
from execdrivers.seccomp import cache
from execdrivers.seccomp.profile import TABLE, default, resolve

if TYPE_CHECKING:
    from execdrivers.spec import ContainerSpec

__all__ = ["Filter", "agent", "compile", "default", "origin", "problem", "resolve"]

_NOTIFY = "SCMP_ACT_NOTIFY"
_NEW_LISTENER = "SECCOMP_FILTER_FLAG_NEW_LISTENER"
_REMEDY = 'install libseccomp2, or say seccomp="unconfined"'


@attrs.frozen
class Filter:
    """A compiled filter: the BPF program and SECCOMP_FILTER_FLAG_* by name.

    With ``SECCOMP_FILTER_FLAG_NEW_LISTENER`` there are rules that say SCMP_ACT_NOTIFY: the listener goes to `agent`, or
    to the program that made the container (`Container.seccomp_listener`).
    """

    program: bytes
    flags: tuple[str, ...] = ()

    @property
    def notifies(self) -> bool:
        """Whether it has a listener."""
        return _NEW_LISTENER in self.flags


def compile(spec: ContainerSpec, capabilities: Collection[str]) -> Filter | None:
    """The filter of a container with these capabilities in its bounding set. None: ``seccomp="unconfined"``.

    Raises `SpecError` for what libseccomp or the kernel cannot do, and where there is no libseccomp: a container is not
    left without a filter that nobody gave up.
    """
    if spec.seccomp == "unconfined":
        return None
    if spec.seccomp is None:
        return _default(tuple(sorted(capabilities)))
    assert not isinstance(spec.seccomp, str)
    found = _custom(json.dumps(resolve(spec.seccomp, capabilities), sort_keys=True))
    if found.notifies and spec.no_new_privileges is False:
        problem = f"has {_NOTIFY}, which takes no_new_privileges: without, the launcher itself would wait for an answer"
        raise SpecError("seccomp", spec.seccomp, problem, "leave no_new_privileges at its default")
    return found


def origin(spec: ContainerSpec) -> str | None:
    """What is in force, as `guarantees` say it: "default", "custom", or None."""
    return None if spec.seccomp == "unconfined" else "default" if spec.seccomp is None else "custom"


def agent(spec: ContainerSpec, id: str, directory: str, first: int = 0) -> Callable[[int, int], None] | None:
    """What hands the listener to the agent that the spec's ``listenerPath`` names: for `launcher.Launch`.

    ``first`` is the pid of the container's first process where the filter is another's. None: no agent is named.
    """
    if spec.seccomp is None or isinstance(spec.seccomp, str) or not spec.seccomp.get("listenerPath"):
        return None
    profile = spec.seccomp

    def send(listener: int, pid: int) -> None:
        from execdrivers import oci
        from execdrivers.seccomp._agent import hand_over

        state = oci.state(id, "running" if first else "created", directory, spec.annotations, first or pid)
        hand_over(profile["listenerPath"], profile.get("listenerMetadata") or "", listener, pid, state)

    return send


def problem() -> Problem | None:
    """Why no filter can be had here; None: it can. Quick where the library is where it usually is."""
    if not os.path.exists("/proc/sys/kernel/seccomp"):
        return Problem("the kernel has no seccomp filters", "boot one with CONFIG_SECCOMP_FILTER")
    machine = os.uname().machine
    usual = (f"/usr/lib/{machine}-linux-gnu", "/usr/lib64", "/usr/lib", "/lib")
    if any(os.path.exists(f"{directory}/libseccomp.so.2") for directory in usual):
        return None
    from execdrivers.seccomp import _library

    try:
        _library.version()
    except _library.LibraryMissing:
        return Problem("there is no libseccomp (libseccomp.so.2), which compiles filters", _REMEDY)
    return None


@lru_cache(maxsize=64)
def _default(capabilities: tuple[str, ...]) -> Filter:
    table = os.stat(TABLE)
    key = f"default {table.st_mtime_ns} {table.st_size} {' '.join(capabilities)}"
    return Filter(cache.program(key, lambda: _compile(default(capabilities))))


@lru_cache(maxsize=64)
def _custom(text: str) -> Filter:
    profile: dict[str, Any] = json.loads(text)
    flags = tuple(profile.get("flags") or ())
    if _notifies(profile):
        _check_launcher_may_speak(profile)
        flags = (*(flag for flag in flags if not flag.endswith("TSYNC")), _NEW_LISTENER)
    elif profile.get("listenerPath"):
        problem = f"is given, and no rule says {_NOTIFY}"
        raise SpecError("seccomp.listenerPath", profile["listenerPath"], problem, "leave it out")
    elif "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" in flags:
        problem = f"is about a listener, and no rule says {_NOTIFY}"
        raise SpecError("seccomp.flags", flags, problem, "leave it out")
    return Filter(cache.program(f"custom {text}", lambda: _compile(profile)), flags)


def _compile(profile: Mapping[str, Any]) -> bytes:
    from execdrivers.seccomp import _library
    from execdrivers.seccomp.compiler import compile_program

    try:
        return compile_program(profile)
    except _library.LibraryMissing:
        problem = "cannot be compiled: there is no libseccomp (libseccomp.so.2)"
        raise SpecError("seccomp", "the default profile", problem, _REMEDY) from None


def _notifies(profile: Mapping[str, Any]) -> bool:
    return _NOTIFY in (profile["defaultAction"], *(rule["action"] for rule in profile.get("syscalls") or ()))


def _check_launcher_may_speak(profile: Mapping[str, Any]) -> None:
    """The launcher hands the listener over from under the filter. Who could answer does not have it yet."""
    about = [rule for rule in profile.get("syscalls") or () if "sendmsg" in rule["names"]]
    silent = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
    always = any(not rule.get("args") for rule in about) or profile["defaultAction"] in silent
    if not always or any(rule["action"] not in silent for rule in about):
        problem = "does not allow sendmsg, by which the listener of SCMP_ACT_NOTIFY is handed over"
        raise SpecError("seccomp.syscalls", "sendmsg", problem, "add a rule that allows it")
