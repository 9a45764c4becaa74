"""The launcher's plans: the vocabulary on both sides, and what is not a plan. Needs no privilege."""

from __future__ import annotations

import errno
import os
import random
import re
from pathlib import Path

from execdrivers.launcher import _launcher, operations

HEADER = Path(operations.__file__).parent / "c" / "plan.h"


def test_schema_and_header_name_the_same_operations() -> None:
    in_header = set(re.findall(r"ED_OP_([A-Z_]+)", HEADER.read_text()))
    assert {name.upper() for name in operations._SCHEMA} == in_header


def test_schema_and_header_name_the_same_number_of_arguments() -> None:
    for name, (_, fields) in operations._SCHEMA.items():
        comment = re.search(rf"ED_OP_{name.upper()}\b.*?/\* (.*?) \*/", HEADER.read_text(), re.DOTALL)
        if comment and fields:
            listed = comment[1].split(":")[0].split(",")
            assert len(listed) == len(fields.split()), name


def _run_plan(plan: bytes) -> tuple[int, int]:
    """Hand raw bytes to a launcher, without namespaces: kind and error of what it says."""
    ffi, lib = _launcher.ffi, _launcher.lib
    image = lib.ed_memfd(b"launcher", lib.ed_launcher_image, lib.ed_launcher_size, 1)
    sealed = lib.ed_memfd(b"plan", ffi.from_buffer(plan), len(plan), 0)
    pair, argv, envp = ffi.new("int[2]"), ffi.new("char *[1]"), ffi.new("char *[1]")
    assert lib.ed_channel(pair) == 0
    null = os.open("/dev/null", os.O_RDWR)
    descriptors = ffi.new("int[]", [null, null, null, sealed, pair[1], image])
    how = ffi.new("struct ed_spawn *", (descriptors, 6, 0, -1, 0, 0, ffi.NULL, ffi.NULL, argv, envp))
    child, message = ffi.new("struct ed_child *"), ffi.new("struct ed_message *")
    try:
        assert lib.ed_spawn(how, child) == 0
    finally:
        for fd in (null, sealed, pair[1], image):
            os.close(fd)
    received = lib.ed_receive(pair[0], message, ffi.new("int *"), ffi.new("int *"))
    os.close(pair[0])
    result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    os.close(child.pidfd)
    assert result is not None
    assert result.si_code == os.CLD_EXITED, f"launcher was killed by signal {result.si_status}"
    return (int(message.kind), int(message.error)) if received > 0 else (0, 0)


def _harmless() -> bytes:
    """A plan whose operations change nothing but the launcher itself, and end in a failing exec."""
    op = operations.operation
    return operations.encode(
        [
            op("umask", 0o22),
            op("chdir", "/"),
            op("rlimit", 7, 256, 256),
            op("no_new_privileges"),
            op("exec", 0, ("/nonexistent/a", "/nonexistent/b"), ("a", "b"), ("X=1",)),
        ]
    )


def test_launcher_refuses_damaged_plans_without_dying() -> None:
    plan = _harmless()
    assert _run_plan(plan)[1] == 2  # ENOENT: well-formed, executed up to the exec
    damaged = random.Random(7)
    for length in range(1, len(plan), 5):
        assert _run_plan(plan[:length])[0] == _launcher.lib.ED_FAILED
    for _ in range(150):
        mutant = bytearray(plan)
        # The header's length must fit, else nothing behind it is looked at; codes stay, so that nothing real is done.
        at = damaged.choice([i for i in range(16, len(plan)) if i not in _codes(plan)])
        mutant[at] = damaged.randrange(256)
        assert _run_plan(bytes(mutant))[0] == _launcher.lib.ED_FAILED


def _codes(plan: bytes) -> set[int]:
    at, found = 16, set()
    while at < len(plan):
        found |= set(range(at, at + 4))
        at += 8 + int.from_bytes(plan[at + 4 : at + 8], "little")
    return found


def test_leading_a_session_already_is_fine() -> None:
    op = operations.operation
    plan = [op("session"), op("session"), op("exec", 0, ("/nonexistent",), ("x",), ())]
    assert _run_plan(operations.encode(plan)) == (_launcher.lib.ED_FAILED, errno.ENOENT)
