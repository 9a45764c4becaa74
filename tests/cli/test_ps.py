"""``ps`` and ``inspect``: what is shown of which containers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from execdrivers.cli.parsing import UsageError
from execdrivers.cli.template import Template

from .conftest import Cli


@pytest.fixture
def three(cli: Cli, native: str, drivers: dict[str, Any], rootfs: Path) -> Iterator[Cli]:
    """In order of their making: web-1 has ended with 3, other by a signal, web-2 runs."""
    cli("run", "--driver", native, "--rootfs", rootfs, "--name", "web-1", "sh", "-c", "exit 3")
    cli("run", "--driver", "chroot", "--rootfs", rootfs, "--name", "other", "sh", "-c", "kill -9 $$")
    with cli.start("run", "--driver", native, "--rootfs", rootfs, "--name", "web-2", "sleep", "60") as process:
        cli.running("web-2")
        yield cli
        cli("kill", "web-2")
        process.wait(20)


def test_filters(three: Cli) -> None:
    def names(*words: str) -> list[str]:
        return three("ps", "-q", *words).stdout.split()

    assert names() == ["web-2"]
    assert names("-a") == ["web-2", "other", "web-1"]
    assert names("-af", "name=web") == ["web-2", "web-1"]
    assert names("-a", "--filter", "name=^o", "--filter", "name=2$") == ["web-2", "other"]
    assert names("-af", "name=web", "-f", "driver=chroot") == []
    assert names("-af", "driver=chroot") == ["other"]
    assert names("-f", "status=exited") == names("-f", "status=stopped") == ["other", "web-1"]
    assert names("-f", "status=running") == ["web-2"]
    assert names("-f", "status=paused") == []
    assert names("-f", "exited=3") == ["web-1"]
    assert names("-f", "exited=137") == ["other"]
    assert names("-n", "2") == ["web-2", "other"]
    assert names("--last=1", "--filter", "exited=3") == ["web-1"]
    assert names("-l") == ["web-2"]
    (three.root / "web-1" / "state.json").write_text("{")
    assert names("-f", "status=damaged") == ["web-1"]
    three("rm", "-f", "web-1")


def test_formats(three: Cli) -> None:
    assert three("ps", "-a", "--format", r"{{.name}}\t{{.state}} {{json .exit}}").stdout.splitlines() == [
        "web-2\trunning null",
        'other\tstopped {"reason": "signaled", "signal": 9}',
        'web-1\tstopped {"reason": "exited", "code": 3}',
    ]
    result = three("inspect", "-f", "{{.name}} {{.exit.code}} {{json .spec.args}}", "web-1", "nosuch", "web-2")
    assert (result.returncode, result.stdout) == (1, 'web-1 3 ["sh", "-c", "exit 3"]\nweb-2  ["sleep", "60"]\n')
    lines = three("inspect", "--format=json", "web-1", "web-2").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["web-1", "web-2"]
    refused = three("inspect", "-f", "{{.State.Pid}}", "web-1")
    assert refused.returncode == 125
    assert "there are name, driver, state, pid" in refused.stderr


DATA = {"name": "x", "n": 1, "none": None, "yes": True, "deep": {"er": [1, "a"]}}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{{.name}}", "x"),
        ("<{{ .name }}:{{json .name}}>", '<x:"x">'),
        ("{{.n}}{{.yes}}{{.none}}{{.none.of.it}}", "1true"),
        ("{{.deep}} {{.deep.er}}", '{"er": [1, "a"]} [1, "a"]'),
        ("{{json .}}", json.dumps(DATA)),
        (r"a\tb\n{{.n}}\t", "a\tb\n1\t"),
    ],
)
def test_templates(text: str, filled: str) -> None:
    assert Template(text).fill(DATA) == filled


@pytest.mark.parametrize("text", ["", "name", "{{name}}", "{{.name | upper}}", "{{range .deep}}{{end}}", "{{}}"])
def test_templates_that_ask_for_more(text: str) -> None:
    with pytest.raises(UsageError, match="--format"):
        Template(text)


@pytest.mark.parametrize("text", ["{{.nosuch}}", "{{.name.first}}", "{{.deep.nosuch}}", "{{.deep.er.first}}"])
def test_names_that_are_not_there(text: str) -> None:
    with pytest.raises(UsageError, match="has no"):
        Template(text).fill(DATA)


@pytest.mark.parametrize(
    "words",
    [
        ["x"],
        ["--format=x"],
        ["-f", "label=x"],
        ["-f", "status"],
        ["-f", "status=x"],
        ["-f", "exited=x"],
        ["-f", f"exited={5000 * '1'}"],
        ["--format", "table {{.name}}"],
        ["-f", "name=("],
        ["-n", "-1"],
    ],
)
def test_wrong_usage(cli: Cli, words: list[str]) -> None:
    result = cli("ps", *words)
    assert result.returncode == 125
    assert result.stderr.startswith("execdrivers: ")
    assert "  try: " in result.stderr


def test_a_reader_that_goes_away_early(three: Cli) -> None:
    import subprocess

    from .conftest import PROGRAM

    words = ["sh", "-c", '"$@" | true', "sh", *PROGRAM, "ps", "-a", "--format", "json"]
    result = subprocess.run(words, env=three.environment, capture_output=True, text=True)
    assert result.stderr == ""
