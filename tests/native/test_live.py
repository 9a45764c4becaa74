"""exec, pause and update on native: what the conformance kit cannot know of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from execdrivers import DEVNULL, PIPE, ContainerSpec, Engine, InvalidState, cgroups
from execdrivers.testing import host
from execdrivers_native.handle import NativeHandle

pytestmark = pytest.mark.needs("root", "busybox")


def spec(rootfs: Path, **fields: object) -> ContainerSpec:
    return ContainerSpec.build(["sleep", "60"], rootfs=rootfs, init=True, **fields)


def test_a_process_nobody_waited_for_does_not_hold_up_the_end(engine: Engine, rootfs: Path) -> None:
    with engine.create(spec(rootfs), driver="native", stdin=DEVNULL) as container:
        container.start()
        process = container.exec(["true"])
        while process.pid in container.pids():
            pass
        container.kill()
        assert container.wait(timeout=5).signal == 9
        assert process.wait().ok
        process.close()


def test_what_was_let_go_of_is_reaped_by_the_next(engine: Engine, rootfs: Path) -> None:
    with engine.create(spec(rootfs), driver="native", stdin=DEVNULL) as container:
        container.start()
        before = zombies()
        for _ in range(3):
            container.exec(["true"]).detach()
            host.until(lambda: len(zombies() - before) == 1, "it has ended")
        with container.exec(["true"]) as process:
            process.wait()
        assert not zombies() - before


def zombies() -> set[int]:
    """Children of this program that have ended and were not reaped."""
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return {child for child in map(int, children.split()) if host.fields(child)[:1] == ["Z"]}


def test_the_one_that_waits_outside_is_not_seen_inside(engine: Engine, rootfs: Path) -> None:
    with engine.create(spec(rootfs), driver="native", stdin=DEVNULL) as container:
        container.start()
        with container.exec(["ps", "-o", "comm"], stdout=PIPE) as process:
            out = process.communicate()[0]
            assert out is not None
            assert out.split() == [b"COMMAND", b"init", b"sleep", b"ps"]


def test_cgroups_that_another_program_made_go_with_the_container(engine: Engine, rootfs: Path) -> None:
    with engine.create(spec(rootfs), driver="native", stdin=DEVNULL) as container:
        container.start()
        name = f"{cgroups.parent()}/{container.id}"
        layout = cgroups.look()
        assert not cgroups.find(name, layout)
        program = (
            "import sys, execdrivers; e = execdrivers.Engine(sys.argv[1]); c = e.get(sys.argv[2]);"
            "c.pause(); c.resume(); c.update(pids=7, memory='32M')"
        )
        subprocess.run([sys.executable, "-c", program, engine.root, container.id], check=True)
        made = cgroups.find(name, layout)
        assert made
        assert set(cgroups.processes([c for c in made if "pids" in c.controllers])) == set(container.pids())
        with container.exec(["sleep", "60"]) as process:
            for cgroup in made:
                assert process.pid in cgroups.processes([cgroup])
        container.delete(force=True)
        assert not cgroups.find(name, layout)


@pytest.mark.parametrize("verb", ["pause", "exec"])
def test_it_ends_as_another_program_takes_hold_of_it(
    engine: Engine, rootfs: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    find = NativeHandle.find

    def too_late(handle: NativeHandle, state: Any) -> None:
        os.kill(state["pid"], 9)
        os.waitpid(state["pid"], 0)
        find(handle, state)

    monkeypatch.setattr(NativeHandle, "find", too_late)
    with engine.create(spec(rootfs), driver="native", stdin=DEVNULL) as container, Engine(engine.root) as other:
        container.start()
        record = Path(engine.root, container.id, "state.json")
        noted = {key: json.loads(record.read_bytes())[key] for key in ("process", "handle")}
        with pytest.raises(InvalidState, match="is ending and cannot be paused" if verb == "pause" else "is ending"):
            other.get(container.id).pause() if verb == "pause" else other.get(container.id).exec(["true"])
        assert noted.items() <= json.loads(record.read_bytes()).items(), "so that all of it is found"
        container.delete()
        assert not cgroups.find(f"{cgroups.parent()}/{container.id}", cgroups.look())


def test_memory_with_swap_goes_up_and_down(engine: Engine, rootfs: Path) -> None:
    with engine.create(spec(rootfs, memory="64M"), driver="native", stdin=DEVNULL) as container:
        container.start()
        name = f"{cgroups.parent()}/{container.id}"
        for size in (128, 32, 48):
            container.update(memory=size << 20)
            found = next(c for c in cgroups.find(name, cgroups.look()) if "memory" in c.controllers)
            file = "memory.max" if found.version == 2 else "memory.limit_in_bytes"
            assert int((Path(found.path) / file).read_text()) == size << 20


def test_without_privilege(nobody: dict[str, Any]) -> None:
    """One more process in a container of an ordinary user."""
    program = (
        "import execdrivers as x; e = x.Engine(); c = e.create(x.ContainerSpec(['sleep', '60']), driver='native');"
        "c.start(); p = c.exec(['sh', '-c', 'id -u; exit 3'], stdout=x.PIPE); print(p.communicate(), p.returncode);\n"
        "try: c.exec(['id'], user='0')\n"
        "except x.SpecError as error: print(error.field)\n"
        "c.delete(force=True); print(x.run(['ls', '/sys/class/net'], network='host', memory=-1).exit)"
    )
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, **nobody)
    first, second, *links, last = done.stdout.splitlines()
    assert (first, second, last) == ("(b'65534\\n', None) 3", "user", "exited with code 0"), done.stderr
    assert set(links) == set(os.listdir("/sys/class/net"))


def test_what_becomes_of_a_container_whose_maker_is_killed_is_told_once(engine: Engine, rootfs: Path) -> None:
    text = f"""
from execdrivers import ContainerSpec, Engine
c = Engine({engine.root!r}).create(ContainerSpec(["sleep", "60"], rootfs={str(rootfs)!r}), driver="native", name="x")
c.start()
print(flush=True)
input()
"""
    pipe = subprocess.PIPE
    with (
        engine.events(containers="x", until=time.time() + 30) as stream,
        subprocess.Popen([sys.executable, "-c", text], stdin=pipe, stdout=pipe) as maker,
    ):
        assert maker.stdout is not None
        maker.stdout.readline()
        maker.kill()
        seen = [next(stream) for _ in range(4)]
    assert [event.type for event in seen] == ["created", "started", "exited", "deleted"]
    assert [event.type for event in engine.events(follow=False)] == ["created", "started", "exited", "deleted"]
