"""Builds ``execdrivers.launcher._launcher``: three small programs, and the module that carries and starts them.

Launcher, monitor and guard are programs of their own, freestanding, so they are compiled and linked here first; their
bytes become part of the extension module, which leaves nothing to be found (or replaced) at run time.

``EXECDRIVERS_WERROR=1`` makes warnings errors. ``EXECDRIVERS_SANITIZE=1`` builds the module's own C with UBSan, and the
programs so that they end where they are undefined; ASan cannot follow a child that borrows its parent's stack.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "execdrivers" / "launcher" / "c"
#: The first process of a container.
LAUNCHER = [
    "launcher.c", "paths.c", "mounts.c", "copy.c", "system.c", "process.c", "attributes.c", "apparmor.c", "landlock.c",
    "seccomp.c", "hooks.c", "exec.c",
]  # fmt: skip
#: What runs in the calling program; begin.c comes with the launcher's bytes, which it starts.
CALLER = ["spawn.c", "network.c", "request.c", "trees.c", "devices.c", "guarded.c"]
#: The program that has the containers of another end with it.
GUARD = ["guard.c"]
#: The program that stands by a container which outlives its maker.
MONITOR = [
    "monitor.c", "monitor_requests.c", "monitor_log.c", "monitor_clients.c", "monitor_watches.c", "monitor_end.c",
]  # fmt: skip

WARNINGS = ["-Wall", "-Wextra", *(["-Werror"] if os.environ.get("EXECDRIVERS_WERROR") else [])]
FREESTANDING = [
    "-std=gnu11", "-Os", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-no-pie", "-static", "-nostdlib",
    "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none", "-Wl,-z,noseparate-code", "-Wl,-z,noexecstack", "-s",
]  # fmt: skip
SANITIZE, TRAPS = [], []
if os.environ.get("EXECDRIVERS_SANITIZE"):
    SANITIZE = ["-fsanitize=undefined", "-fno-sanitize-recover", "-g"]
    TRAPS = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]  # there is no library to report with

CDEF = """
enum ed_op {
    ED_OP_WRITE, ED_OP_UNSHARE, ED_OP_PROPAGATION, ED_OP_ROOT, ED_OP_ROOT_OVERLAY, ED_OP_MOUNT, ED_OP_BIND,
    ED_OP_SET_ATTRIBUTES, ED_OP_SYMLINK, ED_OP_DEVICE, ED_OP_MASK, ED_OP_READONLY, ED_OP_PIVOT,
    ED_OP_HOSTNAME, ED_OP_DOMAINNAME, ED_OP_LOOPBACK, ED_OP_RLIMIT, ED_OP_SESSION, ED_OP_CONSOLE, ED_OP_BOUNDING,
    ED_OP_IDENTITY, ED_OP_CAPABILITIES, ED_OP_NO_NEW_PRIVILEGES, ED_OP_UMASK, ED_OP_CHDIR, ED_OP_READY, ED_OP_EXEC,
    ED_OP_CHANNEL, ED_OP_UNMOUNT, ED_OP_JOIN, ED_OP_ADOPT, ED_OP_STDIO, ED_OP_SYNC,
    ED_OP_KEYRING, ED_OP_SCHEDULER, ED_OP_IO_PRIORITY, ED_OP_AFFINITY, ED_OP_PERSONALITY,
    ED_OP_APPARMOR, ED_OP_SELINUX, ED_OP_LANDLOCK, ED_OP_HOOK, ED_OP_ENTER, ED_OP_CLOCKS, ED_OP_ROOT_TREE, ED_OP_ATTACH,
    ED_OP_COPY_UP, ED_OP_SECCOMP,
    ...
};
enum ed_filter_time { ED_FILTER_LAST, ED_FILTER_NOW, ED_FILTER_READY };
enum ed_kind { ED_READY, ED_STARTED, ED_EXITED, ED_FAILED, ED_GO, ED_CHANNEL, ED_REAPED, ED_SYNC, ED_ENTERED,
    ED_LISTENER, ED_PLAN, ED_NETWORK, ... };
