"""``execdrivers top``: the processes of a container, as ps(1) shows them."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from execdrivers.cli.containers import engine_of, for_names, the_name
from execdrivers.cli.parsing import Command, Parser
from execdrivers.cli.table import lines, printable
from execdrivers.errors import InvalidState

__all__ = ["COMMANDS"]

#: Those of ``ps -ef``, which docker's are.
_COLUMNS = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
_DAY = 86400


def _parser() -> Parser:
    parser = for_names(
        "top", "The processes of a container, with the host's pids, as `ps -ef` shows them.", "[OPTIONS] NAME"
    )
    add = parser.group("Options")
    add("--format", choices=("table", "json"), metavar="table|json", help="json: one object a line")
    parser.common()
    return parser


def top(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """In the order of their starts."""
    name = the_name(parser, operands)
    with engine_of(options) as engine:
        container = engine.get(name)
        if (state := container.state) not in ("running", "paused"):
            remedy = f"execdrivers inspect {name}"
            raise InvalidState(f"container {name!r} is {state} and runs no processes", remedy=remedy)
        found = list(_processes(container.pids()))
    found.sort(key=lambda process: (process["started_at"], process["pid"]))
    if vars(options).get("format") == "json":
        for process in found:
            print(json.dumps(process, sort_keys=True))
    else:
        now = time.time()
        for text in lines(_COLUMNS, [_row(process, now) for process in found]):
            print(text)
    return 0


# --- what /proc tells -----------------------------------------------------------------------------------------------


def _processes(pids: Sequence[int]) -> Iterator[dict[str, Any]]:
    ticks, booted = os.sysconf("SC_CLK_TCK"), _boot_time()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                head, _, tail = file.read().rpartition(b")")
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                args = file.read().split(b"\0")[:-1]
            uid = _uid(pid)
        except OSError:
            continue  # it has ended
        fields = tail.split()  # from the third on: proc_pid_stat(5)
        started = booted + int(fields[19]) / ticks
        used = (int(fields[11]) + int(fields[12])) / ticks
        yield {
            "uid": uid,
            "user": _user(uid),
            "pid": pid,
            "ppid": int(fields[1]),
            "state": fields[0].decode(),
            "tty": _terminal(int(fields[4])),
            "started_at": round(started, 2),
            "time": round(used, 2),
            "command": head.partition(b"(")[2].decode("utf-8", "replace"),
            "args": [arg.decode("utf-8", "surrogateescape") for arg in args],
        }


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _uid(pid: int) -> int:
    """The effective one; /proc/PID itself is root's where a process may not be traced."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return next(int(line.split()[2]) for line in file if line.startswith("Uid:"))


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _terminal(device: int) -> str:
    """Of tty_nr; the major numbers are those of Documentation/admin-guide/devices.txt."""
    major, minor = os.major(device), os.minor(device)
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return "console" if (major, minor) == (5, 1) else "?"


# --- as ps shows it -------------------------------------------------------------------------------------------------


def _row(process: dict[str, Any], now: float) -> Sequence[str]:
    lived = max(now - process["started_at"], 0.01)
    command = " ".join(process["args"]) or f"[{process['command']}]"
    return (
        process["user"],
        str(process["pid"]),
        str(process["ppid"]),
        str(min(99, int(100 * process["time"] / lived))),
        _start(process["started_at"], now),
        process["tty"],
        _duration(int(process["time"])),
        printable(command),
    )


def _start(moment: float, now: float) -> str:
    """The time today, else the day, else the year."""
    began, today = time.localtime(moment), time.localtime(now)
    if began[:3] == today[:3] or now - moment < _DAY:
        return time.strftime("%H:%M", began)
    return time.strftime("%b%d" if began.tm_year == today.tm_year else "%Y", began)


def _duration(seconds: int) -> str:
    days, rest = divmod(seconds, _DAY)
    text = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{text}" if days else text


COMMANDS = {"top": Command(_parser, top)}
