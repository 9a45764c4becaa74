"""Processes of a container that lie in wait for one that joins it.

CVE-2016-9962 (trace it while it still holds what is the host's), CVE-2016-8649 (the same of lxc-attach), CVE-2019-5736
(overwrite the runtime through /proc/PID/exe; also by having the runtime execute itself, as "#!/proc/self/exe").
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, PIPE, ContainerSpec, Engine, LaunchError
from execdrivers.defaults import CAPABILITIES, capability_mask

from .report import ATTACK, UNCONFINED, won

pytestmark = pytest.mark.needs("root", "busybox")


def watch(
    engine: Engine, rootfs: Path, witness: Path, act: Callable[[Any], object], **options: Any
) -> tuple[list[str], Mapping[str, str]]:
    """What a watching container achieves while something is done to it, and its counts."""
    spec = ContainerSpec.build([ATTACK, "watch", str(witness)], rootfs=rootfs, **options)
    with engine.create(spec, driver="native", stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as container:
        container.start()
        assert container.stdout is not None
        assert container.stdout.readline() == b"watching\n"
        act(container)
        lines = (container.communicate(timeout=60)[0] or b"").decode().splitlines()
    counts = lines[-1].split()
    return won(lines), dict(zip(counts[::2], counts[1::2], strict=True))


def execute_often(container: Any) -> None:
    for user in ("0", "65534") * 40:
        assert container.exec(["true"], user=user, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL).wait(30).code == 0


@pytest.mark.parametrize("init", [False, True])
def test_nothing_of_the_hosts_comes_along(engine: Engine, hostile: Path, witness: Path, init: bool) -> None:
    achieved, counts = watch(engine, hostile, witness, execute_often, init=init)
    assert not achieved
    assert int(counts["looks"]) > 80


def test_a_tracer_gets_no_capability_of_the_hosts(engine: Engine, hostile: Path, witness: Path) -> None:
    """With CAP_SYS_PTRACE the container may trace what joins it; then it must gain nothing by that."""
    achieved, counts = watch(engine, hostile, witness, execute_often, capabilities={"add": ["SYS_PTRACE"]})
    assert set(achieved) <= {"trace", "disable", "occupy"}
    own = capability_mask([*CAPABILITIES, "CAP_SYS_PTRACE"])
    assert int(counts["capabilities"], 16) & ~own == 0


def interpret(rootfs: Path) -> str:
    """A command of the container's whose interpreter is whatever executes it."""
    script = rootfs / "evil"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    return "/evil"


def test_a_command_whose_interpreter_is_the_launcher(engine: Engine, hostile: Path, witness: Path) -> None:
    """It is executed once more, without a plan, as a process of the container's like any other."""
    evil = interpret(hostile)
    codes = []

    def act(container: Any) -> None:
        for _ in range(30):
            with contextlib.suppress(LaunchError):  # spoiled before it could execute the command
                codes.append(container.exec([evil], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL).wait(30).code)

    achieved, _ = watch(engine, hostile, witness, act, capabilities={"add": ["SYS_PTRACE"]})
    # It may spoil what it was started from itself, and nobody else was.
    assert set(achieved) <= {"trace", "disable", "occupy"}
    assert set(codes) <= {125}  # none where each was spoiled in time
    assert engine.run([evil], rootfs=hostile, driver="native").returncode == 125


def test_control_a_runtime_on_a_disk_is_overwritten_by_such_a_command(
    engine: Engine, hostile: Path, witness: Path, naive: Path, tmp_path: Path
) -> None:
    runtime, evil = shutil.copy(naive, tmp_path / "runtime"), interpret(hostile)

    def act(container: Any) -> None:
        for _ in range(3):
            os.chmod(runtime, 0o755)
            with contextlib.suppress(OSError):  # spoiled by now
                subprocess.run([runtime, "join", str(container.pid), evil], check=True)

    assert "overwrite" in watch(engine, hostile, witness, act, capabilities={"add": ["SYS_PTRACE"]}, **UNCONFINED)[0]
    assert Path(runtime).read_bytes().startswith(b"#!/owned")


def test_a_container_that_comes_into_the_same_pid_namespace(engine: Engine, hostile: Path, witness: Path) -> None:
    """It is seen from its first step on, with all that the launcher still has; and cannot be looked into."""

    def act(container: Any) -> None:
        namespaces = {"pid": f"/proc/{container.pid}/ns/pid"}
        for _ in range(60):
            engine.run(["true"], rootfs=hostile, driver="native", namespaces=namespaces, timeout=30)

    achieved, counts = watch(engine, hostile, witness, act)
    assert not achieved
    assert int(counts["looks"]) > 60


def test_control_a_process_that_joins_by_hand_is_robbed(
    engine: Engine, hostile: Path, witness: Path, naive: Path, tmp_path: Path
) -> None:
    runtime = shutil.copy(naive, tmp_path / "runtime")

    def act(container: Any) -> None:
        for _ in range(3):
            os.chmod(runtime, 0o755)
            with contextlib.suppress(OSError):  # spoiled by now
                subprocess.run([runtime, "join", str(container.pid), "/bin/true"], check=True)

    achieved, counts = watch(engine, hostile, witness, act, capabilities={"add": ["SYS_PTRACE"]}, **UNCONFINED)
    assert set(achieved) == {"a directory of the host's", "trace", "overwrite", "disable", "occupy"}
    assert Path(runtime).read_bytes().startswith(b"#!/owned")
    assert int(counts["capabilities"], 16) >> 21 & 1  # CAP_SYS_ADMIN
