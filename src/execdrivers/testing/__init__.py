"""The conformance kit: what every driver must do, as tests that a driver's author inherits.

A test module of a few lines is all it takes (docs/conformance.md)::

    import pytest
    from execdrivers.testing import *
    from my_plugin import MyDriver

    @pytest.fixture(scope="session")
    def driver():
        return MyDriver

It needs pytest and hypothesis (``pip install execdrivers[testing]``) and a C compiler; whatever else a test needs and
the host lacks makes it skip with the reason.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

#: Area → the module of its test class.
AREAS = {
    "TestDeclaration": "declaration",
    "TestHandle": "handle",
    "TestLifecycle": "lifecycle",
    "TestMachine": "machine",
    "TestSignals": "signals",
    "TestStdio": "stdio",
    "TestTty": "tty",
    "TestExit": "exit",
    "TestEnvironment": "environment",
    "TestUsers": "users",
    "TestCapabilities": "capabilities",
    "TestProcess": "process",
    "TestSeccomp": "seccomp",
    "TestInit": "init",
    "TestFilesystem": "filesystem",
    "TestMounts": "mounts",
    "TestMountOptions": "mount_options",
    "TestDevices": "devices",
    "TestNamespaces": "namespaces",
    "TestIds": "ids",
    "TestIsolation": "isolation",
    "TestLimits": "limits",
    "TestLandlock": "landlock",
    "TestExec": "exec",
    "TestPause": "pause",
    "TestUpdate": "update",
    "TestStats": "stats",
    "TestEvents": "events",
    "TestHooks": "hooks",
    "TestDetach": "detach",
    "TestMaker": "maker",
    "TestRecover": "recover",
    "TestCleanup": "cleanup",
}

_HOME = {
    **AREAS,
    "Kit": "kit",
    "needs": "gates",
    "Snapshot": "leaks",
    "Report": "program",
    "Attempt": "program",
}

# The areas only: `import *` is for test modules, which collect what is called Test….
__all__ = list(AREAS)


def __getattr__(name: str) -> Any:
    try:
        module = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'execdrivers.testing' has no attribute {name!r}") from None
    value = getattr(import_module(f"execdrivers.testing.{module}"), name)
    globals()[name] = value
    return value


def explain_assertions() -> None:
    """Have pytest show the values in failed assertions of the kit, as it does in test modules.

    Of modules that are not imported yet, by a pytest that runs already.
    """
    try:
        import pytest
    except ImportError:
        return
    modules = {f"execdrivers.testing.{module}" for module in {*_HOME.values(), "host"}}
    pytest.register_assert_rewrite(*(modules - set(sys.modules)))


explain_assertions()
