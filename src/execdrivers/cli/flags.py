"""The options that ``run`` and ``explain`` share: docker's names and forms, and ours.

An option that sets one field of `ContainerSpec` as it is has ``spec.`` and that field as its ``dest``; the others are
put together in `execdrivers.cli.build`.
"""

from __future__ import annotations

from collections.abc import Callable

from execdrivers.cli.parsing import Parser, UsageError, integer, refusal

__all__ = ["NAMESPACES", "add_flags", "add_live_limits"]

#: Kind of namespace → docker's option for it; the network has its own forms.
NAMESPACES = {"pid": "pid", "ipc": "ipc", "uts": "uts", "user": "userns", "cgroup": "cgroupns"}

_EXAMPLES = """\
The first word that is no option begins the command; `--` before it is optional.

Examples:
  {prog} -- id
      no root file system: the host's, read-only, as an unprivileged user
  {prog} --rootfs /srv/alpine -it --rm -- sh
      a shell in the root file system below /srv/alpine, on this terminal
  {prog} --rootfs R --ephemeral -v "$PWD":/src:ro -w /src -- make
      whatever make writes outside /src is forgotten at the end
  {prog} --rootfs R -m 64m --cpus 0.5 --pids-limit 32 --timeout 10 -- ./untrusted
      limits that the kernel enforces, and an end for certain
  {prog} --bundle B
      what the bundle's config.json says

Exit status: that of the command; 128+N ended by signal N; 124 timeout; 125 error of execdrivers;
126 command not executable; 127 command not found."""


def add_flags(parser: Parser) -> None:
    """Add all of them, in groups."""
    _add_what_runs(parser)
    _add_files(parser)
    _add_limits(parser)
    _add_rights(parser)
    _add_isolation(parser)
    _add_ours(parser)
    parser.common()
    parser.epilog = _EXAMPLES.format(prog=parser.prog)


def _add_what_runs(parser: Parser) -> None:
    add = parser.group("The command and its surroundings")
    add("-i", "--interactive", action="store_true", help="pass on our stdin; without it the command reads /dev/null")
    add("-t", "--tty", dest="spec.tty", action="store_true", help="give the command a terminal of its own")
    add("-d", "--detach", action="store_true", help="do not wait for its end: print its name; its output goes to a log")
    add(
        "--log-opt",
        action="append",
        metavar="NAME=VALUE",
        help="of the log of -d: max-size=10m (bytes of a file), max-file=3 (how many files are kept)",
    )
    add(
        "-e",
        "--env",
        action="append",
        metavar="NAME[=VALUE]",
        help="set an environment variable; without a value: pass on ours",
    )
    add("--env-file", action="append", metavar="FILE", help="read environment variables, one NAME[=VALUE] a line")
    add("-w", "--workdir", dest="spec.cwd", metavar="DIR", help="working directory inside the container")
    add("-u", "--user", dest="spec.user", metavar="USER[:GROUP]", help="names of the container or numbers")
    add("--group-add", action="append", metavar="GROUP", help="further group, name of the container or number")
    add("-h", "--hostname", dest="spec.hostname", metavar="NAME", help="host name inside the container")
    add("--domainname", dest="spec.domainname", metavar="NAME", help="NIS domain name inside the container")
    add("--umask", dest="spec.umask", metavar="OCTAL", help="file mode creation mask")
    add("--init", dest="spec.init", action="store_true", help="an init as pid 1: passes signals on, reaps orphans")
    add(
        "--stop-signal",
        dest="spec.stop_signal",
        metavar="SIGNAL",
        help="asks the command to end when the container is stopped (default: SIGTERM)",
    )
    add("--name", metavar="NAME", help="name of the container (default: made up)")
    add("--rm", action="store_true", help="remove the container when it has ended, instead of keeping its record")
    add(
        "--restart",
        action=refusal("nothing is there to start a container again", "a supervisor that calls `execdrivers run`"),
    )
    add(
        "--detach-keys",
        action=refusal("the terminal of `run` closes with it", "-dit, and then `execdrivers attach`, which has them"),
    )
    add(
        "--log-driver",
        action=refusal("a log is kept in files of its own", "--log-opt, and `execdrivers logs` to read it"),
    )
    add("--stop-timeout", action=refusal("who stops a container says how long", "execdrivers stop -t SECONDS NAME"))
    add("--entrypoint", action=refusal("there is no image that has one", "all words of the command after the options"))
    add("-l", "--label", action=refusal("docker's labels are OCI's annotations", "--annotation NAME=VALUE"))
    add("-a", "--attach", action=refusal("stdout and stderr are always passed on", "-i, for stdin as well"))
    add("--pull", action=refusal("there are no images", "--rootfs DIR, or --bundle DIR"))


