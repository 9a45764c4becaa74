/* The C floor: how fast a container like the native driver's default one can start and end here, with no library.
 *
 * usage: floor LAUNCHER [WORKERSx]ROUNDS ROOTFS COMMAND [ARGS...]
 * A round: clone(CLONE_VM | CLONE_VFORK, all namespaces), execveat of the launcher, wait for the end. Prints the duration
 * of each in nanoseconds, a line each; with WORKERS, so many processes that each do so many rounds at the same time, how
 * long it took them in all. */
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

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void round_or_exit(int launcher, char **argv)
{
    int status;
    long pid = start(launcher, argv);
    if (pid < 0 || waitpid((pid_t)pid, &status, 0) < 0) {
        fprintf(stderr, "floor: clone: %ld\n", pid);
        exit(1);
    }
    if (status) {
        fprintf(stderr, "floor: wait status %#x\n", status);
        exit(1);
    }
}

static void one_by_one(int launcher, long rounds, char **argv)
{
    while (rounds-- > 0) {
        long long before = now();
        round_or_exit(launcher, argv);
        printf("%lld\n", now() - before);
    }
}

/* Processes, as threads would contend for the memory map that their children borrow. */
static void at_once(int launcher, long workers, long rounds, char **argv)
{
    int ready[2], gate[2], status;
    char byte = 0;
    if (pipe2(ready, O_CLOEXEC) || pipe2(gate, O_CLOEXEC))
        exit(1);
    for (long worker = 0; worker < workers; worker++)
        if (fork() == 0) {
            close(gate[1]);
            if (write(ready[1], &byte, 1) != 1 || read(gate[0], &byte, 1) != 0)
                exit(1);
            while (rounds-- > 0)
                round_or_exit(launcher, argv);
            exit(0);
        }
    for (long worker = 0; worker < workers; worker++)
        if (read(ready[0], &byte, 1) != 1)
            exit(1);
    long long before = now();
    close(gate[1]);
    for (long worker = 0; worker < workers; worker++)
        if (wait(&status) < 0 || status)
            exit(1);
    printf("%lld\n", now() - before);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: floor LAUNCHER [WORKERSx]ROUNDS ROOTFS COMMAND [ARGS...]\n");
        return 2;
    }
    int launcher = open(argv[1], O_PATH | O_CLOEXEC);
    if (launcher < 0) {
        perror(argv[1]);
        return 2;
    }
    char *rest;
    long number = strtol(argv[2], &rest, 10);
    if (*rest == 'x')
        at_once(launcher, number, atol(rest + 1), argv + 2);
    else
        one_by_one(launcher, number, argv + 2);
    return 0;
}
