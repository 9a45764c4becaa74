"""What is special about containers of a runtime; what all drivers do alike is in the conformance kit."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from execdrivers import cgroups
from execdrivers.container import Container
from execdrivers.engine import Engine
from execdrivers.errors import CommandNotExecutable, CommandNotFound, LaunchError, SpecError
from execdrivers.spec import ContainerSpec, Mount
from execdrivers.stdio import DEVNULL
from execdrivers_oci import bundle, mounts, runtime, tool
from execdrivers_oci.driver import OciDriver
from execdrivers_oci.handle import OciHandle

pytestmark = pytest.mark.needs("root", "runc")

Create = Callable[..., Container]
Run = Callable[..., Any]


@pytest.fixture
def run(engine: Engine, rootfs: Path) -> Run:
    """A command to its end."""

    def call(*args: str, **options: Any) -> Any:
        options.setdefault("rootfs", str(rootfs))
        return engine.run(args, driver="oci", capture_output=True, text=True, timeout=30, **options)

    return call


# --- the command ------------------------------------------------------------------------------------------------


class TestCommands:
    """The core's launcher executes them, since a runtime reports some as exits, and all on the container's stderr."""

    def test_without_interpreter(self, own_rootfs: Path, run: Run) -> None:
        (own_rootfs / "bin/script").write_text("#!/none\n")
        (own_rootfs / "bin/script").chmod(0o755)
        with pytest.raises(CommandNotFound, match="the interpreter it names is not"):
            run("script", rootfs=str(own_rootfs))

    def test_of_no_format(self, own_rootfs: Path, run: Run) -> None:
        (own_rootfs / "bin/nonsense").write_text("nonsense")
        (own_rootfs / "bin/nonsense").chmod(0o755)
        with pytest.raises(CommandNotExecutable, match="Exec format error"):
            run("nonsense", rootfs=str(own_rootfs))

    def test_working_directory_is_not_made(self, own_rootfs: Path, run: Run) -> None:
        with pytest.raises(LaunchError) as caught:
            run("true", cwd="/none", rootfs=str(own_rootfs))
        assert caught.value.step == "chdir"
        assert not (own_rootfs / "none").exists()

    def test_environment_is_empty_when_asked_for(self, run: Run) -> None:
        assert run("/bin/busybox", "env", default_env=False).stdout == ""

    def test_nothing_of_the_runtime_is_in_its_output(self, create: Create, engine: Engine, rootfs: Path) -> None:
        """A runtime writes its errors to its own stderr as well."""
        read, write = os.pipe()
        spec = ContainerSpec.build(["true"], rootfs=str(rootfs), mounts=[Mount("/etc/passwd", "tmpfs", "tmpfs")])
        with pytest.raises(LaunchError):
            engine.create(spec, driver="oci", stderr=write)
        os.close(write)
        with os.fdopen(read) as file:
            assert file.read() == ""

    def test_few_descriptors_are_enough(self, run: Run) -> None:
        assert run("sh", "-c", "ulimit -n", rlimits={"nofile": 3}).stdout == "3\n"

    def test_a_filter_holds_under_init_too(self, run: Run) -> None:
        """Also one like Docker's, which has clone3 fail."""
        rules = [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ]
        seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
        for init in (False, True):
            done = run("mkdir", "/tmp/x", seccomp=seccomp, init=init)
            assert done.returncode == 1 and "not permitted" in done.stderr


# --- the bundle ---------------------------------------------------------------------------------------------------


