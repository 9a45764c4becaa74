/* Who is attached: output goes to each as far as it keeps up, input comes from all. */
#include "monitor_state.h"

#include <asm/ioctls.h>
#include <asm/poll.h>
#include <asm/termios.h>
#include <linux/fcntl.h>
#include <linux/un.h>

#include "text.h"

enum {
    DONTWAIT = 0x4040,      /* MSG_DONTWAIT | MSG_NOSIGNAL */
    END_OF_INPUT = 4,       /* ^D */
    ROOM = 1 << 20,         /* bytes of output that may wait for a client, kept by the kernel */
    USUAL_ROOM = 100000,    /* without CAP_NET_ADMIN: half of what net.core.wmem_max has by default */
    AT_ONCE = 16,           /* packets of one client, before others have their turn */
    SOCKET = 1, SEND_BUFFER = 7, SEND_BUFFER_FORCED = 32, /* SOL_SOCKET, SO_SNDBUF, SO_SNDBUFFORCE */
};

int listen_for_clients(struct monitor *m)
{
    struct sockaddr_un address = {.sun_family = 1 /* AF_UNIX */};
    *put_text(put_number(put_text(address.sun_path, "/proc/self/fd/"), (uint64_t)m->directory), "/attach") = 0;
    scoped_fd fd = (int)sys3(__NR_socket, 1, 5 /* SOCK_SEQPACKET */ | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0)
        return fd;
    sys3(__NR_unlinkat, m->directory, "attach", 0);
    long mask = sys1(__NR_umask, 0177);
    long result = sys3(__NR_bind, fd, &address, sizeof address);
    sys1(__NR_umask, mask);
    if (result >= 0)
        result = sys2(__NR_listen, fd, CLIENTS);
    if (result < 0)
        return (int)result;
    m->listener = fd;
    fd = -1;
    return 0;
}

static long send_packet(int fd, const void *data, size_t size)
{
    long n;
    do
        n = SYS6(__NR_sendto, fd, data, size, DONTWAIT, NULL, 0);
    while (n == -EINTR);
    return n;
}

static void set_room(int fd, int share)
{
    int room = ROOM * share, usual = USUAL_ROOM * share;
    if (SYS6(__NR_setsockopt, fd, SOCKET, SEND_BUFFER_FORCED, &room, sizeof room, 0) < 0)
        SYS6(__NR_setsockopt, fd, SOCKET, SEND_BUFFER, &usual, sizeof usual, 0);
}

static void drop(struct client *client)
{
    close_fd(&client->fd);
    *client = (struct client){.fd = -1};
}

void accept_client(struct monitor *m)
{
    scoped_fd fd = (int)sys4(__NR_accept4, m->listener, NULL, NULL, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        m->refuses = fd != -EAGAIN; /* out of descriptors or memory: tried again, but not at once */
        return;
    }
    set_room(fd, 1);
    struct client *free = NULL;
    for (int i = 0; i < CLIENTS && !free; i++)
        if (m->clients[i].fd < 0)
            free = &m->clients[i];
    unsigned char hello[] = {ED_HELLO, m->terminal >= 0, m->input >= 0};
    if (!free) {
        hello[0] = ED_FULL;
        send_packet(fd, hello, 1);
    } else if (send_packet(fd, hello, sizeof hello) >= 0) {
        *free = (struct client){.fd = fd};
        fd = -1;
    }
}

/* What it was too slow for, then it may have more. Whether it has been told of all. */
static int tell_skipped(struct client *client)
{
    unsigned char packet[1 + sizeof client->skipped] = {ED_SKIPPED};
    if (!client->skipped)
        return 1;
    memcpy(packet + 1, &client->skipped, sizeof client->skipped);
    if (send_packet(client->fd, packet, sizeof packet) < 0)
        return 0;
    client->skipped = 0;
    return 1;
}

void tell_clients(struct monitor *m, unsigned char type, size_t size)
{
    m->packet[0] = type;
    for (int i = 0; i < CLIENTS; i++) {
        struct client *client = &m->clients[i];
        if (client->fd < 0 || client->deaf)
            continue;
        long n = tell_skipped(client) ? send_packet(client->fd, m->packet, 1 + size) : -EAGAIN;
        if (n == -EAGAIN || n == -ENOBUFS || n == -ENOMEM)
            client->skipped += size;
        else if (n < 0) { /* it has gone; what it sent before is still to be read */
            client->deaf = 1;
            client->skipped = 0;
        }
    }
}

/* Nothing for one that has gone, but with input to be taken: the kernel would tell of that again and again. */
short client_events(const struct client *client)
{
    return (short)((client->waits ? 0 : POLLIN) | (client->skipped ? POLLOUT : 0));
}

