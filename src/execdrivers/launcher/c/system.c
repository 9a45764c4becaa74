/* Operations on files of the host, namespaces, names and the loopback interface. */
#include "launcher.h"

#include <linux/fcntl.h>

#include "loopback.h"

int op_write(struct launcher *l, struct args *args)
{
    (void)l;
    uint32_t length;
    const char *path = arg_str(args, NULL), *data = arg_str(args, &length);
    if (args->bad)
        return -EBADMSG;
    scoped_fd fd = (int)sys4(__NR_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC | O_NOCTTY, 0);
    if (fd < 0)
        return fd;
    long n = sys3(__NR_write, fd, data, length);
    return n < 0 ? (int)n : n == (long)length ? 0 : -EIO;
}

int op_unshare(struct launcher *l, struct args *args)
{
    (void)l;
    uint64_t flags = arg_int(args);
    return args->bad ? -EBADMSG : (int)sys1(__NR_unshare, flags);
}

/* A process is in its old time namespace until it forks or executes; setns(2) takes it there on every kernel, and at
 * once, so that what a file system or a clock shows from here on is the container's. */
int op_clocks(struct launcher *l, struct args *args)
{
    (void)l;
    (void)args;
    scoped_fd fd = (int)sys4(__NR_openat, AT_FDCWD, "/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC, 0);
    return fd < 0 ? fd : (int)sys2(__NR_setns, fd, 0x80 /* CLONE_NEWTIME */);
}

int op_hostname(struct launcher *l, struct args *args)
{
    (void)l;
    uint32_t length;
    const char *name = arg_str(args, &length);
    return args->bad ? -EBADMSG : (int)sys2(__NR_sethostname, name, length);
}

int op_domainname(struct launcher *l, struct args *args)
{
    (void)l;
    uint32_t length;
    const char *name = arg_str(args, &length);
    return args->bad ? -EBADMSG : (int)sys2(__NR_setdomainname, name, length);
}

static int enter_network(struct launcher *l)
{
    scoped_fd network = -1;
    int result = look_out(l);
    if (result >= 0)
        result = receive_network(&network);
    return result < 0 ? result : (int)sys2(__NR_setns, network, 0x40000000 /* CLONE_NEWNET */);
}

int op_loopback(struct launcher *l, struct args *args)
{
    (void)args;
    return l->network_follows ? enter_network(l) : raise_loopback();
}

int op_channel(struct launcher *l, struct args *args)
{
    (void)args;
    int pair[2];
    long result = sys4(__NR_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
    if (result < 0)
        return (int)result;
    result = send_message(l, ED_CHANNEL, 0, pair[0]);
    if (result >= 0)
        result = sys3(__NR_dup3, pair[1], ED_CONTROL_FD, O_CLOEXEC);
    close_fd(&pair[0]);
    close_fd(&pair[1]);
    if (result >= 0)
        result = sys3(__NR_close_range, ED_LAUNCHER_FD, ~0U, 0);
    if (result >= 0)
        result = l->root = (int)sys4(__NR_openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    return (int)result;
}

int op_stdio(struct launcher *l, struct args *args)
{
    (void)l;
    (void)args;
    int fds[3];
    long result = receive_stdio(fds);
    for (int i = 0; i < 3 && result >= 0; i++) {
        result = sys3(__NR_dup3, fds[i], i, 0);
        close_fd(&fds[i]);
    }
    return result < 0 ? (int)result : 0;
}

int op_sync(struct launcher *l, struct args *args)
{
    arg_str(args, NULL); /* the point's name is for the caller, which has the plan too */
    if (args->bad)
        return -EBADMSG;
    int result = send_message(l, ED_SYNC, 0, -1);
    return result < 0 ? result : await_go();
}
