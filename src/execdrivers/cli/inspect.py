"""``execdrivers inspect``: all that is known of containers."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from execdrivers.cli.containers import LIVE, for_each, for_names
from execdrivers.cli.parsing import Command, Parser
from execdrivers.cli.template import shaper
from execdrivers.errors import ExecDriverError

if TYPE_CHECKING:
    from execdrivers.container import Container
    from execdrivers.engine import Engine

__all__ = ["COMMANDS"]


def _parser() -> Parser:
    parser = for_names(
        "inspect", "All that is known of containers, as a JSON array: spec, state, exit, guarantees, processes."
    )
    add = parser.group("Options")
    add(
        "-f",
        "--format",
        metavar="json|TEMPLATE",
        help="json: one object a line; or a text such as '{{.pid}} {{.exit.code}} {{json .spec}}'",
    )
    parser.common()
    return parser


def inspect(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Print the array, or a line for each, without those that do not exist."""
    shape = vars(options).get("format")
    if shape is None:
        found: list[dict[str, Any]] = []

        def note(engine: Engine, name: str) -> None:
            found.append(_details(engine.get(name)))

        status = for_each(parser, options, operands, note)
        print(json.dumps(found, indent=2))
        return status
    fill = shaper(shape)
    return for_each(parser, options, operands, lambda engine, name: fill(_details(engine.get(name))))


def _details(container: Container) -> dict[str, Any]:
    state = container.state
    return {
        "name": container.name,
        "driver": container.driver,
        "state": state,
        "pid": container.pid,
        "pids": _pids(container) if state in LIVE else [],
        "created_at": container.created_at,
        "started_at": container.started_at,
        "finished_at": container.finished_at,
        "exit": container.exit.to_dict() if container.exit else None,
        "returncode": container.returncode,
        "detached": container.detached,
        "stdio": dict(container.stdio),
        "guarantees": container.guarantees,
        "spec": container.spec.to_dict(),
    }


def _pids(container: Container) -> list[int] | None:
    """None where the driver cannot tell."""
    try:
        return list(container.pids())
    except ExecDriverError:
        return None


COMMANDS = {"inspect": Command(_parser, inspect)}
