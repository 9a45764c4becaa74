"""Command lines in docker's grammar on top of argparse.

argparse alone reads ``run sh -c x`` as an option ``-c`` of ``run``, and differently from one Python version to the
next. So the words are split here first: options into the one form that leaves argparse no choice (``--name=value``),
and everything from the first word that is no option on.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from execdrivers.errors import ExecDriverError

__all__ = ["Command", "Parser", "UsageError", "integer", "nearest", "parse_bool", "read_text", "refusal"]

#: Booleans as Go's flag packages read them, so as docker does.
_TRUE = ("1", "t", "T", "true", "True", "TRUE")
_FALSE = ("0", "f", "F", "false", "False", "FALSE")


#: Most that is read of a file that an option names, in bytes; the kernel takes less as an environment.
MAX_FILE = 16 << 20


class UsageError(ExecDriverError):
    """A command line that cannot be meant. Exit status 125, as docker's."""


class Command(NamedTuple):
    """One subcommand: how its words are parsed, and what it does with them, giving the exit status."""

    parser: Callable[[], Parser]
    call: Callable[[Parser, argparse.Namespace, list[str]], int]


class _Help(argparse.RawDescriptionHelpFormatter):
    """Options as docker shows them: ``-m, --memory SIZE``, ``--ephemeral[=SIZE]``."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, **{**kwargs, "max_help_position": 32})

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = ", ".join(action.option_strings)
        if names.startswith("--"):
            names = f"    {names}"
        if action.nargs == 0:
            return names
        return f"{names}[={action.metavar}]" if action.nargs == "?" else f"{names} {action.metavar}"


class Parser(argparse.ArgumentParser):
    """Parses options only; `parse` hands back the operands untouched.

    ``interspersed``: options may also follow operands (``kill NAME -s TERM``). Not so where the operands are a
    command with options of its own. Attributes exist in the namespace only for options that were given.
    """

    def __init__(self, prog: str, usage: str, *, interspersed: bool = False, **kwargs: Any) -> None:
        super().__init__(
            prog,
            f"{prog} {usage}",
            formatter_class=_Help,
            argument_default=argparse.SUPPRESS,
            add_help=False,
            allow_abbrev=False,
            **kwargs,
        )
        self._interspersed = interspersed
        self._flags: dict[str, argparse.Action] = {}

    @property
    def name(self) -> str:
        """The subcommand, as messages name it, which begin with the program's name anyway."""
        return self.prog.removeprefix("execdrivers ")

    def group(self, title: str, description: str | None = None) -> Callable[..., None]:
        """A group of options in the help; call what is returned as one calls ``add_argument``."""
        group = self.add_argument_group(title, description)

        def add(*names: str, **kwargs: Any) -> None:
            action = group.add_argument(*names, **kwargs)
            self._flags.update(dict.fromkeys(names, action))

        return add

    def common(self, *more: tuple[str, dict[str, Any]]) -> None:
        """The options that every subcommand has, and ``more``; added last, so that the help ends with them."""
        add = self.group("General options")
        for name, kwargs in more:
            add(name, **kwargs)
        add(
            "--root",
            metavar="DIR",
            help="where the records of containers are kept (default: $EXECDRIVERS_ROOT, else /run/execdrivers as root, "
            "else $XDG_RUNTIME_DIR/execdrivers)",
        )
        add("--help", action="help", help="show this help and exit")

    def flag_of(self, dest: str) -> str | None:
        """``-m/--memory`` for the ``dest`` it sets, None where no option sets it."""
        for action in self._flags.values():
            if action.dest == dest:
                return "/".join(action.option_strings)
        return None

    def parse(self, words: Iterable[str]) -> tuple[argparse.Namespace, list[str]]:
        """Options as a namespace, and the operands. Raises `UsageError`."""
        options, operands = self.split(words)
        return self.parse_args(options), operands

    def split(self, words: Iterable[str]) -> tuple[list[str], list[str]]:
        """Options in the form ``--name`` or ``--name=value``, and the operands."""
        options: list[str] = []
        operands: list[str] = []
        left = list(words)
        while left:
            word = left.pop(0)
            if word == "--":
                return options, operands + left
            if word == "-" or not word.startswith("-"):
                operands.append(word)
                if not self._interspersed:
                    return options, operands + left
            elif word.startswith("--"):
                name, equals, value = word.partition("=")
                self._take(self._action(name), name, value if equals else None, options, left)
            else:
                self._split_cluster(word, options, left)
        return options, operands

    def _split_cluster(self, word: str, options: list[str], left: list[str]) -> None:
        """``-it``, ``-eA=B``, ``-m=1g``, ``-itm 1g``."""
        letters = word[1:]
        while letters:
            name, letters = f"-{letters[0]}", letters[1:]
            action = self._action(name, word)
            if letters.startswith("="):
                return self._take(action, name, letters[1:], options, left)
            if letters and action.nargs != 0:
                return self._take(action, name, letters, options, left)
            self._take(action, name, None, options, left)
        return None

    def _take(self, action: argparse.Action, name: str, value: str | None, options: list[str], left: list[str]) -> None:
        canonical = next((text for text in action.option_strings if text.startswith("--")), name)
        if action.nargs == 0:
            wanted = True if value is None else parse_bool(name, value)
            options[:] = [option for option in options if option != canonical]
            if wanted:
                options.append(canonical)
        elif value is None and action.nargs == "?":
            options.append(canonical)
        else:
            if value is None:
                if not left:
                    raise self._usage(f"option {name} needs an argument ({action.metavar})")
                value = left.pop(0)
            options.append(f"{canonical}={value}")

    def _action(self, name: str, within: str = "") -> argparse.Action:
        try:
            return self._flags[name]
        except KeyError:
            pass
        inside = f" in {within}" if within and within != name else ""
        guess = nearest(name, (flag for flag in self._flags if flag.startswith("--")))
        raise self._usage(f"unknown option {name}{inside}", guess and f"{guess}, or {self.prog} --help")

    def _usage(self, message: str, remedy: str = "") -> UsageError:
        return UsageError(message, remedy=remedy or f"{self.prog} --help")

    def error(self, message: str) -> NoReturn:
        """argparse's own complaint, such as a value that is no number."""
        raise self._usage(message.removeprefix("argument "))


