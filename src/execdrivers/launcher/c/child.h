/* A child that borrows its parent's memory until it executes a program: for the caller, and for the monitor.
 *
 * For who has included headers with O_CLOEXEC, F_DUPFD, AT_EMPTY_PATH, CLONE_*, PR_*, SIG_SETMASK and errors. */
#ifndef EXECDRIVERS_CHILD_H
#define EXECDRIVERS_CHILD_H

#include <linux/capability.h>

#include "signals.h"
#include "spawn.h"
#include "sys.h"

/* Leaves word of a failure: the memory is one until the child executes. */
struct launch {
    const struct ed_spawn *how;
    volatile int error;
};

static long raise_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    long result = sys2(__NR_capget, &header, data);
    if (result < 0)
        return result;
    data[0].inheritable = data[0].permitted;
    data[1].inheritable = data[1].permitted;
    result = sys2(__NR_capset, &header, data);
    for (int cap = 0; cap < 64 && result >= 0; cap++)
        if (data[cap / 32].permitted >> cap % 32 & 1)
            result = sys5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
    return result;
}

/* Bring the descriptors to 0, 1, 2 …, first out of each other's way. */
static long arrange_descriptors(const struct ed_spawn *how)
{
    int count = how->descriptor_count;
    int parked[ED_MAX_DESCRIPTORS];
    for (int i = 0; i < count; i++) {
        long fd = sys3(__NR_fcntl, how->descriptors[i], F_DUPFD, count);
        if (fd < 0)
            return fd == -EINVAL ? -EMFILE : fd; /* fcntl's word for a limit of `count` or fewer */
        parked[i] = (int)fd;
    }
    for (int i = 0; i < count; i++) {
        long result = sys3(__NR_dup3, parked[i], i, i == ED_LAUNCHER_FD && !how->path ? O_CLOEXEC : 0);
        if (result < 0)
            return result;
    }
    return sys3(__NR_close_range, count, ~0U, 0);
}

static long execute_launcher(const struct ed_spawn *how)
{
    return sys5(__NR_execveat, ED_LAUNCHER_FD, "", how->argv, how->envp, AT_EMPTY_PATH);
}

/* Have us killed as the thread that made us ends, of that program, if it has not by now. */
static long end_with(int caller)
{
    long result = sys5(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    return result < 0 || sys0(__NR_getppid) == caller ? result : -ESRCH;
}

/* Runs in the parent's memory while its calling thread sleeps: system calls only, no libc, no return. */
__attribute__((noreturn, noinline)) static void child_main(struct launch *launch)
{
    const struct ed_spawn *how = launch->how;
    long result = how->keep_capabilities ? raise_capabilities() : 0;
    if (result >= 0)
        result = arrange_descriptors(how);
    if (result >= 0 && how->path) {
        sys0(__NR_setsid);
        default_signals();
        if (how->caller)
            result = end_with(how->caller);
        if (result >= 0 && how->directory)
            result = sys1(__NR_chdir, how->directory);
        if (result >= 0)
            result = sys3(__NR_execve, how->path, how->argv, how->envp);
    } else if (result >= 0)
        result = execute_launcher(how);
    launch->error = (int)-result;
    for (;;)
        sys1(__NR_exit, 127);
}

/* Returns those that were blocked before. */
static uint64_t block_signals(void)
{
    uint64_t all = ~0ULL, before = 0;
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
    return before;
}

static void restore_signals(uint64_t before)
{
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
}

__attribute__((noinline)) static long clone_child(struct clone_args *clone, struct launch *launch)
{
    /* A signal handler must not run in the child on our memory. Its own signals wait until the command's exec. */
    uint64_t before = block_signals();
    long pid = sys2(__NR_clone3, clone, sizeof *clone);
    if (pid == 0)
        child_main(launch);
    restore_signals(before);
    return pid;
}

static void add_cgroup(struct clone_args *clone, const struct ed_spawn *how)
{
    if (how->cgroup < 0)
        return;
    clone->flags |= CLONE_INTO_CGROUP;
    clone->cgroup = (uint64_t)how->cgroup;
}

static int spawn_child(const struct ed_spawn *how, struct ed_child *child)
{
    int pidfd = -1;
    if (how->descriptor_count > ED_MAX_DESCRIPTORS)
        return -E2BIG;
    struct launch launch = {.how = how};
    struct clone_args clone = {.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | how->flags,
                               .pidfd = (uintptr_t)&pidfd,
                               .exit_signal = SIGCHLD};
    add_cgroup(&clone, how);
    long pid = clone_child(&clone, &launch);
    if (pid < 0)
        return (int)pid;
    if (launch.error) {
        while (sys4(__NR_wait4, pid, NULL, __WALL, NULL) == -EINTR)
            ;
        sys1(__NR_close, pidfd);
        return -launch.error;
    }
    child->pid = (int)pid;
    child->pidfd = pidfd;
    return 0;
}

#endif
