"""Device rules: their meaning said once more in the plainest way, and both of the kernel's forms held against it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execdrivers import SpecError, cgroups
from execdrivers.cgroups import bpf, devices
from execdrivers.cgroups.bpf import Instruction
from execdrivers.cgroups.devices import Rule
from execdrivers.spec import Device, DeviceRule

# --- what rules mean -------------------------------------------------------------------------------------------------

Question = tuple[str, int, int, frozenset[str]]


def answer(rules: Iterable[Rule], question: Question) -> bool:
    """For each kind of access the last rule that speaks of it decides; all that is asked for must be allowed."""
    type, major, minor, access = question
    for letter in access:
        verdict = False
        for rule in rules:
            speaks = rule.type in ("a", type) and rule.major in (None, major) and rule.minor in (None, minor)
            if speaks and letter in rule.access:
                verdict = rule.allow
        if not verdict:
            return False
    return True


_LETTERS = [frozenset(letters) for letters in ("r", "w", "m", "rw", "rm", "wm", "rwm")]
QUESTIONS: list[Question] = list(product("bc", range(3), range(3), _LETTERS))
_NUMBERS = st.sampled_from([None, 0, 1, 2])
RULES = st.lists(st.builds(Rule, st.booleans(), st.sampled_from("abc"), _NUMBERS, _NUMBERS, st.sampled_from(_LETTERS)))


# --- version 2: the program ------------------------------------------------------------------------------------------


def run(code: Sequence[Instruction], question: Question) -> bool:
    """What the program answers: an interpreter of its few instructions, from their specification."""
    type, major, minor, access = question
    asked = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    memory = {0: asked << 16 | {"b": 1, "c": 2}[type], 4: major, 8: minor}
    registers: dict[int, int] = {}
    at, word = 0, 2**64 - 1
    while True:
        code_, to, source, offset, constant = code[at]
        at += 1
        match code_:
            case 0x61:
                assert source == 1, "r1 alone points somewhere"
                registers[to] = memory[offset]
            case 0xBF:
                registers[to] = registers[source]
            case 0xB7:
                registers[to] = constant & word
            case 0x57:
                registers[to] &= constant & word
            case 0x77:
                registers[to] >>= constant
            case 0x05:
                at += offset
            case 0x55:
                at += offset if registers[to] != constant & word else 0
            case 0x45:
                at += offset if registers[to] & constant & word else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"unknown instruction {code_:#x}")


@given(RULES)
@settings(deadline=None)
def test_the_program_answers_as_the_rules_do(rules: list[Rule]) -> None:
    code = bpf.program(rules)
    for question in QUESTIONS:
        assert run(code, question) == answer(rules, question), (list(map(str, rules)), question)


def test_the_program_instruction_by_instruction() -> None:
    rules = [Rule(True, "c", 1, None, frozenset("rw")), Rule(False, "c", 1, 3, frozenset("w"))]
    assert bpf.program(rules) == (
        (0x61, 2, 1, 0, 0),  # r2 = access << 16 | type
        (0x61, 4, 1, 4, 0),  # r4 = major
        (0x61, 5, 1, 8, 0),  # r5 = minor
        (0xBF, 3, 2, 0, 0),  # r3 = r2
        (0x57, 3, 0, 0, 0xFFFF),  # r3 &= 0xffff: the type
        (0x77, 2, 0, 0, 16),  # r2 >>= 16: what is asked for
        # deny c 1:3 w
        (0x55, 3, 0, 6, 2),  # if r3 != character device: next rule
        (0x55, 4, 0, 5, 1),  # if r4 != 1: next rule
        (0x55, 5, 0, 4, 3),  # if r5 != 3: next rule
        (0x45, 2, 0, 1, 4),  # if r2 & w: over the jump
        (0x05, 0, 0, 2, 0),  # next rule
        (0xB7, 0, 0, 0, 0),  # r0 = 0: denied
        (0x95, 0, 0, 0, 0),  # exit
        # allow c 1:* rw
        (0x55, 3, 0, 5, 2),  # if r3 != character device: next rule
        (0x55, 4, 0, 4, 1),  # if r4 != 1: next rule
        (0x57, 2, 0, 0, ~6),  # r2 &= ~rw: what is left to be allowed
        (0x55, 2, 0, 2, 0),  # if r2 != 0: next rule
        (0xB7, 0, 0, 0, 1),  # r0 = 1: allowed
        (0x95, 0, 0, 0, 0),  # exit
        # what none spoke of
        (0xB7, 0, 0, 0, 0),  # r0 = 0: denied
        (0x95, 0, 0, 0, 0),  # exit
    )


def test_instructions_as_bytes() -> None:
    code = [
        Instruction(0x61, 4, 1, 8),
        Instruction(0x57, 2, constant=~6),
        Instruction(0x55, 3, offset=-2, constant=259),
    ]
    assert bpf.assemble(code).hex(" ", 8) == "6114080000000000 57020000f9ffffff 5503feff03010000"


def test_nothing_after_a_rule_on_everything() -> None:
    """The kernel refuses programs with instructions that are never reached."""
    everything = [Rule(False, "c", 1, 3, frozenset("rwm")), devices.ALLOW_ALL]
    assert bpf.program(everything)[6:] == ((0xB7, 0, 0, 0, 1), (0x95, 0, 0, 0, 0))


@pytest.mark.needs("root")
@given(RULES)
@settings(max_examples=40, deadline=None)
def test_the_kernel_takes_every_program(rules: list[Rule]) -> None:
    if not bpf.supported():
        pytest.skip("needs a kernel and the privilege to load BPF programs")
    os.close(bpf._load(rules))


@pytest.mark.needs("root")
def test_many_rules_are_taken() -> None:
    if not bpf.supported():
        pytest.skip("needs a kernel and the privilege to load BPF programs")
    os.close(bpf._load([Rule(minor % 3 > 0, "c", 2**31 - 1, minor, frozenset("rw")) for minor in range(250)]))


# --- version 1: the lists --------------------------------------------------------------------------------------------


class KernelList:
    """The list of a cgroup of v1, as security/device_cgroup.c keeps it."""

    def __init__(self) -> None:
        self.allows = True
        self.exceptions: dict[tuple[str, str], set[str]] = {}

    def write(self, file: str, line: str) -> None:
        allow = file == "devices.allow"
        if line == "a":
            self.allows, self.exceptions = allow, {}
            return
        type, numbers, access = line.split()
        if allow == self.allows:  # take away from an exception that is just the same
            left = self.exceptions.pop((type, numbers), set()) - set(access)
            if left:
                self.exceptions[type, numbers] = left
        else:
            self.exceptions.setdefault((type, numbers), set()).update(access)

    def read(self) -> str:
        if self.allows:
            return "a *:* rwm"
        lines = ((*key, "".join(sorted(access, key="rwm".index))) for key, access in self.exceptions.items())
        return "\n".join(map(" ".join, lines))

    def answer(self, question: Question) -> bool:
        type, major, minor, access = question
        found = [bits for key, bits in self.exceptions.items() if self._matches(key, type, major, minor)]
        return not any(bits & access for bits in found) if self.allows else any(access <= bits for bits in found)

    @staticmethod
    def _matches(key: tuple[str, str], type: str, major: int, minor: int) -> bool:
        numbers = zip(key[1].split(":"), (major, minor), strict=True)
        return key[0] == type and all(pattern in ("*", str(number)) for pattern, number in numbers)


@given(RULES)
@settings(deadline=None)
def test_the_list_answers_as_the_rules_do(rules: list[Rule]) -> None:
    with contextlib.suppress(SpecError):
        kernel = KernelList()
        for file, line in devices.v1_files(rules):
            kernel.write(file, line)
        for question in QUESTIONS:
            assert kernel.answer(question) == answer(rules, question), (list(map(str, rules)), question)


@given(RULES, RULES)
@settings(deadline=None)
def test_a_change_denies_at_no_time_what_stays_allowed(before: list[Rule], after: list[Rule]) -> None:
    with contextlib.suppress(SpecError):
        kernel = KernelList()
        for file, line in devices.v1_files(before):
            kernel.write(file, line)
        files = devices.v1_files(after)
        stay = [q for q in QUESTIONS if answer(before, q) and answer(after, q)]
        lists = not kernel.allows and files[0] == ("devices.deny", "a")
        for file, line in devices.transition(kernel.read(), files):
            kernel.write(file, line)
            assert not lists or all(map(kernel.answer, stay))
        assert all(kernel.answer(question) == answer(after, question) for question in QUESTIONS)


def test_what_a_list_cannot_say_is_refused() -> None:
    rules = devices.given([DeviceRule(False), DeviceRule(True, "c", 1), DeviceRule(False, "c", 1, 11, "w")])
    with pytest.raises(SpecError, match=r"resources.devices: 'deny c 1:11 w' takes a part out of c 1:\* rwm"):
        devices.v1_files(rules)


# --- a container's rules ---------------------------------------------------------------------------------------------


def _questions(*lines: str) -> Iterator[Question]:
    for line in lines:
        rule = Rule.parse(f"allow {line}")
        assert rule.major is not None and rule.minor is not None
        yield rule.type, rule.major, rule.minor, rule.access


NULL, TERMINAL, DISK, KMSG, MAKE_DISK = _questions("c 1:3 rw", "c 136:7 rw", "b 8:0 r", "c 1:11 r", "b 8:0 m")


@pytest.mark.parametrize(
    ("given", "nodes", "allowed", "denied"),
    [
        (None, [], [NULL, TERMINAL, MAKE_DISK], [DISK, KMSG]),
        ([DeviceRule(False)], [], [NULL, TERMINAL, MAKE_DISK], [DISK, KMSG]),
        ([], [], [NULL, DISK, KMSG, MAKE_DISK], []),
        ([DeviceRule(True)], [], [NULL, DISK], []),
        ([DeviceRule(True, "c", 1, 11, "r")], [], [NULL, KMSG], [DISK, MAKE_DISK]),
        ([DeviceRule(False, "c", 1, 3)], [], [NULL], [DISK]),
        (None, [Device("/dev/x", "c", 1, 11, access="r")], [NULL, KMSG], [("c", 1, 11, frozenset("w")), DISK]),
        (None, [Device("/dev/x", "c", 1, 3, access="r")], [NULL], [KMSG]),
        ([], [Device("/dev/x", "b", 8, 0, access="w")], [NULL, KMSG, MAKE_DISK], [DISK]),
        ([DeviceRule(False)], [Device("/dev/x", "b", 8, 0), Device("/dev/p", "p")], [DISK, NULL], [KMSG]),
    ],
)
def test_rules_of_a_container(
    given: list[DeviceRule] | None, nodes: list[Device], allowed: list[Question], denied: list[Question]
) -> None:
    rules = devices.rules(given, devices.nodes(nodes))
    kernel = KernelList()
    for file, line in devices.v1_files(rules):
        kernel.write(file, line)
    for question in (*allowed, *denied):
        wanted = question in allowed
        assert answer(rules, question) == run(bpf.program(rules), question) == kernel.answer(question) == wanted, (
            question
        )


@given(RULES)
def test_text(rules: list[Rule]) -> None:
    assert [Rule.parse(str(rule)) for rule in rules] == rules


def test_of_a_fresh_cgroup_there_is_no_other_form() -> None:
    assert devices.v1_files(devices.rules((), ())) == [("devices.allow", "a")]
    assert devices.v1_files(()) == [("devices.deny", "a")]


# --- the kernel ------------------------------------------------------------------------------------------------------


@pytest.mark.needs("root")
def test_attached_replaced_and_gone_with_the_cgroup() -> None:
    layout = cgroups.look()
    if layout.problem() or not bpf.supported():
        pytest.skip("needs cgroup v2 and the privilege to load BPF programs")
    place = f"{layout.v2}/{cgroups.parent()}-devices{os.getpid()}"
    os.mkdir(place)
    try:

        def opens(path: str) -> bool:
            pid = os.fork()
            if pid == 0:
                status = 1
                with contextlib.suppress(OSError):
                    with open(f"{place}/cgroup.procs", "w") as file:
                        file.write("0")
                    os.close(os.open(path, os.O_RDONLY))
                    status = 0
                os._exit(status)
            return os.waitpid(pid, 0)[1] == 0

        assert opens("/dev/null") and opens("/dev/zero")
        for minor in (3, 5):
            bpf.attach(place, [Rule(True, "c", 1, minor, frozenset("rwm"))])
            assert (opens("/dev/null"), opens("/dev/zero")) == (minor == 3, minor == 5)
        bpf.attach(place, [devices.ALLOW_ALL])
        assert opens("/dev/null") and opens("/dev/zero")
    finally:
        os.rmdir(place)
