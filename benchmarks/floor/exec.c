/* The C floor of `Container.exec`: how fast one more process can join a running container and end, with no library.
 *
 * usage: exec LAUNCHER ROUNDS PID COMMAND [ARGS...]   prints one duration in nanoseconds per line.
 * PID is the container's first process; the environment is the command's.
 * A round: clone(CLONE_VM | CLONE_VFORK), execveat of the launcher, which joins; wait for its end. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../src/execdrivers/launcher/c/sys.h"

enum { CONTAINER = 3 }; /* the launcher's descriptor of the container's first process: a pidfd */

__attribute__((noreturn, noinline)) static void child(int launcher, char **argv)
{
    sys3(__NR_close_range, launcher + 1, ~0U, 0);
    sys5(__NR_execveat, launcher, "", argv, environ, AT_EMPTY_PATH);
    for (;;)
        sys1(__NR_exit, 126);
}

__attribute__((noinline)) static long start(int launcher, char **argv)
{
    struct clone_args clone = {.flags = CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
    long pid = sys2(__NR_clone3, &clone, sizeof clone);
    if (pid == 0)
        child(launcher, argv);
    return pid;
}

/* Brings the pidfd to its place; returns the launcher's descriptor, the next one. */
static int open_both(const char *launcher, long pid)
{
    long container = sys2(__NR_pidfd_open, pid, 0);
    if (container < 0 || sys3(__NR_dup3, container, CONTAINER, 0) < 0) {
        if (container != CONTAINER || fcntl(CONTAINER, F_SETFD, 0) < 0)
            return -1;
    }
    int fd = open(launcher, O_PATH | O_CLOEXEC);
    return fd < 0 || fd == CONTAINER + 1 ? fd : dup3(fd, CONTAINER + 1, O_CLOEXEC);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: exec LAUNCHER ROUNDS PID COMMAND [ARGS...]\n");
        return 2;
    }
    int launcher = open_both(argv[1], atol(argv[3]));
    if (launcher < 0) {
        fprintf(stderr, "exec: cannot open %s, or there is no process %s\n", argv[1], argv[3]);
        return 2;
    }
    for (long rounds = atol(argv[2]); rounds > 0; rounds--) {
        struct timespec before, after;
        int status;
        clock_gettime(CLOCK_MONOTONIC, &before);
        long pid = start(launcher, argv + 3);
        if (pid < 0 || waitpid((pid_t)pid, &status, 0) < 0) {
            fprintf(stderr, "exec: clone: %ld\n", pid);
            return 1;
        }
        clock_gettime(CLOCK_MONOTONIC, &after);
        if (status) {
            fprintf(stderr, "exec: wait status %#x\n", status);
            return 1;
        }
        printf("%lld\n", (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec);
    }
    return 0;
}