def refusal(problem: str, remedy: str) -> type[argparse.Action]:
    """An action for an option of docker's that is not to be had here: it says why. No help lists it."""

    class Refusal(argparse.Action):
        def __init__(self, option_strings: Sequence[str], dest: str, nargs: int | None = None, **_: Any) -> None:
            super().__init__(option_strings, dest, nargs, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
            self.metavar = "VALUE"

        def __call__(self, *_: Any) -> NoReturn:
            raise UsageError(f"option {'/'.join(self.option_strings)} is not supported: {problem}", remedy=remedy)

    return Refusal


def integer(text: str) -> int:
    """The ``type`` of an option that takes a whole number; int() takes ``1_0`` and other scripts' digits, too."""
    if not re.fullmatch(r"[+-]?\d{1,20}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def parse_bool(name: str, text: str) -> bool:
    """A boolean given as text to the option ``name``. Raises `UsageError`."""
    if text not in _TRUE + _FALSE:
        raise UsageError(f"option {name}: {text!r} is not a boolean", remedy=f"{name}=true or {name}=false")
    return text in _TRUE


def read_text(option: str, path: str, remedy: str) -> str:
    """A file that an option names. Raises `UsageError` unless it is UTF-8 and of bearable size."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise UsageError(f"{option}: {path} has more than {MAX_FILE >> 20} MiB", remedy=remedy)
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{option}: {path}: {error.strerror}", remedy=remedy) from None
    except ValueError as error:
        raise UsageError(f"{option}: {path!r}: {error}", remedy=remedy) from None


def nearest(word: str, known: Iterable[str] | Sequence[str]) -> str:
    """The known word that was most likely meant, or an empty string."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), 1, 0.75)), "")
