"""``execdrivers run -d``: a container that lives on by itself."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING

from execdrivers.cli.parsing import UsageError
from execdrivers.errors import SpecError

if TYPE_CHECKING:
    from execdrivers.cli.build import Request
    from execdrivers.monitor import LogOptions
    from execdrivers.spec import ContainerSpec

__all__ = ["detached"]


def detached(request: Request, spec: ContainerSpec, options: Namespace) -> int:
    """Create, start, and print the name. With ``--rm`` it is removed when it has ended."""
    from execdrivers.cli.containers import engine_of
    from execdrivers.stdio import DEVNULL, PIPE

    given = vars(options)
    if "timeout" in given:
        remedy = "leave one out, or have the command itself end in time: timeout 60 ./command"
        raise UsageError("--timeout does not go with -d: nobody would be there to keep it", remedy=remedy)
    log = _log(given.get("log_opt", ()))
    with engine_of(options) as engine, request.naming_options():
        container = engine.create(
            spec,
            driver=given.get("driver", "auto"),
            name=given.get("name"),
            stdin=PIPE if "interactive" in given else DEVNULL,
            detach=True,
            log=log,
            remove="rm" in given,
        )
        try:
            container.start()
        except BaseException:
            container.delete(force=True)
            raise
    print(container.name)
    return 0


def _log(texts: Iterable[str]) -> LogOptions:
    from execdrivers.monitor import LogOptions

    fields = {"max-size": "max_size", "max-file": "max_files"}
    asked: dict[str, int | str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in fields:
            raise UsageError(f"--log-opt: {text!r} is not supported", remedy="max-size=10m, max-file=3")
        if name == "max-file" and not (value.isascii() and value.isdigit()):
            raise UsageError(f"--log-opt max-file: {value!r} is not a number of files", remedy="max-file=3")
        asked[fields[name]] = int(value[:18]) if name == "max-file" else value
    try:
        return LogOptions(**asked)  # type: ignore[arg-type]
    except SpecError as error:
        raise UsageError(f"--log-opt: {error.message}", remedy=error.remedy) from None
