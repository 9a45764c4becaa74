"""The store: reservation, whole records, damage, roots that cannot be used."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from glob import glob
from pathlib import Path

import pytest

from execdrivers import ContainerExists, ContainerNotFound, Engine, InvalidState, StoreError, pidfd
from execdrivers.record import Record, own_process
from execdrivers.store import Entry, Store, default_root, free_id


@pytest.fixture
def store(root: Path) -> Store:
    return Store(root)


def put(store: Store, id: str, **fields) -> None:
    entry = store.reserve(id)
    entry.write(Record(id=id, status="created", **{"driver": "host", **fields}))
    entry.close()


def test_a_record_comes_back_as_it_was(store):
    record = Record(
        id="a",
        driver="host",
        spec={"args": ["\udcff", "é"]},
        status="running",
        process=(1, 2),
        owner=own_process(),
        handle={"x": [1, None]},
        created_at=1.5,
        exit={"reason": "exited", "code": 0},
    )
    with store.reserve("a") as entry:
        entry.write(record)
    assert store.open("a").read() == record
    assert list(store.list()) == [record]
    path = Path(store.root, "a", "state.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["state.json"]
    assert Path(store.root).stat().st_mode & 0o777 == Path(store.root, "a").stat().st_mode & 0o777 == 0o700


def test_an_id_is_reserved_once(store):
    entry = store.reserve("a")
    with pytest.raises(ContainerExists):
        store.reserve("a")
    assert store.open("a").read().status == "creating"
    entry.remove()
    store.reserve("a").remove()
    made = {store.reserve(free_id(), free=True).id for _ in range(50)}
    assert len(made) == 50


def test_one_of_many_threads_gets_the_id(store):
    won, barrier = [], threading.Barrier(8)

    def reserve():
        barrier.wait()
        try:
            won.append(store.reserve("a"))
        except ContainerExists:
            pass

    threads = [threading.Thread(target=reserve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


@pytest.mark.parametrize("written", [False, True], ids=["being made", "made"])
def test_who_reserves_never_takes_anothers_reservation(store, monkeypatch, written):
    """Between its mkdir and its lock one program removes the directory, as one without a record, and another makes it
    anew."""
    store.prepare()
    mkdir = os.mkdir

    def interrupted(path, mode):
        mkdir(path, mode)
        monkeypatch.undo()
        store.discard("a")
        theirs = store.reserve("a")

        def finish():
            theirs.write(Record(id="a", driver="host", status="created"))
            theirs.close()

        if written:
            finish()
        else:
            threading.Timer(0.1, finish).start()

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(ContainerExists):
        store.reserve("a")
    assert store.open("a").read().status == "created"


def test_a_reservation_that_fails_leaves_nothing(store, monkeypatch):
    def fail(place):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    store.prepare()
    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", fail)
        with pytest.raises(StoreError, match="Cannot allocate"):
            store.reserve("a")
    assert os.listdir(store.root) == []


def test_an_entry_never_touches_its_successor(store):
    put(store, "a")
    old, other = store.open("a"), store.open("a")
    with other:
        other.remove()
    put(store, "a", driver="new")
    assert old.gone
    with old:
        old.remove()
    assert store.open("a").read().driver == "new"


def test_what_a_driver_left_goes_too(store):
    put(store, "a")
    entry = store.open("a")
    Path(entry.path, "below", "deep").mkdir(parents=True)
    Path(entry.path, "below", "link").symlink_to("/etc")
    with entry:
        entry.remove()
    assert os.listdir(store.root) == []
    assert os.path.exists("/etc/passwd")


@pytest.mark.needs("root")
def test_what_is_mounted_below_is_never_removed(store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    put(store, "a")
    entry = store.open("a")
    point = Path(entry.path, "mnt")
    point.mkdir()
    subprocess.run(["mount", "--bind", outside, point], check=True)
    try:
        with entry, pytest.raises(StoreError, match="still mounted") as caught:
            entry.remove()
        assert caught.value.errno == errno.EBUSY
        assert caught.value.remedy == f"umount {point}"
    finally:
        subprocess.run(["umount", point], check=True)
    assert (outside / "precious").exists()
    with entry:
        entry.remove()
    assert os.listdir(store.root) == []


DAMAGES = {
    "empty": (b"", "is damaged"),
    "truncated": (b'{"layout":1,"id":"b","dri', "is damaged"),
    "binary": (b"\xff\xfe\x00", "is damaged"),
    "deep": (b"[" * 100_000, "is damaged"),
    "foreign": (b'{"a": 1}', "is not one of execdrivers"),
    "list": (b"[]", "is not one of execdrivers"),
    "newer": (b'{"layout":3,"id":"b","more":true}', "newer version"),
    "unknown field": (b'{"layout":1,"id":"b","more":true}', "is damaged"),
    "wrong types": (b'{"layout":1,"id":"b","spec":3}', "is damaged"),
    "wrong process": (b'{"layout":1,"id":"b","process":[1,"x"]}', "is damaged"),
    "another's": (b'{"layout":1,"id":"c"}', "is that of 'c'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_hides_no_other(engine, root, damage):
    content, told = DAMAGES[damage]
    store = Store(root)
    for id in "abc":
        put(store, id)
    (root / "b" / "state.json").write_bytes(content)
    summaries = engine.list()
    assert [summary.name for summary in summaries] == ["a", "b", "c"]
    assert [summary.state for summary in summaries] == ["stopped", None, "stopped"]
    assert told in str(summaries[1].error)
    with pytest.raises(StoreError, match=told) as caught:
        engine.get("b")
    assert "execdrivers rm --force b" in caught.value.remedy
    with pytest.raises(StoreError):
        engine.delete("b")
    engine.delete("b", force=True)
    engine.delete("a")
    engine.delete("c")


def test_a_half_made_container(engine, root):
    entry = Store(root).reserve("a")
    assert engine.list()[0].state == "creating"
    c = engine.get("a")
    for call in (c.wait, c.delete, c.kill):
        with pytest.raises(InvalidState, match="is being made"):
            call()
    entry.close()  # its maker has died
    c.delete()
    assert glob("*", root_dir=root) == []


def test_what_vanishes_is_not_listed(store):
    put(store, "a")
    put(store, "b")
    records = store.list()
    assert next(records).id == "a"
    with store.open("b") as entry:
        entry.remove()
    assert list(records) == []
    with pytest.raises(ContainerNotFound):
        store.open("b")
    assert list(Store(Path(store.root, "never-made")).list()) == []
    with pytest.raises(ContainerNotFound):
        Store(Path(store.root, "never-made")).open("a")


def test_a_root_that_is_cleared_away_is_made_again(store):
    put(store, "a")
    subprocess.run(["rm", "-r", store.root], check=True)
    put(store, "a")


# --- roots that cannot be used


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="Not a directory") as caught:
            Store(root).reserve("a")
        assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)
        assert "choose another root" in caught.value.remedy


def test_a_root_where_others_may_write(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(StoreError, match="others may write there") as caught:
        Store(tmp_path / "open").reserve("a")
    assert caught.value.remedy == f"chmod go-w {tmp_path / 'open'}"
    with pytest.raises(StoreError, match="others may write"):
        list(Store(tmp_path / "open").list())


@pytest.mark.needs("root")
def test_a_root_of_another_user(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 1234, 1234)
    with pytest.raises(StoreError, match="belongs to uid 1234"):
        Store(tmp_path / "theirs").reserve("a")


@pytest.mark.needs("root")
def test_a_read_only_root(tmp_path):
    root = tmp_path / "ro"
    root.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=700", "tmpfs", root], check=True)
    try:
        for path in (root, root / "below"):
            with pytest.raises(StoreError, match="Read-only file system") as caught:
                Store(path).reserve("a")
            assert caught.value.errno == errno.EROFS
            assert isinstance(caught.value, OSError)
    finally:
        subprocess.run(["umount", root], check=True)


@pytest.mark.needs("root")
def test_an_ordinary_user_without_permission(tmp_path):
    code = """
