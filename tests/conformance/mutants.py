"""Drivers that lie: true ones with one thing wrong each, and the test of the kit that finds it out.

As a program it tries them all, writes what came of it as JSON, and cleans up what the leaking ones have left:
``mutants.py FILE``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from execdrivers import (
    CommandNotFound,
    ContainerSpec,
    CreateRequest,
    Driver,
    Exit,
    Handle,
    LaunchError,
    Plan,
    Probe,
    Stdio,
    Step,
)
from execdrivers.testing import host, leaks, matrix
from execdrivers_chroot.driver import ChrootDriver
from execdrivers_native.driver import NativeDriver

__all__ = ["MUTANTS", "TRUE"]

#: Whatever a mutant has left on purpose is undone by these at the end.
_undo: list[Callable[[], object]] = []


@attrs.frozen
class Mutant:
    """A lie, the test that catches it, and the true driver, which passes that test."""

    lie: type[Driver]
    caught_by: str

    @property
    def true_name(self) -> str:
        """Of the true driver's class."""
        return next(true.__name__ for true in TRUE if issubclass(self.lie, true))


MUTANTS: dict[str, Mutant] = {}
TRUE = (NativeDriver, ChrootDriver)


def caught_by(test: str) -> Callable[[type[Driver]], type[Driver]]:
    """Enter a lying driver into the table."""

    def enter(lie: type[Driver]) -> type[Driver]:
        MUTANTS[lie.__name__] = Mutant(lie, test)
        return lie

    return enter


def forgetting(*fields: str, **instead: Any) -> type[Driver]:
    """A native driver that does not look at some fields of the spec, or takes other values for them."""

    class Forgetful(NativeDriver):
        def create(self, request: CreateRequest) -> Any:
            default = ContainerSpec(["x"])
            changes = {name: getattr(default, name) for name in fields} | instead
            return super().create(attrs.evolve(request, spec=request.spec.replace(**changes)))

    return Forgetful


def forgets(name: str, test: str, *fields: str, **instead: Any) -> None:
    lie = forgetting(*fields, **instead)
    lie.__name__ = name
    caught_by(test)(lie)


# --- what the spec says is not done ---------------------------------------------------------------------------------

forgets("IgnoresMemory", "TestLimits::test_memory_limit", "resources")
forgets("IgnoresPids", "TestLimits::test_forks_beyond_the_limit_fail", "resources")
forgets("IgnoresProcessorTime", "TestLimits::test_processor_time_is_limited", "resources")
forgets("IgnoresCapabilities", "TestCapabilities::test_drop_all", "capabilities")
forgets("IgnoresUser", "TestUsers::test_user_as_the_host_sees_it", "user")
forgets("IgnoresGroups", "TestUsers::test_additional_groups", "additional_gids")
forgets("IgnoresDirectory", "TestEnvironment::test_directory[/tmp]", "cwd")
forgets("IgnoresUmask", "TestEnvironment::test_umask_makes_files", "umask")
forgets("IgnoresEnvironment", "TestEnvironment::test_values_arrive_as_given", "env")
forgets("IgnoresReadonly", "TestFilesystem::test_readonly", "readonly")
forgets("IgnoresHostname", "TestNamespaces::test_hostname", "hostname")
forgets("IgnoresRlimits", "TestProcess::test_limits_as_the_host_sees_them", "rlimits")
forgets("IgnoresSeccomp", "TestSeccomp::test_by_profile", "seccomp")
forgets("IgnoresMounts", "TestMounts::test_tmpfs", "mounts")
forgets("IgnoresInit", "TestInit::test_signal_by_itself", "init")
forgets("IgnoresSysctls", "TestNamespaces::test_sysctl", "sysctls")
forgets("IgnoresMappings", "TestIds::test_user_mappings", "uid_mappings", "gid_mappings")
forgets("IgnoresOffsets", "TestNamespaces::test_time_offsets", "time_offsets")
forgets("IgnoresPaths", "TestNamespaces::test_join[network]", "namespaces")
forgets("IgnoresEphemeral", "TestFilesystem::test_ephemeral_changes_are_dropped", "ephemeral", "ephemeral_size")

# --- less safe than it should be ------------------------------------------------------------------------------------

