"""The house rules: layers, documentation that matches the code, packaging."""

from __future__ import annotations

import ast
import configparser
import inspect
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import execdrivers
from execdrivers import hookspecs
from execdrivers.features import FEATURES

ROOT = Path(__file__).parents[1]
DOCS = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])

#: The modules of the core that a driver may import.
PUBLIC = {
    "apparmor",
    "cgroups",
    "defaults",
    "driver",
    "errors",
    "exit",
    "features",
    "hookspecs",
    "kernel",
    "launcher",
    "pidfd",
    "seccomp",
    "spec",
    "stats",
    "subids",
    "units",
    "users",
}


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


# --- layers -----------------------------------------------------------------------------------------------------


def test_import_contracts_hold() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_contracts_know_every_module_of_the_core() -> None:
    modules = {
        path.stem for path in (ROOT / "src/execdrivers").iterdir() if not path.name.startswith(("_", "py.typed"))
    }
    forbidden = re.findall(r'^    "execdrivers\.(\w+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(forbidden) | PUBLIC == modules
    assert not set(forbidden) & PUBLIC


def test_importing_the_core_loads_no_driver_and_nothing_heavy() -> None:
    program = "import sys, execdrivers; execdrivers.ContainerSpec, execdrivers.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"asyncio", "importlib.metadata", "argparse", "execdrivers_native", "execdrivers_chroot", "cffi"}
    assert not loaded & heavy


def test_every_public_name_can_be_had() -> None:
    for name in execdrivers.__all__:
        assert getattr(execdrivers, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = execdrivers.nonsense


# --- documentation ----------------------------------------------------------------------------------------------


def first_sentence(docstring: str | None) -> str:
    text = re.sub(r"\s+", " ", inspect.cleandoc(docstring or ""))
    return re.split(r"(?<=\.)\s", text)[0]


def plain(markdown: str) -> str:
    return markdown.replace("`", "")


def test_hooks_page_describes_each_hook_as_the_code_does() -> None:
    sections = re.findall(
        r"^## `(\w+)\((.*?)\)`\n\n(.+?)(?:\n\n|\Z)", (ROOT / "docs/hooks.md").read_text(), re.MULTILINE | re.DOTALL
    )
    described = {name: (parameters, plain(text.replace("\n", " "))) for name, parameters, text in sections}
    hooks = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "execdrivers_spec")}
    assert described.keys() == hooks.keys()
    for name, hook in hooks.items():
        parameters, text = described[name]
        assert parameters == ", ".join(inspect.signature(hook).parameters)
        assert text == plain(first_sentence(hook.__doc__))


def test_reference_lists_every_feature() -> None:
    rows = re.findall(r"^\| `([\w.-]+)` \| (.+?) \|", section("reference.md", "Features"), re.MULTILINE)
    assert dict(rows) == dict(FEATURES)


def test_reference_lists_every_field_of_the_spec() -> None:
    import attrs

    rows = re.findall(r"^\| `(\w+)` \|", section("reference.md", "Fields of `ContainerSpec`"), re.MULTILINE)
    assert rows == [field.name for field in attrs.fields(execdrivers.ContainerSpec)]
    rows = re.findall(r"^\| `(\w+)` \|", section("reference.md", "Fields of `Resources`"), re.MULTILINE)
    assert rows == [field.name for field in attrs.fields(execdrivers.Resources)]


def test_reference_lists_every_field_of_stats() -> None:
    import attrs

    from execdrivers.stats import CpuStats, DeviceStats, MemoryStats, PidsStats, PressureStats, Stall

    text = section("reference.md", "Fields of `Stats`")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert rows == [field.name for field in attrs.fields(execdrivers.Stats)]
    for kind in (CpuStats, MemoryStats, PidsStats, DeviceStats, PressureStats, Stall):
        assert not [field.name for field in attrs.fields(kind) if f"`{field.name}`" not in text]


def test_reference_mentions_every_public_name() -> None:
    text = (ROOT / "docs/reference.md").read_text()
    missing = [name for name in execdrivers.__all__ if not re.search(rf"`(execdrivers\.)?{re.escape(name)}\b", text)]
    assert not missing


def test_driver_guide_quotes_the_chroot_driver() -> None:
    source = "".join((ROOT / "drivers/chroot/execdrivers_chroot/driver.py").read_text().split())
    guide = (ROOT / "docs/writing-a-driver.md").read_text()
    quotes = re.findall(r"<!-- driver.py -->\n```python\n(.*?)```", guide, re.DOTALL)
    assert quotes
    for quote in quotes:
        for part in quote.split("...\n"):
            assert "".join(part.split()) in source, part


def test_command_line_page_has_every_option() -> None:
    from execdrivers.cli import COMMANDS

    def options(text: str) -> set[str]:
        return set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", text, re.MULTILINE))

    helps = [
        subprocess.run([sys.executable, "-m", "execdrivers", *words, "--help"], capture_output=True, text=True)
        for words in [[], *([command] for command in COMMANDS)]
    ]
    in_help = set().union(*(options(done.stdout) for done in helps))
    assert in_help - options((ROOT / "docs/cli.md").read_text()) <= {"--root", "--help", "--version"}


def section(page: str, title: str) -> str:
    text = (ROOT / "docs" / page).read_text()
    assert f"\n## {title}\n" in text
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_files_named_in_the_documentation_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for target in re.findall(r"`((?:src|drivers|docs|tests|examples|benchmarks|tools)/[^`\s*]*)`", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_python_in_the_documentation_is_python(page: Path) -> None:
    # Quotes of the chroot driver may begin in the middle of it; those are compared with it instead.
    for block in re.findall(r"(?<!-->\n)^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        ast.parse(block)


# --- packaging --------------------------------------------------------------------------------------------------


def test_setup_cfg_lists_every_package() -> None:
    options = setup_cfg()["options"]
    mapping = dict(re.split(r"\s*=\s*", line) for line in options["package_dir"].strip().splitlines())
    found = set()
    for package, directory in mapping.items():
        for init in (ROOT / directory).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / directory).parts]))
    assert set(options["packages"].split()) == found


def test_version_is_consistent() -> None:
    from importlib.metadata import version

    assert version("execdrivers") == execdrivers.__version__
    assert f"\n## {execdrivers.__version__} " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.timeout(300)
def test_wheel_built_from_sdist_is_complete(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--outdir", tmp_path, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert "-cp310-abi3-linux_" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"execdrivers/launcher/_launcher.abi3.so", "execdrivers/seccomp/default.json"}
    for root in ("src", *(f"drivers/{path.name}" for path in (ROOT / "drivers").iterdir())):
        for package in (ROOT / root).glob("execdrivers*"):
            if package.suffix != ".egg-info":
                files = [*package.rglob("*.py"), *package.rglob("*.pyi"), package / "py.typed"]
                expected |= {str(file.relative_to(ROOT / root)) for file in files}
    assert expected <= names
    unexpected = {name for name in names - expected if ".dist-info/" not in name and not name.endswith((".c", ".h"))}
    assert not unexpected
