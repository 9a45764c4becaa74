"""The end of every plan: what concerns the process itself, in the order that works."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from execdrivers import defaults, kernel
from execdrivers.errors import SpecError
from execdrivers.launcher.landlock import landlock
from execdrivers.launcher.operations import Operation, operation
from execdrivers.spec import Capabilities, CapabilitySets

if TYPE_CHECKING:
    from execdrivers.seccomp import Filter
    from execdrivers.spec import ContainerSpec
    from execdrivers.users import User

__all__ = [
    "bounding_set",
    "candidates",
    "capability_sets",
    "check_capabilities",
    "environment_list",
    "joining_capabilities",
    "process_operations",
    "rlimit_number",
]

_RLIMITS = {
    name: number
    for number, name in enumerate(
        "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME".split()
    )
}


def rlimit_number(name: str) -> int:
    """RLIMIT_NOFILE → what setrlimit(2) knows it by."""
    return _RLIMITS[name.removeprefix("RLIMIT_")]


#: Every capability there may be.
_ALL = (1 << 64) - 1


def process_operations(
    spec: ContainerSpec,
    user: User,
    environment: Mapping[str, str],
    *,
    available: int = _ALL,
    set_groups: bool = True,
    first: bool = True,
    seccomp: Filter | None = None,
) -> Iterator[Operation]:
    """The bounding set, terminal, limits, identity, capabilities, the waiting for `Launch.go`, and the command.

    ``available`` is the mask of the capabilities that the caller has to give; others are left out. Not ``set_groups``
    where setgroups(2) is denied (a user namespace of one id). Not ``first`` for one more process of a container.
    ``seccomp`` holds for the command alone where no_new_privs is set; else from before capabilities go, which
    installing it takes, so that it must allow the rest of the plan.
    """
    caps = capability_sets(spec.capabilities, root=user.uid == 0)
    yield operation("bounding", _available(caps.bounding, available))
    if spec.tty:
        rows, columns = spec.console_size or (0, 0)
        yield operation("console", rows, columns, user.uid, int(first))
    for name, limit in spec.rlimits.items():  # late: they hold for the launcher too
        yield operation("rlimit", rlimit_number(name), limit.soft, limit.hard)
    yield from _scheduling(spec)
    yield operation("identity", user.uid, user.gid, int(set_groups), user.groups if set_groups else ())
    if spec.umask is not None:
        yield operation("umask", spec.umask)
    # As the user, before capabilities go: a directory that only root may enter is entered by root alone.
    yield operation("chdir", spec.cwd or "/")
    if seccomp is not None and spec.no_new_privileges is False:
        yield operation("seccomp", seccomp.program, seccomp.flags, "now")
    sets = (caps.effective, caps.permitted, caps.inheritable, caps.ambient)
    yield operation("capabilities", *(_available(names, available) for names in sets))
    if spec.no_new_privileges is not False:
        yield operation("no_new_privileges")
    if spec.landlock is not None:
        yield landlock(spec.landlock)
    if seccomp is not None and spec.no_new_privileges is not False:
        # The default one allows what the launcher does to wait and to execute: nothing else is left to do then.
        ready = spec.seccomp is None and not spec.init and not spec.hooks.start_container
        yield operation("seccomp", seccomp.program, seccomp.flags, "ready" if ready else "last")
    yield operation("ready")
    if not first and spec.cpu_affinity and spec.cpu_affinity.final:  # it is in the container's cgroups only now
        yield operation("affinity", spec.cpu_affinity.final)
    yield operation("exec", int(spec.init), candidates(spec), spec.args, environment_list(environment))


def _scheduling(spec: ContainerSpec) -> Iterator[Operation]:
    """After the limits that may allow it (RLIMIT_NICE, RLIMIT_RTPRIO), before the capabilities that do are gone."""
    if spec.scheduler is not None:
        _check_scheduler(spec)
        s = spec.scheduler
        yield operation("scheduler", s.policy, s.flags, s.nice, s.priority, s.runtime, s.deadline, s.period)
    if spec.io_priority is not None:
        yield operation("io_priority", spec.io_priority.io_class, spec.io_priority.priority)
    if spec.personality is not None:
        yield operation("personality", spec.personality)


def _check_scheduler(spec: ContainerSpec) -> None:
    """sched(7): a deadline forbids children, and RESET_ON_FORK is about them; under an init the command is one."""
    scheduler = spec.scheduler
    if spec.init and scheduler is not None:
        if "SCHED_FLAG_RESET_ON_FORK" in scheduler.flags:
            problem = "would take the policy from the command, which is the init's child"
            raise SpecError("scheduler.flags", scheduler.flags, problem, "leave init unset")
        if scheduler.policy == "SCHED_DEADLINE":
            problem = "forbids children, and the command is the init's"
            raise SpecError("scheduler.policy", scheduler.policy, problem, "leave init unset")


def candidates(spec: ContainerSpec) -> tuple[str, ...]:
    """The paths at which the command is looked for, as execvp(3) would."""
    command = spec.args[0]
    if "/" in command:
        return (command,)
    path = dict(spec.env).get("PATH", defaults.PATH)
    return tuple(f"{directory or '.'}/{command}" for directory in path.split(":"))


def environment_list(environment: Mapping[str, str]) -> tuple[str, ...]:
    """As execve(2) takes it."""
    return tuple(f"{key}={value}" for key, value in environment.items())


def bounding_set() -> int:
    """The mask of the capabilities that this program has to give."""
    return kernel.capabilities("CapBnd")


def check_capabilities(capabilities: Capabilities | None, available: int) -> None:
    """What is asked for by name must be in the mask; of "ALL" it is what there is. Raises `SpecError`."""
    if capabilities is None:
        return
    numbers = defaults.ALL_CAPABILITIES
    named = [*capabilities.add, *(capabilities.bounding or ())]
    lacking = [name for name in named if name != "ALL" and not available >> numbers[name] & 1]
    if lacking and len(named) < len(numbers):
        problem = "is not among the capabilities of the calling process"
        raise SpecError("capabilities", lacking[0], problem, "drop it from the spec")


@lru_cache(maxsize=64)
def capability_sets(capabilities: Capabilities | None, *, root: bool) -> CapabilitySets:
    """The five sets of a process of root's, or another user's: `Capabilities.resolve`, kept."""
    return (capabilities or Capabilities()).resolve(root=root)


def joining_capabilities(spec: ContainerSpec, user: User) -> tuple[str, ...]:
    """What a process has from the moment it is seen in a container until its command is executed: the container's own,
    and what the operations of `process_operations` take. Whoever can trace it there has them too."""
    needed = {"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"}
    needed.update(capability_sets(spec.capabilities, root=user.uid == 0).bounding)
    if spec.tty:
        needed.add("CAP_CHOWN")
    if spec.rlimits:
        needed.add("CAP_SYS_RESOURCE")
    if spec.scheduler or spec.io_priority or spec.cpu_affinity:
        needed.add("CAP_SYS_NICE")
    if spec.no_new_privileges is False:
        needed.add("CAP_SYS_ADMIN")  # filters take either: seccomp(2), landlock_restrict_self(2)
    return _available(frozenset(needed), _ALL)


@lru_cache(maxsize=256)
def _available(names: Iterable[str], mask: int) -> tuple[str, ...]:
    """Those capabilities, in the kernel's order, that are in the mask."""
    numbers = defaults.ALL_CAPABILITIES
    return tuple(name for name in numbers if name in names and mask >> numbers[name] & 1)
