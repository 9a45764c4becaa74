/* The caller's side of the socket: whatever comes, ed_receive stays within its buffers and keeps one descriptor. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
    const uint8_t *data;
    size_t size;
    int open[64];
} arriving;

static ssize_t simulated_recvmsg(int fd, struct msghdr *header, int flags);
static int simulated_close(int fd);

#define recvmsg simulated_recvmsg
#define close simulated_close
#include "spawn.c"
#undef recvmsg
#undef close

static size_t take(void *to, size_t size)
{
    if (size > arriving.size)
        size = arriving.size;
    memcpy(to, arriving.data, size);
    arriving.data += size;
    arriving.size -= size;
    return size;
}

static int simulated_close(int fd)
{
    if (fd < 0 || fd >= 64 || !arriving.open[fd])
        abort(); /* not one that came along, or twice */
    arriving.open[fd] = 0;
    return 0;
}

/* As the kernel does it: credentials first, then as many descriptors as there is room for. */
static ssize_t simulated_recvmsg(int fd, struct msghdr *header, int flags)
{
    (void)fd;
    uint8_t shape[3] = {0};
    take(shape, sizeof shape);
    if (shape[0] & 1) {
        errno = shape[1];
        return -1;
    }
    size_t room = header->msg_controllen, used = 0;
    char *control = header->msg_control;
    if (shape[0] & 2 && room >= CMSG_SPACE(sizeof(struct ucred))) {
        struct cmsghdr head = {.cmsg_len = CMSG_LEN(sizeof(struct ucred)), .cmsg_level = SOL_SOCKET,
                               .cmsg_type = SCM_CREDENTIALS};
        memset(control, 0, CMSG_SPACE(sizeof(struct ucred)));
        memcpy(control, &head, sizeof head);
        take(control + sizeof head, sizeof(struct ucred));
        used = CMSG_SPACE(sizeof(struct ucred));
    }
    int count = shape[2] % 8;
    if (count && room - used > CMSG_LEN(0)) {
        int fits = (int)((room - used - CMSG_LEN(0)) / sizeof(int));
        count = count < fits ? count : fits;
        struct cmsghdr head = {.cmsg_len = CMSG_LEN((size_t)count * sizeof(int)), .cmsg_level = SOL_SOCKET,
                               .cmsg_type = SCM_RIGHTS};
        memcpy(control + used, &head, sizeof head);
        for (int i = 0; i < count; i++) {
            int number = 10 + i;
            arriving.open[number] = 1;
            memcpy(control + used + sizeof head + (size_t)i * sizeof number, &number, sizeof number);
        }
        size_t space = CMSG_SPACE((size_t)count * sizeof(int));
        used += space < room - used ? space : room - used;
    }
    header->msg_controllen = used;
    header->msg_flags = flags & 0;
    return (ssize_t)take(header->msg_iov->iov_base, header->msg_iov->iov_len);
}

void receive_message(const uint8_t *data, size_t size)
{
    struct ed_message *message = malloc(sizeof *message);
    int fd, pid, kept = 0;
    memset(&arriving, 0, sizeof arriving);
    arriving.data = data;
    arriving.size = size;
    int result = ed_receive(3, message, &fd, &pid);
    for (int i = 0; i < 64; i++)
        kept += arriving.open[i];
    if (kept != (fd >= 0) || (fd >= 0 && (result != 1 || !arriving.open[fd])))
        abort(); /* one that nobody knows of stays open */
    if (result == 1 && memchr(message->detail, 0, sizeof message->detail) == NULL)
        abort();
    free(message);
}