#define ED_NO_STEP ...
struct ed_message { uint32_t kind; uint32_t step; int32_t error; char detail[244]; };
struct ed_child { int pid; int pidfd; };
struct ed_spawn {
    const int *descriptors; int descriptor_count; uint64_t flags; int cgroup; int keep_capabilities; int caller;
    const char *directory; const char *path; char *const *argv; char *const *envp;
};
enum { ED_PLAN_FD, ED_CONTROL_FD, ED_LAUNCHER_FD, ED_MAX_DESCRIPTORS, ... };
#define ED_PLAN_MAGIC ...
#define ED_PLAN_VERSION ...
enum ed_request_kind { ED_SPAWN, ED_KEEP, ED_CHANNELS, ED_ABORT, ... };
enum ed_kept { ED_KEPT_STDIN, ED_KEPT_STDOUT, ED_KEPT_STDERR, ED_KEPT_TERMINAL, ED_KEPT_OOM, ED_KEPT_EVENTS, ... };
enum { ED_MAX_WATCHES, ED_MAX_FILES, ED_PACKET_SIZE, ... };
struct ed_reply { int32_t result; int32_t pid; };
struct ed_spawn_body {
    uint64_t flags; uint32_t keep_capabilities; uint32_t has_cgroup; uint32_t has_path; uint32_t has_directory;
    uint32_t argument_count; uint32_t variable_count;
};
struct ed_watch_body { uint32_t events; uint32_t counted; };
struct ed_keep_body {
    uint64_t log_size; uint32_t log_files; int32_t pid; uint32_t descriptors; uint32_t watch_count;
    struct ed_watch_body watches[...]; uint32_t argument_count; uint32_t variable_count;
};
static const unsigned char ed_launcher_image[];
static const size_t ed_launcher_size;
static const unsigned char ed_monitor_image[];
static const size_t ed_monitor_size;
int ed_memfd(const char *name, const unsigned char *data, size_t size, int executable);
int ed_channel(int *pair);
int ed_spawn(const struct ed_spawn *how, struct ed_child *child);
int ed_receive(int control, struct ed_message *message, int *fd, int *pid);
int ed_last_words(int control, struct ed_message *message, uint32_t *kind);
int ed_send_stdio(int control, const int *fds);
struct ed_begin {
    int stdio[3]; int plan; const int *more; int more_count; uint64_t flags; int cgroup; int keep_capabilities;
    int beside; int alone;
};
struct ed_begun { struct ed_child child; int control; uint64_t started; };
int ed_begin(const struct ed_begin *how, struct ed_begun *begun);
int ed_launcher(void);
int ed_plan(const unsigned char *plan, size_t size);
int ed_give_plan(int control, const unsigned char *plan, size_t size, int network);
int ed_give_network(int control);
int ed_go(int control);
int ed_reply(int control, struct ed_reply *reply, int *fd);
int ed_request(int control, uint32_t kind, const int *fds, int count, struct ed_reply *reply, int *fd);
int ed_device_program_load(const void *instructions, uint32_t count);
int ed_device_program_attach(int cgroup, int program);
int ed_landlock_abi(void);
int ed_open_tree(const char *path, int recursive);
int ed_set_attributes(int tree, int recursive, uint64_t set, uint64_t clear, uint64_t propagation, int user_namespace);
struct ed_guard_page { uint32_t count; uint32_t used; char roots[...]; };
int ed_guard_start(char *const *argv, char *const *envp, struct ed_guard_page **page);
"""


def build_program(sources: list[str]) -> bytes:
    """Compile and link a freestanding program; its ELF image."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "program"
        files = [str(SOURCES / name) for name in sources]
        subprocess.run([*compiler, *FREESTANDING, *TRAPS, *WARNINGS, *files, "-o", str(image)], check=True)
        return image.read_bytes()


def embedded(name: str, sources: list[str]) -> str:
    """C with a program's bytes and size, ``ed_NAME_image`` and ``ed_NAME_size``."""
    image = ",".join(map(str, build_program(sources)))
    return (
        f"static const unsigned char ed_{name}_image[] = {{{image}}};\n"
        f"static const size_t ed_{name}_size = sizeof ed_{name}_image;\n"
    )


def make_builder() -> FFI:
    """The cffi builder, with the programs' bytes in the module's source."""
    builder = FFI()
    builder.cdef(CDEF)
    builder.set_source(
        "execdrivers.launcher._launcher",
        "".join(f'#include "{name}"\n' for name in CALLER)
        + embedded("launcher", LAUNCHER)
        + '#include "begin.c"\n'
        + embedded("monitor", MONITOR)
        + embedded("guard", GUARD),
        depends=sorted(map(str, SOURCES.iterdir())),
        include_dirs=[str(SOURCES)],
        extra_compile_args=["-std=gnu11", *WARNINGS, *SANITIZE, "-Wno-unused-parameter"],
        extra_link_args=SANITIZE,
        py_limited_api=True,
    )
    return builder


ffibuilder = make_builder()
