"""The registry: names, plugins that fail, the choice of a driver."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from execdrivers import (
    ContainerSpec,
    Driver,
    DriverUnavailable,
    Plan,
    PluginError,
    Probe,
    Problem,
    Registry,
    SpecError,
    UnknownDriver,
    UnsupportedFeature,
    VetoError,
    hookimpl,
)
from execdrivers.registry import BUILT_IN


class Answering(Driver):
    """Answers to probes and plans; nothing more is needed for a choice."""

    answer: Probe
    probed = 0

    def probe(self):
        type(self).probed += 1
        return self.answer

    def plan(self, spec, id):
        return Plan(driver=self.name, steps=())

    def create(self, request):
        raise NotImplementedError

    def recover(self, id, state, directory):
        raise NotImplementedError


def driver(name, features=(), *, strength=0, problems=(), missing=None, **attributes):
    answer = Probe(available=not problems, version="1", features=features, problems=problems, missing=missing or {})
    return type(name.title(), (Answering,), {"name": name, "strength": strength, "answer": answer, **attributes})


def plugin(*drivers):
    class Plugin:
        @hookimpl
        def execdrivers_register_drivers(self):
            return drivers

    return Plugin()


@pytest.fixture
def bare():
    return Registry(built_in={}, entry_points=False)


SPEC = ContainerSpec(["true"])
HOSTNAME = ContainerSpec(["true"], hostname="h")

WEAK = driver("weak", {"rootfs.host"}, strength=1)
STRONG = driver("strong", {"rootfs.host", "hostname", "tty"}, strength=9)
NEVER = driver("never", {"rootfs.host", "hostname", "umask"}, strength=-1)
ABSENT = driver("absent", strength=5, problems=(Problem("no tool", "apt install tool"),))


@pytest.fixture
def four(bare):
    bare.register(plugin(WEAK, STRONG, NEVER, ABSENT))
    return bare


# --- choice


def test_auto_takes_the_strongest_that_can(four):
    assert four.names() == ("strong", "absent", "weak", "never")
    assert four.choose("auto", SPEC).name == "strong"
    assert four.choose("weak", SPEC).name == "weak"
    assert four.choose("never", HOSTNAME).name == "never"


def test_auto_tells_why_none_can(four):
    with pytest.raises(DriverUnavailable) as caught:
        four.choose("auto", ContainerSpec(["true"], umask=0o22))
    text = str(caught.value)
    assert "strong: does not enforce umask (asked for by umask)" in text
    assert "absent: no tool" in text
    assert "for absent: apt install tool" in text
    assert "never" not in text


def test_a_named_driver_that_lacks_a_feature(four):
    with pytest.raises(UnsupportedFeature) as caught:
        four.choose("weak", HOSTNAME)
    error = caught.value
    assert (error.driver, error.feature, error.field) == ("weak", "hostname", "hostname")
    assert error.alternatives == ("strong", "never")
    assert str(error) == (
        "driver 'weak' does not enforce hostname (asked for by hostname); use driver 'strong' or 'never'"
    )


def test_the_reason_of_the_driver_is_told(bare):
    missing = {"hostname": Problem("this kernel has no UTS namespaces", "boot another")}
    bare.register(plugin(driver("d", {"rootfs.host"}, missing=missing)))
    with pytest.raises(UnsupportedFeature, match=r"this kernel has no UTS namespaces; boot another"):
        bare.choose("d", HOSTNAME)


def test_a_driver_that_cannot_run_here(four):
    with pytest.raises(DriverUnavailable, match="driver 'absent' cannot run here: no tool; apt install tool"):
        four.choose("absent", SPEC)
    assert four.choose("absent", SPEC, to_run=False).name == "absent"


def test_options_of_a_driver_that_is_not_chosen(four):
    spec = ContainerSpec(["true"], driver_options={"weak": {"x": 1}})
    assert four.choose("weak", spec).name == "weak"
    with pytest.raises(SpecError, match=r"driver_options\['weak'\].*that is 'strong'"):
        four.choose("auto", spec)


def test_probes_are_asked_once(bare):
    one = driver("one", {"rootfs.host"})
    bare.register(plugin(one))
    for _ in range(3):
        bare.choose("one", SPEC)
    assert one.probed == 1
    bare.refresh()
    bare.choose("auto", SPEC)
    assert one.probed == 2


def test_a_probe_that_raises(bare):
    def fail(self):
        raise ZeroDivisionError("oops")

    bare.register(plugin(driver("d", probe=fail)))
    bare.register(plugin(driver("quits", probe=lambda self: sys.exit(3)), driver("mute", probe=lambda self: None)))
    for name, told in [
        ("d", "ZeroDivisionError: oops"),
        ("quits", "SystemExit: 3"),
        ("mute", "TypeError: it gave None"),
    ]:
        with pytest.raises(DriverUnavailable, match=f"its probe failed: {told}"):
            bare.choose(name, SPEC)


def test_unknown_names(four):
    with pytest.raises(UnknownDriver, match=r"no driver 'stong'; did you mean 'strong'\? \(known are auto, strong"):
        four.get("stong")
    with pytest.raises(UnknownDriver, match="known are auto, strong, absent, weak, never"):
        four.get("xyz")


# --- plugins in this program


def test_plugins_that_do_not_fit(bare):
    class UnknownHook:
        @hookimpl
        def execdrivers_amend_specs(self, spec): ...

    class UnknownParameter:
        @hookimpl
        def execdrivers_amend_spec(self, spec, colour): ...

    class Wrapper:
        @hookimpl(wrapper=True)
        def execdrivers_observe(self, event):
            return (yield)

    class Broken:
        @hookimpl
        def execdrivers_register_drivers(self):
            raise ImportError("no module named z")

    for bad, told in [
        (UnknownHook(), "execdrivers_amend_specs"),
        (UnknownParameter(), "colour"),
        (Wrapper(), "wrapper"),
        (Broken(), "no module named z"),
        (plugin(int), "not a subclass of Driver"),
        (plugin(driver("auto")), "a meaning of its own"),
        (plugin(driver("two"), driver("two")), "there is one of that name"),
        (plugin(driver("old", interface_version=(2, 0))), "built for interface version 2.0, this is 1.2"),
    ]:
        with pytest.raises(PluginError, match=told):
            bare.register(bad)
    assert bare.names() == ()
    good = plugin(driver("good", interface_version=(1, 7)))
    bare.register(good)
    with pytest.raises(PluginError, match="already registered"):
        bare.register(good)
    assert bare.names() == ("good",)


def test_a_second_driver_of_the_same_name(four):
    four.register(plugin(driver("first")), "early")
    with pytest.raises(PluginError, match=r"plugin 'late' .* there is one of that name in 'early'; uninstall one"):
        four.register(plugin(driver("first")), "late")
    with pytest.raises(PluginError, match="there is one of that name"):
        four.register(plugin(driver("weak")))
    assert type(four.get("weak")) is WEAK


def test_a_plugin_for_a_higher_minor_version(bare):
    """It may know of features that we have no name for."""
    bare.register(plugin(driver("d", {"rootfs.host", "telepathy"}, interface_version=(1, 9))))
    assert bare.choose("auto", SPEC).name == "d"


def test_a_driver_that_cannot_be_made(bare):
    def fail(self):
        raise SystemExit("no licence")

    with pytest.raises(PluginError, match="driver 'd' of plugin 'p' cannot be made: SystemExit: no licence"):
        bare.register(plugin(driver("d", __init__=fail)), "p")
    bare.register(plugin(WEAK))
    assert bare.names() == ("weak",)


def test_a_plugin_that_exits(bare):
    class Quitter:
        @hookimpl
        def execdrivers_register_drivers(self):
            raise SystemExit(3)

    with pytest.raises(PluginError, match="failed to bring its drivers: SystemExit: 3"):
        bare.register(Quitter())


# --- plugins that are installed


@pytest.fixture
def installed(tmp_path, program):
    """{module: text} → what a program prints that has these as plugins, each an entry point of its module's name."""

    def installed(modules, text):
        site = tmp_path / "site"
        info = site / "plugins-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1\n")
        lines = [f"{name.partition('=')[0]} = {name.rpartition('=')[2]}\n" for name in modules]
        (info / "entry_points.txt").write_text("[execdrivers]\n" + "".join(lines))
        for name, source in modules.items():
            (site / f"{name.rpartition('=')[2].partition(':')[0]}.py").write_text(source)
        head = f"""
import sys; sys.path.insert(0, {str(site)!r})
from execdrivers import *
from execdrivers import ContainerSpec, Registry
"""
        done = subprocess.run([sys.executable, "-c", head + text], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return installed


DRIVER_PLUGIN = """
from execdrivers import Driver, Plan, Probe, hookimpl
class Mine(Driver):
    name = "{name}"
    interface_version = {version}
    def probe(self): return Probe(available=True, version="1", features={{"rootfs.host"}})
    def plan(self, spec, id): return Plan(driver=self.name, steps=())
    def create(self, request): ...
    def recover(self, id, state, directory): ...
@hookimpl
def execdrivers_register_drivers(): return [Mine]
"""


def test_installed_plugins_each_stand_or_fall_alone(installed):
    out, err = installed(
        {
            "good": DRIVER_PLUGIN.format(name="mine", version=(1, 0)),
            "broken": "import nonesuch",
            "old": DRIVER_PLUGIN.format(name="outdated", version=(0, 1)),
            "thief": DRIVER_PLUGIN.format(name="native", version=(1, 0)),
            "native=usurper": DRIVER_PLUGIN.format(name="usurper", version=(1, 0)),
        },
        """
r = Registry()
print("mine" in r.names(), "native" in r.names(), "usurper" in r.names())
print(sorted(r.errors))
print(type(r.get("native")).__module__.partition(".")[0])
for name in ("broken", "outdated"):
    try: r.get(name)
    except PluginError as error: print(error)
""",
    )
    lines = out.splitlines()
    assert lines[0] == "True True False"
    assert lines[1] == "['broken', 'old', 'outdated', 'thief', 'usurper']"
    assert lines[2] == "execdrivers_native"
    assert lines[3] == "plugin 'broken' failed to import: ModuleNotFoundError: No module named 'nonesuch'"
    assert "built for interface version 0.1" in lines[4]
    assert "plugin 'broken' failed to import" in err, "it may have been the policy: a warning is due"


BAD_PLUGINS = {
    "broken": "import nonesuch",
    "quits": "import sys; sys.exit(3)",
    "stops": "raise GeneratorExit",
    "mistyped": "def f(:",
    "endless": "def f(): f()\nf()",
    "partial=missing:attribute": "",
    "mute": "from execdrivers import hookimpl\n@hookimpl\ndef execdrivers_register_drivers(): return None",
    "leaver": "from execdrivers import hookimpl\n@hookimpl\ndef execdrivers_register_drivers(): raise SystemExit",
    "old": DRIVER_PLUGIN.format(name="outdated", version=(0, 1)),
    "future": DRIVER_PLUGIN.format(name="later", version=(1, 9)),
    "first": DRIVER_PLUGIN.format(name="twin", version=(1, 0)),
    "second": DRIVER_PLUGIN.format(name="twin", version=(1, 0)),
    "shared=one": DRIVER_PLUGIN.format(name="one", version=(1, 0)),
    "shared=two": DRIVER_PLUGIN.format(name="two", version=(1, 0)),
}


def test_bad_plugins_are_told_and_the_others_work(installed):
    """As a user sees it, by ``execdrivers drivers`` and ``run``."""
    out, err = installed(
        BAD_PLUGINS,
        """
from execdrivers.cli import main
assert main(["drivers"]) == 0
from execdrivers.registry import default_registry
assert type(default_registry().get("twin")).__module__ == "first"
assert default_registry().get("native").name == "native"
""",
    )
    rows = {line.split()[0]: line.split()[1] for line in out.partition("\n\n")[0].splitlines()[1:]}
    assert {rows[name] for name in ("later", "twin", "one")} == {"yes"}
    assert {"native", "chroot"} <= rows.keys()
    told = dict(re.findall(r"^(\S+) cannot be used: (.*)$", out, re.MULTILINE))
    assert told == {
        "broken": "plugin 'broken' failed to import: ModuleNotFoundError: No module named 'nonesuch'",
        "quits": "plugin 'quits' failed to import: SystemExit: 3",
        "stops": "plugin 'stops' failed to import: GeneratorExit: ",
        "mistyped": told["mistyped"],
        "endless": told["endless"],
        "partial": told["partial"],
        "mute": "plugin 'mute' failed to bring its drivers: TypeError: 'NoneType' object is not iterable",
        "leaver": "plugin 'leaver' failed to bring its drivers: SystemExit: ",
        "old": told["outdated"],
        "outdated": told["outdated"],
        "second": "plugin 'second' brings a driver 'twin', and there is one of that name in 'first'",
        "two": "plugin 'two' takes the name of plugin 'one': 'shared'",
    }
    assert "failed to import: SyntaxError" in told["mistyped"]
    assert "failed to import: RecursionError" in told["endless"]
    assert "failed to import: AttributeError" in told["partial"]
    assert "built for interface version 0.1, this is 1." in told["outdated"]
    assert "Traceback" not in out + err


def test_an_installed_policy_is_never_passed_over(installed):
    policy = """
from execdrivers import VetoError, hookimpl
@hookimpl
def execdrivers_amend_spec(spec): raise VetoError("not here")
"""
    out, _ = installed(
        {"policy": policy},
        """
for call in (Engine().run, Engine().create, Engine().explain):
    try: call(ContainerSpec(["true"]), driver="native")
    except VetoError as error: print(error)
""",
    )
    assert out == "not here\n" * 3


def test_a_built_in_driver_needs_no_scan(installed):
    out, _ = installed(
        {"loud": "print('loaded')"},
        "r = Registry(); r.get('native'); import sys; print('importlib.metadata' in sys.modules); r.names()",
    )
    assert out == "False\nloaded\n"


def test_a_source_tree_without_entry_points_has_the_built_in_drivers():
    assert {"native", "chroot"} <= set(Registry(entry_points=False).names())


def test_nothing_heavy_is_imported():
    code = """
import attrs, sys
before = {*sys.modules}  # some releases of attrs import much on some releases of Python
import execdrivers.engine, execdrivers.registry
heavy = "subprocess asyncio logging tempfile uuid selectors shutil secrets importlib.metadata pluggy tty termios"
print([name for name in heavy.split() if name in sys.modules and name not in before])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_errors_for_vetoes_are_permission_errors():
    assert issubclass(VetoError, PermissionError)
    assert Path(__file__).exists()


def test_built_in_drivers_are_listed_by_strength():
    registry = Registry(entry_points=False)
    assert list(registry.names()) == list(BUILT_IN)


def test_auto_loads_no_driver_that_it_does_not_need():
    program = """if True:
        import sys
        from execdrivers import ContainerSpec, Registry
        registry = Registry(entry_points=False)
        print(registry.choose("auto", ContainerSpec(["true"]), to_run=False).name)
        print([name for name in sys.modules if name.startswith("execdrivers_") and name.endswith(".driver")])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "native\n['execdrivers_native.driver']\n"


def test_auto_takes_a_stronger_one_from_outside():
    registry = Registry(entry_points=False)
    registry.register(plugin(driver("middling", strength=50)))
    registry.register(plugin(driver("mighty", strength=101)))
    assert list(registry._strongest_first()) == ["mighty", "native", "middling", "lxc", "oci"]