class TestBundle:
    def test_is_what_is_explained(self, create: Create, engine: Engine) -> None:
        container = create(memory="64M", user="alice", domainname="d", rlimits={"nofile": "64"})
        directory = Path(engine.root) / container.id
        config = json.loads((directory / "config.json").read_text())
        plan = OciDriver().plan(container.spec, container.id).to_dict()["steps"]
        assert {"op": "config.json", **config} == json.loads(json.dumps(plan[0]))
        assert [step["op"] for step in plan] == [
            "config.json", "run", "channel", "stdio", "rlimit", "chdir", "ready", "exec"
        ]  # fmt: skip
        assert plan[1]["args"][-1] == container.id
        assert config["linux"]["sysctl"] == {"kernel.domainname": "d"}
        assert config["linux"]["resources"]["memory"] == {"limit": 64 << 20, "swap": 64 << 20}
        container.delete()

    def test_another_user_has_no_capability_but_in_the_bounding_set(self, run: Run) -> None:
        lines = run("grep", "^Cap", "/proc/self/status", user="1000:1000").stdout.split()
        masks = dict(zip(lines[::2], lines[1::2], strict=True))
        assert {name for name, mask in masks.items() if int(mask, 16)} == {"CapBnd:"}

    def test_a_rootfs_without_sys(self, own_rootfs: Path, run: Run) -> None:
        (own_rootfs / "sys").rmdir()
        assert "sysfs" not in run("cat", "/proc/mounts", rootfs=str(own_rootfs)).stdout
        assert not (own_rootfs / "sys").exists()

    def test_a_rootfs_without_proc(self, own_rootfs: Path, run: Run) -> None:
        (own_rootfs / "proc").rmdir()
        with pytest.raises(SpecError, match=r"has no directory /proc; mkdir .*/proc"):
            run("true", rootfs=str(own_rootfs))
        assert not (own_rootfs / "proc").exists()

    def test_the_rootfs_stays_as_it_is(self, own_rootfs: Path, run: Run) -> None:
        def listing() -> list[str]:
            return sorted(str(path) for path in own_rootfs.rglob("*"))

        before = listing()
        run("true", rootfs=str(own_rootfs))
        assert listing() == before

    def test_options_that_the_runtime_does_not_know(self, rootfs: Path) -> None:
        known = runtime.Runtime("/x", "runc", "1.1.5", features={"mountOptions": ["ro", "bind"]})
        spec = ContainerSpec(
            ["true"], rootfs=str(rootfs), mounts=[Mount("/mnt", "bind", "/srv", ("ro", "nosymfollow"))]
        )
        with pytest.raises(SpecError, match=r"mounts\[0\]\.options: 'nosymfollow' has no effect on runc 1\.1\.5"):
            mounts.check(spec, known)

    def test_modes_that_the_runtime_does_not_keep(self, rootfs: Path) -> None:
        old, new = (runtime.Runtime("/x", "runc", version) for version in ("1.1.5", "1.1.12"))

        def spec(*given: Mount) -> ContainerSpec:
            return ContainerSpec(["true"], rootfs=str(rootfs), mounts=given)

        closed = Mount("/tmp", "tmpfs", "tmpfs", ("mode=700",))
        with pytest.raises(SpecError, match="takes the mode of the directory below: 1777"):
            mounts.check(spec(closed), old)
        mounts.check(spec(closed), new)
        mounts.check(spec(Mount("/tmp", "tmpfs", "tmpfs", ("mode=1777",))), old)
        mounts.check(spec(Mount("/nothing-there", "tmpfs", "tmpfs", ("mode=700",))), old)
        mounts.check(spec(Mount("/tmp", "tmpfs"), Mount("/tmp/x", "tmpfs", "tmpfs", ("mode=700",))), old)

    def test_limits_to_update(self) -> None:
        layout = cgroups.Layout({}, "/cg", frozenset({"memory"}), swap=True)
        limits = ContainerSpec.build(["x"], memory="64M", cpus=0.5).resources
        assert bundle.resources(limits, layout) == {
            "memory": {"limit": 64 << 20, "swap": 64 << 20},
            "cpu": {"quota": 50000, "period": 100000},
        }

    def test_one_that_runc_has_made(self, tmp_path: Path, rootfs: Path, engine: Engine, runc: str) -> None:
        subprocess.run([runc, "spec"], cwd=tmp_path, check=True)
        config = json.loads((tmp_path / "config.json").read_text())
        config["root"]["path"] = str(rootfs)
        config["process"]["terminal"] = False
        spec = ContainerSpec.from_oci(config).replace(args=("echo", "hello"))
        assert engine.run(spec, driver="oci", capture_output=True).stdout == b"hello\n"


# --- cgroups ------------------------------------------------------------------------------------------------------


class TestCgroups:
    def test_a_path_of_the_specs_own(self, create: Create) -> None:
        path = f"{cgroups.parent()}/own-{os.getpid()}/box"
        container = create(cgroups_path=path)
        found = cgroups.find(path, cgroups.look())
        assert found and all(container.pid in cgroups.processes([cgroup]) for cgroup in found)
        with pytest.raises(SpecError, match=r"cgroups_path: .* exists"):
            create(cgroups_path=path)
        container.delete()
        assert not cgroups.find(path, cgroups.look())
        for cgroup in cgroups.find(os.path.dirname(path), cgroups.look()):
            os.rmdir(cgroup.path)

    def test_one_of_the_same_name_is_left_alone(
        self, create: Create, engine: Engine, rootfs: Path, tmp_path: Path
    ) -> None:
        first = create()
        spec = ContainerSpec.build(["true"], rootfs=str(rootfs), pids=9)
        with Engine(root=tmp_path / "other") as other:
            assert other.run(spec, driver="oci", name=first.id).returncode == 0
        assert first.state == "created" and len(first.pids()) == 1
        first.delete()


