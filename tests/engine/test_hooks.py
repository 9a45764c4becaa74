"""Hooks: policy before, events after."""

from __future__ import annotations

import json

import pytest

from execdrivers import CommandNotFound, ContainerSpec, ContainerTimeout, Event, PluginError, VetoError, hookimpl


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
