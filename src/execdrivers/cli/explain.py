"""``execdrivers explain``: what ``run`` would do with the same options."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING

from execdrivers.cli.build import Request
from execdrivers.cli.flags import add_flags
from execdrivers.cli.parsing import Command, Parser
from execdrivers.cli.table import paint, printable

if TYPE_CHECKING:
    from execdrivers.driver import Probe

__all__ = ["COMMANDS"]


def _parser() -> Parser:
    parser = Parser(
        "execdrivers explain",
        "[OPTIONS] [--] COMMAND [ARG…]",
        description="Show, step by step, what `execdrivers run` would do with the same options. Runs nothing, and\n"
        "works without privileges. The same spec on the same host gives the same plan.",
    )
    add = parser.group("Output")
    add("--json", action="store_true", help="the plan as JSON")
    add_flags(parser)
    return parser


def explain(parser: Parser, options: Namespace, command: list[str]) -> int:
    """Print the plan."""
    request = Request(parser, options, command)
    spec = request.spec()
    from execdrivers.engine import Engine
    from execdrivers.features import required

    given = vars(options)
    engine = Engine(root=options.root)
    try:
        with request.naming_options():
            plan = engine.explain(spec, driver=given.get("driver", "auto"), name=given.get("name"))
            _warn(engine.registry.probe(plan.driver), required(spec))
    finally:
        engine.close()
    if "json" in given:
        print(json.dumps(plan.to_dict(), indent=2, sort_keys=True))
        return 0
    print(paint(f"Plan of driver {plan.driver}, {len(plan.steps)} steps", "bold"))
    width = len(str(len(plan.steps)))
    for number, step in enumerate(plan.steps, 1):
        print(f"{paint(f'{number:{width}}', 'dim')}  {printable(str(step))}")
    return 0


def _warn(probe: Probe, asked: Iterable[str]) -> None:
    """Say, beside the plan, what would keep it from being run here and now."""
    problems = [f"{feature}: {probe.missing[feature]}" for feature in asked if feature in probe.missing]
    for problem in [*map(str, probe.problems), *problems]:
        print(f"execdrivers: could not run here: {problem}", file=sys.stderr)


COMMANDS = {"explain": Command(_parser, explain)}
