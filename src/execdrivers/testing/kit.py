"""What all test classes of the kit share: a driver on trial, an engine of its own, the oracle, the leak check."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from execdrivers import PIPE, CompletedContainer, Container, ContainerSpec, Engine, Registry, hookimpl
from execdrivers.driver import Driver, Probe
from execdrivers.testing import host, leaks
from execdrivers.testing.program import COMMAND, Attempt, Report, build, make_rootfs

if TYPE_CHECKING:
    from execdrivers.events import Event

__all__ = ["Command", "Kit"]

#: One command of the probe program: words, or one text to be split at spaces.
Command = str | Sequence[str]

#: Seconds that a container of the kit may run: far more than it takes, so that a hanging driver fails and no more.
TIMEOUT = 60.0


class Kit:
    """Base of the areas' classes. A test module supplies the fixture ``driver``: a `Driver` class or instance.

    Every test has: ``subject``, the driver; ``probe`` and ``features``, what it declares; ``engine``, on a state root
    of its own, which knows no other driver; ``rootfs``, with the probe program and nothing else, not to be changed;
    ``events``, those that an observer has seen; ``tmp``, an empty directory. After it nothing may be left behind.
    """

    subject: Driver
    name: str
    probe: Probe
    features: frozenset[str]
    engine: Engine
    registry: Registry
    rootfs: Path
    tmp: Path
    events: list[Event]
    #: Containers that another program has made, and that nobody but us would delete.
    orphans: list[Container]
    request: pytest.FixtureRequest
    #: For a container that needs a name: one that no other has, here or in another run of the kit.
    id: str

    @pytest.fixture(autouse=True)
    def _kit(
        self,
        request: pytest.FixtureRequest,
        driver: Driver | type[Driver],
        tmp_path: Path,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[None]:
        self.request = request
        self.subject = instance_of(driver)
        self.name = self.subject.name
        self.probe = answer_of(self.subject)
        self.features = self.probe.features
        self._apply_deviation()
        if not self.probe.available:
            host.lacking(f"driver {self.name} available: " + "; ".join(map(str, self.probe.problems)))
        self.rootfs = _shared_rootfs(tmp_path_factory.getbasetemp())
        self.tmp = tmp_path / "tmp"
        # What a driver or a tool puts into the directory for temporary files is easily found there.
        temporary = tmp_path / "temporary"
        for directory in (self.tmp, temporary):
            directory.mkdir()
        monkeypatch.setenv("TMPDIR", str(temporary))
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        self.events = []
        self.id = f"kit-{os.getpid()}-{next(_numbers)}"
        self.orphans: list[Container] = []
        self._made: list[Container] = []
        self.registry = self.new_registry()
        before = leaks.Snapshot()
        with Engine(tmp_path / "state", registry=self.registry) as self.engine:
            yield
            for container in self.orphans:
                container.delete(force=True)
        for held in (self.orphans, self._made):
            held.clear()
        assert not self.stored(), "left in the store"
        ids = {event.id for event in self.events}
        left = leaks.wait_for_none(before, ids, [str(tmp_path_factory.getbasetemp())])
        left += sorted(leaks.named_after(ids)) + [str(path) for path in temporary.iterdir()]
        assert not left, "left behind: " + "; ".join(left)

    def _apply_deviation(self) -> None:
        node = self.request.node
        declared = self.subject.deviations
        tests = (node.name, node.originalname)
        names = [f"{kind.__name__}::{test}" for kind in type(self).__mro__ for test in tests]
        reason = next((declared[name] for name in names if name in declared), None)
        if reason:
            node.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    def note(self, key: str, value: Any) -> None:
        """Something about this test for the matrix."""
        self.request.node.user_properties.append((f"execdrivers.{key}", value))

    # --- making containers

    def new_registry(self) -> Registry:
        """A registry with the driver on trial, and an observer that fills ``events``."""
        registry = Registry(built_in={}, entry_points=False)
        registry.register(Plugin(self.subject, self.events), "kit")
        return registry

    def new_engine(self) -> Engine:
        """Another engine on the same state root, as another program would have it."""
        return Engine(self.engine.root, registry=self.new_registry())

    def stored(self) -> list[str]:
        """Ids of the containers in the store."""
        root = Path(self.engine.root)
        return sorted(entry.name for entry in root.glob("[!.]*") if entry.is_dir())

    def own_rootfs(self, name: str = "rootfs") -> Path:
        """A rootfs that the test may change."""
        return make_rootfs(self.tmp / name, self.rootfs / "bin/probe")

    def spec(self, *commands: Command, **fields: Any) -> ContainerSpec:
        """A spec that runs commands of the probe program, in ``rootfs`` unless given another."""
        fields.setdefault("rootfs", self.rootfs)
        return ContainerSpec.build(fields.pop("args", None) or args_of(*commands), **fields)

    def run(self, *commands: Command, **options: Any) -> CompletedContainer:
        """Run commands of the probe program to their end, output captured; options are those of `Engine.run`."""
        given = {key: options.pop(key) for key in _RUN_OPTIONS & options.keys()}
        if "stdout" not in given and "stderr" not in given:
            given["capture_output"] = True
        given.setdefault("timeout", TIMEOUT)
        return self.engine.run(self.spec(*commands, **options), driver=self.name, **given)

    def create(self, *commands: Command, **options: Any) -> Container:
        """A container that waits to be started, its three streams piped. The engine deletes it at the end."""
        given: dict[str, Any] = {key: options.pop(key) for key in _CREATE_OPTIONS & options.keys()}
        given = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, **given}
        if options.get("tty"):
            given["stderr"] = None
        container = self.engine.create(self.spec(*commands, **options), driver=self.name, **given)
        self._made.append(container)  # one that is dropped is deleted at once, with a warning
        return container

    def start(self, *commands: Command, **options: Any) -> Container:
        """`create`, started."""
        container = self.create(*commands, **options)
        container.start()
        return container

    def start_ready(self, *commands: Command, **options: Any) -> Container:
        """`start`, and wait until the program runs: commands come after a line that was read already."""
        container = self.start("say ready", *(commands or ("sleep",)), **options)
        assert host.read_line(container.stdout) == "ready"
        return container

    # --- the oracle

    def report(self, **options: Any) -> Report:
        """What a process in such a container finds out about itself."""
        return Report.parse(self.output("report", **options))

    def output(self, *commands: Command, **options: Any) -> bytes:
        """What the commands print; they must end well and say nothing on stderr."""
        done = self.run(*commands, **options)
        assert (done.returncode, done.stderr or b"") == (0, b""), done
        assert isinstance(done.stdout, bytes)
        return done.stdout

    def attempts(self, *commands: Command, **options: Any) -> list[Attempt]:
        """What comes of each of these commands, which all are attempts."""
        return [Attempt.parse(line) for line in self.output(*commands, **options).splitlines()]

    def attempt(self, *words: str, **options: Any) -> Attempt:
        """What comes of one."""
        return self.attempts(words, **options)[0]

    def by_default(self) -> Report:
        """The report of a container whose spec says nothing but the rootfs; made once for each driver."""
        if self.subject not in _defaults:
            _defaults[self.subject] = self.report()
        return _defaults[self.subject]

    def state_of(self, container: Container) -> str:
        """Its state as of now, which a checker of types would otherwise take for what it was before."""
        return container.state

    def first_process(self, container: Container) -> int:
        """The host's pid of the container's first process, which runs the program."""
        assert container.pid is not None
        return container.pid

    def all_processes(self, count: int) -> set[int]:
        """The host's pids of the processes that have ``KIT=<id>`` in their environment, orphans too."""
        found = host.with_variable(f"KIT={self.id}")
        assert len(found) == count, f"{len(found)} processes instead of {count}"
        return found

    # --- the kit about itself

    def test_nothing_but_what_the_kit_says_is_tested(self) -> None:
        """A driver's test module may add tests; it overrides nothing. A driver declares deviations."""
        own = type(self)
        ours = [base for base in own.__mro__ if base.__module__.startswith("execdrivers.testing.")]
        of_kit = {name for base in ours for name in vars(base)}
        for base in own.__mro__:
            if base in ours or base is object:
                continue
            overridden = [name for name in vars(base) if name in of_kit and not _is_harmless(name)]
            assert not overridden, f"{base.__qualname__} overrides {', '.join(overridden)}; declare a deviation instead"