/* Once all that was sent before is written. */
static void end_input(struct monitor *m)
{
    m->input_ends = 0;
    for (int i = 0; i < CLIENTS; i++)
        if (m->clients[i].ends)
            m->clients[i].ends = m->clients[i].waits = 0; /* what it has sent since is heard next */
    if (m->terminal < 0)
        return close_fd(&m->input);
    if (m->input < 0)
        return;
    /* In the middle of a line the first one only sends it off. */
    m->pending_at = 0;
    m->pending_size = m->input_last && m->input_last != '\n' && m->input_last != END_OF_INPUT ? 2 : 1;
    m->pending[0] = m->pending[1] = END_OF_INPUT;
    write_input(m);
}

void write_input(struct monitor *m)
{
    while (m->pending_size && m->input >= 0) {
        long n = sys3(__NR_write, m->input, m->pending + m->pending_at, m->pending_size);
        if (n == -EINTR)
            continue;
        if (n == -EAGAIN)
            return;
        if (n < 0) { /* nobody reads any more; a terminal may yet be opened again */
            m->pending_size = 0;
            if (m->terminal < 0)
                close_fd(&m->input);
            break;
        }
        m->input_last = m->pending[m->pending_at + n - 1];
        m->pending_at += (uint32_t)n;
        m->pending_size -= (uint32_t)n;
    }
    if (m->input < 0)
        m->pending_size = 0;
}

static void resize(struct monitor *m, const unsigned char *data, size_t size)
{
    if (size != 4 || m->terminal < 0)
        return;
    struct winsize window = {.ws_row = (unsigned short)(data[0] | data[1] << 8),
                             .ws_col = (unsigned short)(data[2] | data[3] << 8)};
    sys3(__NR_ioctl, m->terminal, TIOCSWINSZ, &window);
}

static void take_packet(struct monitor *m, struct client *client, const unsigned char *packet, size_t size)
{
    switch (packet[0]) {
    case ED_INPUT:
        if (m->input < 0 || size < 2)
            return;
        m->pending_at = 0;
        m->pending_size = (uint32_t)size - 1;
        memcpy(m->pending, packet + 1, size - 1);
        return write_input(m);
    case ED_INPUT_END:
        m->input_ends = client->ends = 1;
        return;
    case ED_RESIZE:
        return resize(m, packet + 1, size - 1);
    }
}

/* Take the next packet. Whether there may be another at once. */
static int hear_packet(struct monitor *m, struct client *client)
{
    unsigned char type;
    long n = SYS6(__NR_recvfrom, client->fd, &type, 1, 2 /* MSG_PEEK */ | DONTWAIT, NULL, NULL);
    if (n == 1 && (m->pending_size || client->ends) && (type == ED_INPUT || type == ED_INPUT_END)) {
        client->waits = 1;
        return 0;
    }
    if (n == 1)
        n = SYS6(__NR_recvfrom, client->fd, m->packet, sizeof m->packet, DONTWAIT, NULL, NULL);
    if (n == -EAGAIN || n == -EINTR)
        return 0;
    if (n == -ECONNRESET) /* it left output unread; what it sent comes after this */
        return 1;
    if (n <= 0) {
        drop(client);
        return 0;
    }
    take_packet(m, client, m->packet, (size_t)n);
    return 1;
}

void hear_client(struct monitor *m, struct client *client, short events)
{
    if (events & POLLOUT)
        tell_skipped(client);
    if (client->waits && events & (POLLHUP | POLLERR))
        client->skipped = 0;
    else if (!client->waits && events & (POLLIN | POLLHUP | POLLERR))
        for (int i = 0; i < AT_ONCE && hear_packet(m, client); i++)
            ;
}

/* Those who had to wait, as far as there is room now; then the end of the input, if one of them has asked for it. */
void hear_waiting(struct monitor *m)
{
    for (int i = 0; i < CLIENTS && !m->pending_size; i++) {
        struct client *client = &m->clients[m->turn++ % CLIENTS];
        if (client->waits && !client->ends) {
            client->waits = 0;
            hear_client(m, client, POLLIN);
            i = -1;
        }
    }
    if (m->input_ends && !m->pending_size)
        end_input(m);
}

/* Each is told how it ended, after all output that it has kept up with; for which there is room beyond the usual. */
void end_clients(struct monitor *m)
{
    unsigned char packet[5] = {ED_EXIT};
    int status = m->known ? m->status : ED_UNKNOWN;
    memcpy(packet + 1, &status, sizeof status);
    for (int i = 0; i < CLIENTS; i++) {
        struct client *client = &m->clients[i];
        if (client->fd < 0)
            continue;
        set_room(client->fd, 2);
        tell_skipped(client);
        send_packet(client->fd, packet, sizeof packet);
        drop(client);
    }
}
