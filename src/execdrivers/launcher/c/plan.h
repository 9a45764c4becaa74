/* What caller and launcher agree on: the plan's format, the operations, the messages.
 *
 * A plan is a header and then operations, all integers little-endian and unaligned. An operation is its code (u32), the
 * length of its arguments in bytes (u32), and the arguments: an integer is a u64; a string is its length (u32), the
 * bytes, and a NUL; a list is its length (u32) and its items. */
#ifndef EXECDRIVERS_PLAN_H
#define EXECDRIVERS_PLAN_H

#include <stdint.h>

#define ED_PLAN_MAGIC 0x6e6c5045u /* "EPln" */
#define ED_PLAN_VERSION 1u

struct ed_plan_header {
    uint32_t magic, version, size, count; /* size: of all, header included, in bytes */
};

/* Descriptors the launcher is started with; stdio is 0, 1, 2. Where 3 is no file it waits for one with ED_PLAN. */
enum { ED_PLAN_FD = 3, ED_CONTROL_FD = 4, ED_LAUNCHER_FD = 5, ED_MAX_DESCRIPTORS = 64 };

enum ed_op {
    ED_OP_WRITE = 1,     /* path, data: write a file of the host's (cgroup, /proc, sysctl of our own namespaces) */
    ED_OP_UNSHARE,       /* flags */
    ED_OP_PROPAGATION,   /* flags: MS_REC|MS_PRIVATE and the like, for the whole tree of mounts */
    ED_OP_ROOT,          /* path, recursive, set: the directory becomes the root-to-be */
    ED_OP_ROOT_OVERLAY,  /* path, set, userxattr, tmpfs options: the same under a layer in memory; no path: what is the
                            root-to-be already */
    ED_OP_MOUNT,         /* type, source, destination, set, options */
    ED_OP_BIND,          /* source, destination, recursive, set, clear, recursive set, recursive clear, propagation */
    ED_OP_SET_ATTRIBUTES,/* destination, recursive, set, clear, propagation */
    ED_OP_SYMLINK,       /* target, destination */
    ED_OP_DEVICE,        /* destination, mode with type, major, minor, uid, gid */
    ED_OP_MASK,          /* destination: reads as empty; absent is fine */
    ED_OP_READONLY,      /* destination: remounted read-only with all below; absent is fine */
    ED_OP_PIVOT,         /* the root-to-be becomes the root, the host's tree is gone */
    ED_OP_HOSTNAME,      /* name */
    ED_OP_DOMAINNAME,    /* name */
    ED_OP_LOOPBACK,      /* lo up; or the network namespace is entered that the caller has promised with ED_PLAN */
    ED_OP_RLIMIT,        /* resource, soft, hard */
    ED_OP_SESSION,       /* setsid */
    ED_OP_CONSOLE,       /* rows, columns, uid, first: a terminal of the container's own devpts as stdio, and as
                            /dev/console for the first process */
    ED_OP_BOUNDING,      /* mask: drop all else from the bounding set */
    ED_OP_IDENTITY,      /* uid, gid, set groups, groups */
    ED_OP_CAPABILITIES,  /* effective, permitted, inheritable, ambient */
    ED_OP_NO_NEW_PRIVILEGES,
    ED_OP_UMASK,         /* mask */
    ED_OP_CHDIR,         /* path */
    ED_OP_READY,         /* tell the caller, wait for its word to go on */
    ED_OP_EXEC,          /* init, candidates, args, env */
    ED_OP_CHANNEL,       /* no tool between: a socket of our own, "/" as the root, all other descriptors closed */
    ED_OP_UNMOUNT,       /* destination: the topmost mount there */
    ED_OP_JOIN,          /* flags, capabilities: a child goes on, in those namespaces of the process whose pidfd is
                            descriptor 6, with these capabilities at the most; we end as it does */
    ED_OP_ADOPT,         /* args, env, count: run a tool, reap and report it and what it leaves behind; so many of
                            the descriptors from 6 on become the tool's from 3 on */
    ED_OP_STDIO,         /* take 0, 1, 2 from the caller, through the socket: no tool holds them open */
    ED_OP_KEYRING,       /* a session keyring of our own, which its possessor alone may use */
    ED_OP_SCHEDULER,     /* policy, flags, nice, priority, runtime, deadline, period: sched_setattr */
    ED_OP_IO_PRIORITY,   /* class, priority: ioprio_set */
    ED_OP_AFFINITY,      /* processors: sched_setaffinity */
    ED_OP_PERSONALITY,   /* domain */
    ED_OP_APPARMOR,      /* profile: of the command, from its execution on */
    ED_OP_SELINUX,       /* label: the same, of SELinux */
    ED_OP_LANDLOCK,      /* abi, restricts, read, write, execute, bind, connect: restricts are bits (files, ports bound,
                            ports connected to, abstract sockets, signals), enforced on the command; takes no new
                            privileges */
    ED_OP_ENTER,         /* point, new namespaces, dumpable, kinds: enter existing namespaces, whose descriptors are those
                            from 6 on. A child goes on in them and in new ones: ours in a pid
                            namespace of others, else the caller's. Dumpable: it may write to its own files of /proc, and
                            be traced by who sees it */
    ED_OP_CLOCKS,        /* enter the time namespace that was unshared: its offsets are fixed from here on */
    ED_OP_ROOT_TREE,     /* descriptor: mounts that the caller has taken hold of become the root-to-be */
    ED_OP_ATTACH,        /* descriptor, destination: such mounts at a place in the container */
    ED_OP_HOOK,          /* point, path, args, env, timeout, state: run a command of the spec's hooks; the state,
                            JSON but for the pid and the closing brace, is its input; seconds, 0: any */
    ED_OP_COPY_UP,       /* source, destination, set, whole, options: a tmpfs with a copy of what it covers; the mode and
                            owner of its root too */
    ED_OP_SYNC,          /* point: let the caller do what only it can (id maps, hooks), wait for its word to go on */
    ED_OP_SECCOMP,       /* filter, flags, when: a BPF program and SECCOMP_FILTER_FLAG_* */
};