import os, sys
from execdrivers.store import Store, StoreError
os.setuid(65534)
try: Store(sys.argv[1]).reserve("a")
except StoreError as error: print(error.errno, error)
"""
    (tmp_path / "locked").mkdir(mode=0o755)
    for root in (tmp_path / "locked" / "below", tmp_path / "locked"):
        done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("13 cannot "), done


def test_the_default_root(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == "/run/execdrivers"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_root() == f"{tmp_path}/execdrivers"
    for useless in ("", "relative", str(tmp_path / "none")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", useless)
        assert default_root() == "/tmp/execdrivers-1000"


def test_records_are_compact(store):
    put(store, "a", owner=own_process())
    text = Path(store.root, "a", "state.json").read_bytes()
    assert b": " not in text
    assert json.loads(text)["layout"] == 2


# --- pidfds


def _end(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", code])


def test_wait_status_of_a_child():
    process = _end("sleep 60")
    fd = pidfd.open(process.pid)
    assert pidfd.wait_status(fd) is None
    pidfd.send_signal(fd, 9)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert pidfd.wait_status(fd) == 9
    process.wait()
    with pytest.raises(ProcessLookupError):
        pidfd.send_signal(fd, 9)
    os.close(fd)


def test_wait_status_that_another_has_taken():
    process = _end("exit 7")
    fd = pidfd.open(process.pid)
    process.wait()
    status = pidfd.wait_status(fd)
    os.close(fd)
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    assert status == (7 << 8 if release >= (6, 15) else None)


def test_wait_status_of_anothers_zombie(program):
    text = "pid = os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 9'], {}); print(pid, flush=True); sys.stdin.read()"
    with subprocess.Popen(program(text), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        fd = pidfd.open(pid := int(parent.stdout.readline()))
        import select

        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(5000)
        assert pidfd.wait_status(fd) == 9 << 8
        assert pidfd.start_time(pid) is not None
        assert pidfd.start_time(pid, alive=True) is None
        os.close(fd)
        parent.stdin.close()


def test_a_reused_pid_is_not_taken_for_the_process():
    with _end("sleep 60") as process:
        started = pidfd.start_time(process.pid)
        assert pidfd.open_checked(process.pid, started + 1) is None
        fd = pidfd.open_checked(process.pid, started)
        assert fd is not None
        os.close(fd)
        process.kill()
    assert pidfd.open_checked(process.pid, started) is None
    assert pidfd.open_checked(None, None) is None
    assert pidfd.start_time(process.pid) is None


# --- the lock


@pytest.fixture
def entry(store):
    put(store, "a")
    with contextlib.closing(store.open("a")) as entry:
        yield entry


def test_a_lock_is_not_that_of_who_inherits_the_entry(store, entry):
    """A fork, as of multiprocessing, whose maker is killed while it holds the lock."""
    read, write = os.pipe()
    if not (pid := os.fork()):
        if not os.fork():
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        with entry:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(read)
    os.waitpid(pid, 0)
    with contextlib.closing(store.open("a")) as another:
        locked = another.lock_now()
    os.close(write)
    assert locked


def test_a_lock_is_had_once(store):
    """Asked for by who has it, as where a container that was reserved cannot be made, it is had already."""
    entry = store.reserve("a")
    with contextlib.closing(store.open("a")) as another:
        assert entry.lock_now()
        with entry:
            assert entry.lock_now()
            entry.lock()
            assert not another.lock_now()
        assert another.lock_now()
    entry.close()


def test_a_lock_where_descriptors_are_used_up(store, entry):
    """That what there is can be freed then."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.closing(store.open("a")) as another:
        before = os.listdir("/proc/self/fd")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)), limits[1]))
        try:
            with entry:
                with entry:
                    pass
                locked = another.lock_now()
            freed = another.lock_now()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (locked, freed) == (False, True)
        another.close()
        assert len(os.listdir("/proc/self/fd")) < len(before)


