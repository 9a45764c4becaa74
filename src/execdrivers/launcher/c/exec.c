/* The last operations: execute the command, as the first process or as the child of a reaper; adopt a tool's. */
#include "launcher.h"

#include <asm/ioctls.h>
#include <asm/siginfo.h>
#include <asm/signal.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/wait.h>

#include "clone.h"
#include "processors.h"
#include "signals.h"

#define FEW 400 /* strings in all lists of a usual plan, and the NULLs behind them */

/* Room for a list, which nobody gives back; zeroes. */
static const char **room_for(uint32_t count)
{
    static const char *room[FEW];
    static uint32_t used;
    if (count <= FEW - used) {
        used += count;
        return room + used - count;
    }
    long more = SYS6(__NR_mmap, 0, count * sizeof(char *), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return more < 0 && more > -4096 ? NULL : (const char **)more;
}

/* A list of strings as execve wants it. The strings stay where they are, in the plan. */
const char **string_list(struct args *args)
{
    uint32_t count = arg_count(args);
    const char **strings = room_for(count + 1);
    if (!strings) {
        args->bad = 1;
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++)
        strings[i] = arg_str(args, NULL);
    return strings;
}

/* A caller that ignores SIGCHLD has handed that down: then the kernel reaps, and tells nobody. */
void hear_of_children(void)
{
    struct kernel_sigaction action = {0};
    sys4(__NR_rt_sigaction, SIGCHLD, &action, NULL, SIGSET_SIZE);
}

/* Once, where there is time for it. */
void reset_actions(struct launcher *l)
{
    if (!l->actions_are_default)
        default_actions();
    l->actions_are_default = 1;
}

static void signals_of_command(struct launcher *l)
{
    reset_actions(l);
    unblock_signals();
}

/* The last restrictions, which would keep the launcher itself from its work: of who executes, and in this order. */
int confine_command(struct launcher *l)
{
    int result = enforce_landlock(l);
    return result < 0 ? result : install_filter(l);
}

/* As execvpe: each candidate in turn; the most telling error is kept. Returns only on failure. */
static int execute(struct launcher *l, const char **candidates, const char **argv, const char **envp)
{
    int result = confine_command(l);
    if (result < 0)
        return result;
    int worst = -ENOENT;
    for (; *candidates; candidates++) {
        result = (int)sys3(__NR_execve, *candidates, argv, envp);
        if (result == -ENOENT && sys4(__NR_faccessat, AT_FDCWD, *candidates, 0, 0) < 0)
            continue;
        if (result == -ENOTDIR)
            continue;
        note(l, *candidates); /* it is there, yet cannot be executed */
        if (result != -EACCES)
            return result;
        worst = result;
    }
    return worst;
}

/* Reap all children until the command has ended; pass on to it every signal that reaches us.
 *
 * A command that its terminal has stopped (Ctrl-Z) goes on: there is nobody to bring it back. As a first process it could
 * not be stopped so, for its group would be an orphaned one (setpgid(2)). What we have passed on stops it for good. */
static int reap(long command)
{
    static const uint64_t all = ~0ULL;
    int status, stopped_by_us = 0;
    for (;;) {
        siginfo_t info;
        long number = sys4(__NR_rt_sigtimedwait, &all, &info, NULL, SIGSET_SIZE);
        if (number == SIGTSTP || number == SIGCONT)
            stopped_by_us = number == SIGTSTP;
        if (number > 0 && number != SIGCHLD)
            sys2(__NR_kill, command, number);
        long pid;
        while ((pid = sys4(__NR_wait4, -1, &status, WNOHANG | WUNTRACED | __WALL, NULL)) > 0) {
            int stopped = (status & 0xff) == 0x7f;
            if (pid == command && !stopped)
                return status;
            if (pid == command && status >> 8 == SIGTSTP && !stopped_by_us)
                sys2(__NR_kill, -command, SIGCONT);
        }
        /* Where a filter that holds for us too forbids either, end: do not spin, nor wait for ever. */
        if (pid < 0 || (number < 0 && number != -EINTR && number != -EAGAIN))
            end_process(125);
    }
}

static int run_under_init(struct launcher *l, const char **candidates, const char **argv, const char **envp)
{
    uint64_t all = ~0ULL;
    hear_of_children();
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all, NULL, SIGSET_SIZE);
    volatile int failure = 0; /* CLONE_VFORK: we sleep until the child has executed or left */
    /* Not clone3, whose flags a filter cannot see, so that Docker's has it fail. */
    long command = sys5(__NR_clone, CLONE_VFORK | CLONE_VM | SIGCHLD, 0, 0, 0, 0);
    if (command == 0) {
        sys2(__NR_setpgid, 0, 0);
        int group = (int)sys0(__NR_getpid);
        sys3(__NR_ioctl, 0, TIOCSPGRP, &group); /* where there is a terminal; SIGTTOU is blocked, as all are */
        signals_of_command(l);
        failure = execute(l, candidates, argv, envp);
        end_process(127);
    }
    if (command < 0)
        return (int)command;
    if (failure)
        return failure;
    sys3(__NR_close_range, 0, ED_CONTROL_FD - 1, 0);
    sys3(__NR_close_range, ED_CONTROL_FD + 1, ~0U, 0);
    sys5(__NR_prctl, PR_SET_NAME, "init", 0, 0, 0);
    /* Nothing inside may look into or trace us. */
    sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (l->filter)
        confine_init();
    if (send_message(l, ED_STARTED, 0, -1) < 0)
        sys1(__NR_close, ED_CONTROL_FD); /* which says it too */
    int status = reap(command);
    send_message(l, ED_EXITED, status, -1);
    /* The message carries the truth; the code is for those who cannot read it. */
    end_process(status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
}

/* A container need not have a null device, nor one that can be opened. What else fails must not be passed over. */
static int unless_unusable(int error)
{
    static const int fine[] = {ENOENT, ENOTDIR, ELOOP, EACCES, EPERM, ENXIO, ENODEV};
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++)
        if (error == -fine[i])
            return 0;
    return error;
}

