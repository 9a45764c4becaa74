"""The plugins in examples/, each installed into a fresh environment with nothing of ours but the built wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/writing-a-driver.md").read_text()
BUBBLEWRAP, POLICY = (ROOT / "examples" / name for name in ("execdrivers-bubblewrap", "execdrivers-policy"))

#: What the build of each wheel reads; it is copied, for a build leaves things behind in its source.
SOURCES = {
    ROOT: ["src", "drivers", "setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"],
    BUBBLEWRAP: ["execdrivers_bubblewrap", "setup.cfg", "pyproject.toml", "README.md"],
    POLICY: ["execdrivers_policy", "setup.cfg", "pyproject.toml", "README.md"],
}


def run(*command: str | Path, timeout: float = 300, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheels of execdrivers and of the examples."""
    top = tmp_path_factory.mktemp("wheels")
    copies = []
    for source, names in SOURCES.items():
        copies.append(top / "source" / source.name)
        for name in names:
            copies[-1].mkdir(parents=True, exist_ok=True)
            if (source / name).is_dir():
                shutil.copytree(source / name, copies[-1] / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy(source / name, copies[-1])
    done = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", top / "built", *copies)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return top / "built"


class Installed:
    """A fresh environment with one example in it."""

    def __init__(self, example: Path, wheels: Path, directory: Path) -> None:
        venv.create(directory / "venv", symlinks=True)
        self.bin = directory / "venv/bin"
        self.tests = directory / "tests"
        shutil.copytree(example / "tests", self.tests, ignore=shutil.ignore_patterns("__pycache__"))
        (ours,) = wheels.glob("execdrivers-*.whl")
        (its,) = wheels.glob(f"{example.name.replace('-', '_')}-*.whl")
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "--disable-pip-version-check", "install"]
        done = run(*pip, "--quiet", f"{ours}[testing]", its)
        assert done.returncode == 0, done.stderr[-3000:]
        self.env = {**os.environ, "EXECDRIVERS_ROOT": str(directory / "state"), "PYTHONDONTWRITEBYTECODE": "1"}

    def execdrivers(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run(self.bin / "execdrivers", *words, cwd="/", env={**self.env, **env})

    def pytest(self) -> subprocess.CompletedProcess[str]:
        return run(
            self.bin / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", ".", cwd=self.tests, env=self.env
        )


@pytest.fixture(scope="session")
def bubblewrap(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(BUBBLEWRAP, wheels, tmp_path_factory.mktemp("bubblewrap"))


@pytest.fixture(scope="session")
def policy(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(POLICY, wheels, tmp_path_factory.mktemp("policy"))


# --- the driver


@pytest.mark.needs("root", "bwrap", "cc")
@pytest.mark.timeout(400)
def test_bubblewrap_passes_the_conformance_kit(bubblewrap: Installed, no_leaks: None) -> None:
    where = run(bubblewrap.bin / "python", "-c", "import execdrivers; print(execdrivers.__file__)", cwd="/")
    assert where.stdout.startswith(str(bubblewrap.bin.parent)), "not the one that was installed"
    done = bubblewrap.pytest()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 500, done.stdout[-500:]


@pytest.mark.needs("root", "bwrap")
@pytest.mark.timeout(300)
def test_bubblewrap_on_the_command_line(bubblewrap: Installed, no_leaks: None) -> None:
    listed = bubblewrap.execdrivers("drivers").stdout
    assert re.search(r"^bubblewrap +yes ", listed, re.MULTILINE), listed
    done = bubblewrap.execdrivers("run", "--rm", "--driver", "bubblewrap", "-m", "64M", "sh", "-c", "echo $$; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 7)
    plan = bubblewrap.execdrivers("explain", "--driver", "bubblewrap", "true").stdout
    assert "/bwrap, --as-pid-1" in plan


@pytest.mark.timeout(300)
def test_bubblewrap_without_bwrap(bubblewrap: Installed, tmp_path: Path) -> None:
    listed = bubblewrap.execdrivers("drivers", PATH=str(tmp_path)).stdout
    assert "there is no program bwrap on PATH" in listed
    assert "install bubblewrap" in listed


# --- the hooks


@pytest.mark.timeout(300)
def test_policy_passes_its_tests(policy: Installed, no_leaks: None) -> None:
    done = policy.pytest()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.needs("root")
@pytest.mark.timeout(300)
def test_policy_on_the_command_line(policy: Installed, no_leaks: None, tmp_path: Path) -> None:
    vetoed = policy.execdrivers("run", "--privileged", "true")
    assert vetoed.returncode == 125
    assert "is not allowed here" in vetoed.stderr
    hog = "head -c 100000000 /dev/zero | tail -n 1 | wc -c"
    env = {"EXECDRIVERS_POLICY_MEMORY": "16M", "EXECDRIVERS_POLICY_LOG": str(tmp_path / "log")}
    limited = policy.execdrivers("run", "--rm", "--driver", "native", "-m", "1G", "sh", "-c", hog, **env)
    assert "out of memory (limit 16M)" in limited.stderr
    assert '"type": "oom"' in (tmp_path / "log").read_text()
    refused = policy.execdrivers("run", "--driver", "chroot", "--rootfs", str(tmp_path), "true")
    assert "does not enforce cgroup.memory" in refused.stderr


# --- the guide


def test_driver_guide_quotes_the_bubblewrap_driver() -> None:
    quotes = re.findall(r"<!-- (\S+/\S+\.py) -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(quotes) >= 6
    for file, quote in quotes:
        source = "".join((BUBBLEWRAP / file).read_text().split())
        for part in quote.split("...\n"):
            assert "".join(part.split()) in source, (file, part)


@pytest.mark.needs("root", "unshare")
def test_driver_guides_example_of_a_launcher_runs(no_leaks: None) -> None:
    (program,) = re.findall(r"<!-- runs -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
    done = run(sys.executable, "-c", program)
    assert (done.stdout, done.stderr) == ("I am nobody on box\nexited with code 3\n", "")
