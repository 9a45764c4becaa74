/* The maker's side of a monitor: one request, and its answer. */
#include "request.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static int send_request(int control, uint32_t kind, const int *fds, int count)
{
    struct ed_request request = {.kind = kind};
    struct iovec part = {&request, sizeof request};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(ED_REQUEST_DESCRIPTORS * sizeof(int))];
    } extra;
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > ED_REQUEST_DESCRIPTORS)
        return -E2BIG;
    if (count) {
        size_t size = (size_t)count * sizeof *fds;
        memset(&extra, 0, sizeof extra);
        extra.header.cmsg_level = SOL_SOCKET;
        extra.header.cmsg_type = SCM_RIGHTS;
        extra.header.cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(&extra.header), fds, size);
        header.msg_control = &extra;
        header.msg_controllen = CMSG_SPACE(size);
    }
    ssize_t n;
    do
        n = sendmsg(control, &header, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n >= 0 ? 0 : errno == EPIPE ? -ECONNRESET : -errno;
}

int ed_reply(int control, struct ed_reply *reply, int *fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    } extra;
    struct iovec part = {reply, sizeof *reply};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &extra, .msg_controllen = sizeof extra};
    *fd = -1;
    ssize_t n;
    do
        n = recvmsg(control, &header, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(fd, CMSG_DATA(c), sizeof *fd);
    if (n == sizeof *reply && reply->result >= 0 && header.msg_flags & MSG_CTRUNC)
        return -EMFILE; /* there was none left for what came along */
    if (n == sizeof *reply)
        return reply->result;
    return n < 0 ? -errno : -ECONNRESET;
}

int ed_request(int control, uint32_t kind, const int *fds, int count, struct ed_reply *reply, int *fd)
{
    *fd = -1;
    int result = send_request(control, kind, fds, count);
    return result < 0 || kind == ED_ABORT ? result : ed_reply(control, reply, fd);
}
