"""The registry: which drivers and hooks there are, and which driver takes a spec.

Built-in drivers are found by name. All other plugins come from the entry points of the group ``execdrivers``, which
are read once, when hooks are called for the first time, a name is not built in, or all drivers are asked for. A plugin
that fails is kept as an error and disturbs no other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from execdrivers.driver import INTERFACE_VERSION, Driver, Probe, Problem
from execdrivers.errors import DriverUnavailable, PluginError, SpecError, UnknownDriver, UnsupportedFeature

if TYPE_CHECKING:
    import pluggy

    from execdrivers.events import Event
    from execdrivers.spec import ContainerSpec

__all__ = ["BUILT_IN", "Registry", "default_registry"]

#: Driver → the module of its plugin, whose entry point has the driver's name; the strongest first.
BUILT_IN: Mapping[str, str] = {name: f"execdrivers_{name}" for name in ("native", "lxc", "oci", "chroot")}

#: What a plugin may fail with: anything, sys.exit() too; an interrupt is not its doing.
_FAILURES = (Exception, SystemExit, GeneratorExit)


class Registry:
    """Drivers and hooks. One instance serves all threads; `default_registry` is what engines share."""

    def __init__(self, *, built_in: Mapping[str, str] = BUILT_IN, entry_points: bool = True) -> None:
        """Without ``entry_points`` there is only what is built in or registered."""
        #: Plugin or driver name → why it cannot be used.
        self.errors: dict[str, PluginError] = {}
        self._built_in = dict(built_in)
        self._lock = threading.RLock()
        self._manager: pluggy.PluginManager | None = None
        self._to_scan = entry_points
        self._drivers: dict[str, Driver] = {}
        self._probes: dict[str, Probe] = {}
        #: Driver → the plugin that brought it.
        self._origins: dict[str, str] = {}
        #: Whether any plugin observes events; None: not looked yet, or plugins have come or gone since.
        self._observed: bool | None = None
        #: Plugins whose drivers nobody has asked for yet, by name.
        self._unasked: dict[str, Any] = {}

    # --- drivers

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add a plugin of this program: a module or object with functions marked ``@hookimpl``.

        Raises `PluginError` when its hooks or drivers do not fit.
        """
        with self._lock:
            name = name or getattr(plugin, "__name__", None) or f"{type(plugin).__qualname__}-{id(plugin):x}"
            self._add(name, plugin)
            try:
                self._ask(name)
            except PluginError:
                self._plugins().unregister(plugin)
                self._observed = None
                raise

    def get(self, name: str) -> Driver:
        """The driver of that name. Raises `UnknownDriver`, or `PluginError` when its plugin cannot be used."""
        driver = self._drivers.get(name)
        if driver is not None:
            return driver
        with self._lock:
            if name not in self._drivers:
                self._find(name)
            if name not in self._drivers:
                if name in self.errors:
                    raise self.errors[name].with_traceback(None)
                raise self._unknown(name)
            return self._drivers[name]

    def names(self) -> tuple[str, ...]:
        """All drivers, the strongest first; those in `errors` left out."""
        with self._lock:
            self._load_all()
            return tuple(sorted(self._drivers, key=lambda name: (-self._drivers[name].strength, name)))

    def probe(self, name: str) -> Probe:
        """The driver's answer, asked for once. A driver that cannot even answer is not available."""
        probe = self._probes.get(name)
        if probe is None:
            driver = self.get(name)
            try:
                probe = driver.probe()
                if not isinstance(probe, Probe):
                    raise TypeError(f"it gave {probe!r}, which is not a Probe")
            except _FAILURES as error:
                problem = Problem(f"its probe failed: {_shown(error)}", "report this to its authors")
                probe = Probe(available=False, version="", problems=(problem,))
            self._probes[name] = probe
        return probe

    def refresh(self) -> None:
        """Forget all probes: the host has changed, a tool was installed …"""
        self._probes.clear()

    # --- choice

    def choose(
        self, name: str, spec: ContainerSpec, *, to_run: bool = True, also: Mapping[str, str] | None = None
    ) -> Driver:
        """The driver for a spec: the one named, or, by ``auto``, the strongest that enforces all it asks for, and what
        is asked for ``also`` (feature → what asks for it).

        Not ``to_run``: one that cannot run here, or has a feature that only this host or user lacks, will do.
        Raises `UnknownDriver`, `PluginError`, `DriverUnavailable`, `UnsupportedFeature`, and `SpecError` for options
        of a driver that is not chosen.
        """
        from execdrivers.features import required

        asked = required(spec) if also is None else {**required(spec), **also}
        driver = self._choose_auto(asked, to_run) if name == "auto" else self._choose_named(name, asked, to_run)
        for other in spec.driver_options:
            if other != driver.name:
                problem = f"is for a driver that is not chosen: that is {driver.name!r}"
                remedy = f"choose driver={other!r}, or leave the options out"
                raise SpecError(f"driver_options[{other!r}]", spec.driver_options[other], problem, remedy)
        return driver

    def require(self, name: str, asked: Mapping[str, str]) -> None:
        """Raise `UnsupportedFeature` unless the driver has all these features (feature → what asks for it)."""
        probe = self.probe(name)
        if lacking := _lacking(probe, asked):
            raise self._unsupported(name, probe, lacking, asked)

    def require_available(self, name: str) -> Probe:
        """The driver's probe. Raises `DriverUnavailable` when it cannot run here."""
        probe = self.probe(name)
        if not probe.available:
            reasons, remedies = _told(probe.problems)
            raise DriverUnavailable(f"driver {name!r} cannot run here: {reasons}", remedy=remedies)
        return probe

    def _choose_named(self, name: str, asked: Mapping[str, str], to_run: bool) -> Driver:
        driver = self.get(name)
        probe = self.require_available(name) if to_run else self.probe(name)
        lacking = _lacking(probe, asked)
        if not to_run:
            # What the driver knows and only lacks here and now can be explained all the same; a driver that cannot
            # run at all may not even have been able to say what it knows.
            known = probe.missing if probe.features else asked
            lacking = [feature for feature in lacking if feature not in known]
        if lacking:
            raise self._unsupported(name, probe, lacking, asked)
        return driver

    def _choose_auto(self, asked: Mapping[str, str], to_run: bool) -> Driver:
        names, reasons, remedies = [], [], []
        for name in self._strongest_first():
            names.append(name)
            probe = self.probe(name)
            lacking = _lacking(probe, asked)
            if probe.available and not lacking:
                return self.get(name)
            if not probe.available:
                reason, remedy = _told(probe.problems)
            else:
                error = self._unsupported(name, probe, lacking, asked, alternatives=())
                reason, remedy = error.message.removeprefix(f"driver {name!r} "), error.remedy
            reasons.append(f"{name}: {reason}")
            remedies += [f"for {name}: {remedy}"] if remedy else []
        reasons += [str(error) for error in self.errors.values()]
        if not to_run and names:
            return self._choose_named(names[0], asked, to_run)
        message = f"no driver can take this container: {'; '.join(reasons) or 'none is installed'}"
        raise DriverUnavailable(message, remedy="; ".join(remedies))

    def _strongest_first(self) -> Iterator[str]:
        """The drivers for ``auto``. Of the built-in ones, listed by strength, none is loaded before its turn."""
        with self._lock:
            self._hooks()
            for plugin in [name for name in self._unasked if name not in self._built_in]:
                self._ask_quietly(plugin)
        waiting, told = list(self._built_in), set[str]()
        while True:
            with self._lock:
                if waiting:
                    self._find(waiting[0])
                drivers = dict(self._drivers)
            loaded = drivers.get(waiting.pop(0)) if waiting else None
            least = max(0, loaded.strength if loaded and waiting else 0)
            for name in sorted(drivers.keys() - told, key=lambda name: (-drivers[name].strength, name)):
                if drivers[name].strength >= least and (loaded or not waiting):
                    told.add(name)
                    yield name
            if not waiting:
                return

    def _unsupported(
        self,
        name: str,
        probe: Probe,
        lacking: list[str],
        asked: Mapping[str, str],
        alternatives: Iterable[str] | None = None,
    ) -> UnsupportedFeature:
        feature = lacking[0]
        problem = probe.missing.get(feature, Problem(""))
        if alternatives is None:
            others = [(other, self.probe(other)) for other in self.names() if other != name]
            alternatives = [other for other, able in others if able.available and not _lacking(able, asked)]
        remedy = problem.remedy if not alternatives else ""
        field = asked[feature]
        return UnsupportedFeature(name, feature, field, reason=problem.reason, alternatives=alternatives, remedy=remedy)

    # --- hooks

    def amend(self, spec: ContainerSpec, driver: str) -> ContainerSpec:
        """The spec after all policy plugins have seen it. Raises what they raise, `VetoError` above all."""
        hook = self._hooks().execdrivers_amend_spec
        # Reversed as pluggy calls them: the last registered first, those with tryfirst before, with trylast after.
        for implementation in reversed(hook.get_hookimpls()):
            given = {"spec": spec, "driver": driver}
            result = implementation.function(*[given[name] for name in implementation.argnames])
            if result is None:
                continue
            if type(result) is not type(spec):
                message = f"plugin {implementation.plugin_name!r} amended the spec to {type(result).__name__}"
                raise PluginError(message, remedy="execdrivers_amend_spec returns a ContainerSpec or None")
            spec = result
        return spec

    @property
    def observed(self) -> bool:
        """Whether any plugin observes events."""
        observed = self._observed
        if observed is None:
            with self._lock:  # in which plugins come and go
                observed = self._observed = bool(self._hooks().execdrivers_observe.get_hookimpls())
        return observed

    def observe(self, event: Event) -> None:
        """Show an event to all observers; what they raise is logged."""
        for implementation in reversed(self._hooks().execdrivers_observe.get_hookimpls()):
            try:
                implementation.function(*([event] if implementation.argnames else []))
            except Exception:
                _log().exception("plugin %r failed to observe: %s", implementation.plugin_name, event)

    # --- plugins

    def _hooks(self) -> Any:
        # No policy may be passed over, so none is called before all are known.
        if self._to_scan:
            with self._lock:
                self._scan()
        return self._plugins().hook

    def _plugins(self) -> pluggy.PluginManager:
        manager = self._manager
        if manager is None:
            import pluggy

            from execdrivers import hookspecs

            with self._lock:
                if self._manager is None:
                    manager = pluggy.PluginManager(hookspecs.PROJECT)
                    manager.add_hookspecs(hookspecs)
                    self._manager = manager
                return self._manager
        return manager

    def _find(self, name: str) -> None:
        """Look for a driver where it may be, in the cheapest order."""
        module = self._built_in.get(name)
        if module is not None and name not in self.errors:
            if not self._plugins().has_plugin(name):
                self._load(name, lambda: import_module(module))
            self._ask_quietly(name)
        elif name not in self.errors:
            self._load_all()

    def _load_all(self) -> None:
        self._hooks()
        for name in self._built_in:
            if name not in self.errors and not self._plugins().has_plugin(name):
                self._find(name)
        for name in tuple(self._unasked):
            self._ask_quietly(name)

    def _scan(self) -> None:
        if not self._to_scan:
            return
        from importlib.metadata import entry_points

        from execdrivers.hookspecs import PROJECT

        # The names of built-in drivers are taken, whether those are loaded yet or not.
        taken = dict(self._built_in)
        for point in sorted(entry_points(group=PROJECT), key=lambda point: (point.name, point.value)):
            other = taken.setdefault(point.name, point.value)
            if other != point.value:
                whose = "a built-in one" if point.name in self._built_in else f"plugin {other!r}"
                message = f"plugin {point.value!r} takes the name of {whose}: {point.name!r}"
                self._keep(point.value, PluginError(message, remedy="its authors have to choose another name"))
            elif not self._plugins().has_plugin(point.name):
                self._load(point.name, point.load)
        self._to_scan = False

    def _load(self, name: str, load: Any) -> None:
        try:
            plugin = load()
        except _FAILURES as error:
            self._keep(name, PluginError(f"plugin {name!r} failed to import: {_shown(error)}"))
            return
        try:
            self._add(name, plugin)
        except PluginError as error:
            self._keep(name, error)

    def _add(self, name: str, plugin: object) -> None:
        import pluggy

        manager = self._plugins()
        if manager.is_registered(plugin) or manager.has_plugin(name):
            raise _unfit(name, "it is already registered")
        try:
            manager.register(plugin, name)
        except _FAILURES as error:
            if manager.is_registered(plugin):  # half, by pluggy before 1.7
                manager.unregister(plugin)
            raise _unfit(name, error) from error
        try:
            manager.check_pending()
            for caller in manager.get_hookcallers(plugin) or ():
                for implementation in caller.get_hookimpls():
                    if implementation.plugin is plugin and (implementation.wrapper or implementation.hookwrapper):
                        raise _unfit(name, f"{caller.name} is a wrapper, for which there is no use")
        except (pluggy.PluginValidationError, PluginError) as error:
            manager.unregister(plugin)
            raise error if isinstance(error, PluginError) else _unfit(name, error) from error
        self._unasked[name] = plugin
        self._observed = None

    def _ask(self, name: str) -> None:
        """Take in the drivers of one plugin. Raises `PluginError`, having taken none."""
        plugin = self._unasked.pop(name, None)
        if plugin is None:
            return
        drivers: dict[str, Driver] = {}
        for implementation in self._plugins().hook.execdrivers_register_drivers.get_hookimpls():
            if implementation.plugin is not plugin:
                continue
            try:
                brought: list[Any] = list(implementation.function())  # type: ignore[call-overload]
            except _FAILURES as error:
                raise PluginError(f"plugin {name!r} failed to bring its drivers: {_shown(error)}") from error
            for driver in brought:
                self._check(name, driver, drivers)
                try:
                    drivers[driver.name] = driver()
                except _FAILURES as error:
                    message = f"driver {driver.name!r} of plugin {name!r} cannot be made: {_shown(error)}"
                    raise PluginError(message) from error
        self._drivers.update(drivers)
        self._origins.update(dict.fromkeys(drivers, name))

    def _check(self, plugin: str, driver: type[Driver], others: Mapping[str, Driver]) -> None:
        is_driver = isinstance(driver, type) and issubclass(driver, Driver)
        if not is_driver or not isinstance(getattr(driver, "name", None), str):
            raise PluginError(f"plugin {plugin!r} brings {driver!r}, which is not a subclass of Driver with a name")
        if driver.name == "auto":
            raise PluginError(f"plugin {plugin!r} brings a driver named 'auto', which has a meaning of its own")
        taken = driver.name in self._drivers or driver.name in others
        if taken or self._built_in.get(driver.name, plugin) not in (plugin, driver.__module__.partition(".")[0]):
            origin = self._origins.get(driver.name, plugin if driver.name in others else "execdrivers")
            message = f"plugin {plugin!r} brings a driver {driver.name!r}, and there is one of that name in {origin!r}"
            raise PluginError(message, remedy="uninstall one of the two")
        error = self._misfit(plugin, driver)
        if error is not None:
            # For those who ask for the driver, not the plugin.
            self.errors.setdefault(driver.name, error)
            raise error

    def _misfit(self, plugin: str, driver: type[Driver]) -> PluginError | None:
        version = driver.interface_version
        if not (isinstance(version, tuple) and len(version) == 2 and all(isinstance(part, int) for part in version)):
            return PluginError(f"driver {driver.name!r} has the interface version {version!r}, not (major, minor)")
        if version[0] != INTERFACE_VERSION[0]:
            built, known = (".".join(map(str, pair)) for pair in (version, INTERFACE_VERSION))
            return PluginError(
                f"driver {driver.name!r} was built for interface version {built}, this is {known}",
                remedy=f"install a version of plugin {plugin!r} for this version of execdrivers",
            )
        missing = sorted(getattr(driver, "__abstractmethods__", ()))
        if missing:
            message = f"driver {driver.name!r} of plugin {plugin!r} is not complete: it has no {', no '.join(missing)}"
            return PluginError(message, remedy="see docs/writing-a-driver.md")
        return None

    def _ask_quietly(self, name: str) -> None:
        try:
            self._ask(name)
        except PluginError as error:
            self._keep(name, error)

    def _keep(self, name: str, error: PluginError) -> None:
        # Logged as well, since the plugin may have been the policy of this machine.
        self.errors[name] = error
        _log().warning("%s", error)

    def _unknown(self, name: str) -> UnknownDriver:
        from difflib import get_close_matches

        known = self.names()
        close = get_close_matches(str(name), ["auto", *known], 1, 0.5)
        remedy = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(('auto', *known))}"
        if close and len(known) > 1:
            remedy += f" (known are {', '.join(('auto', *known))})"
        return UnknownDriver(f"there is no driver {name!r}", remedy=remedy)


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _unfit(name: str, why: object) -> PluginError:
    return PluginError(f"plugin {name!r} does not fit: {why}", remedy="see docs/hooks.md")


def _lacking(probe: Probe, asked: Mapping[str, str]) -> list[str]:
    return [feature for feature in asked if feature not in probe.features]


def _told(problems: Iterable[Problem]) -> tuple[str, str]:
    """Reasons and remedies, each as one text."""
    problems = tuple(problems)
    reasons = "; ".join(problem.reason for problem in problems) or "it does not say why"
    return reasons, "; ".join(problem.remedy for problem in problems if problem.remedy)


def _log() -> Any:
    import logging

    return logging.getLogger("execdrivers")


_default: Registry | None = None
_default_lock = threading.Lock()


def default_registry() -> Registry:
    """The registry of this program, made when first asked for."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = Registry()
    return _default
