/* The maker's side of a monitor. Included by the cffi module. */
#ifndef EXECDRIVERS_REQUEST_H
#define EXECDRIVERS_REQUEST_H

#include "monitor.h"
#include "plan.h"

/* Most that come along with one request: those of a child, its cgroup, the body. */
enum { ED_REQUEST_DESCRIPTORS = ED_MAX_DESCRIPTORS + 2 };

/* Receive an answer, or the first word of a new monitor: its result; *fd is the pidfd that came along, or -1.
 * -ECONNRESET: the monitor has ended. */
int ed_reply(int control, struct ed_reply *reply, int *fd);

/* Ask, and wait for the answer: as ed_reply, or -errno. */
int ed_request(int control, uint32_t kind, const int *fds, int count, struct ed_reply *reply, int *fd);

#endif