/* When a filter is installed: as the last thing before the execution, on who executes alone; now, while there is the
 * privilege for it; or before the caller is told that all is ready. */
enum ed_filter_time { ED_FILTER_LAST, ED_FILTER_NOW, ED_FILTER_READY };

enum ed_kind {
    ED_READY = 1, /* all but the execution is done; the terminal's master comes along if there is one */
    ED_STARTED,   /* under init: the command runs. Without init the closed socket says so */
    ED_EXITED,    /* under init: error is the command's wait status */
    ED_FAILED,    /* step, error, and in detail what the kernel or the launcher adds */
    ED_GO,        /* from the caller */
    ED_CHANNEL,   /* the socket for all messages to come */
    ED_REAPED,    /* step is the pid of a process that was adopted, error its wait status */
    ED_STDIO,     /* from the caller: three descriptors come along */
    ED_ENTERED,   /* a child goes on in joined namespaces: error is its pid, its pidfd comes along; answered by ED_GO */
    ED_SYNC,      /* step says which operation asks; answered by ED_GO */
    ED_LISTENER,  /* the seccomp filter is in force, and its listener comes along */
    ED_PLAN,      /* from the caller: the plan comes along, behind the message, or, if it is longer than
                     ED_SHORT_PLAN, as a descriptor; step: whether ED_NETWORK follows */
    ED_NETWORK,   /* from the caller: a network namespace comes along, whose lo is up before ED_GO */
};

#define ED_SHORT_PLAN 32768u /* bytes */
#define ED_NO_STEP UINT32_MAX /* of ED_FAILED: the launcher could not even be executed */

struct ed_message {
    uint32_t kind;
    uint32_t step;
    int32_t error;
    char detail[244]; /* NUL-terminated */
};

#endif