forgets("ForgetsNoNewPrivileges", "TestCapabilities::test_no_new_privileges_by_default", no_new_privileges=False)
forgets("SharesTheNetwork", "TestNamespaces::test_only_loopback_by_default", network="host")
forgets("SharesPids", "TestNamespaces::test_processes_of_the_host_are_not_seen", namespaces={"pid": "host"})
forgets("MasksNothing", "TestFilesystem::test_masked_by_default", masked_paths=())
forgets(
    "KeepsCapabilities",
    "TestCapabilities::test_default_is_no_more_than_dockers",
    capabilities={"add": ["SYS_PTRACE"]},
)


@caught_by("TestEnvironment::test_the_callers_environment_stays_out")
class ShowsTheEnvironment(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        spec = request.spec.replace(env={**os.environ, **request.spec.env})
        return super().create(attrs.evolve(request, spec=spec))


# --- streams, exits, signals ----------------------------------------------------------------------------------------


@caught_by("TestStdio::test_stdout_and_stderr_are_apart")
class SwapsStreams(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        stdio = request.stdio
        return super().create(attrs.evolve(request, stdio=Stdio(stdio.stdin, stdio.stderr, stdio.stdout)))


def changing_exit(change: Callable[[Exit], Exit], base: type[Driver] = NativeDriver) -> type[Driver]:
    """A driver whose handles tell of another exit."""

    class Liar(base):  # type: ignore[misc, valid-type]
        def create(self, request: CreateRequest) -> Any:
            handle = super().create(request)
            true_exit = handle.exit
            handle.exit = lambda: change(true_exit())
            return handle

    return Liar


def lies_of_exit(name: str, test: str, change: Callable[[Exit], Exit]) -> None:
    lie = changing_exit(change)
    lie.__name__ = name
    caught_by(test)(lie)


lies_of_exit(
    "TellsExit0ForSignals",
    "TestLifecycle::test_kill_when_running",
    lambda exit: Exit(reason="exited", code=0) if exit.signal else exit,
)
lies_of_exit(
    "TellsExit137ForSigkill",
    "TestExit::test_exit_137_is_not_sigkill",
    lambda exit: Exit(reason="exited", code=137) if exit.signal == 9 else exit,
)
lies_of_exit(
    "TellsSigkillForExit137",
    "TestExit::test_exit_137_is_not_sigkill",
    lambda exit: Exit(reason="signaled", signal=9) if exit.code == 137 else exit,
)
lies_of_exit(
    "TellsOutOfMemoryAsSignal",
    "TestLimits::test_out_of_memory_is_told",
    lambda exit: Exit(reason="signaled", signal=9) if exit.reason == "oom" else exit,
)


@caught_by("TestExit::test_command_not_found[/no/such]")
class TellsMissingCommandsAsExit(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        true_start, true_exit = handle.start, handle.exit

        def start() -> None:
            try:
                true_start()
            except CommandNotFound:
                handle.exit = lambda: (true_exit(), Exit(reason="exited", code=127))[1]

        handle.start = start
        return handle


@caught_by("TestSignals::test_real_time_signals_arrive")
class LosesSignals(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        true_signal = handle.signal
        handle.signal = lambda number: true_signal(number if number < 32 else signal.SIGCONT)
        return handle


@caught_by("TestSignals::test_kill_ends_the_first_process_and_its_children")
class KillsOnlyTheFirst(ChrootDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)

        def kill() -> None:
            if handle.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(handle.pid, signal.SIGKILL)

        handle.kill = kill
        return handle


@caught_by("TestLifecycle::test_nothing_is_executed_before_the_start")
class StartsEarly(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        handle.start()
        handle.start = lambda: None
        return handle


# --- live containers ------------------------------------------------------------------------------------------------


@caught_by("TestPause::test_nothing_moves_and_then_goes_on")
class PausesNothing(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        handle.pause = handle.resume = lambda: None
        return handle


@caught_by("TestUpdate::test_memory")
class UpdatesNothing(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        handle.update = lambda resources: None
        return handle


@caught_by("TestStats::test_processor_time[True]")
class CountsHalfOfTheTime(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        true_stats = handle.stats

        def stats() -> Any:
            found = true_stats()
            return attrs.evolve(found, cpu=attrs.evolve(found.cpu, usage=found.cpu.usage // 2))

        handle.stats = stats
        return handle


@caught_by("TestStats::test_what_is_not_known_is_none")
class TellsZeroForTheUnknown(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        true_stats = handle.stats

        def stats() -> Any:
            found = true_stats()
            return attrs.evolve(found, memory=attrs.evolve(found.memory, peak=found.memory.peak or 0))

        handle.stats = stats
        return handle


@caught_by("TestStats::test_in_all")
class DoesNotAccount(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        return super().create(attrs.evolve(request, accounting=False))


@caught_by("TestEvents::test_out_of_memory_while_it_runs")
class TellsOfMoreKillsThanThereWere(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        true_notices = handle.notices

        def notices() -> Any:
            told = list(true_notices())
            for each in told:
                if each.count_fd >= 0:
                    os.dup2(fd := os.memfd_create("counts"), each.count_fd)
                    os.write(fd, b"oom_kill 7\n")
                    os.close(fd)
            return told

        handle.notices = notices
        return handle


@caught_by("TestSignals::test_all_processes_get_it_once[own]")
class ListsTheFirstAlone(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        handle.pids = lambda: [handle.pid]
        return handle


@caught_by("TestExec::test_user_by_number")
class ExecutesAsAnother(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        true_exec = handle.exec
        handle.exec = lambda asked: true_exec(attrs.evolve(asked, spec=asked.spec.replace(user=None)))
        return handle


@caught_by("TestDetach::test_its_monitor_is_above_it")
class IsTheParent(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        return super().create(attrs.evolve(request, spawner=None))


@caught_by("TestDetach::test_with_init")
class KeepsItsChannels(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        true_start = handle.start

        def start() -> None:
            true_start()
            handle.channels = ()

        handle.start = start
        return handle


@caught_by("TestRecover::test_it_runs_on_and_is_found")
class RecoversTheDead(NativeDriver):
    def recover(self, id: str, state: Mapping[str, Any], directory: str) -> Any:
        handle = super().recover(id, state, directory)
        handle.close()
        handle.pid = None
        return handle


# --- what it leaves behind ------------------------------------------------------------------------------------------

#: Caught by the check after every test; the test itself is one of many.
_ANY = "TestLifecycle::test_created_started_ended_deleted"


@caught_by(_ANY)
class LeaksMount(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        place = Path(request.directory).parents[1] / "tmp"
        subprocess.run(["mount", "-t", "tmpfs", "leak", place], check=True)
        _undo.append(lambda: subprocess.run(["umount", place], check=True))
        return super().create(request)


@caught_by(_ANY)
class LeaksProcess(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        process = subprocess.Popen(["sleep", "300"])
        _undo.append(lambda: (process.kill(), process.wait()))
        return super().create(request)


@caught_by(_ANY)
class LeaksCgroup(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        own = next(iter(host.cgroup_paths(os.getpid()).values()))
        path = own / f"leak-{request.id}"
        path.mkdir()
        _undo.append(path.rmdir)
        return super().create(request)


@caught_by("TestLimits::test_the_cgroup_goes_with_the_container")
class ForgetsItsCgroup(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        paths = [cgroup.path for cgroup in handle._made]

        def remove() -> None:
            for path in paths:
                with contextlib.suppress(OSError):
                    os.rmdir(path)

        _undo.append(remove)
        true_delete = handle.delete

        def delete() -> None:
            handle._made = ()
            true_delete()

        handle.delete = delete
        return handle


@caught_by(_ANY)
class LeaksDescriptor(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        fd = os.open("/dev/null", os.O_RDONLY)
        _undo.append(lambda: os.close(fd))
        return super().create(request)


@caught_by(_ANY)
class LeaksDirectory(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        tempfile.mkdtemp()
        return super().create(request)


@caught_by("TestStdio::test_no_descriptors_but_the_three")
class PassesDescriptors(ChrootDriver):
    """By way of a patched Popen: its children inherit what is inheritable."""

    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        true_start = handle.start

        def start() -> None:
            from execdrivers_chroot import driver

            fd = os.dup(2)
            os.set_inheritable(fd, True)
            true = driver.subprocess.Popen
            driver.subprocess.Popen = lambda *args, **more: true(*args, **more, close_fds=False)  # type: ignore
            try:
                true_start()
            finally:
                driver.subprocess.Popen = true  # type: ignore[misc]
                os.close(fd)

        handle.start = start
        return handle


@caught_by("TestFilesystem::test_it_is_left_as_it_was")
class LittersTheRootfs(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        if request.spec.rootfs:
            Path(request.spec.rootfs, "litter").touch()
        return super().create(request)


# --- what it says of itself -----------------------------------------------------------------------------------------


@caught_by("TestDeclaration::test_plan_is_the_same_each_time[plain]")
class PlansDiffer(NativeDriver):
    def plan(self, spec: ContainerSpec, id: str) -> Plan:
        plan = super().plan(spec, id)
        return attrs.evolve(plan, steps=(*plan.steps, Step("nonce", {"value": os.urandom(4).hex()})))


@caught_by("TestDeclaration::test_probe_claims_known_features_only")
class ClaimsTheUnknown(NativeDriver):
    def probe(self) -> Probe:
        probe = super().probe()
        return attrs.evolve(probe, features=probe.features | {"teleport"})


def claiming(name: str, feature: str, test: str) -> None:
    class Boaster(ChrootDriver):
        def probe(self) -> Probe:
            probe = super().probe()
            return attrs.evolve(probe, features=probe.features | {feature})

    Boaster.__name__ = name
    caught_by(test)(Boaster)


claiming("ClaimsMemory", "cgroup.memory", "TestLimits::test_memory_limit")
claiming("ClaimsCapabilities", "capabilities", "TestCapabilities::test_drop_all")
claiming("ClaimsTerminals", "tty", "TestTty::test_all_three_streams_are_the_terminal")
claiming("ClaimsPause", "pause", "TestPause::test_events")
claiming("ClaimsToKillAll", "kill-all", "TestSignals::test_kill_ends_every_process[session]")


@caught_by("TestDeclaration::test_guarantees_are_json_and_not_empty")
class GuaranteesNothing(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(attrs.evolve(request, born=None))  # else it is asked before it lies
        handle.guarantees = dict
        return handle


@caught_by("TestHandle::test_go_tells_at_the_end_that_there_was_no_start")
class GoesAndForgets(NativeDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)
        whole = handle.exit

        def exit() -> Exit:
            try:
                return whole()
            except LaunchError:
                return Exit(reason="exited", code=125)

        handle.exit = exit
        return handle


@caught_by("TestHandle::test_what_it_does_not_declare_raises_unsupported_feature")
class RefusesNamelessly(ChrootDriver):
    def create(self, request: CreateRequest) -> Any:
        handle = super().create(request)

        def refuse() -> None:
            raise Handle._unsupported(handle, "something")

        handle.pause = refuse
        return handle


def main(target: str) -> None:
    """Try all, and the true drivers on the same tests."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    host.PATIENCE, leaks.PATIENCE = 2.0, 0.3  # a lie is to be found out soon
    for name, mutant in MUTANTS.items():
        results = matrix.run(mutant.lie, select=[mutant.caught_by]).results
        found[name] = {result.test: (result.outcome, result.reason) for result in results}
        _clean_up()
    for true in TRUE:
        tests = {mutant.caught_by for mutant in MUTANTS.values() if issubclass(mutant.lie, true)}
        results = matrix.run(true, select=sorted(tests)).results
        found[true.__name__] = {f"Test{r.area}::{r.test}": (r.outcome, r.reason) for r in results}
    Path(target).write_text(json.dumps(found))


def _clean_up() -> None:
    while _undo:
        _undo.pop()()
    # Processes of the kit's containers whose driver has lost them: known by the directory that this program made.
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            places = Path(f"/proc/{name}/mountinfo").read_text() + os.readlink(f"/proc/{name}/root")
            if _HERE in places and int(name) != os.getpid():
                os.kill(int(name), signal.SIGKILL)
        except OSError:
            pass


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="execdrivers-mutants-") as _HERE:
        os.environ["TMPDIR"] = tempfile.tempdir = _HERE
        main(sys.argv[1])