@pytest.mark.parametrize("place", [(fcntl, "flock"), (Entry, "lock")])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_an_interrupt_leaves_no_lock(store, entry, monkeypatch, place, late):
    """Whether it comes while the lock is waited for, or when it was just had."""
    lock, descriptors = getattr(*place), len(os.listdir("/proc/self/fd"))

    def interrupted(*args):
        if late:
            lock(*args)
        if args[-1] != fcntl.LOCK_UN:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*place, interrupted)
        with pytest.raises(KeyboardInterrupt), entry:
            pass
    with contextlib.closing(store.open("a")) as another:
        assert another.lock_now()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_what_cannot_be_opened_is_listed_by_its_name(store, registry, root, monkeypatch):
    """As all of root's are for an ordinary user."""
    put(store, "a")

    def refuse(id, path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("execdrivers.store.Entry", refuse)
    (only,) = Engine(root, registry=registry).list()
    assert (only.id, only.error.errno) == ("a", errno.EACCES)


def free(store: Store) -> Entry:
    return store.reserve(free_id(), free=True)


def spares(store: Store) -> list[str]:
    return sorted(name for name in os.listdir(store.root) if name.startswith(".spare"))


def test_a_directory_is_used_again(store):
    """But never under a name that somebody may still have a hold on."""
    first = free(store)
    inode = os.fstat(first.fileno()).st_ino
    first.write(Record(id=first.id, driver="host", status="running"))
    first.remove()
    first.close()
    assert spares(store) == [".spare0"] and list(store.list()) == []
    second = free(store)
    assert os.fstat(second.fileno()).st_ino == inode and second.id != first.id
    assert os.listdir(second.fileno()) == [] and spares(store) == []
    second.remove()
    second.close()


def test_a_directory_with_a_name_of_its_own_is_not_used_again(store):
    entry = store.reserve("web")
    entry.remove()
    entry.close()
    assert os.listdir(store.root) == []


@pytest.mark.parametrize("spoil", ["file", "mode"])
def test_only_what_is_as_it_was_made_is_put_aside(store, spoil):
    entry = free(store)
    path = Path(entry.path)
    if spoil == "file":
        (path / "left").write_text("by a driver")
    else:
        path.chmod(0o755)
    entry.remove()
    entry.close()
    assert os.listdir(store.root) == []


def test_who_holds_the_old_entry_has_nothing_of_the_new_one(store):
    old = free(store)
    old.write(Record(id=old.id, driver="host", status="running"))
    held, read = store.open(old.id), store.open(old.id)
    assert read.read().status == "running"
    old.remove()
    old.close()
    new = free(store)
    new.write(Record(id=new.id, driver="host", status="running"))
    new._unlock()
    with held:
        assert held.gone and not held.replaced
    for entry in (held, read):
        with pytest.raises(ContainerNotFound):
            entry.read()
        entry.remove()
        entry.close()
    assert [record.id for record in store.list()] == [new.id]
    new.remove()
    new.close()


def test_as_many_are_put_aside_as_are_used_at_a_time(store):
    for _ in range(2):
        entries = [free(store) for _ in range(11)]
        for entry in entries:
            entry.remove()
            entry.close()
        assert spares(store) == [f".spare{number}" for number in range(8)]


def test_programs_share_what_is_put_aside(store):
    """Who finds that another has taken it makes one, and who puts one where one is replaces that."""
    other = Store(store.root)
    for one in (store, other, store):
        entry = free(one)
        entry.remove()
        entry.close()
    os.rmdir(f"{store.root}/.spare0")
    entry = free(store)
    assert store.open(entry.id)
    Path(store.root, ".spare0").write_text("in the way")
    entry.remove()
    entry.close()
    assert os.listdir(store.root) == [".spare0"]
    entry = free(store)
    entry.remove()
    entry.close()
