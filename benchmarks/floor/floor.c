/* The C floor: how fast a container like the native driver's default one can start and end here, with no library.
 *
 * usage: floor LAUNCHER ROUNDS ROOTFS COMMAND [ARGS...]   prints one duration in nanoseconds per line.
 * A round: clone(CLONE_VM | CLONE_VFORK, all namespaces), execveat of the launcher, wait for the end. */
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

__attribute__((noreturn, noinline)) static void child(int launcher, char **argv)
{
    static char *const nothing[] = {NULL};
    sys3(__NR_close_range, launcher + 1, ~0U, 0);
    sys5(__NR_execveat, launcher, "", argv, nothing, AT_EMPTY_PATH);
    for (;;)
        sys1(__NR_exit, 126);
}

__attribute__((noinline)) static long start(int launcher, char **argv)
{
    struct clone_args clone = {.flags = CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND | CLONE_NEWPID | CLONE_NEWNS |
                                        CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP,
                               .exit_signal = SIGCHLD};
    long pid = sys2(__NR_clone3, &clone, sizeof clone);
    if (pid == 0)
        child(launcher, argv);
    return pid;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: floor LAUNCHER ROUNDS ROOTFS COMMAND [ARGS...]\n");
        return 2;
    }
    int launcher = open(argv[1], O_PATH | O_CLOEXEC);
    if (launcher < 0) {
        perror(argv[1]);
        return 2;
    }
    for (long rounds = atol(argv[2]); rounds > 0; rounds--) {
        struct timespec before, after;
        int status;
        clock_gettime(CLOCK_MONOTONIC, &before);
        long pid = start(launcher, argv + 2);
        if (pid < 0 || waitpid((pid_t)pid, &status, 0) < 0) {
            fprintf(stderr, "floor: clone: %ld\n", pid);
            return 1;
        }
        clock_gettime(CLOCK_MONOTONIC, &after);
        if (status) {
            fprintf(stderr, "floor: wait status %#x\n", status);
            return 1;
        }
        printf("%lld\n", (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec);
    }
    return 0;
}
