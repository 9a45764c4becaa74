/* The caller's side of a launch: see spawn.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

static int write_all(int fd, const unsigned char *data, size_t size)
{
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
    }
    return 0;
}

static int sealed_memfd(const char *name, unsigned int flags, const unsigned char *data, size_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 there is no MFD_EXEC, and every memfd is executable */
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int result = write_all(fd, data, size);
    if (result == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        result = -errno;
    if (result < 0) {
        close(fd);
        return result;
    }
    return fd;
}

int ed_launcher(const unsigned char *image, size_t size)
{
    return sealed_memfd("execdrivers-launcher", MFD_EXEC, image, size);
}

/* What the child needs, and where it leaves word of a failure: the memory is one until it executes. */
struct launch {
    int launcher, plan, control, cgroup;
    const int *stdio;
    int keep_capabilities;
    volatile int error;
};

static long keep_capabilities(void)
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

/* Bring the descriptors to where plan.h wants them, first out of each other's way. */
static long arrange_descriptors(const struct launch *launch)
{
    const int from[] = {launch->stdio[0], launch->stdio[1], launch->stdio[2],
                        launch->plan,     launch->control,  launch->launcher};
    int parked[6];
    for (int i = 0; i < 6; i++) {
        long fd = sys3(__NR_fcntl, from[i], F_DUPFD, 16);
        if (fd < 0)
            return fd;
        parked[i] = (int)fd;
    }
    for (int i = 0; i < 6; i++) {
        long result = sys3(__NR_dup3, parked[i], i, i == ED_LAUNCHER_FD ? O_CLOEXEC : 0);
        if (result < 0)
            return result;
    }
    return sys3(__NR_close_range, ED_LAUNCHER_FD + 1, ~0U, 0);
}

/* Runs in the caller's memory while the calling thread sleeps: system calls only, no libc, no return. */
__attribute__((noreturn, noinline)) static void child_main(struct launch *launch)
{
    long result = launch->keep_capabilities ? keep_capabilities() : 0;
    if (result >= 0)
        result = arrange_descriptors(launch);
    if (result >= 0) {
        static char *const nothing[] = {NULL};
        static char *const argv[] = {"execdrivers-launcher", NULL};
        result = sys5(__NR_execveat, ED_LAUNCHER_FD, "", argv, nothing, AT_EMPTY_PATH);
    }
    launch->error = (int)-result;
    for (;;)
        sys1(__NR_exit, 127);
}

__attribute__((noinline)) static long clone_child(struct clone_args *clone, struct launch *launch)
{
    /* A signal handler must not run in the child on our memory. Its own signals wait until the command's exec. */
    uint64_t all = ~0ULL, before;
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
    long pid = sys2(__NR_clone3, clone, sizeof *clone);
    if (pid == 0)
        child_main(launch);
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof all);
    return pid;
}

int ed_spawn(int launcher, const unsigned char *plan, size_t size, uint64_t flags, int cgroup, const int stdio[3],
             int keep, struct ed_child *child)
{
    int pair[2], pidfd = -1;
    scoped_fd plan_fd = sealed_memfd("execdrivers-plan", 0, plan, size);
    if (plan_fd < 0)
        return plan_fd;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    scoped_fd ours = pair[0], theirs = pair[1];
    struct launch launch = {
        .launcher = launcher, .plan = plan_fd, .control = theirs, .stdio = stdio, .keep_capabilities = keep};
    struct clone_args clone = {.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | flags,
                               .pidfd = (uintptr_t)&pidfd,
                               .exit_signal = SIGCHLD};
    if (cgroup >= 0) {
        clone.flags |= CLONE_INTO_CGROUP;
        clone.cgroup = (uint64_t)cgroup;
    }
    long pid = clone_child(&clone, &launch);
    if (pid < 0)
        return (int)pid;
    if (launch.error) {
        while (waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
        close(pidfd);
        return -launch.error;
    }
    child->pid = (int)pid;
    child->pidfd = pidfd;
    child->control = ours;
    ours = -1;
    return 0;
}

int ed_receive(int control, struct ed_message *message, int *fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } rights;
    struct iovec part = {message, sizeof *message};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
    *fd = -1;
    ssize_t n;
    do
        n = recvmsg(control, &header, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? 0 : -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(fd, CMSG_DATA(c), sizeof *fd);
    message->detail[sizeof message->detail - 1] = 0;
    return n == sizeof *message;
}

int ed_go(int control)
{
    struct ed_message message = {.kind = ED_GO};
    return send(control, &message, sizeof message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}
