"""``execdrivers conformance``: the conformance kit on one driver, as a matrix."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from typing import TYPE_CHECKING

from execdrivers.cli.parsing import Command, Parser, UsageError
from execdrivers.cli.table import printable, show
from execdrivers.errors import ExecDriverError

if TYPE_CHECKING:
    from execdrivers.testing.matrix import Outcome, Run

__all__ = ["COMMANDS"]


def _parser() -> Parser:
    parser = Parser(
        "execdrivers conformance",
        "--driver NAME [OPTIONS]",
        interspersed=True,
        description="Run the conformance kit on a driver and count, by area, the tests that passed, those where a\n"
        "feature is refused as it should be, declared deviations, failures, and those that this host cannot run.\n"
        "Exit status 1 when a test fails.",
    )
    add = parser.group("Options")
    add("--driver", metavar="NAME", help="the driver to try")
    add("-k", metavar="EXPR", help="only tests whose names match, as pytest's -k")
    add("--json", metavar="FILE", help="write every result there, as JSON")
    parser.common()
    return parser


def conformance(parser: Parser, options: Namespace, operands: list[str]) -> int:
    """Run it, print the matrix and what is to be explained."""
    given = vars(options)
    if operands or "driver" not in given:
        raise UsageError("conformance takes one --driver and no operands", remedy="execdrivers conformance --help")
    try:
        from execdrivers.testing import matrix
    except ImportError as error:
        message = f"the conformance kit needs pytest and hypothesis: {error}"
        raise ExecDriverError(message, remedy="pip install 'execdrivers[testing]'") from None
    from execdrivers.registry import default_registry

    registry = default_registry()
    driver = registry.get(options.driver)
    registry.require_available(options.driver)
    run = matrix.run(driver, expression=given.get("k", ""))
    if "json" in given:
        with open(options.json, "w") as file:
            json.dump(run.to_dict(), file, indent=1)
    _tell(run, matrix.OUTCOMES)
    return 0 if run.ok else 1


def _tell(run: Run, outcomes: tuple[Outcome, ...]) -> None:
    rows = [[area, *(str(run.count(outcome, area) or "") for outcome in outcomes)] for area in run.areas]
    rows.append(["all", *(str(run.count(outcome)) for outcome in outcomes)])
    print()
    show(["AREA", *(outcome.upper() for outcome in outcomes)], rows)
    print(f"\n{run.driver} {run.probe['version']}: {len(run.results)} tests in {run.seconds:.0f} seconds")
    reasons = Counter((r.outcome, r.reason) for r in run.results if r.outcome in ("deviation", "skipped"))
    for (outcome, reason), count in sorted(reasons.items()):
        print(printable(f"{outcome} ({count}): {reason}"))
    for result in run.results:
        if result.outcome == "failed":
            print(printable(f"failed: Test{result.area}::{result.test}: {result.reason}"))


COMMANDS = {"conformance": Command(_parser, conformance)}
