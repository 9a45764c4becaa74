"""The tools that benchmarks compare with: each really contains, tells how its command ended, and leaves nothing."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from benchmarks import peers
from benchmarks.peers import bare, bwrap, commandline, nspawn
from benchmarks.peers.commandline import CommandLine, Peer
from benchmarks.sampling import Failed
from benchmarks.scenario import Place
from benchmarks.scenarios import overhead

import execdrivers

pytestmark = pytest.mark.needs("root", "busybox")

_NAMESPACES = ("pid", "mnt", "uts", "ipc", "net")
_SCRIPT = f"""
for name in {" ".join(_NAMESPACES)}; do busybox readlink /proc/self/ns/$name; done
busybox ls /
exit 7
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        place = Place(tmp_path, stack)
        Path(place.rootfs, "only-here").touch()
        yield place


@pytest.fixture(params=[peer for peer in peers.ALL if peer is not bare.PEER], ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> Peer:
    """One that is installed, and that this host is one for."""
    peer: Peer = request.param
    if commandline.which(peer.program) is None:
        pytest.skip(f"needs the program {peer.program}")
    if refusal := peer.refusal():
        pytest.skip(refusal)
    return peer


def _run(place: Place, peer: Peer, *args: str) -> subprocess.CompletedProcess[str]:
    command = peer.command_line(place)(args)
    with open(peer.stdin(place), "rb") as stdin:
        return subprocess.run(command, env=commandline.environment(), stdin=stdin, capture_output=True, text=True)


def test_it_contains_and_leaves_nothing(no_leaks: None, place: Place, peer: Peer) -> None:
    assert peer.lacking(place) == ""
    contender = peer.contender(place)
    assert contender.measure is not None
    assert all(0 < seconds < 30 for seconds in contender.measure(2))
    done = _run(place, peer, "/bin/sh", "-c", _SCRIPT)
    assert done.returncode == 7, done.stderr
    *namespaces, files = done.stdout.split("\n", len(_NAMESPACES))
    for name, found in zip(_NAMESPACES, namespaces, strict=True):
        assert found.startswith(f"{name}:[")
        assert Path(f"/proc/self/ns/{name}").readlink() != Path(found)
    assert "only-here" in files.split()


def test_two_can_run_at_once(no_leaks: None, place: Place, peer: Peer) -> None:
    if peer is nspawn.PEER:
        pytest.skip("systemd-nspawn locks the root file system")
    with open(peer.stdin(place), "rb") as one, open(peer.stdin(place), "rb") as other:
        begun = [
            subprocess.Popen(
                peer.command_line(place)(["/bin/sleep", "0.2"]),
                env=commandline.environment(),
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for stdin in (one, other)
        ]
    assert [(process.communicate()[1][-300:], process.returncode) for process in begun] == [(b"", 0)] * 2


def test_the_bare_process_is_none_of_a_container(place: Place) -> None:
    assert len(commandline.measure(bare.PEER.command_line(place)(["/bin/true"]), 3)) == 3
    done = _run(place, bare.PEER, "/bin/busybox", "readlink", "/proc/self/ns/pid")
    assert done.stdout.strip() == str(Path("/proc/self/ns/pid").readlink())


@pytest.mark.needs("bwrap")
def test_what_goes_wrong_is_told(place: Place) -> None:
    with pytest.raises(Failed, match=r"exit status 1: bwrap: .*no-such-program"):
        commandline.measure(bwrap.PEER.command_line(place)(["/bin/no-such-program"]), 1)
    missing = attrs.evolve(bwrap.PEER, program="no-such-tool")
    assert missing.contender(place).lacking == "no-such-tool is not installed; apt-get install bubblewrap"
    broken = attrs.evolve(bwrap.PEER, command_line=lambda place: commandline.prefix(["bwrap", "--no-such-option"]))
    assert "does not work here: exit status 1: bwrap: Unknown option --no-such-option" in broken.lacking(place)
    assert broken.contender(place).measure is None


#: What bwrap has too.
_ALIKE = """
busybox grep -E 'Cap(Inh|Prm|Eff)|NoNew|Seccomp' /proc/self/status | busybox sed s/CapInh.*/CapInh/
for name in acpi interrupts keys timer_list; do busybox wc -c /proc/$name 2>&1; busybox ls /proc/$name; done
busybox touch /proc/acpi/x /proc/sys/x /proc/irq/x 2>&1; echo 1 2>&1 >/proc/sysrq-trigger
busybox stat -f -c '%n %T' /dev /dev/mqueue /dev/shm; busybox stat -c '%n %a' /dev/shm
busybox unshare -m true 2>&1
for kind in ipc mnt net pid user uts; do busybox readlink /proc/self/ns/$kind | busybox sed s/[0-9]//g; done
busybox readlink /proc/self/ns/user
"""


@pytest.mark.needs("bwrap")
def test_bwrap_isolates_alike(no_leaks: None, place: Place) -> None:
    command = ["/bin/sh", "-c", _ALIKE]
    theirs = _run(place, bwrap.ALIKE, *command)
    ours = execdrivers.run(command, rootfs=place.rootfs, driver="native", capture_output=True, text=True)
    assert "Seccomp:\t2" in ours.stdout
    assert theirs.stdout == ours.stdout


#: But for what LXC makes otherwise, to the same effect: nodes in /dev without mounts, a new boot_id.
_ISOLATION = """
busybox grep -E 'Cap|NoNew|Seccomp:' /proc/self/status
busybox ls /dev | busybox grep -v core
while read _ _ _ _ place options _; do
    case $place in /dev/?* | *boot_id) continue ;; esac
    if [ -d $place ]; then echo $place ${options%%,*}; else echo $place; fi
done </proc/self/mountinfo | busybox sort
busybox wc -c </proc/keys
busybox unshare -m true 2>&1
"""


@pytest.mark.parametrize(
    ("driver", "program", "bare"), [("lxc", "lxc-execute", overhead.lxc), ("oci", "runc", overhead.oci)]
)
def test_driver_and_bare_tool_isolate_alike(
    no_leaks: None, place: Place, driver: str, program: str, bare: Callable[[Place], CommandLine]
) -> None:
    if commandline.which(program) is None:
        pytest.skip(f"needs the program {program}")
    command = ["/bin/sh", "-c", _ISOLATION]
    theirs = subprocess.run(
        bare(place)(command), env=commandline.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    ours = execdrivers.run(command, rootfs=place.rootfs, driver=driver, capture_output=True, text=True)
    assert "/proc/sys ro" in ours.stdout
    assert "Seccomp:\t2" in ours.stdout
    assert theirs.stdout == ours.stdout
