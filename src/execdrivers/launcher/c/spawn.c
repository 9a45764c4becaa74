/* The caller's side of a launch: see spawn.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"

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

int ed_memfd(const char *name, const unsigned char *data, size_t size, int executable)
{
    unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = memfd_create(name, executable ? flags | MFD_EXEC : flags);
    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 there is no MFD_EXEC, and every memfd is executable */
        fd = memfd_create(name, flags);
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

int ed_plan(const unsigned char *plan, size_t size)
{
    return ed_memfd("execdrivers-plan", plan, size, 0);
}

int ed_channel(int pair[2])
{
    int on = 1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    if (setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0)
        return 0;
    int result = -errno;
    close(pair[0]);
    close(pair[1]);
    return result;
}

int ed_spawn(const struct ed_spawn *how, struct ed_child *child)
{
    return spawn_child(how, child);
}

/* The first of them; there is room for more than are ever meant, and who sends is not always ours. */
static int one_descriptor(const struct cmsghdr *rights)
{
    size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    int first = -1;
    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(rights) + i * sizeof fd, sizeof fd);
        if (i == 0)
            first = fd;
        else
            close(fd);
    }
    return first;
}

int ed_receive(int control, struct ed_message *message, int *fd, int *pid)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    } extra;
    struct iovec part = {message, sizeof *message};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &extra, .msg_controllen = sizeof extra};
    *fd = *pid = -1;
    ssize_t n = recvmsg(control, &header, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == ECONNRESET) /* it ended with a word of ours unread: told before what it had to say */
        n = recvmsg(control, &header, MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == ECONNRESET ? 0 : -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            *fd = one_descriptor(c);
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
            struct ucred sender;
            memcpy(&sender, CMSG_DATA(c), sizeof sender);
            *pid = sender.pid;
        }
    }
    message->detail[sizeof message->detail - 1] = 0;
    if (n == sizeof *message)
        return 1;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return 0;
}

int ed_last_words(int control, struct ed_message *message, uint32_t *kind)
{
    int fd, pid, result;
    *kind = 0;
    while ((result = ed_receive(control, message, &fd, &pid)) > 0) {
        if (fd >= 0)
            close(fd);
        *kind = message->kind;
        if (message->kind == ED_FAILED || message->kind == ED_EXITED)
            return 1;
    }
    return result;
}

#define MOST_SENT 3

static int send_descriptors(int control, struct ed_message message, const int *fds, size_t count)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(MOST_SENT * sizeof(int))];
    } extra = {.header = {
                   .cmsg_len = CMSG_LEN(count * sizeof *fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&extra.header), fds, count * sizeof *fds);
    struct iovec part = {&message, sizeof message};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = &extra,
                            .msg_controllen = CMSG_SPACE(count * sizeof *fds)};
    return sendmsg(control, &header, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int ed_send_stdio(int control, const int *fds)
{
    return send_descriptors(control, (struct ed_message){.kind = ED_STDIO}, fds, 3);
}

int ed_give_plan(int control, const unsigned char *plan, size_t size, int network)
{
    struct ed_message message = {.kind = ED_PLAN, .step = !!network};
    if (size <= ED_SHORT_PLAN) {
        struct iovec parts[] = {{&message, sizeof message}, {(void *)plan, size}};
        struct msghdr header = {.msg_iov = parts, .msg_iovlen = 2};
        return sendmsg(control, &header, MSG_NOSIGNAL) < 0 ? -errno : 0;
    }
    int fd = ed_plan(plan, size);
    if (fd < 0)
        return fd;
    int result = send_descriptors(control, message, &fd, 1);
    close(fd);
    return result;
}

int ed_landlock_abi(void)
{
    long version = sys3(444 /* landlock_create_ruleset */, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
    return version < 0 ? 0 : (int)version;
}