# --- the terminal and exec ---------------------------------------------------------------------------------------


def test_a_terminal_below_a_long_path(rootfs: Path, tmp_path: Path, no_leaks: None) -> None:
    root = tmp_path / ("x" * 120)
    with Engine(root=root) as engine:
        done = engine.run(
            ["sh", "-c", "stty size; test -c /dev/console"],
            driver="oci", rootfs=str(rootfs), tty=True, console_size=(33, 77), capture_output=True, text=True,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "33 77\n")


def test_a_missing_command_leaves_no_terminal(create: Create) -> None:
    container = create()
    container.start()
    with pytest.raises(CommandNotFound):
        container.exec(["nope"], tty=True)
    container.delete(force=True)
    container = create(tty=True, args=("nope",))
    with pytest.raises(CommandNotFound):
        container.start()
    container.delete(force=True)


def test_many_at_once(create: Create) -> None:
    import threading

    container = create()
    container.start()
    codes: dict[int, Any] = {}

    def one(number: int) -> None:
        with container.exec(
            ["sh", "-c", f"kill -{number} $$"] if number < 16 else ["sh", "-c", f"exit {number}"]
        ) as process:
            process.wait(20)
            codes[number] = process.returncode

    threads = [threading.Thread(target=one, args=(number,)) for number in (1, 9, 15, 16, 128, 137)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {1: -1, 9: -9, 15: -15, 16: 16, 128: 128, 137: 137}
    assert len(container.pids()) == 1
    container.delete(force=True)


def test_killed_while_paused(create: Create) -> None:
    container = create(namespaces={"pid": "host"}, args=("sh", "-c", "sleep 60 & sleep 60"))
    container.start()
    container.pause()
    container.resume()
    container.resume()
    container.pause()
    container.kill()
    exit = container.wait(10)
    assert exit is not None and exit.signal == 9
    container.delete()


def test_files_of_each_call_go(create: Create, engine: Engine) -> None:
    container = create()
    container.start()
    container.exec(["true"]).wait(20)
    container.update(pids=9)
    names = set(os.listdir(f"{engine.root}/{container.id}"))
    assert not {name for name in names if name.endswith((".log", ".pid", ".sock")) or "exec" in name}
    container.delete(force=True)


def test_a_name_that_becomes_anothers_as_it_is_freed(
    engine: Engine, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program has deleted it, and its maker, who was about to do so too, goes by its name no more."""
    spec = ContainerSpec.build(["sleep", "60"], rootfs=rootfs, hooks={"poststop": [{"path": "/bin/true"}]})
    quiet = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
    with Engine(engine.root) as other:
        first = engine.create(spec, driver="oci", name="x", **quiet)
        first.start()
        other.get("x").delete(force=True)
        second: list[Container] = []
        delete = OciHandle.delete

        def late(handle: OciHandle) -> None:
            monkeypatch.undo()
            second.append(other.create(spec, driver="oci", name="x", **quiet))
            second[0].start()
            delete(handle)

        monkeypatch.setattr(OciHandle, "delete", late)
        assert first.wait(10).signal == 9
        first.delete()
        assert second[0].state == "running" and Path(engine.root, "x", "runtime").exists()
        second[0].pause()
        second[0].delete(force=True)


def test_takes_little_longer_than_the_runtime_itself(run: Run, rootfs: Path, tmp_path: Path, runc: str) -> None:
    """A sleep of ours, or a needless call, would be seen; the load of the machine, and Python's, must not be."""
    spec = ContainerSpec(["true"], rootfs=str(rootfs), cgroups_path=f"/{cgroups.parent()}/by-hand")
    (tmp_path / "config.json").write_text(json.dumps(spec.to_oci()))

    def by_hand() -> None:
        for words in (["create", "-b", str(tmp_path), "x"], ["start", "x"], ["delete", "--force", "x"]):
            subprocess.run([runc, "--root", str(tmp_path / "state"), *words], stdin=subprocess.DEVNULL, check=True)

    def best(call: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        return min(times)

    assert best(lambda: run("true")) < 1.5 * best(by_hand) + 0.02


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("open /proc/self/fd: too many open files", 24),
        ("open executable: Operation not permitted", 1),
        ("write `/sys/fs/cgroup/x`: Device or resource busy", 16),
        ("mount: no such file or directory: permission denied", 13),
        ("unable to set memory limit to 1048576 (current usage: 2150400, peak usage: 2252800)", 16),
        ("unknown version specified", 0),
    ],
)
def test_the_kernels_reason(text: str, number: int) -> None:
    assert tool.errno_in(text) == number