class Plugin:
    """Brings the driver on trial into a registry, and sees its containers' events."""

    def __init__(self, subject: Driver, events: list[Event]) -> None:
        self.subject = subject
        self.events = events

    @hookimpl
    def execdrivers_register_drivers(self) -> list[type[Driver]]:
        """The registry makes its own instance of a class; here that is the one on trial."""
        subject = self.subject

        class OnTrial(type(subject)):  # type: ignore[misc]
            def __new__(cls) -> Any:
                return subject

        return [OnTrial]

    @hookimpl
    def execdrivers_observe(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)


_RUN_OPTIONS = inspect.signature(Engine.run).parameters.keys() - {"self", "args", "driver", "fields"}
_CREATE_OPTIONS = inspect.signature(Engine.create).parameters.keys() - {"self", "spec", "driver"}

#: Attributes that every class has, or that a test class may have for its own purposes.
_HARMLESS = frozenset({"pytestmark", "driver"})

_defaults: dict[Driver, Report] = {}
_numbers = itertools.count()


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or (name.startswith("__") and name.endswith("__"))


@functools.cache
def instance_of(driver: Driver | type[Driver]) -> Driver:
    """The driver that the fixture supplies, one instance of a class."""
    return driver() if isinstance(driver, type) else driver


@functools.cache
def answer_of(driver: Driver) -> Probe:
    """Its probe, asked for once."""
    return driver.probe()


@functools.cache
def _shared_rootfs(base: Path) -> Path:
    directory = base / "kit"
    directory.mkdir(exist_ok=True)
    return make_rootfs(directory / "rootfs", build(directory))


def args_of(*commands: Command) -> list[str]:
    """Arguments for the probe program."""
    args = [COMMAND]
    for command in commands:
        words = command.split(" ") if isinstance(command, str) else [os.fspath(word) for word in command]
        args += [*words, ","]
    return args[:-1] if commands else args
