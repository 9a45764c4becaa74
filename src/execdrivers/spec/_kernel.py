"""The kernel's closed lists of names. Sources: include/uapi/linux/capability.h, getrlimit(2), namespaces(7)."""

from __future__ import annotations

__all__ = ["CAPABILITIES", "NAMESPACES", "RLIMITS"]

_CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""

_RLIMITS = "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK"

#: Capability → number, in the kernel's order.
CAPABILITIES: dict[str, int] = {f"CAP_{name}": number for number, name in enumerate(_CAPABILITIES.split())}

#: Resource limits under their OCI names.
RLIMITS = tuple(f"RLIMIT_{name}" for name in _RLIMITS.split())

#: Kinds of namespaces under their OCI names.
NAMESPACES = ("pid", "mount", "uts", "ipc", "network", "cgroup", "user", "time")
