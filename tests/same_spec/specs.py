"""The specs that every driver is given, by name; and what the probe program does in each of their containers."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from execdrivers.cli.privileged import privileged
from execdrivers.defaults import MOUNTS
from execdrivers.spec import Capabilities, Device, Mount

__all__ = ["ATTEMPTS", "CONTAINED_ATTEMPTS", "LISTENER", "SPECS", "Case", "Place"]


@attrs.frozen
class Place:
    """Directories of the host that a spec may speak of, made anew for each container."""

    rootfs: Path
    #: Holds ``file``, ``below/`` with ``deep``, and ``link`` to ``file``.
    data: Path
    #: The probe program, outside the rootfs.
    program: Path


Fields = Mapping[str, Any]


@attrs.frozen
class Case:
    """A spec, and what is special about the run."""

    fields: Fields | Callable[[Place], Fields] = attrs.field(factory=dict)
    #: What the probe tries besides `ATTEMPTS`, each a tuple of words, or words in one text.
    also: tuple[str | tuple[str, ...], ...] = ()
    #: The probe's last command; before it the container stands still for the host to look at.
    end: str = "exit 0"
    #: Instead of the probe program.
    args: tuple[str, ...] | None = None

    def spec_fields(self, place: Place) -> dict[str, Any]:
        """The keywords of `ContainerSpec.build`."""
        fields = self.fields(place) if callable(self.fields) else self.fields
        return {"rootfs": str(place.rootfs), **fields}


#: Tried in every container, one command of the probe program each. They do no harm where nothing contains them.
ATTEMPTS = (
    "write /written", "write /tmp/written", "write /etc/written", "write /data/written", "write /run/written",
    "chmod /etc/passwd 0600", "chown /etc/passwd 1000", "unlink /etc/hostname", "read /home/alice/none",
    "open /dev/null w", "open /dev/zero", "open /dev/full", "open /dev/random", "open /dev/urandom", "open /dev/tty",
    "open /dev/console", "open /dev/ptmx w", "open /dev/kmsg", "open /dev/mem", "open /dev/fuse", "open /dev/net/tun",
    "mknod /tmp/null c 1 3", "open /tmp/null", "mknod /tmp/kmsg c 1 11", "open /tmp/kmsg",
    "mknod /tmp/disk b 7 0", "open /tmp/disk", "mknod /tmp/fifo p 0 0",
    "read /proc/sys/kernel/hostname", "read /proc/sys/net/ipv4/ip_default_ttl", "read /proc/1/comm",
    "write /dev/shm/written", "statfs /dev/shm", "statfs /dev", "open /proc/kcore", "open /proc/keys",
    "open /proc/timer_list", "open /sys/firmware/none",
    "nice 5", "nice -5", "rawsocket", "connect", "kill 1 0", "threads 4", "fork 4", "rlimit NOFILE 64 64",
)  # fmt: skip

#: An abstract socket of the host, on which somebody listens.
LISTENER = f"execdrivers-same-spec-{os.getpid()}"

#: Tried besides where the driver contains: on the host itself these would do harm.
CONTAINED_ATTEMPTS = (
    "write /proc/sys/net/ipv4/ip_default_ttl 63", "put /proc/sys/kernel/shm_rmid_forced 1",
    "open /proc/sysrq-trigger w", "mkdir /sys/fs/cgroup/made", "mkdir /sys/fs/cgroup/memory/made",
    "write /sys/kernel/mm/ksm/run 0",
    f"connect-abstract {LISTENER}",
    "msgget 0x5a5a", "sethostname renamed", "mount tmpfs /tmp tmpfs", "umount /dev/shm", "unshare 0x20000",
    "unshare 0x4000000", "chroot /tmp", "setgroups 7", "setgid 7", "setuid 7",
)  # fmt: skip


def _bind(*options: str, source: str = "", destination: str = "/mnt/bound") -> Callable[[Place], Fields]:
    return lambda place: {"mounts": [Mount(destination, "bind", str(place.data / source), options)]}


#: What a bound directory lets one do.
_BOUND = (
    "read /mnt/bound/file", "write /mnt/bound/new", "read /mnt/bound/below/deep", "read /mnt/bound/link",
    "mknod /mnt/bound/null c 1 3", "open /mnt/bound/null", "statfs /mnt/bound", "write /mnt/bound/below/new",
    "spawn /mnt/bound/program exit",
)  # fmt: skip

_SECCOMP = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOANO}],
}

_MAPPING = [{"container_id": 0, "host_id": 100_000, "size": 65_536}]
_MAPPED = {"uid_mappings": _MAPPING, "gid_mappings": _MAPPING}

_HOST_NAMESPACES = dict.fromkeys(("pid", "uts", "ipc", "network", "cgroup"), "host")

SPECS: dict[str, Case] = {
    "nothing": Case(),
    # The command and its environment
    "args-odd": Case(
        also=(
            ("say", "'quoted'", '"double"', "$HOME", "`id`", "*", "#", "=a", "\\", ";", "ü", "\t", "two  words", "%"),
        )
    ),
    "args-empty": Case(args=("/bin/probe", "say", "", "a", "", ",", "report", ",", "line")),
    "args-long": Case(also=(f"say {'x' * 100_000}",)),
    "args-many": Case(also=("say " + " ".join(map(str, range(3000))),)),
    "args-relative": Case(args=("bin/probe", "report", ",", "line")),
    "args-path": Case(args=("probe", "report", ",", "line")),
    "args-own-path": Case({"env": {"PATH": "/data:/bin"}}, args=("probe", "report", ",", "line")),
    "env": Case({"env": {"A": "1", "HOME": "/data", "PATH": "/bin"}}),
    "env-odd": Case({"env": {"A": "two words", "B": "a=b", "C": "new\nline", "D": "", "E.F": "\"q' #", "G": "ü\t$A"}}),
    "env-bare": Case({"default_env": False}),
    "env-bare-given": Case({"default_env": False, "env": {"ONLY": "me"}}),
    "env-long": Case({"env": {f"V{n}": "x" * 500 for n in range(200)}}),
    "cwd": Case({"cwd": "/home/alice"}),
    "cwd-made": Case({"cwd": "/not/there/yet"}, also=("stat /not/there",)),
    "cwd-file": Case({"cwd": "/etc/passwd"}),
    "umask": Case({"umask": 0o077}, also=("stat /tmp/written",)),
    "umask-none": Case({"umask": 0}, also=("stat /tmp/written",)),
    # Who
    "user-root": Case({"user": "root"}),
    "user-name": Case({"user": "alice"}, also=("write /home/alice/written", "stat /home/alice/written")),
    "user-group": Case({"user": "alice:users"}),
    "user-id": Case({"user": "1000"}),
    "user-ids": Case({"user": "1000:100"}),
    "user-unlisted": Case({"user": "4242:4242"}),
    "user-unknown": Case({"user": "nosuch"}),
    "group-unknown": Case({"user": "alice:nosuch"}),
    "groups": Case({"user": "1000:1000", "additional_gids": [5, 7, 4711]}),
    "groups-none": Case({"user": "alice", "additional_gids": []}),
    # The terminal
    "tty": Case({"tty": True}, also=("stat /dev/console",)),
    "tty-size": Case({"tty": True, "console_size": (33, 111)}),
    "tty-user": Case({"tty": True, "user": "alice"}, also=("stat /dev/pts/0",)),
    # Limits of the process
    "rlimits": Case({"rlimits": {"nofile": (100, 200), "core": 0, "fsize": 1 << 20}}, also=("fill /tmp/big 2000000",)),
    "rlimit-nproc": Case({"rlimits": {"nproc": (50, 60)}, "user": "4243:4243"}),
    "rlimit-low": Case({"rlimits": {"nofile": 8, "stack": (1 << 20, 8 << 20)}}),
    "oom-score": Case({"oom_score_adj": 500}),
    "scheduler": Case({"scheduler": {"policy": "SCHED_BATCH", "nice": 3}}),
    "io-priority": Case({"io_priority": {"io_class": "IOPRIO_CLASS_IDLE"}}),
    "cpu-affinity": Case({"cpu_affinity": {"initial": "0", "final": "0"}}),
    "personality": Case({"personality": "LINUX32"}),
    # Privileges
    "capabilities-none": Case({"capabilities": {"drop": ["ALL"]}}),
    "capabilities-one": Case({"capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}),
    "capabilities-more": Case({"capabilities": {"add": ["NET_ADMIN", "SYS_PTRACE"]}}),
    "capabilities-less": Case({"capabilities": {"drop": ["MKNOD", "NET_RAW", "SETUID"]}}),
    "capabilities-all": Case({"capabilities": {"add": ["ALL"]}}, also=("mount proc /tmp proc",)),
    "capabilities-user": Case({"capabilities": {"add": ["SYS_ADMIN"]}, "user": "alice"}),
    "capabilities-ambient": Case(
        {
            "user": "alice",
            "capabilities": Capabilities(
                bounding=["NET_BIND_SERVICE", "CHOWN"],
                **{kind: ["NET_BIND_SERVICE"] for kind in ("permitted", "effective", "inheritable", "ambient")},
            ),
        }
    ),
    "capabilities-bounded": Case(
        {"capabilities": Capabilities(bounding=["CHOWN", "KILL"], permitted=["CHOWN"], effective=[])}
    ),
    "new-privileges": Case({"no_new_privileges": False}),
    "no-new-privileges": Case({"no_new_privileges": True, "user": "alice"}),
    "privileged": Case(lambda _: privileged(), also=("mknod /tmp/loop b 7 1", "open /tmp/loop", "mkdir /data/x")),
    "seccomp": Case({"seccomp": _SECCOMP}, also=("syscall 83 0",)),
    "seccomp-off": Case({"seccomp": "unconfined"}),
    "apparmor": Case({"apparmor_profile": "docker-default"}),
    "apparmor-off": Case({"apparmor_profile": "unconfined"}),
    "selinux": Case({"selinux_label": "system_u:system_r:container_t:s0"}),
    # The root
    "host-root": Case(
        lambda place: {"rootfs": None, "mounts": [Mount("/tmp/probe", "bind", str(place.program), ("ro",))]},
        args=("/tmp/probe", "report", ",", "write /written", ",", "write /tmp/written", ",", "line"),
    ),
    "readonly": Case({"readonly": True}),
    "readonly-off": Case({"readonly": False}),
    "ephemeral": Case({"ephemeral": True}),
    "ephemeral-size": Case({"ephemeral": True, "ephemeral_size": "1M"}, also=("fill /tmp/big 5000000",)),
    "ephemeral-readonly": Case({"ephemeral": True, "readonly": True}),
    "propagation": Case({"rootfs_propagation": "private"}),
    # Mounts
    "bind": Case(_bind(), also=_BOUND),
    "bind-ro": Case(_bind("ro"), also=_BOUND),
    "bind-flags": Case(_bind("nosuid", "nodev", "noexec"), also=_BOUND),
    "bind-recursive": Case(_bind("rbind", "rro"), also=_BOUND),
    "bind-slave": Case(_bind("rbind", "rslave"), also=_BOUND),
    "bind-file": Case(_bind(source="file", destination="/mnt/one"), also=("read /mnt/one", "write /mnt/one changed")),
    "bind-file-ro": Case(
        _bind("ro", source="file", destination="/etc/hostname"), also=("read /etc/hostname", "write /etc/hostname x")
    ),
    "bind-odd-name": Case(
        _bind(destination="/mnt/two words#and=,more"), also=(("read", "/mnt/two words#and=,more/file"),)
    ),
    "bind-missing": Case(_bind(source="missing")),
    "tmpfs": Case(
        {"mounts": [Mount("/scratch", "tmpfs", "tmpfs", ("size=1m", "mode=700", "noexec"))]},
        also=("fill /scratch/big 5000000", "stat /scratch", "statfs /scratch"),
    ),
    "tmpfs-bare": Case({"mounts": [Mount("/data", "tmpfs")]}, also=("stat /data",)),
    "shm": Case({"mounts": [Mount("/dev/shm", "tmpfs", "shm", ("size=4m", "mode=1777"))]}),
    "sysfs-rw": Case({"mounts": [Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev"))]}),
    "proc-elsewhere": Case({"mounts": [Mount("/data", "proc", "proc", ("ro",))]}, also=("read /data/self/comm",)),
    "mqueue": Case({"mounts": [Mount("/data", "mqueue")]}, also=("stat /data",)),
    "devpts": Case(
        {"mounts": [Mount("/data", "devpts", "devpts", ("newinstance", "ptmxmode=0600"))]}, also=("stat /data/ptmx",)
    ),
    "cgroup": Case({"mounts": [Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("ro",))]}, also=("list /sys/fs/cgroup",)),
    "overlay": Case(
        lambda place: {
            "mounts": [Mount("/mnt/over", "overlay", "overlay", (f"lowerdir={place.data}:{place.rootfs}",))]
        },
        also=("read /mnt/over/file", "read /mnt/over/etc/hostname", "write /mnt/over/new"),
    ),
    "mounts-only-these": Case({"default_mounts": False, "mounts": [MOUNTS[0], Mount("/tmp", "tmpfs")]}),
    "mounts-none": Case({"default_mounts": False}),
    "device": Case(
        {"devices": [Device("/dev/mine", "c", 1, 5, 0o640, 0, 1000), Device("/dev/deep/pipe", "p", file_mode=0o600)]},
        also=("stat /dev/mine", "open /dev/mine", "stat /dev/deep/pipe"),
    ),
    "device-access": Case({"devices": [Device("/dev/mine", "c", 1, 3, access="r")]}),
    "masked": Case({"masked_paths": ["/etc/passwd", "/home", "/none"]}, also=("read /etc/passwd", "list /home")),
    "masked-none": Case({"masked_paths": []}),
    "readonly-paths": Case({"readonly_paths": ["/data", "/etc/passwd", "/none"]}),
    "readonly-paths-none": Case({"readonly_paths": []}),
    # Names and namespaces
    "hostname": Case({"hostname": "box"}),
    "hostname-long": Case({"hostname": "h" * 63}),
    "domainname": Case({"hostname": "box", "domainname": "example.org"}),
    "network-none": Case({"network": "none"}),
    "network-host": Case({"network": "host"}),
    "pid-host": Case({"namespaces": {"pid": "host"}}),
    "uts-host": Case({"namespaces": {"uts": "host"}}),
    "ipc-host": Case({"namespaces": {"ipc": "host"}}),
    "cgroup-host": Case({"namespaces": {"cgroup": "host"}}),
    "all-host": Case({"namespaces": _HOST_NAMESPACES}),
    "all-private": Case({"namespaces": dict.fromkeys(_HOST_NAMESPACES, "private")}),
    "time-host": Case({"namespaces": {"time": "host", "user": "host"}}),
    "mount-host": Case({"namespaces": {"mount": "host"}}),
    "network-joined": Case({"namespaces": {"network": f"/proc/{os.getpid()}/ns/net"}}),
    "user-mappings": Case(_MAPPED),
    "time-offsets": Case({"time_offsets": {"boottime": {"secs": 1000}}}),
    "sysctls": Case(
        {"sysctls": {"net.ipv4.ip_default_ttl": "99", "kernel.shm_rmid_forced": "1"}},
        also=("read /proc/sys/kernel/shm_rmid_forced",),
    ),
    # Limits of the container
    "memory": Case({"memory": "64M"}),
    "memory-swap": Case({"memory": "64M", "memory_swap": "96M"}),
    "memory-reservation": Case({"memory": "64M", "memory_reservation": "32M"}),
    "memory-swappiness": Case({"memory": "64M", "memory_swappiness": 10}),
    "pids": Case({"pids": 20}, also=("fork 40",)),
    "cpus": Case({"cpus": 0.5}),
    "cpu-quota": Case({"cpu_quota": 20_000, "cpu_period": 50_000}),
    "cpu-shares": Case({"cpu_shares": 256}),
    "cpuset": Case({"cpuset_cpus": "0"}),
    "block-io": Case({"block_io": {"weight": 100}}),
    "unified": Case({"unified": {"memory.high": "50M"}}),
    "cgroups-path": Case({"cgroups_path": "/elsewhere"}),
    "limits": Case({"memory": "64M", "pids": 30, "cpus": 1.5, "cpu_shares": 512, "cpuset_cpus": "0"}),
    # The end
    "exit": Case(end="exit 7"),
    "exit-137": Case(end="exit 137"),
    "exit-255": Case(end="exit 255"),
    "exit-init": Case({"init": True}, end="exit 137"),
    "killed": Case({"init": True}, end=f"raise {signal.SIGKILL:d}"),
    "terminated": Case({"init": True}, end=f"raise {signal.SIGTERM:d}"),
    "killed-pid1": Case(end=f"raise {signal.SIGKILL:d} , exit 5"),
    "aborted": Case({"init": True, "user": "alice", "rlimits": {"core": 0}}, end=f"raise {signal.SIGABRT:d}"),
    "stop-signal": Case({"stop_signal": "USR1", "init": True}),
    "command-missing": Case(args=("nosuch",)),
    "command-missing-path": Case(args=("/no/such",)),
    "command-no-program": Case(args=("/etc/passwd",)),
    "command-directory": Case(args=("/etc",)),
    "hooks": Case({"hooks": {"poststop": [{"path": "/bin/true"}]}}),
    "annotations": Case({"annotations": {"org.example.a": "b c"}}),
    # Much at once
    "everything": Case(
        lambda place: {
            "env": {"A": "1"},
            "cwd": "/data",
            "user": "alice",
            "umask": 0o027,
            "hostname": "box",
            "domainname": "example.org",
            "readonly": True,
            "init": True,
            "memory": "128M",
            "pids": 50,
            "cpu_shares": 300,
            "rlimits": {"nofile": 64},
            "oom_score_adj": 300,
            "capabilities": {"drop": ["ALL"], "add": ["KILL"]},
            "sysctls": {"net.ipv4.ip_default_ttl": "77"},
            "mounts": [
                Mount("/tmp", "tmpfs", "tmpfs", ("mode=1777",)),
                Mount("/mnt", "bind", str(place.data), ("ro",)),
            ],
            "masked_paths": ["/etc/hostname"],
            "devices": [Device("/dev/mine", "c", 1, 5, 0o666)],
        },
        also=("read /etc/hostname", "read /mnt/file", "open /dev/mine"),
        end="exit 42",
    ),
}
