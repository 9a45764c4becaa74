/* A hook of the spec that runs in the container, with the state of the container on its input. */
#include "launcher.h"

#include <asm/poll.h>
#include <asm/signal.h>
#include <linux/close_range.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/memfd.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/time_types.h>
#include <linux/wait.h>

#include "signals.h"

struct hook {
    const char *path, **argv, **envp;
    uint64_t timeout; /* seconds; 0: none */
    int input, output;
    long pid;
    int pidfd;
};

/* The state as a file that is read from its beginning. The pid is told last: only here is it known as it is here. */
static int state_file(const char *state, uint32_t length)
{
    char end[24] = "";
    size_t size = append_number(end, (uint64_t)sys0(__NR_getpid));
    end[size++] = '}';
    int fd = (int)sys2(__NR_memfd_create, "state", MFD_CLOEXEC);
    if (fd < 0)
        return fd;
    long n = sys3(__NR_write, fd, state, length);
    if (n == (long)length)
        n = sys3(__NR_write, fd, end, length = (uint32_t)size);
    if (n == (long)length && (n = sys3(__NR_lseek, fd, 0, 0 /* SEEK_SET */)) == 0)
        return fd;
    sys1(__NR_close, fd);
    return n < 0 ? (int)n : -EIO;
}

/* A hook in the container's root comes from there: what confines the command holds for it too. Earlier there is nothing
 * yet. The listener is the command's; without one, calls that it would be asked about do not exist. */
static int confine_as_command(struct launcher *l)
{
    uint64_t flags = l->filter_flags;
    l->filter_flags &= ~(uint64_t)(SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
    int result = confine_command(l);
    l->filter_flags = flags; /* the memory is the launcher's */
    return result;
}

static int start(struct launcher *l, struct hook *hook)
{
    volatile int failure = 0; /* CLONE_VFORK: we sleep until the child has executed or left */
    int pidfd = -1;
    /* Not clone3, whose flags a filter cannot see, so that Docker's has it fail. */
    hook->pid = sys5(__NR_clone, CLONE_VFORK | CLONE_VM | CLONE_PIDFD | SIGCHLD, 0, &pidfd, 0, 0);
    if (hook->pid == 0) {
        long result = sys0(__NR_setsid);
        for (int fd = 0; fd <= 2 && result >= 0; fd++)
            result = sys3(__NR_dup3, fd ? hook->output : hook->input, fd, 0);
        if (result >= 0)
            result = sys3(__NR_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
        if (result >= 0) /* a container's user may not get to its bundle on the host */
            result = sys1(__NR_chdir, "/");
        default_signals();
        if (result >= 0)
            result = confine_as_command(l);
        if (result >= 0)
            result = sys3(__NR_execve, hook->path, hook->argv, hook->envp);
        failure = (int)result;
        end_process(127);
    }
    if (hook->pid < 0)
        return (int)hook->pid;
    hook->pidfd = pidfd;
    if (!failure)
        return 0;
    sys4(__NR_wait4, hook->pid, NULL, __WALL, NULL);
    return failure;
}

/* Until the hook has ended; keep the beginning of what it says. 0, -ETIMEDOUT, or -ECANCELED when the caller is gone:
 * then there is nobody to run for. */
static int await_end(const struct hook *hook, char *text, size_t space)
{
    struct __kernel_timespec left = {.tv_sec = (int64_t)hook->timeout}; /* the kernel keeps it up to date */
    struct pollfd polled[] = {{.fd = hook->pidfd, .events = POLLIN},
                              {.fd = ED_CONTROL_FD},
                              {.fd = hook->output, .events = POLLIN}};
    size_t said = 0;
    for (;;) {
        long ready = sys5(__NR_ppoll, polled, 3, hook->timeout ? &left : NULL, NULL, 0);
        if (ready == -EINTR)
            continue;
        if (ready <= 0)
            return ready < 0 ? (int)ready : -ETIMEDOUT;
        if (polled[2].revents & POLLIN) {
            char scrap[4096];
            int keep = said < space - 1;
            long n = sys3(__NR_read, hook->output, keep ? text + said : scrap, keep ? space - 1 - said : sizeof scrap);
            said += keep && n > 0 ? (size_t)n : 0;
            text[said] = 0;
            if (n <= 0)
                polled[2].fd = -1;
        } else if (polled[2].revents)
            polled[2].fd = -1; /* it has closed its output */
        if (polled[0].revents)
            return 0;
        if (polled[1].revents)
            return -ECANCELED;
    }
}

static int run(struct launcher *l, struct hook *hook)
{
    char said[160] = "", text[sizeof l->detail] = "";
    int status = 0, result = await_end(hook, said, sizeof said);
    if (result < 0)
        sys2(__NR_kill, -hook->pid, SIGKILL); /* it leads a session; what left that ends with the container */
    long ended;
    while ((ended = sys4(__NR_wait4, hook->pid, &status, __WALL, NULL)) == -EINTR)
        ;
    if (result >= 0 && ended < 0)
        result = (int)ended;
    if (result < 0 || !status)
        return result;
    int number = status & 0x7f;
    append_text(text, number ? "was killed by signal " : "exited with ");
    append_number(text, (uint64_t)(number ? number : status >> 8 & 0xff));
    if (*said)
        append_text(text, ": ");
    append_text(text, said);
    note(l, text);
    return -EREMOTEIO;
}

int op_hook(struct launcher *l, struct args *args)
{
    struct hook hook = {.pidfd = -1};
    int output[2];
    uint32_t length;
    arg_str(args, NULL); /* the point's name is for the caller, which has the plan too */
    hook.path = arg_str(args, NULL);
    hook.argv = string_list(args);
    hook.envp = string_list(args);
    hook.timeout = arg_int(args);
    const char *state = arg_str(args, &length);
    if (args->bad || !hook.argv || !hook.envp)
        return -EBADMSG;
    scoped_fd input = state_file(state, length);
    if (input < 0)
        return input;
    long result = sys2(__NR_pipe2, output, O_CLOEXEC);
    if (result < 0)
        return (int)result;
    hook.input = input;
    hook.output = output[1];
    hear_of_children();
    result = start(l, &hook);
    close_fd(&output[1]);
    hook.output = output[0];
    if (result >= 0)
        result = run(l, &hook);
    close_fd(&output[0]);
    close_fd(&hook.pidfd);
    return (int)result;
}
