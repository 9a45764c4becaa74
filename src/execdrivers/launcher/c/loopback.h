/* The loopback interface of the network namespace that we are in goes up: for the launcher, and for its caller. */
#ifndef EXECDRIVERS_LOOPBACK_H
#define EXECDRIVERS_LOOPBACK_H

#include <sys/socket.h> /* constants and types only: the launcher is linked with no libc */

#include <linux/if.h>
#include <linux/sockios.h>

#include "sys.h"

static inline int raise_loopback(void)
{
    scoped_fd fd = (int)sys3(__NR_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    struct ifreq request = {.ifr_name = "lo"};
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    return (int)sys3(__NR_ioctl, fd, SIOCSIFFLAGS, &request);
}

#endif