/* Where stdio is the host's /dev/null, the container's own takes its place: through /proc/self/fd the node itself can be
 * reached, and root may change its mode. */
int own_null_device(struct launcher *l)
{
    if (l->null_is_own)
        return 0;
    for (int fd = 0; fd <= 2; fd++) {
        long result = is_null_device(fd);
        if (result == 0 || result == -EBADF)
            continue;
        long flags = result < 0 ? result : sys2(__NR_fcntl, fd, F_GETFL);
        if (flags < 0)
            return (int)flags;
        scoped_fd own = (int)sys4(__NR_openat, AT_FDCWD, "/dev/null",
                                  (flags & (O_ACCMODE | O_APPEND)) | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0);
        result = own < 0 ? unless_unusable(own) : is_null_device(own);
        if (result > 0 && own > 2)
            result = sys3(__NR_dup3, own, fd, 0);
        if (result < 0)
            return (int)result;
    }
    l->null_is_own = 1;
    return 0;
}

int op_exec(struct launcher *l, struct args *args)
{
    int init = (int)arg_int(args);
    const char **candidates = string_list(args);
    const char **argv = string_list(args);
    const char **envp = string_list(args);
    if (args->bad || !candidates || !argv || !envp)
        return -EBADMSG;
    int result = own_null_device(l);
    if (result < 0)
        return result;
    if (init)
        return run_under_init(l, candidates, argv, envp);
    signals_of_command(l);
    return execute(l, candidates, argv, envp);
}

/* End as a child did, so that our own parent learns the truth. */
__attribute__((noreturn)) static void end_as(int status)
{
    int number = status & 0x7f;
    if (number) {
        uint64_t none_core[2] = {0, 0};
        sys4(__NR_prlimit64, 0, 4 /* RLIMIT_CORE */, none_core, NULL);
        default_signals();
        sys2(__NR_kill, sys0(__NR_getpid), number);
    }
    end_process(number ? 128 + number : status >> 8 & 0xff);
}

/* Stay outside for a child that is in the pid namespace of others, lest a zombie that nobody waits for hold up the end of
 * that namespace. */
__attribute__((noreturn)) static void wait_outside(long child)
{
    sys3(__NR_close_range, 0, ~0U, 0);
    sys5(__NR_prctl, PR_SET_NAME, "execdrivers-join", 0, 0, 0);
    int status = 0;
    while (sys4(__NR_wait4, child, &status, __WALL, NULL) == -EINTR)
        ;
    end_as(status);
}

static struct {
    unsigned char stack[1 << 16] __attribute__((aligned(16)));
    struct processors processors; /* that it may run on; none: any that we may */
} inside;

__attribute__((noreturn)) static void go_on_inside(void *launcher)
{
    long result = inside.processors.size ? run_on(0, &inside.processors) : 0;
    if (result < 0)
        fail(launcher, (int)result);
    go_on(launcher);
}

/* Who ends on the processor where we sleep wakes us for next to nothing; another would have to be woken, too. */
static void stay_here(void)
{
    unsigned int here;
    long result = our_processors(&inside.processors, &here);
    if (result >= 0) {
        struct processors one = {.size = inside.processors.size};
        one.set[here / 64] = 1ULL << here % 64;
        result = run_on(0, &one);
    }
    if (result < 0)
        inside.processors.size = 0;
}

/* The process that joins is our child, since a pid namespace takes in children alone; we stay outside. */
int op_join(struct launcher *l, struct args *args)
{
    uint64_t flags = arg_int(args), capabilities = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    scoped_fd target = ED_LAUNCHER_FD + 1;
    /* Not to be looked into by what is in there already (CVE-2016-9962); and where that may trace even so, by a
     * CAP_SYS_PTRACE of its own, there is nothing of the host's to be had. */
    long result = sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (result >= 0)
        result = sys2(__NR_setns, target, flags);
    if (result >= 0)
        result = keep_capabilities(l, capabilities);
    if (result < 0)
        return (int)result;
    hear_of_children();
    if (l->looks_out)
        stay_here();
    /* In our memory: a copy would take it longer than all the rest. We leave that to it. */
    struct clone_args clone = {.flags = CLONE_VM,
                               .stack = (uintptr_t)inside.stack,
                               .stack_size = sizeof inside.stack,
                               .exit_signal = SIGCHLD};
    long child = clone_to(&clone, go_on_inside, l);
    if (child < 0)
        return (int)child;
    wait_outside(child);
}

