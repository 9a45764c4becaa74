"""Hooks: policy before, events after."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import pytest

from execdrivers import (
    CommandNotFound,
    ContainerNotFound,
    ContainerSpec,
    ContainerTimeout,
    Engine,
    Event,
    PluginError,
    VetoError,
    hookimpl,
)


class Observer:
    def __init__(self):
        self.events = []

    @hookimpl
    def execdrivers_observe(self, event):
        self.events.append(event)

    @property
    def types(self):
        return [event.type for event in self.events]


@pytest.fixture
def observer(registry):
    observer = Observer()
    registry.register(observer)
    return observer


def amender(name, **options):
    class Amender:
        @hookimpl(**options)
        def execdrivers_amend_spec(self, spec, driver):
            return spec.replace(env={**spec.env, "SEEN": spec.env.get("SEEN", driver) + name})

    return Amender()


def test_each_policy_sees_what_the_one_before_returned(engine, registry):
    registry.register(amender("-last", trylast=True))
    registry.register(amender("-a"))
    registry.register(amender("-b"))
    registry.register(amender("-first", tryfirst=True))

    class Silent:
        @hookimpl
        def execdrivers_amend_spec(self):
            return None

    registry.register(Silent())
    r = engine.run(["sh", "-c", "echo $SEEN"], capture_output=True, text=True)
    assert r.stdout == "auto-first-b-a-last\n"
    with engine.create(ContainerSpec(["true"]), driver="host") as c:
        assert c.spec.env["SEEN"] == "host-first-b-a-last"


def test_a_veto(engine, registry, root, observer):
    class Policy:
        @hookimpl
        def execdrivers_amend_spec(self, spec):
            raise VetoError("not on this machine", remedy="ask the owner")

    registry.register(Policy())
    with pytest.raises(VetoError, match="not on this machine; ask the owner"):
        engine.run(["true"], name="x")
    assert not root.exists()
    assert observer.events == []


def test_a_policy_that_returns_nonsense(engine, registry):
    class Policy:
        @hookimpl
        def execdrivers_amend_spec(self, spec):
            return {"args": ["rm"]}

    registry.register(Policy(), "strange")
    with pytest.raises(PluginError, match="plugin 'strange' amended the spec to dict"):
        engine.run(["true"])


def test_events_of_a_run(engine, observer):
    engine.run(["sh", "-c", "exit 3"], name="x")
    assert observer.types == ["created", "started", "exited", "deleted"]
    created, started, exited, _ = observer.events
    assert created.spec["args"] == ["sh", "-c", "exit 3"]
    assert (created.id, created.driver, started.pid) == ("x", "host", created.pid)
    assert exited.exit.code == 3
    assert str(exited) == "x (host) exited: exited with code 3"
    for event in observer.events:
        data = json.loads(json.dumps(event.to_dict()))
        assert data["type"] == event.type
        assert isinstance(event, Event)


def test_events_of_a_long_life(engine, observer):
    with engine.create(ContainerSpec(["true"])) as c:
        c.start()
        c.wait()
        c.wait()
        c.poll()
        assert observer.types == ["created", "started", "exited"]
    c.delete()
    assert observer.types == ["created", "started", "exited", "deleted"]


def test_events_of_what_fails(engine, observer):
    with pytest.raises(CommandNotFound):
        engine.run(["/no/such"])
    assert observer.types == ["created", "exited", "deleted"]
    assert observer.events[1].exit.reason == "launch-failed"
    observer.events.clear()
    with pytest.raises(ContainerTimeout):
        engine.run(["sleep", "60"], timeout=0.05)
    assert observer.events[2].exit.reason == "timeout"


def test_an_observer_may_use_the_container(engine, registry):
    seen = []

    class Curious:
        @hookimpl
        def execdrivers_observe(self, event):
            if event.type == "exited":
                seen.append((c.state, c.wait().code, c.kill()))

    registry.register(Curious())
    with engine.create(ContainerSpec(["true"])) as c:
        c.start()
        c.wait()
    assert seen == [("stopped", 0, None)]


def test_explain_is_amended_and_does_nothing(engine, registry, root):
    registry.register(amender("-x"))

    class Wrap:
        @hookimpl
        def execdrivers_amend_spec(self, spec):
            return spec.replace(args=["wrapper", *spec.args])

    registry.register(Wrap())
    plan = engine.explain(ContainerSpec(["true"]), driver="host", name="n")
    assert plan.to_dict() == {"driver": "host", "steps": [{"op": "exec", "id": "n", "argv": ["wrapper", "true"]}]}
    assert engine.explain(ContainerSpec(["true"])) == engine.explain(ContainerSpec(["true"]))
    assert not root.exists()


# --- observers may do anything


def observing(registry, type, act):
    class Acting:
        @hookimpl(trylast=True)  # after who only looks on
        def execdrivers_observe(self, event):
            if event.type == type:
                act(event)

    registry.register(Acting())


def test_an_observer_deletes_what_has_ended(make, registry, root, observer):
    """By an engine of its own, as a plugin would; what was noticed through either object is told once, in its order."""

    def act(event):
        with contextlib.suppress(ContainerNotFound):  # what pytest keeps of an error would hold the container
            Engine(root, registry=registry).delete(event.id)

    observing(registry, "exited", act)
    for found in (False, True):
        container = make("exit 3")
        container.start()
        if found:
            container.detach()
        waiter = Engine(root, registry=registry).get(container.id) if found else container
        assert in_thread(lambda waiter=waiter: waiter.wait(10)).code == 3
        container.delete()
        assert observer.types[:3] == ["created", "started", "exited"]
        observer.events.clear()


def test_an_observer_waits_for_a_thread_that_is_at_the_container(make, registry, caplog):
    container = make("true")

    def act(event):
        in_thread(lambda: (container.kill(), container.state))

    for type in ("created", "started", "paused", "exited", "deleted"):
        observing(registry, type, act)
    container.start()
    container.wait()
    container.delete()
    assert caplog.text == ""


def test_an_observer_that_is_slow_holds_up_no_other_program(make, registry, root, caplog):
    container = make("true")
    container.start()
    container.detach()
    ours, others = (Engine(root, registry=registry).get(container.id) for _ in range(2))

    def act(event):
        others._entry.lock()  # as their delete() does
        others._entry.close()
        return True

    observing(registry, "exited", lambda event: in_thread(lambda: act(event)))
    ours.wait()
    container.delete()
    assert caplog.text == ""


def test_the_order_is_kept_among_threads(make, registry):
    """The end is noticed by one thread while another is still to tell of the start."""
    seen, started = [], threading.Event()

    class Slow:
        @hookimpl
        def execdrivers_observe(self, event):
            started.set()
            time.sleep(0.1 if event.type == "started" else 0)
            seen.append(event.type)

    container = make("true")
    registry.register(Slow())
    thread = threading.Thread(target=container.start)
    thread.start()
    assert started.wait(10)
    container.wait()
    container.delete()
    thread.join()
    assert seen == ["started", "exited", "deleted"]


def test_sinks_are_called_without_the_lock(make):
    """Also where it is an operation that finds that there is output."""
    came = threading.Event()

    def sink(data):
        in_thread(lambda: container.pids() or True)
        came.set()

    with make("echo out; sleep 60", stdout=sink) as container:
        container.start()
        while not came.is_set():
            container.pause()
            container.resume()


def in_thread(act):
    """What it returns. Fails when it hangs."""
    came = []
    thread = threading.Thread(target=lambda: came.append(act()), daemon=True)
    thread.start()
    thread.join(10)
    assert came, "it hangs, or failed"
    return came[0]
