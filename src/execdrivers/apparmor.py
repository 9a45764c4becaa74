"""AppArmor: whether the kernel has it, which profiles are loaded, and the default one. For drivers.

A profile is loaded into the kernel by root, with apparmor_parser(8), and stays until the machine ends. Containers of
ordinary users can be confined by it then, too. Sources: apparmor.d(5), and the kernel's security/apparmor.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from execdrivers import kernel
from execdrivers.driver import Problem
from execdrivers.errors import ExecDriverError, SpecError

__all__ = ["DEFAULT", "PROFILE", "check", "default", "label", "load", "load_problem", "loaded", "problem", "unload"]

#: Name of the default profile.
DEFAULT = "execdrivers-default"

#: The default profile. A container's namespaces, capabilities and masked paths keep it from all this already; here it
#: is denied once more, by other means, to whom one of those has failed or been opened.
PROFILE = f"""\
profile {DEFAULT} flags=(attach_disconnected, mediate_deleted) {{
  file,
  network,
  capability,

  # The tree of mounts stays as it was made, with what it masks.
  deny mount,
  deny umount,
  deny pivot_root,

  # In /proc only what belongs to a process may be written.
  deny /proc/[^0-9]** wkl,
  deny /proc/{{kcore,kmsg,sysrq-trigger}} r,

  # In /sys only cgroups may be.
  deny /sys/{{[^f],f[^s],fs/[^c],fs/c[^g]}}** wkl,
  deny /sys/{{firmware,kernel/security,kernel/debug,kernel/tracing,devices/virtual/powercap}}/** r,

  # The container's processes among themselves, and from outside.
  signal (send, receive) peer={DEFAULT},
  signal (receive) peer=unconfined,
  ptrace (trace, tracedby, read, readby) peer={DEFAULT},
}}
"""

_POLICY = "/sys/kernel/security/apparmor"
_PARSER = "apparmor_parser"
_CAP_MAC_ADMIN = 33


def problem() -> Problem | None:
    """Why no process can be confined here; None where it can."""
    if not kernel.read("/sys/module/apparmor/parameters/enabled").startswith("Y"):
        return Problem(
            "the kernel has no AppArmor, or it is off", "boot a kernel that has it with apparmor=1 security=apparmor"
        )
    if not os.path.exists("/proc/self/attr/apparmor/exec"):
        return Problem("/proc does not show AppArmor's attributes", "run Linux 5.8 or later, with /proc mounted")
    return None


def label() -> str:
    """What we are confined by ourselves: "unconfined", the name of a profile, or "" without AppArmor."""
    return kernel.read("/proc/self/attr/apparmor/current").partition(" (")[0]


def loaded(profile: str) -> bool | None:
    """Whether a profile of that name is loaded; None where nobody can tell (no securityfs, a namespace, a stack)."""
    if profile.startswith(":") or "//" in profile or not os.path.isdir(f"{_POLICY}/policy/profiles"):
        return None
    directory = f"{_POLICY}/policy/profiles"
    return any(kernel.read(f"{directory}/{entry}/name") == profile for entry in os.listdir(directory))


def load_problem() -> Problem | None:
    """Why this program cannot load a profile."""
    if found := problem():
        return found
    if not kernel.capabilities() >> _CAP_MAC_ADMIN & 1 or not os.access(f"{_POLICY}/.replace", os.W_OK):
        return Problem("to load a profile takes CAP_MAC_ADMIN, and securityfs", "run as root, outside of containers")
    if not _parser():
        return Problem(f"the program {_PARSER} is not there", "apt-get install apparmor")
    return None


def default() -> str:
    """The profile of a container whose spec names none: `DEFAULT` where it is loaded or can be, and else "".

    Whoever is confined already stays so, and so do his containers: that is "" as well.
    """
    if problem() or label() != "unconfined":
        return ""
    return DEFAULT if loaded(DEFAULT) or load_problem() is None else ""


def check(profile: str) -> None:
    """Have the profile there to be used: the default one is loaded where it is not. Raises `SpecError`."""
    if loaded(profile) is not False:
        return
    if profile == DEFAULT and load_problem() is None:
        load()
        return
    raise SpecError(
        "apparmor_profile",
        profile,
        "is not loaded",
        "sudo execdrivers apparmor load" if profile == DEFAULT else "load it: apparmor_parser --replace FILE",
    )


def load() -> None:
    """Load the default profile, or replace it. Raises `ExecDriverError`."""
    _parse("--replace")


def unload() -> None:
    """Remove it from the kernel; what runs with it is unconfined then. Raises `ExecDriverError`."""
    _parse("--remove")


def _parse(action: str) -> None:
    if found := load_problem():
        raise ExecDriverError(found.reason, remedy=found.remedy)
    words = [_parser(), action, "--skip-cache"]
    done = subprocess.run(words, input=PROFILE, capture_output=True, text=True, cwd="/", env={"PATH": os.defpath})
    if done.returncode:
        told = " ".join(done.stderr.split())
        raise ExecDriverError(f"{_PARSER} {action}: {told}", remedy="see apparmor_parser(8)")


def _parser() -> str:
    return shutil.which(_PARSER, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") or ""
