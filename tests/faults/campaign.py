"""One launch with one fault, and the judgement: refused with a precise error, or as contained as without the fault."""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path

import attrs

from execdrivers import DEVNULL, PIPE, Engine, ExecDriverError
from execdrivers.testing.leaks import Snapshot, wait_for_none

from ..fuzz import plans  # noqa: TID252 - not a package that can be named
from .inject import Tracer, number, plausible

__all__ = ["PLANS", "Fault", "Laboratory"]

#: Further commands beside the plans of `plans.SPECS`.
PLANS = (*plans.SPECS, "exec")

#: What a command sees of its containment.
_LOOK = """
id; hostname; pwd; umask; ulimit -n; env | sort; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status
for kind in cgroup ipc mnt net pid uts user; do readlink /proc/self/ns/$kind; done
cut -d' ' -f4- /proc/self/mountinfo; cat /proc/self/cgroup; ls -ln /dev; ls /proc/self/fd | wc -w
[ /proc/self/fd/0 -ef /dev/null ] && echo null; cat /proc/self/oom_score_adj
"""
#: Of one call that is made many times (signals, capabilities) so many are tried.
_EACH = 3
_PR_SET_CHILD_SUBREAPER = 36


@attrs.frozen
class Fault:
    """What was done and what came of it; ``finding`` is empty when all is well."""

    plan: str
    call: str
    at: int
    error: str
    step: str
    finding: str


class Laboratory:
    """Launches the same few containers again and again. As root, with strace, and a busybox root file system."""

    def __init__(self, rootfs: Path, scratch: Path) -> None:
        self.rootfs, self.scratch = rootfs, scratch
        self.engine = Engine(root=scratch / "state")
        self._namespaces = {os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
        # Our guard lives as long as we do, and is not to come to us.
        self.engine.run(["true"], driver="native", rootfs=rootfs)
        # What is left behind comes to us then, and cannot be mistaken for another program's.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._sound = {}
        self._calls: dict[str, list[list[str]]] = {}

    def close(self) -> None:
        self.engine.close()
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def learn(self, plan: str) -> None:
        """How it is without a fault: what the command sees, what the launcher calls."""
        with Tracer().active(further=plan == "exec") as tracer:
            self._sound[plan] = self._look(plan)
        self._calls[plan] = list(tracer.calls.values())
        assert "uid=" in self._sound[plan]

    def faults(self, plan: str) -> Iterator[tuple[str, int, str]]:
        """(call, the how-manieth of its name, errno) of all that can fail."""
        counts = Counter[str]()
        for calls in self._calls[plan]:
            counts |= Counter(calls)
        for call, count in sorted(counts.items()):
            places: Iterable[int] = range(1, count + 1)
            if count > _EACH:
                places = sorted({1 + round(i * (count - 1) / (_EACH - 1)) for i in range(_EACH)})
            for at in places:
                if call == "read" and at == 1:
                    continue  # by which the launcher waits for strace
                for error in plausible(call):
                    yield call, at, error

    def fail(self, plan: str, call: str, at: int, error: str) -> Fault:
        """One launch of the plan in which that call fails."""
        before = Snapshot()
        step, finding = "", ""
        with Tracer(call, at, error).active(further=plan == "exec") as tracer:
            try:
                seen = self._look(plan)
            except ExecDriverError as refused:
                step, finding = self._judge(refused, error)
            except Exception as raised:
                finding = f"{type(raised).__name__}: {raised}"
            else:
                step, finding = "(none)", self._compare(plan, seen)
        if tracer.late:
            finding = ""
        return Fault(plan, call, at, error, step, "; ".join([*filter(None, [finding]), *self.left(before)]))

    def _judge(self, refused: ExecDriverError, error: str) -> tuple[str, str]:
        step = getattr(refused, "step", "")
        if self.witness.exists():
            return step, "the command ran although an error was raised"
        if not step:
            return "", f"no step: {refused!r}"
        told = getattr(refused, "errno", 0)
        # The kernel's other ends say it otherwise: the message was lost, the launcher is gone.
        if told != number(error) and step not in ("launch", "exec", "control"):
            return step, f"errno {told} instead of {error}: {refused}"
        return step, ""

    def _compare(self, plan: str, seen: str) -> str:
        if seen == self._sound[plan]:
            return ""
        lines, sound = seen.splitlines(), self._sound[plan].splitlines()
        changed = [f"+{line}" for line in lines if line not in sound]
        changed += [f"-{line}" for line in sound if line not in lines]
        return "it ran, contained otherwise: " + " ".join(changed)[:300]

    snapshot = Snapshot

    def left(self, before: Snapshot) -> list[str]:
        """What was left behind since."""
        left = [text for text in wait_for_none(before, places=[str(self.scratch)]) if not self._is_anothers(text)]
        entries = glob("*", root_dir=self.engine.root)
        return [f"left behind: {text}" for text in (*left, *entries)]

    @staticmethod
    def _is_anothers(text: str) -> bool:
        """A process that is not below us."""
        match = re.match(r"process (\d+) ", text)
        pid = int(match[1]) if match else os.getpid()
        while pid > 1 and pid != os.getpid():
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                return True
        return pid != os.getpid()

    @property
    def witness(self) -> Path:
        """A file that the command makes before all else."""
        return self.scratch / "seen" / "witness"

    def _look(self, plan: str) -> str:
        """Run a command in it that looks around, and tell what it saw."""
        self.witness.parent.mkdir(exist_ok=True)
        self.witness.unlink(missing_ok=True)
        self.witness.parent.chmod(0o777)
        options = {"stdin": DEVNULL, "stdout": PIPE, "driver": "native"}
        script = ["sh", "-c", f">/seen/witness;{_LOOK}"]
        spec = plans.spec(self.rootfs, "limits" if plan == "exec" else plan, *script)
        seen = {"type": "bind", "source": str(self.witness.parent), "destination": "/seen", "options": ["rbind", "rw"]}
        if spec.rootfs is None:
            seen["destination"] = "/tmp/seen"
            script[2] = script[2].replace("/seen", "/tmp/seen", 1)
        spec = spec.replace(mounts=[*spec.mounts, seen])
        if plan != "exec":
            container = self.engine.create(spec.replace(args=script), **options)
            with container:
                container.start()
                return self._normal(container.id, container.communicate(timeout=20)[0] or b"")
        with self.engine.create(spec.replace(args=["sleep", "60"]), **options) as container:
            container.start()
            with container.exec(script, stdin=DEVNULL, stdout=PIPE) as process:
                return self._normal(container.id, process.communicate(timeout=20)[0] or b"")

    def _normal(self, id: str, output: bytes) -> str:
        text = output.decode(errors="replace").replace(id, "ID").replace("\r", "")
        text = re.sub(r"^.*/pytest-of-.*\n", "", text, flags=re.MULTILINE)  # the host's, by tests that run beside this
        text = re.sub(r"\b(shared|master):\d+", r"\1", text)
        text = re.sub(r"^(\S+\s+){5}(.*:\d\d) ", "", text, flags=re.MULTILINE)
        return re.sub(
            r"^\w+:\[\d+\]$", lambda match: "host" if match[0] in self._namespaces else "own", text, flags=re.MULTILINE
        )
