/* The launcher of the exec floor: joins a container like the native driver's default one, and executes a command there.
 *
 * argv[0] is not used, the rest is the command; descriptor 3 is a pidfd of the container's first process.
 *
 * As with the native driver nobody in the container ever sees a process with more than the container's capabilities, or
 * one that can be looked into: all restrictions come before the clone that a pid namespace takes to be joined. And as
 * there, who was cloned from waits outside: a child that nobody waits for would hold up the end of the container. */
#include "common.h"

#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <linux/wait.h>

enum { CONTAINER = 3, SIGNAL_CHILD = 17 };

__attribute__((noreturn, noinline)) static void command(char **argv, char **environment)
{
    sys0(__NR_setsid);
    uint64_t none = 0;
    sys4(__NR_rt_sigprocmask, 2, &none, NULL, 8);
    install_filter();
    sys3(__NR_execve, argv[0], argv, environment);
    leave(127);
}

__attribute__((noreturn, noinline)) static void wait_for(long child)
{
    int status = 0;
    sys3(__NR_close_range, 0, ~0U, 0);
    must(sys4(__NR_wait4, child, &status, __WALL, NULL), 70);
    leave(status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
}

__attribute__((noreturn, used)) void launcher_main(long *stack)
{
    char **argv = (char **)(stack + 1), **environment = argv + *stack + 1;
    must(sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0), 10);
    must(sys2(__NR_setns, CONTAINER,
              CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP), 11);
    must(sys3(__NR_close_range, CONTAINER, ~0U, 0), 12);
    sys1(__NR_umask, 022);
    long keyring = must(sys2(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL), 13);
    must(sys3(__NR_keyctl, KEYCTL_SETPERM, keyring, 0x3f000000), 14);
    give_up_privileges();
    struct clone_args clone = {.flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGNAL_CHILD};
    long child = must(sys2(__NR_clone3, &clone, sizeof clone), 20);
    if (child == 0)
        command(argv + 1, environment);
    wait_for(child);
}
