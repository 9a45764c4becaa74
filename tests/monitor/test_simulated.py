"""The monitor's C under ASan and UBSan, on a kernel where anything may fail, and under UBSan on the real one."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
FLAGS = [
    "-std=gnu11", "-g", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-fsanitize=address,undefined",
    "-DEXECDRIVERS_SIMULATED", "-Wall", "-Wextra", "-Werror",
]  # fmt: skip


def build(program: Path, source: Path = SOURCE) -> None:
    package = runpy.run_path(str(source / "build_launcher.py"), run_name="launcher")
    common = ["gcc", *FLAGS, f"-I{package['SOURCES']}"]
    objects = []
    for name in package["MONITOR"]:
        objects.append(str(program.with_name(f"{name}.o")))
        subprocess.run([*common, "-ffreestanding", "-c", package["SOURCES"] / name, "-o", objects[-1]], check=True)
    subprocess.run([*common, str(HERE / "simulated.c"), *objects, "-o", str(program)], check=True)


@pytest.fixture(scope="module")
def sanitizers() -> None:
    trial = ["gcc", "-fsanitize=address", "-x", "c", "-", "-o", "/dev/null"]
    if not shutil.which("gcc") or subprocess.run(trial, input=b"int main(){}", stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs gcc with its sanitizers (Debian package libgcc-12-dev or the like)")


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace")


def test_nothing_is_lost_unsaid_and_nothing_left(sanitizers: None, tmp_path: Path) -> None:
    build(tmp_path / "simulated")
    done = run(tmp_path / "simulated", "0", "600")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("file", "sound", "faulty", "finding"),
    [
        ("monitor_log.c", "log->size + whole", "log->size + done", "seed"),
        ("monitor_log.c", "- (records[start + HEADER - 2] == 'P')", "", "neither logged nor told"),
        ("monitor_log.c", "log->max_size -= LOSS_ROOM", "log->max_size += LOSS_ROOM", "too large"),
        ("monitor_requests.c", "while (end < body->size && body->data[end])", "while (body->data[end])", "overflow"),
        ("monitor_requests.c", "for (int i = 0; i < count; i++)\n        fds[i] = -1;", "", "closed twice"),
        (
            "monitor_requests.c",
            "    unmap_lists(&lists);\n",
            "    (void)unmap_lists;\n",
            "left mapped",
        ),
    ],
)
def test_faults_are_found(sanitizers: None, tmp_path: Path, file: str, sound: str, faulty: str, finding: str) -> None:
    source = tmp_path / "src"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("*.so", "*.py[co]"))
    path = source / "execdrivers/launcher/c" / file
    assert sound in path.read_text()
    path.write_text(path.read_text().replace(sound, faulty))
    build(tmp_path / "faulty", source)
    done = run(tmp_path / "faulty", "0", "600")
    assert done.returncode != 0 and finding in done.stderr, done.stderr


@pytest.mark.needs("root")
@pytest.mark.timeout(300)
def test_on_the_real_kernel(tmp_path: Path) -> None:
    """What is undefined ends a program that was built so, and with it the test."""
    package = tmp_path / "execdrivers"
    shutil.copytree(SOURCE / "execdrivers", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    environment = {**os.environ, "EXECDRIVERS_SANITIZE": "1", "EXECDRIVERS_WERROR": "1", "PYTHONPATH": str(tmp_path)}
    program = (
        f"import runpy\nbuilder = runpy.run_path({str(SOURCE / 'build_launcher.py')!r})['ffibuilder']\n"
        f"builder.compile(tmpdir={str(tmp_path / 'build')!r})\n"
    )
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
    for module in (tmp_path / "build").glob("**/_launcher*.so"):
        shutil.copy(module, package / "launcher")
    chosen = "what_is_read or bounded or full_disk or terminal or all_get_all or rubbish or last_is_told or aftermath"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE), "-k", chosen]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    checked = subprocess.run(
        [sys.executable, "-c", "import execdrivers.launcher._launcher as module; print(module.__file__)"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert checked.stdout.startswith(str(tmp_path))
