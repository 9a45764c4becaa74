"""A maker that is killed at each stage of the making, and has no guard: what `gc` removes and `recover` tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from execdrivers import Engine
from execdrivers.testing import host

pytestmark = pytest.mark.needs("root")

#: Before it does anything.
_HEAD = """
import signal
from execdrivers import guard
guard.cleaner = lambda: None
def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)
def after(kind, name):
    true = getattr(kind, name)
    def do(*args, **options):
        true(*args, **options)
        die()
    setattr(kind, name, do)
import execdrivers.cgroups, execdrivers.engine, execdrivers_native.driver
from execdrivers.announce import Announcer
from execdrivers.container import Container
from execdrivers.launcher import Launch
from execdrivers.monitor import Monitor
from execdrivers_native.driver import NativeDriver
from execdrivers_native.start import Start
"""

#: What is killed before it is let go.
BEFORE = {
    "reserved": "NativeDriver.create = die",
    "intended": "execdrivers.cgroups.create = die",
    "cgroups made": "Start.spawn = die",
    "launched": "Launch.ready = die",
    "made": "execdrivers.engine.spec_data = die",
    "recorded": "Announcer.note = die",
    "created": "make('a'); die()",
}
#: Once it is, attached.
LATER = {
    "starting": "Launch.go = die",
    "executed": "after(Launch, 'go')",
    "noted": "after(Container, '_write')",
    "running": "start('a'); die()",
    "ended": "start('a', command='exit 3').wait(); die()",
}
#: The same for one that is detached.
DETACHED = {
    "keeping": ("Monitor.keep = die", False),
    "kept": ("after(Monitor, 'keep')", False),
    "not yet executed": ("Launch.go = die", None),
    "executed": ("after(Launch, 'go')", None),
    "told": ("after(Monitor, 'channels')", True),
    "running": ("start('a', command='sleep 0.2; exit 3', detach=True); die()", True),
}


def die_at(program: Any, stage: str, then: str) -> None:
    assert program.run(_HEAD + stage + "\n" + then + "\ntell('alive')") == ""


@pytest.mark.parametrize("stage", [*BEFORE, *LATER])
def test_gc_removes_it(program: Any, stage: str) -> None:
    die_at(program, {**BEFORE, **LATER}[stage], "start('a')")
    assert program.records() == ["a"]
    with Engine(program.root) as engine:
        engine.recover()  # changes nothing
        assert [(item.id, item.what) for item in engine.gc(dry_run=True)] == [("a", "container")]
        assert [(item.id, item.what, item.error) for item in engine.gc()] == [("a", "container", None)]
        assert engine.gc() == [] and engine.list() == []
    assert not program.records()


@pytest.mark.parametrize("stage", [*BEFORE, *DETACHED])
def test_detached_it_is_there_whole_or_not_at_all(program: Any, stage: str) -> None:
    text, lives = {**{name: (text, False) for name, text in BEFORE.items()}, **DETACHED}[stage]
    die_at(program, text.replace("make('a')", "make('a', detach=True)"), "start('a', command='exit 3', detach=True)")
    assert program.records() == ["a"]
    state = program.root / "a" / "state.json"
    monitor = json.loads(state.read_text()).get("monitor", (0, 0))[0] if state.exists() else 0
    with Engine(program.root) as engine:
        if lives is False:
            host.until(lambda: engine.gc() and engine.list() == [], "it went")
        else:
            (container,) = engine.recover()
            ended = container.wait(20)
            assert container.state == "stopped"
            assert ended.code == 3 if lives else ended.code != 3, ended
            host.until(lambda: '"handle"' not in state.read_text(), "it was freed")
            assert engine.gc() == []
            container.delete()
        assert engine.list() == []
    host.until(lambda: not monitor or not host.alive(monitor), "its monitor ended")


def test_what_a_living_maker_has_stays(program: Any) -> None:
    process = program.start("make('a'); start('b'); start('c', command='exit 0').wait(); tell('on'); sys.stdin.read()")
    assert process.stdout.readline()
    with Engine(program.root) as engine:
        assert engine.gc() == []
        assert sorted(container.state for container in engine.recover()) == ["created", "running", "stopped"]
        assert program.records() == ["a", "b", "c"]
    process.kill()
    program.gone()


def test_what_is_being_made_stays(program: Any) -> None:
    process = program.start(
        "from execdrivers_native.driver import NativeDriver\n"
        "NativeDriver.create = lambda *_: (tell('on'), sys.stdin.read(), os._exit(0))\nmake('a')"
    )
    assert process.stdout.readline()
    with Engine(program.root) as engine:
        assert engine.gc() == [] and program.records() == ["a"]
        assert [container.state for container in engine.recover()] == ["creating"]
    process.kill()
    program.gone()


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[: len(text) // 2], lambda text: text.replace(b'"layout":2', b'"layout":99'), lambda text: b""],
    ids=["truncated", "newer", "empty"],
)
def test_a_damaged_record_is_told_and_keeps_no_other_from_its_turn(
    program: Any, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    program.run(
        "from execdrivers import guard; guard.cleaner = lambda: None\nfor name in 'abc': start(name)\nos._exit(0)"
    )
    record = program.root / "b" / "state.json"
    whole = record.read_bytes()
    record.write_bytes(damage(whole))
    with Engine(program.root) as engine:
        assert [container.id for container in engine.recover()] == ["a", "c"]
        assert "container 'b'" in caplog.text
        assert [item.id for item in engine.gc()] == ["a", "c"]
        (left,) = engine.list()
        assert left.id == "b" and left.error is not None
        record.write_bytes(whole)
        assert [item.id for item in engine.gc()] == ["b"]