def _add_files(parser: Parser) -> None:
    add = parser.group("Files")
    add("--rootfs", metavar="DIR", help="root file system (default: the host's, read-only)")
    add("--bundle", metavar="DIR", help="OCI bundle: its config.json is the base, the other options change it")
    add("--read-only", dest="spec.readonly", action="store_true", help="make the root file system read-only")
    add(
        "--ephemeral",
        nargs="?",
        const=True,
        metavar="SIZE",
        help="writes to the root file system go to memory, SIZE at most, and are forgotten at the end",
    )
    add(
        "-v",
        "--volume",
        action="append",
        metavar="SRC:DST[:ro]",
        help="bind a file or directory of the host into the container",
    )
    add(
        "--mount",
        action="append",
        metavar="KEY=VALUE,…",
        help="type=bind,source=,target=[,readonly][,bind-propagation=][,bind-recursive=] or "
        "type=tmpfs,target=[,tmpfs-size=][,tmpfs-mode=]",
    )
    add("--tmpfs", action="append", metavar="DST[:OPTIONS]", help="empty file system in memory: /run:rw,size=64m")
    add("--shm-size", metavar="SIZE", help="size of /dev/shm")
    add(
        "--device",
        action="append",
        metavar="HOST[:DST][:rwm]",
        help="device of the host, or a directory of devices, that the container may use",
    )
    add(
        "--gpus",
        action=refusal("no driver knows of them", "--device for each of its devices, and -v for its libraries"),
    )


def _add_limits(parser: Parser) -> None:
    add = parser.group("Limits", "SIZE: bytes, or with a unit: 64m, 1.5g, 512KiB")
    add_live_limits(add)
    add(
        "--memory-swappiness",
        dest="spec.resources.memory_swappiness",
        type=integer,
        metavar="0-100",
        help="how readily its memory is swapped out",
    )
    add(
        "--oom-kill-disable",
        dest="spec.resources.oom_kill_disable",
        action="store_true",
        help="let it wait instead of killing it when memory runs out (cgroup v1)",
    )
    add(
        "--oom-score-adj",
        dest="spec.oom_score_adj",
        type=integer,
        metavar="N",
        help="-1000 (kill last) to 1000 (first)",
    )
    add("--ulimit", action="append", metavar="NAME=SOFT[:HARD]", help="resource limit per process: nofile=1024:2048")


