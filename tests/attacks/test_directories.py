"""CVE-2024-21626: a working directory, or a command, that is reached through a descriptor the runtime has open."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from execdrivers import DEVNULL, PIPE, CommandNotExecutable, CommandNotFound, ContainerSpec, Engine, LaunchError

from .report import ATTACK, won

pytestmark = pytest.mark.needs("root", "busybox")

#: Where a descriptor may be met, as the one that is about to execute sees itself.
_PLACES = [
    place
    for number in range(24)
    for place in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../../../../..", f"/proc/1/fd/{number}")
] + ["/proc/self/cwd/../../../..", "/proc/1/cwd/../../../..", "/proc/1/root/../../.."]


@pytest.fixture
def leaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Directories of the host's are open in the caller, one without close-on-exec, and it stands in another."""
    monkeypatch.chdir(tmp_path)
    opened = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(3)]
    os.set_inheritable(opened[0], True)
    yield
    for fd in opened:
        os.close(fd)


@pytest.mark.usefixtures("leaky")
@pytest.mark.parametrize("options", [{}, {"init": True}, {"ephemeral": True}, {"tty": True}], ids=str)
def test_no_working_directory_is_the_hosts(
    engine: Engine, hostile: Path, witness: Path, options: dict[str, object]
) -> None:
    reached = 0
    for place in _PLACES:
        with contextlib.suppress(LaunchError):
            done = engine.run(
                [ATTACK, "reach", str(witness)],
                rootfs=hostile,
                driver="native",
                cwd=place,
                capture_output=True,
                text=True,
                timeout=20,
                **options,
            )
            assert not won(done.stdout.splitlines()), place
            reached += 1
    assert reached >= 3  # those that are directories of the container's own


@pytest.mark.usefixtures("leaky")
def test_no_further_process_starts_in_the_hosts(engine: Engine, hostile: Path, witness: Path) -> None:
    spec = ContainerSpec.build(["sleep", "60"], rootfs=hostile)
    with engine.create(spec, driver="native", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as container:
        container.start()
        for place in _PLACES:
            with contextlib.suppress(LaunchError):
                command = [ATTACK, "reach", str(witness)]
                output, _ = container.exec(command, cwd=place, stdin=DEVNULL, stdout=PIPE).communicate(timeout=20)
                assert not won((output or b"").decode().splitlines()), place


@pytest.mark.usefixtures("leaky")
def test_no_command_of_the_hosts_is_executed(
    engine: Engine, hostile: Path, witness: Path, attack_program: Path
) -> None:
    for number in range(24):
        with pytest.raises((CommandNotFound, CommandNotExecutable, LaunchError)):
            engine.run(
                [f"/proc/self/fd/{number}{attack_program}", "reach", str(witness)], rootfs=hostile, driver="native"
            )


def test_control_an_open_directory_leads_out(naive: Path, hostile: Path, witness: Path, attack_program: Path) -> None:
    for place, program in (("/proc/self/fd/7", ATTACK), ("/proc/self/fd/7", f"/proc/self/fd/7{attack_program}")):
        command = [naive, "cwd", hostile, place, program, "reach", witness]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert won(done.stdout.splitlines()) == ["the host from here"]