#define KINDS 8 /* of namespaces */

/* Enter what the descriptors from 6 on are; a second time what takes the rights of the user namespace among them. */
static int enter_namespaces(const uint64_t *kinds, uint32_t count)
{
    uint64_t left[KINDS];
    for (uint32_t i = 0; i < count; i++)
        left[i] = kinds[i];
    for (int round = 0; round < 3; round++) /* the others, the user's, the others again */
        for (uint32_t i = 0; i < count; i++) {
            if (!left[i] || (left[i] == CLONE_NEWUSER) != (round == 1))
                continue;
            long result = sys2(__NR_setns, ED_LAUNCHER_FD + 1 + i, left[i]);
            if (result < 0 && !(result == -EPERM && round == 0))
                return (int)result;
            if (result >= 0)
                left[i] = 0;
        }
    return 0;
}

/* Who enters a pid namespace is not in it, only its children are; and new namespaces belong to the user namespace that
 * their maker is in. So a child goes on, known to the caller by pidfd: the caller's own child, or, in a pid namespace of
 * others, ours, as which we end. */
int op_enter(struct launcher *l, struct args *args)
{
    uint64_t kinds[KINDS];
    arg_str(args, NULL); /* the point's name is for the caller */
    uint64_t new_namespaces = arg_int(args);
    int dumpable = (int)arg_int(args);
    uint32_t count = arg_count(args);
    if (count > KINDS)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        kinds[i] = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    long result = sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0); /* not to be looked into by what is there already */
    if (result >= 0)
        result = enter_namespaces(kinds, count);
    if (result >= 0)
        result = sys3(__NR_close_range, ED_LAUNCHER_FD + 1, ED_LAUNCHER_FD + count, 0);
    if (result < 0)
        return (int)result;
    int pidfd = -1, among_others = 0;
    for (uint32_t i = 0; i < count; i++) {
        among_others |= kinds[i] == CLONE_NEWPID;
        l->among_others |= kinds[i] == CLONE_NEWNS;
    }
    hear_of_children();
    struct clone_args clone = {.flags = CLONE_PIDFD | new_namespaces, .pidfd = (uintptr_t)&pidfd};
    if (among_others)
        clone.exit_signal = SIGCHLD;
    else
        clone.flags |= CLONE_PARENT;
    long child = sys2(__NR_clone3, &clone, sizeof clone);
    if (child < 0)
        return (int)child;
    if (child > 0) {
        send_message(l, ED_ENTERED, (int)child, pidfd);
        if (among_others)
            wait_outside(child);
        end_process(0);
    }
    if (dumpable)
        sys5(__NR_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    return await_go();
}

/* Become the parent of what the tool makes and leaves, for the truth of how it ends is told to parents alone.
 * Returns only when the tool cannot be executed. */
int op_adopt(struct launcher *l, struct args *args)
{
    const char **argv = string_list(args);
    const char **envp = string_list(args);
    int count = (int)arg_int(args);
    if (args->bad || !argv || !envp || count < 0 || count > ED_MAX_DESCRIPTORS - ED_LAUNCHER_FD - 1)
        return -EBADMSG;
    long result = sys5(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (result < 0)
        return (int)result;
    hear_of_children();
    volatile int failure = 0;
    struct clone_args clone = {.flags = CLONE_VFORK | CLONE_VM, .exit_signal = SIGCHLD};
    long tool = sys2(__NR_clone3, &clone, sizeof clone);
    if (tool == 0) {
        for (int i = 0; i < count && result >= 0; i++)
            result = sys3(__NR_dup3, ED_LAUNCHER_FD + 1 + i, ED_PLAN_FD + i, 0);
        if (result >= 0)
            result = sys3(__NR_close_range, ED_PLAN_FD + count, ~0U, 0);
        default_signals();
        if (result >= 0)
            result = sys3(__NR_execve, argv[0], argv, envp);
        failure = (int)result;
        end_process(127);
    }
    if (tool < 0 || failure)
        return tool < 0 ? (int)tool : failure;
    /* Pipes must not be held open by us when the container has closed them. */
    sys3(__NR_close_range, 0, ED_CONTROL_FD - 1, 0);
    sys3(__NR_close_range, ED_CONTROL_FD + 1, ~0U, 0);
    sys5(__NR_prctl, PR_SET_NAME, "execdrivers-reaper", 0, 0, 0);
    l->step = (uint32_t)tool;
    send_message(l, ED_STARTED, 0, -1);
    for (int status;;) {
        long pid = sys4(__NR_wait4, -1, &status, __WALL, NULL);
        if (pid == -ECHILD)
            end_process(0);
        if (pid > 0) {
            l->step = (uint32_t)pid;
            send_message(l, ED_REAPED, status, -1);
        }
    }
}
