"""What the host's kernel would do for a container's root: devices, files by handle, core dumps, its log.

The capabilities of Docker's default list include CAP_MKNOD, and root is root in the host's eyes. (shocker, 2014)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .report import UNCONFINED, lost, won

pytestmark = pytest.mark.needs("root", "busybox")

Attack = Callable[..., list[str]]


def _disk() -> tuple[int, int]:
    """A block device that can be opened on the host: at best the one that its root is on."""
    numbers = [path.read_text().strip() for path in sorted(Path("/sys/class/block").glob("*/dev"))]
    own = os.stat("/").st_dev
    for number in (f"{os.major(own)}:{os.minor(own)}", *numbers):
        with contextlib.suppress(OSError):
            os.close(os.open(_node(number), os.O_RDONLY | os.O_NONBLOCK))
            return int(number.split(":")[0]), int(number.split(":")[1])
    pytest.skip("needs a block device that can be opened")


def _node(number: str) -> str:
    """Its place in /dev."""
    return "/dev/" + Path(f"/sys/dev/block/{number}").resolve().name


@pytest.mark.parametrize("options", [{}, {"tty": True}, {"ephemeral": True}, {"user": "0:0", "init": True}], ids=str)
def test_the_hosts_disk(attack: Attack, options: dict[str, Any]) -> None:
    lines = attack("node", "b", *_disk(), **options)
    assert not won(lines)
    assert "EACCES" in lost(lines).values()  # one could be made, and not be opened


def test_the_hosts_memory_and_ports(attack: Attack) -> None:
    for minor in (1, 4, 11):  # mem, port, kmsg: Documentation/admin-guide/devices.txt
        assert not won(attack("node", "c", 1, minor))


def test_control_a_container_that_may_remount_and_has_all_devices(attack: Attack) -> None:
    options = {"capabilities": {"add": ["ALL"]}, **UNCONFINED, "resources": {"devices": [{"allow": True}]}}
    assert "/dev" in won(attack("node", "b", *_disk(), **options))


def _handle(path: Path) -> tuple[int, str]:
    """Type and bytes of the file's handle: name_to_handle_at(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(8 + 128)
    ctypes.memmove(buffer, (128).to_bytes(4, "little"), 4)
    if libc.name_to_handle_at(-100, os.fsencode(path), buffer, ctypes.byref(ctypes.c_int()), 0) < 0:
        pytest.skip(f"needs a file system with handles: {os.strerror(ctypes.get_errno())}")
    size, kind = int.from_bytes(buffer.raw[:4], "little"), int.from_bytes(buffer.raw[4:8], "little", signed=True)
    return kind, buffer.raw[8 : 8 + size].hex()


def test_a_file_of_the_hosts_by_its_handle(attack: Attack, witness: Path) -> None:
    assert not won(attack("shocker", *_handle(witness)))


def test_control_with_dac_read_search_it_is_opened(attack: Attack, witness: Path) -> None:
    options = {"capabilities": {"add": ["DAC_READ_SEARCH"]}, **UNCONFINED}
    assert won(attack("shocker", *_handle(witness), **options)) == ["open_by_handle_at"]


#: What the kernel would act on → something harmless to write there.
_FILES = {
    "/proc/sys/kernel/core_pattern": None,
    "/proc/sys/kernel/modprobe": None,
    "/proc/sys/vm/overcommit_memory": None,
    "/proc/sysrq-trigger": "h",
    "/sys/kernel/uevent_helper": None,
    "/sys/module/printk/parameters/time": None,
}


def _present(path: str) -> bool:
    return os.path.exists(path)


@pytest.mark.parametrize("path", _FILES)
@pytest.mark.parametrize("options", [{}, {"user": "alice"}, {"ephemeral": True}], ids=str)
def test_files_that_the_kernel_acts_on(attack: Attack, path: str, options: dict[str, Any]) -> None:
    text = _FILES[path] or (Path(path).read_text() if _present(path) else "x")
    assert not won(attack("write", path, text, **options))


def test_control_without_read_only_paths_they_are_written_to(attack: Attack) -> None:
    path = "/proc/sys/kernel/core_pattern"
    assert won(attack("write", path, Path(path).read_text(), readonly_paths=(), **UNCONFINED)) == [path]


def test_the_kernels_log(attack: Attack) -> None:
    assert not won(attack("kmsg"))


def test_control_the_log_with_a_capability(attack: Attack) -> None:
    lines = attack("kmsg", capabilities={"add": ["SYSLOG"]}, **UNCONFINED)
    assert {"syslog(2)", "/proc/kmsg"} <= set(won(lines))
