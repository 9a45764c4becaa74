"""Run a process in a container and show what it sees there, next to the same on the host. This is `make run`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import execdrivers
from execdrivers.cli import main as command_line
from execdrivers.spec import SpecFields

#: Prints "name<TAB>value" lines. It waits for a line on stdin at the end, so that the host can look at it meanwhile.
LOOK = r"""
show() { printf '%s\t%s\n' "$1" "$2"; }
status() { sed -n "s/^$1:[[:space:]]*//p" /proc/self/status; }
show pid $$
show hostname "$(cat /proc/sys/kernel/hostname)"
user=$(id -un 2>/dev/null) || user=$(id -u); show user "$user"
set -- /proc/[0-9]*; show "processes in /proc" $#
show mounts "$(grep -c '' /proc/self/mountinfo)"
show "network interfaces" "$(sed -n 's/^ *\([^ ]*\):.*/\1/p' /proc/net/dev | sort | tr '\n' ' ')"
show "effective capabilities" "$(status CapEff)"
show "bounding capabilities" "$(status CapBnd)"
show "no new privileges" "$(status NoNewPrivs)"
show "seccomp mode" "$(status Seccomp)"
show "may write to /usr" "$(test -w /usr && echo yes || echo no)"
echo; read -r line
"""

LAUNCHES = 20


def limit(pid: int, controller: str, v1_file: str, v2_file: str) -> str:
    """A limit of the cgroup the process is in, as the kernel's files have it; "none" where there is none."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            file = Path(f"/sys/fs/cgroup/{controller}{path}/{v1_file}")
        elif not controllers:
            file = Path(f"/sys/fs/cgroup{path}/{v2_file}")
        else:
            continue
        if file.exists():
            value = file.read_text().strip()
            return "none" if value == "max" or int(value) >= 1 << 62 else value
    return "none"


def observe(process: execdrivers.Container | subprocess.Popen[bytes]) -> dict[str, str]:
    """What the process says of itself, and what the host sees of it; then let it end."""
    assert process.stdin and process.stdout and process.pid
    seen = {}
    for line in iter(process.stdout.readline, b"\n"):
        name, _, value = line.decode().partition("\t")
        seen[name] = value.strip()
    seen["pid, seen from the host"] = str(process.pid)
    seen["memory limit, bytes"] = limit(process.pid, "memory", "memory.limit_in_bytes", "memory.max")
    seen["limit of processes"] = limit(process.pid, "pids", "pids.max", "pids.max")
    process.communicate(b"\n")
    return seen


def main() -> int:
    with execdrivers.Engine() as engine:
        # As an ordinary user there may be no cgroup to put limits in; asking for them anyway would be refused.
        features = execdrivers.Registry().probe("native").features
        fields: SpecFields = {"hostname": "contained"}
        if {"cgroup.memory", "cgroup.pids"} <= features:
            fields |= {"memory": "64M", "pids": 32}
        spec = execdrivers.ContainerSpec.build(["sh", "-c", LOOK], **fields)

        with engine.create(spec, driver="native", stdin=execdrivers.PIPE, stdout=execdrivers.PIPE) as container:
            container.start()
            inside = observe(container)
        host = observe(subprocess.Popen(["sh", "-c", LOOK], stdin=subprocess.PIPE, stdout=subprocess.PIPE))

        times = []
        for _ in range(LAUNCHES):
            begin = time.perf_counter()
            engine.run(["true"], driver="native", check=True)
            times.append(time.perf_counter() - begin)

    print(f"{'':26}{'on the host':30}in a container (driver native)")
    for name, value in host.items():
        print(f"{name:26}{value:30}{inside.get(name, '')}")
    print()
    command_line(["drivers"])
    print(f"\nexecdrivers.run(['true']): {statistics.median(times) * 1000:.1f} ms (median of {LAUNCHES})")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except execdrivers.ExecDriverError as error:
        sys.exit(f"{os.path.basename(__file__)}: {error}")
