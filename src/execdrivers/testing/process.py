"""What a spec says of the process besides its user: limits, scheduling, scores, labels."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from execdrivers import PIPE, LaunchError, SpecError
from execdrivers.testing import host
from execdrivers.testing.gates import needs
from execdrivers.testing.kit import Kit, args_of
from execdrivers.testing.program import Report

__all__ = ["TestProcess"]

_LIMITS = {
    "AS": (1 << 30, 1 << 31),
    "CORE": (0, 0),
    "CPU": (50, 60),
    "DATA": (1 << 28, 1 << 29),
    "FSIZE": (1 << 20, 1 << 21),
    "LOCKS": (11, 12),
    "MEMLOCK": (4096, 8192),
    "MSGQUEUE": (100, 200),
    "NICE": (0, 0),
    "NOFILE": (64, 128),
    "NPROC": (1000, 2000),
    "RSS": (1 << 20, 1 << 21),
    "RTPRIO": (0, 0),
    "RTTIME": (1000, 2000),
    "SIGPENDING": (50, 100),
    "STACK": (1 << 20, 1 << 22),
}


class TestProcess(Kit):
    """Each attribute as the process itself finds it."""

    # --- resource limits

    @needs("rlimits")
    @pytest.mark.parametrize("name", _LIMITS)
    def test_limit(self, name: str) -> None:
        soft, hard = _LIMITS[name]
        ours = resource.getrlimit(getattr(resource, f"RLIMIT_{name}", _UNNAMED.get(name, 0)))[1]
        if not host.capable("CAP_SYS_RESOURCE") and ours != resource.RLIM_INFINITY:
            soft, hard = min(soft, ours), min(hard, ours)
        assert self.report(rlimits={name: (soft, hard)})["rlimits"][name] == [soft, hard]

    @needs("rlimits")
    def test_limits_as_the_host_sees_them(self) -> None:
        container = self.start_ready(rlimits={"nofile": "55:66", "core": 0})
        text = Path(f"/proc/{self.first_process(container)}/limits").read_text()
        rows = {line[:25].strip(): line[25:].split()[:2] for line in text.splitlines()}
        assert rows["Max open files"] == ["55", "66"]
        assert rows["Max core file size"] == ["0", "0"]

    @needs("rlimits")
    def test_others_stay_as_they_are(self) -> None:
        before = self.by_default()["rlimits"]
        after = self.report(rlimits={"core": 0})["rlimits"]
        assert {name: value for name, value in after.items() if name != "CORE"} == {
            name: value for name, value in before.items() if name != "CORE"
        }

    @needs("rlimits")
    def test_limit_of_file_size_is_enforced(self) -> None:
        rootfs = self.own_rootfs()
        done = self.run("ignore 25", "fill /data/big 100000", rootfs=rootfs, rlimits={"fsize": 4096})
        assert b'"result":"4096"' in done.stdout

    @needs("rlimits")
    def test_limit_of_open_files_does_not_hinder_the_launch(self) -> None:
        assert self.run("exit 0", rlimits={"nofile": 3}).returncode == 0

    @needs("rlimits")
    def test_limit_above_ours_is_refused(self) -> None:
        if host.capable("CAP_SYS_RESOURCE"):
            host.lacking("a caller without CAP_SYS_RESOURCE, which may raise its limits")
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with pytest.raises(LaunchError):
            self.run("say x", rlimits={"nofile": hard + 1})

    # --- scores and scheduling

    @needs("oom-score-adj")
    @pytest.mark.parametrize("score", [0, 1, 500, 1000])
    def test_oom_score(self, score: int) -> None:
        container = self.start_ready(oom_score_adj=score)
        assert Path(f"/proc/{self.first_process(container)}/oom_score_adj").read_text() == f"{score}\n"

    @needs("scheduler")
    @pytest.mark.parametrize(("policy", "number"), [("batch", 3), ("idle", 5)])
    def test_scheduler(self, policy: str, number: int) -> None:
        assert self.report(scheduler={"policy": policy})["policy"] == number

    @needs("scheduler")
    def test_scheduler_nice(self) -> None:
        report = self.report(scheduler={"policy": "other", "nice": 7})
        assert (report["policy"], report["nice"]) == (0, 7)

    @needs("scheduler")
    @pytest.mark.parametrize(("policy", "number"), [("fifo", 1), ("rr", 2)])
    def test_scheduler_realtime(self, policy: str, number: int) -> None:
        self._needs_nice()
        report = self.report(scheduler={"policy": policy, "priority": 5})
        assert (report["policy"], report["priority"]) == (number, 5)

    @needs("scheduler")
    def test_scheduler_nice_below_ours(self) -> None:
        self._needs_nice()
        assert self.report(scheduler={"policy": "other", "nice": -3}, user="alice")["nice"] == -3

    @needs("io-priority")
    def test_io_priority_realtime(self) -> None:
        self._needs_nice()
        assert self.report(io_priority={"io_class": "realtime", "priority": 2}, user="alice")["ioprio"] == 1 << 13 | 2

    def _needs_nice(self) -> None:
        if not host.capable("CAP_SYS_NICE"):
            host.lacking("CAP_SYS_NICE")

    @needs("scheduler", "io-priority", "personality", "exec")
    def test_executed_commands_have_them_too(self) -> None:
        container = self.start_ready(
            scheduler={"policy": "batch", "nice": 3}, io_priority={"io_class": "idle"}, personality="LINUX32"
        )
        with container.exec(["/bin/probe", "report"], stdout=-1) as process:
            out, _ = process.communicate(timeout=20)
        report = Report.parse(out or b"")
        assert (report["policy"], report["nice"], report["ioprio"] >> 13) == (3, 3, 3)
        assert report["personality"] & 0xFF == 8

    @needs("io-priority")
    def test_io_priority(self) -> None:
        assert self.report(io_priority={"io_class": "best-effort", "priority": 6})["ioprio"] == 2 << 13 | 6

    @needs("io-priority")
    def test_io_priority_idle(self) -> None:
        assert self.report(io_priority={"io_class": "idle"})["ioprio"] >> 13 == 3

    @needs("personality")
    def test_personality(self) -> None:
        report = self.report(personality="LINUX32")
        assert report["personality"] & 0xFF == 8
        assert report["machine"] != os.uname().machine

    @needs("cpu-affinity", "exec")
    def test_affinity_of_executed_commands(self) -> None:
        available = sorted(os.sched_getaffinity(0))
        if len(available) < 2:
            host.lacking("two processors")
        container = self.start_ready(cpu_affinity={"initial": str(available[0]), "final": str(available[1])})
        with container.exec(["/bin/probe", "report"], stdout=-1) as process:
            out, _ = process.communicate(timeout=20)
        assert Report.parse(out or b"")["cpus"] == [available[1]]

    @needs("cpu-affinity", asked={"cpu_affinity": {"initial": "0"}})
    def test_affinity_is_the_callers_otherwise(self) -> None:
        assert set(self.by_default()["cpus"]) <= os.sched_getaffinity(0)

    # --- labels

    @needs("apparmor")
    def test_apparmor_profile(self) -> None:
        profile = self._loaded_profile()
        report = self.report(apparmor_profile=profile)
        assert (report["apparmor"] or "").split() == [profile, "(enforce)"]

    @needs("apparmor", "exec")
    def test_apparmor_profile_of_more_processes(self) -> None:
        profile = self._loaded_profile()
        container = self.start_ready(apparmor_profile=profile)
        with container.exec(args_of("report"), stdout=PIPE) as process:
            output = process.communicate()[0]
        assert isinstance(output, bytes)
        assert (Report.parse(output)["apparmor"] or "").split() == [profile, "(enforce)"]

    @needs("apparmor", "init")
    def test_apparmor_profile_under_an_init(self) -> None:
        profile = self._loaded_profile()
        label = self.report(apparmor_profile=profile, init=True)["apparmor"] or ""
        assert label.split() == [profile, "(enforce)"]

    @needs("apparmor", asked={"apparmor_profile": "x"})
    def test_no_apparmor_profile(self) -> None:
        own = Path("/proc/self/attr/current").read_text()
        assert self.report(apparmor_profile="unconfined")["apparmor"] == own

    @needs("apparmor")
    def test_an_apparmor_profile_that_is_not_loaded(self) -> None:
        with pytest.raises((SpecError, LaunchError), match="no-such-profile"):
            self.run(apparmor_profile="no-such-profile")

    def _loaded_profile(self) -> str:
        """Any profile that a container's command can run with."""
        if "apparmor" not in self.features:
            return "any"
        for name in ("execdrivers-default", "docker-default"):
            if list(Path("/sys/kernel/security/apparmor/policy/profiles").glob(f"{name}.*")):
                return name
        host.lacking("an AppArmor profile for containers: execdrivers apparmor load")
        raise AssertionError

    @needs("selinux")
    def test_selinux_label(self) -> None:
        if "selinux" in self.features and not os.path.exists("/sys/fs/selinux/enforce"):
            host.lacking("SELinux")
        self.run("say x", selinux_label="system_u:system_r:container_t:s0")


#: Numbers of limits that Python has no name for everywhere.
_UNNAMED = {"LOCKS": 10, "MSGQUEUE": 12, "NICE": 13, "RTPRIO": 14, "RTTIME": 15, "SIGPENDING": 11}
