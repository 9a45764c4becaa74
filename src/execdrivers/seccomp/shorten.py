"""A filter in fewer instructions, which decides the same.

The kernel compiles a filter whenever it is installed, a fifth of a microsecond an instruction: what libseccomp writes,
which looks for each system call by itself, costs a container a quarter of a millisecond. Neighbouring numbers mostly
share their fate, so ranges of them are told apart here. What then looks at arguments stays as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["shorten"]

#: Codes of struct sock_filter (linux/filter.h), of a 32-bit word and a constant.
_LD, _RET, _JA, _JEQ, _JGT, _JGE, _JSET = 0x20, 0x06, 0x05, 0x15, 0x25, 0x35, 0x45
_TESTS: Mapping[int, Callable[[int, int], bool]] = {
    _JEQ: lambda word, value: word == value,
    _JGT: lambda word, value: word > value,
    _JGE: lambda word, value: word >= value,
    _JSET: lambda word, value: bool(word & value),
}
#: Offsets of the number and the architecture in struct seccomp_data.
_NR, _ARCH = 0, 4
_WORDS = 1 << 32
#: As far as a test jumps.
_REACH = 255
#: So few ranges are told apart one by one where that takes fewer tests than by halves.
_FEW = 9


class _Node(NamedTuple):
    """An instruction, and the nodes that follow: none, the next, or those of a test that holds and that does not."""

    code: int
    value: int
    following: tuple[int, ...] = ()


#: From each first word on, until that of the next, the same node.
_Ranges = Sequence[tuple[int, int]]


def shorten(program: bytes) -> bytes:
    """The program, struct sock_filter one after the other, or a shorter one."""
    graph = _Graph()
    shorter = graph.written(graph.decided(graph.read(program)))
    return min(program, shorter, key=len)


class _Graph:
    """A program without order, in which equal parts are one."""

    def __init__(self) -> None:
        self._nodes: list[_Node] = []
        self._known: dict[_Node, int] = {}

    def read(self, program: bytes) -> int:
        """The node that a program begins with."""
        behind: list[int] = []  # the nodes of the instructions behind, the last of them first
        for code, true, false, value in reversed(list(struct.iter_unpack("=HBBI", program))):
            if code == _JA:
                behind.append(behind[-1 - value])
            elif code == _RET:
                behind.append(self._node(code, value))
            elif code in _TESTS:
                behind.append(self._node(code, value, behind[-1 - true], behind[-1 - false]))
            else:
                behind.append(self._node(code, value, behind[-1]))
        return behind[-1]

    def _node(self, code: int, value: int, *following: int) -> int:
        node = _Node(code, value, following)
        if node.code in _TESTS and following[0] == following[1]:
            return following[0]
        if node not in self._known:
            self._known[node] = len(self._nodes)
            self._nodes.append(node)
        return self._known[node]

    # --- what it decides

    def decided(self, start: int) -> int:
        """The node of a program that decides as the one from ``start`` does."""
        edges = self._edges(start)
        numbers = sorted(edges[_NR])
        by_architecture = []
        for architecture in sorted(edges[_ARCH]):
            ranges = [(number, self._end(start, {_ARCH: architecture, _NR: number})) for number in numbers]
            by_architecture.append((architecture, self._told_apart(_NR, ranges)))
        return self._told_apart(_ARCH, by_architecture)

    def _edges(self, start: int) -> Mapping[int, set[int]]:
        """Of number and architecture, the words from which on the program may decide otherwise than just below."""
        edges: dict[int, set[int]] = {_NR: {0}, _ARCH: {0}}
        pending, seen = [(start, -1)], set()
        while pending:
            at, loaded = pending.pop()
            if (at, loaded) in seen:
                continue
            seen.add((at, loaded))
            code, value, following = self._nodes[at]
            if code in _TESTS and loaded in edges:
                if code == _JSET:
                    continue  # no range: `_end` leaves it to the program
                edges[loaded].update({value, value + 1} if code == _JEQ else {value + (code == _JGT)})
            elif code not in _TESTS:
                loaded = value if code == _LD else -1
            pending.extend((each, loaded) for each in following)
        return {word: {edge for edge in found if edge < _WORDS} for word, found in edges.items()}

    def _end(self, at: int, known: Mapping[int, int]) -> int:
        """Where the program comes to with that number and architecture: it returns, or looks at something else."""
        loaded = -1
        while True:
            code, value, following = self._nodes[at]
            if code == _LD and value in known:
                loaded, at = value, following[0]
            elif code in _TESTS and code != _JSET and loaded in known:
                at = following[not _TESTS[code](known[loaded], value)]
            elif loaded in known and code not in (_LD, _RET):
                return self._node(_LD, loaded, at)
            else:
                return at

    def _told_apart(self, word: int, ranges: _Ranges) -> int:
        merged = _merged(ranges)
        return self._tree(merged) if len(merged) == 1 else self._node(_LD, word, self._tree(merged))

    def _tree(self, ranges: _Ranges) -> int:
        """Tests of the word that was loaded."""
        if len(ranges) == 1:
            return ranges[0][1]
        if len(ranges) <= _FEW:
            for (_, before), (first, node), (end, after) in zip(ranges, ranges[1:], ranges[2:], strict=False):
                if end == first + 1 and before == after:
                    rest = [each for each in ranges if each[0] not in (first, end)]
                    return self._node(_JEQ, first, node, self._tree(rest))
        half = len(ranges) // 2
        return self._node(_JGE, ranges[half][0], self._tree(ranges[half:]), self._tree(ranges[:half]))

    # --- as a program

    def written(self, start: int) -> bytes:
        """The program from that node on. It is written from its end, since jumps lead forward alone."""
        out: list[tuple[int, int, int, int]] = []
        places: dict[int, int] = {}

        def jump(target: int) -> None:
            """An instruction that goes there, or does what is there: to be at hand for the next one."""
            code, value, _ = self._nodes[target]
            out.append((_RET, 0, 0, value) if code == _RET else (_JA, 0, 0, len(out) - 1 - places[target]))

        for node in self._from_the_end(start):
            code, value, following = self._nodes[node]
            near = {target: places[target] for target in following}
            for target in following:
                if code not in _TESTS and places[target] != len(out) - 1:
                    jump(target)
                elif code in _TESTS and len(out) + 1 - places[target] > _REACH:
                    jump(target)
                    near[target] = len(out) - 1
            true, false = (len(out) - 1 - near[each] for each in following) if code in _TESTS else (0, 0)
            places[node] = len(out)
            out.append((code, true, false, value))
        return b"".join(struct.pack("=HBBI", *each) for each in reversed(out))

    def _from_the_end(self, start: int) -> Sequence[int]:
        """The nodes, each behind those that follow it."""
        order: dict[int, None] = {}
        pending = [start]
        while pending:
            node = pending[-1]
            left = [each for each in self._nodes[node].following if each not in order]
            if left:
                pending.append(left[-1])
            else:
                order[pending.pop()] = None
        return list(order)


def _merged(ranges: _Ranges) -> _Ranges:
    """Without those that only go on with what comes before."""
    merged: list[tuple[int, int]] = []
    for first, node in ranges:
        if not merged or merged[-1][1] != node:
            merged.append((first, node))
    return merged
