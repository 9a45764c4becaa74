"""Runtimes that hang, lie, do nothing or are killed: a clear error each, and nothing left (the engine's leak check)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from execdrivers.container import Container
from execdrivers.engine import Engine
from execdrivers.errors import ExecDriverError, InvalidState, LaunchError, OperationError, SpecError, UnsupportedFeature

from .conftest import Fake

pytestmark = pytest.mark.needs("root", "runc")

Create = Callable[..., Container]

#: With these it takes a call to start a container.
_HOOKS = {"poststart": [{"path": "/bin/true"}]}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 0", "reports success, but no process"),
        ("exit 7", "exited with 7 and does not say why"),
        ("kill -9 $$", "was killed by SIGKILL and does not say why"),
        ("sleep 1000 & sleep 1000", "did not end within 1 seconds and was killed"),
        ('real "$@"; kill -9 $$', "was killed by SIGKILL"),
        ('real "$@"; sleep 1000', "did not end within 1 seconds"),
        ('real "$@"; exit 1', "exited with 1"),
        ('real "$@"; rm $pid_file; exit 0', "reports success, but no process"),
        ('real "$@"; echo 12x4 > $pid_file; exit 0', "wrote '12x4\\n' as a pid"),
        ('real "$@"; echo -1 > $pid_file; exit 0', "wrote '-1\\n' as a pid"),
        ('real "$@"; echo 99999999999999999999 > $pid_file; exit 0', "as a pid"),
        ("head -c 99 /dev/urandom > $pid_file; exit 0", "as a pid"),
        ("echo $STRANGER > $pid_file; exit 0", "none that it has made"),
        ("echo nonsense > $log; exit 1", "exited with 1 and does not say why"),
        ("head -c 9999 /dev/urandom > $log; exit 1", "exited with 1 and does not say why"),
        ('echo \'{"level":"error","msg":"the moon: no space left on device"}\' >> $log; exit 1', "the moon"),
    ],
)
def test_create(script: str, message: str, fake: Fake, create: Create, engine: Engine) -> None:
    stranger = os.getpid()
    with pytest.raises(LaunchError) as caught:
        create(fake(create=script.replace("$STRANGER", str(stranger))), timeout=1 if "sleep" in script else 20)
    assert message in str(caught.value)
    assert caught.value.step == "create"
    assert engine.list() == []


def test_the_kernels_reason_is_found(fake: Fake, create: Create) -> None:
    line = '{"level":"error","msg":"runc create failed: mounting x: No space left on device"}'
    with pytest.raises(LaunchError) as caught:
        create(fake(create=f'echo \'{line}\' > $log; echo \'{{"level":"info","msg":"bye"}}\' >> $log; exit 1'))
    assert caught.value.errno == 28
    assert str(caught.value) == "create: mounting x: No space left on device"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 0", "nothing has started within 2 seconds"),
        ("exit 7", "start: exited with 7"),
        ("sleep 1000", "did not end within 2 seconds and was killed"),
        ("kill -9 $$", "was killed by SIGKILL"),
        ('real "$@"; exit 1', "exited with 1"),
    ],
)
def test_start(script: str, message: str, fake: Fake, create: Create) -> None:
    container = create(fake(start=script), timeout=2, hooks=_HOOKS)
    with pytest.raises(LaunchError, match=message):
        container.start()
    container.delete(force=True)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 0", "reports success, but no process"),
        ("exit 7", "exited with 7"),
        ("sleep 1000", "did not end within 2 seconds"),
        ('real "$@"; kill -9 $$', "was killed by SIGKILL"),
        ("echo $STRANGER > $pid_file; exit 0", "none that it has made"),
    ],
)
def test_exec(script: str, message: str, fake: Fake, create: Create) -> None:
    container = create(fake(exec=script.replace("$STRANGER", str(os.getpid()))), timeout=2)
    container.start()
    with pytest.raises(LaunchError) as caught:
        container.exec(["sleep", "60"])
    assert message in str(caught.value)
    assert caught.value.step == "exec"
    assert container.state == "running" and len(container.pids()) == 1
    container.delete(force=True)


@pytest.mark.parametrize("operation", ["pause", "resume", "update"])
def test_operations(operation: str, fake: Fake, create: Create) -> None:
    line = '{"level":"error","msg":"writing: device or resource busy"}'
    container = create(fake(**{operation: f"echo '{line}' > $log; exit 1"}))
    container.start()
    if operation == "resume":
        container.pause()
    with pytest.raises(OperationError) as caught:
        getattr(container, operation)(**({"pids": 9} if operation == "update" else {}))
    assert (caught.value.operation, caught.value.errno) == (operation, 16)
    assert container.state == ("paused" if operation == "resume" else "running")
    container.delete(force=True)


def test_a_deletion_that_hangs(fake: Fake, create: Create, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    hook = {"poststop": [{"path": "/bin/true"}]}
    container = create(fake(delete="sleep 1000"), timeout=2, hooks=hook)
    container.start()
    container.delete(force=True)
    assert "did not end within 2 seconds" in caplog.text


def test_one_that_is_gone_meanwhile(fake: Fake, create: Create) -> None:
    path = fake()
    container = create(path, hooks=_HOOKS)
    os.unlink(path)
    with pytest.raises(LaunchError, match="cannot be executed: No such file"):
        container.start()
    container.delete(force=True)


def test_one_that_cannot_be_used(create: Create) -> None:
    with pytest.raises(SpecError, match=r'driver_options\["oci"\]\["runtime"\]: \'nonsense\' cannot be used'):
        create("nonsense")


def test_one_that_lacks_a_feature(program: Callable[[str, str], str], create: Create) -> None:
    bare = program("bare", "[ $1 = features ] && exit 1; echo 'bare version 1.0'")
    with pytest.raises(UnsupportedFeature, match=r"bare 1\.0 was built without seccomp"):
        create(bare, seccomp={"defaultAction": "SCMP_ACT_ALLOW"})


@pytest.mark.parametrize(
    "options", [{"nonsense": 1}, {"timeout": "1"}, {"timeout": 0}, {"runtime": 5}, {"timeout": True}]
)
def test_bad_options(options: dict[str, object], engine: Engine, rootfs: Path) -> None:
    with pytest.raises(SpecError, match=next(iter(options))):
        engine.run(["true"], driver="oci", rootfs=str(rootfs), driver_options={"oci": options})


def test_the_error_of_a_runtime_pickles(fake: Fake, create: Create) -> None:
    import pickle

    with pytest.raises(LaunchError) as caught:
        create(fake(create="exit 0"))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert isinstance(caught.value, ExecDriverError) and not isinstance(caught.value, InvalidState)
