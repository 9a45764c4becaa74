"""Runtimes that misbehave: shell scripts that hand on to the real runc whatever they do not spoil."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers.container import Container
from execdrivers.engine import Engine
from execdrivers.spec import ContainerSpec
from execdrivers.stdio import DEVNULL

Fake = Callable[..., str]


@pytest.fixture
def runc() -> str:
    """The real one."""
    found = shutil.which("runc", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/bin")
    assert found
    return found


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], str]:
    """name, script → path of an executable."""

    def make(name: str, script: str) -> str:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def fake(program: Callable[[str, str], str], runc: str) -> Fake:
    """verb="script" … → path of a runtime that is runc but for those verbs; ``create`` is ``run`` as well.

    In the scripts ``real`` runs runc with all arguments, and the value of each option is in a variable of its name.
    """

    def make(**verbs: str) -> str:
        cases = "\n".join(f"{verb.replace('create', 'create|run')}) {script};;" for verb, script in verbs.items())
        return program(
            "fake-runc",
            f"""
real() {{ {runc} "$@"; }}
verb= before=
for word in "$@"; do
    case $before in --pid-file) pid_file=$word;; --log) log=$word;; esac
    case $word in create|run|start|delete|exec|pause|resume|update) verb=${{verb:-$word}};; esac
    before=$word
done
case $verb in
{cases}
esac
exec {runc} "$@"
""",
        )

    return make


@pytest.fixture
def create(engine: Engine, rootfs: Path) -> Callable[..., Container]:
    """A container on a given runtime."""

    def make(
        runtime: str = "", args: tuple[str, ...] = ("sleep", "60"), timeout: float = 20, **fields: object
    ) -> Container:
        options = {"timeout": timeout, **({"runtime": runtime} if runtime else {})}
        fields.setdefault("rootfs", rootfs)
        spec = ContainerSpec.build(args, driver_options={"oci": options}, **fields)  # type: ignore[arg-type]
        return engine.create(spec, driver="oci", stdin=DEVNULL, stdout=DEVNULL, stderr=None if spec.tty else DEVNULL)

    return make
