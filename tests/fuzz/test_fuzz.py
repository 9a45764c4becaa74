"""The launcher and the reading of its messages under ASan and UBSan, on a kernel where anything may fail."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from . import plans
from .__main__ import fill, fuzz
from .build import CORPUS, SOURCE, build, run


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("fuzz") / "launcher"
    try:
        build(program)
    except subprocess.CalledProcessError:
        trial = ["gcc", "-fsanitize=address", "-x", "c", "-", "-o", "/dev/null"]
        if subprocess.run(trial, input=b"int main(){}").returncode:
            pytest.skip("needs gcc with its sanitizers (Debian package libgcc-12-dev or the like)")
        raise
    return program


@pytest.fixture
def every_plan(rootfs: Path, tmp_path: Path) -> list[Path]:
    files = []
    for name, plan in (*plans.real(rootfs), *plans.of_each_operation()):
        files.append(tmp_path / name)
        files[-1].write_bytes(plan)
    return files


@pytest.mark.needs("busybox")
def test_each_call_of_each_plan_may_fail(launcher: Path, every_plan: list[Path]) -> None:
    """No failure is passed over before an execution, none reads or writes where it must not."""
    done = run(launcher, "--each-call", *every_plan)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 100_000


def test_what_the_fuzzer_has_kept(launcher: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(CORPUS) as kept:
        kept.extractall(tmp_path)
    inputs = sorted(tmp_path.iterdir())
    assert len(inputs) > 100
    done = run(launcher, *inputs)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.needs("busybox")
@pytest.mark.parametrize(
    ("file", "sound", "faulty", "finding"),
    [
        (
            "exec.c",
            "    if (result < 0)\n        return result;\n    if (init)",
            "    (void)result;\n    if (init)",
            "executed although",
        ),
        ("launcher.c", "args->end - args->at < 8", "args->end - args->at < 1", "heap-buffer-overflow"),
    ],
    ids=["a failure passed over", "a read past the end"],
)
def test_faults_of_the_launcher_are_found(
    every_plan: list[Path], tmp_path: Path, file: str, sound: str, faulty: str, finding: str
) -> None:
    source = tmp_path / "src"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("*.so", "*.py[co]"))
    path = source / "execdrivers/launcher/c" / file
    assert sound in path.read_text()
    path.write_text(path.read_text().replace(sound, faulty))
    build(tmp_path / "faulty", source=source)
    plan = next(plan for name, plan in plans.of_each_operation() if name == "umask-0")
    short = tmp_path / "short"  # the argument of its first operation is 4 bytes, and the end
    short.write_bytes(plan[:8] + struct.pack("<I", 28) + plan[12:20] + struct.pack("<I", 4) + plan[24:28])
    done = run(tmp_path / "faulty", short, "--each-call", *every_plan)
    assert done.returncode != 0
    assert finding in done.stderr


@pytest.mark.needs("clang", "busybox")
def test_ten_seconds_of_fuzzing(tmp_path: Path, rootfs: Path) -> None:
    build(tmp_path / "fuzz", "clang")
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    fill(inputs, rootfs)
    done = fuzz(tmp_path / "fuzz", inputs, 10)
    assert done.returncode == 0, done.stderr[-6000:]