def add_live_limits(add: Callable[..., None]) -> None:
    """Those that can be changed while a container runs: docker's ``update`` has the same."""
    add("-m", "--memory", dest="spec.resources.memory", metavar="SIZE", help="memory")
    add(
        "--memory-swap",
        dest="spec.resources.memory_swap",
        metavar="SIZE",
        help="memory and swap together; -1: no limit of swap",
    )
    add(
        "--memory-reservation",
        dest="spec.resources.memory_reservation",
        metavar="SIZE",
        help="memory to keep for the container when the host runs short",
    )
    add("--cpus", dest="spec.resources.cpus", metavar="N", help="how many CPUs' time at most: 0.5, 2")
    add(
        "-c",
        "--cpu-shares",
        dest="spec.resources.cpu_shares",
        type=integer,
        metavar="N",
        help="weight when CPUs are contended for (1024 is usual)",
    )
    add("--cpu-period", dest="spec.resources.cpu_period", type=integer, metavar="US", help="of --cpu-quota (µs)")
    add("--cpu-quota", dest="spec.resources.cpu_quota", type=integer, metavar="US", help="CPU time per period (µs)")
    add(
        "--cpu-rt-period",
        dest="spec.resources.cpu_rt_period",
        type=integer,
        metavar="US",
        help="of --cpu-rt-runtime (µs; cgroup v1)",
    )
    add(
        "--cpu-rt-runtime",
        dest="spec.resources.cpu_rt_runtime",
        type=integer,
        metavar="US",
        help="time per period for real-time scheduling (µs; cgroup v1)",
    )
    add("--cpuset-cpus", dest="spec.resources.cpuset_cpus", metavar="LIST", help="which CPUs: 0-3,7")
    add("--cpuset-mems", dest="spec.resources.cpuset_mems", metavar="LIST", help="which NUMA nodes: 0,1")
    add("--blkio-weight", type=integer, metavar="10-1000", help="weight when a disk is contended for")
    add("--pids-limit", type=integer, metavar="N", help="processes and threads; -1: no limit")


def _add_rights(parser: Parser) -> None:
    add = parser.group("Rights")
    add("--cap-add", action="append", metavar="CAP", help="add a capability (SYS_PTRACE, ALL)")
    add("--cap-drop", action="append", metavar="CAP", help="drop a capability (NET_RAW, ALL)")
    add(
        "--security-opt",
        action="append",
        metavar="OPTION",
        help="no-new-privileges[=false], seccomp=unconfined|FILE, apparmor=PROFILE, landlock=FILE, "
        "systempaths=unconfined, label=LABEL|disable",
    )
    add(
        "--privileged",
        action="store_true",
        help="hardly any containment: all capabilities and devices, nothing masked, no filters",
    )


def _add_isolation(parser: Parser) -> None:
    add = parser.group("Isolation", "MODE: private, host, or ns:PATH or container:NAME to join a namespace")
    add("--network", "--net", metavar="none|host|MODE", help="default: none, which has loopback only")
    published = refusal("no driver sets up a network", "--network host, or --network ns:PATH for one set up otherwise")
    add("-p", "--publish", action=published)
    add("-P", "--publish-all", nargs=0, action=published)
    for option, file in (("--dns", "resolv.conf"), ("--add-host", "hosts")):
        remedy = f"-v /path/of/yours:/etc/{file}:ro"
        add(option, action=refusal(f"/etc/{file} is that of the root file system", remedy))
    for kind, option in NAMESPACES.items():
        add(f"--{option}", dest=f"namespace.{kind}", metavar="MODE", help=f"the container's {kind} namespace")
    add("--sysctl", action="append", metavar="NAME=VALUE", help="kernel parameter of the container's namespaces")
    add("--annotation", action="append", metavar="NAME=VALUE", help="kept with the container, seen by hooks")


def _add_ours(parser: Parser) -> None:
    add = parser.group("Drivers and time")
    add("--driver", metavar="NAME", help="who contains it (default: auto, the strongest that can do all that is asked)")
    add("--driver-opt", action="append", metavar="DRIVER.KEY=VALUE", help="option of one driver; VALUE is JSON or text")
    add(
        "--timeout",
        type=_timeout,
        metavar="TIME",
        help="kill everything after so many seconds (or 1.5, 500ms, 5m, 1h30m); exit status 124",
    )


def _timeout(text: str) -> float:
    from execdrivers.cli.times import seconds

    result = seconds(text)
    if not result:
        raise UsageError(f"--timeout: {text!r} is not a time", remedy="--timeout 10, --timeout 1.5, --timeout 1h30m")
    return result
