"""An ordinary user with subordinate ids: containers of many users, by newuidmap(1) and newgidmap(1)."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs("root", "busybox", "setpriv", "unshare", "newuidmap")

NAME, UID, GID, START = "ordinary", 4321, 4322, 1_900_000_000

#: In a mount namespace of its own, where the user has an account and ids; then whatever was asked for, as that user.
_GRANTED = f"""
for file in passwd subuid subgid; do
    cat /etc/$file >$0/$file || :
done
echo {NAME}:x:{UID}:{GID}::/:/bin/sh >>$0/passwd
echo {NAME}:{START}:65536 | tee -a $0/subuid >>$0/subgid
for file in passwd subuid subgid; do
    mount --bind $0/$file /etc/$file
done
exec setpriv --reuid={UID} --regid={GID} --clear-groups "$@"
"""

Run = Callable[[str], Any]


@pytest.fixture
def run(ordinary: tuple[str, ...], rootfs: Path) -> Iterator[Run]:
    """Has that user run a few lines of Python, with ``out(script, **fields)`` for what a container prints; gives what
    they leave in ``result``."""
    # Not below pytest's own directory, which each pytest of root's closes to others.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        for directory in ("state", "etc"):
            (place / directory).mkdir()
        os.chown(place / "state", UID, GID)
        subprocess.run(["cp", "-a", rootfs, place / "rootfs"], check=True)
        yield functools.partial(_run, place)


def _run(place: Path, lines: str) -> Any:
    prelude = f"""if True:
        import execdrivers, json, os
        from execdrivers import PIPE, ContainerSpec, Engine
        rootfs, own, base = {str(place / "rootfs")!r}, {UID}, {START}
        engine = Engine(root={str(place / "state")!r})
        def out(script, rootfs=rootfs, **fields):
            done = engine.run(["sh", "-c", script], rootfs=rootfs, driver="native", capture_output=True, text=True,
                              timeout=30, **fields)
            assert (done.returncode, done.stderr) == (0, ""), done
            return done.stdout.split()
    """
    words = ["unshare", "--mount", "sh", "-ec", _GRANTED, str(place / "etc")]

    program = prelude + lines + "\n        engine.close()\n        print(json.dumps(result))"
    environment = {"PATH": os.environ["PATH"], "HOME": "/tmp"}
    done = subprocess.run(
        [*words, sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_root_is_the_user_and_others_are_subordinate(run: Run) -> None:
    assert run(
        """
        script = "cat /proc/self/uid_map; id -u; touch /dev/shm/x; chown 5:6 /dev/shm/x; stat -c %u:%g /dev/shm/x"
        result = out(script)
        """
    ) == [*f"0 {UID} 1 1 {START} 65535".split(), "0", "5:6"]


def test_another_user_with_groups(run: Run) -> None:
    assert run(
        """
        result = out("id -u; id -G; grep CapEff /proc/self/status", user="1000:1001", additional_gids=[7])
        """
    ) == ["1000", "1001", "7", "CapEff:", "0" * 16]


def test_in_the_hosts_root_users_are_who_they_are(run: Run) -> None:
    own = str(UID)
    assert run(
        """
        result = [*out("id -u; wc -l </proc/self/uid_map", rootfs=None),
                  *out("id -u; touch /tmp/x; stat -c %u /tmp/x", rootfs=None, namespaces={"user": "private"}),
                  *out("id -u", rootfs=None, user="1000:1000")]
        """
    ) == [own, "1", own, own, "1000"]


def test_mappings_of_its_own_choice(run: Run) -> None:
    ids, problem = run(
        """
        maps = [{"container_id": 0, "host_id": base + 100, "size": 1000}]
        ids = out("cat /proc/self/uid_map; id -u", uid_mappings=maps, gid_mappings=maps)
        maps[0]["size"] = 65536
        try:
            out("true", uid_mappings=maps, gid_mappings=maps)
        except execdrivers.SpecError as error:
            result = ids, [error.field, error.remedy]
        """
    )
    assert ids == ["0", str(START + 100), "1000", "0"]
    assert problem == [
        "uid_mappings[0].host_id",
        f"as root: usermod --add-subuids {START + 100}-{START + 100 + 65535} {NAME}",
    ]


def test_further_processes_and_joining(run: Run) -> None:
    result = run(
        """
        spec = ContainerSpec.build(["sleep", "100"], rootfs=rootfs)
        container = engine.create(spec, driver="native")
        container.start()
        def executed(script, **options):
            with container.exec(["sh", "-c", script], stdout=PIPE, **options) as process:
                return process.communicate(timeout=20)[0].decode().split()
        result = [executed("id -u"), executed("id -u; id -G", user="1000:5", additional_gids=[6]),
                  executed("stat -c %u $(tty)", tty=True, user="1000")]
        theirs = {kind: f"/proc/{container.pid}/ns/{file}" for kind, file in
                  (("user", "user"), ("network", "net"), ("ipc", "ipc"))}
        script = "id -u; readlink /proc/self/ns/net; cut -d. -f1 /proc/uptime"
        seen = out(script, namespaces=theirs, user="5:5", time_offsets={"boottime": {"secs": 10**7}}, oom_score_adj=9)
        result += [seen[0], seen[1] == os.readlink(theirs["network"]), int(seen[2]) > 10**7]
        try:
            out("true", namespaces={"network": theirs["network"]})
        except execdrivers.SpecError as error:
            result.append(error.field)
        container.delete(force=True)
        """
    )
    assert result == [["0"], ["1000", "5", "6"], ["1000"], "5", True, True, 'namespaces["network"]']


def test_joining_one_of_one_id(run: Run) -> None:
    assert run(
        """
        gid = os.getegid()
        one = {"uid_mappings": [{"container_id": 33, "host_id": own, "size": 1}],
               "gid_mappings": [{"container_id": 34, "host_id": gid, "size": 1}], "user": "33:34"}
        container = engine.create(ContainerSpec.build(["sleep", "100"], rootfs=rootfs, **one), driver="native")
        container.start()
        joined = {kind: f"/proc/{container.pid}/ns/{kind}" for kind in ("user", "ipc")}
        result = [*out("id -u; id -g; touch /dev/shm/x; cat /proc/self/setgroups", namespaces=joined, user="33:34")]
        try:
            out("true", namespaces=joined)
        except execdrivers.SpecError as error:
            result.append(error.field)
        container.delete(force=True)
        """
    ) == ["33", "34", "deny", "user"]


def test_killed_whoever_it_runs_as(run: Run) -> None:
    assert (
        run(
            """
        spec = ContainerSpec.build(["sh", "-c", "trap '' TERM; sleep 100 & sleep 100"], rootfs=rootfs, user="1000:1000")
        container = engine.create(spec, driver="native")
        container.start()
        container.kill()
        result = container.wait(timeout=20).signal
        container.delete()
        """
        )
        == 9
    )


def test_what_it_declares(run: Run) -> None:
    assert run(
        """
        probe = execdrivers.Registry().probe("native")
        result = ["groups" in probe.features, "mount.idmap" in probe.features, probe.missing["mount.idmap"].remedy]
        """
    ) == [True, False, "run as root"]


def test_without_the_tools(run: Run) -> None:
    """A user without an account, or without the tools, has one id, and is told why there are no more."""
    assert run(
        """
        from execdrivers import subids
        subids.tool = lambda kind: None
        maps = [{"container_id": 0, "host_id": base, "size": 1000}]
        result = [out("cat /proc/self/uid_map")[2]]
        try:
            out("true", uid_mappings=maps, gid_mappings=maps)
        except execdrivers.SpecError as error:
            result.append([error.field, error.problem, error.remedy])
        try:
            out("true", additional_gids=[5])
        except execdrivers.UnsupportedFeature as error:
            problem = execdrivers.Registry().probe("native").missing["groups"]
            result.append([error.feature, problem.reason, problem.remedy])
        """
    ) == [
        "1",
        [
            "uid_mappings",
            "takes newuidmap, which is not installed: without privilege one id alone can be mapped, " + str(UID),
            "install uidmap (shadow-utils)",
        ],
        ["groups", "newuidmap is not installed", "install uidmap (shadow-utils)"],
    ]


def test_where_the_tools_have_no_rights_there_is_one_id(run: Run) -> None:
    """As in a service with NoNewPrivileges: what works without subordinate ids works all the same."""
    assert run(
        """
        import ctypes
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        problem = execdrivers.Registry().probe("native").missing["groups"]
        result = [out("cat /proc/self/uid_map")[2], problem.reason]
        """
    ) == ["1", "no_new_privs is set, which keeps newuidmap from its rights"]
