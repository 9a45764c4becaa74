/* The caller's side of a launch. Included by the cffi module; everything here runs in the calling program. */
#ifndef EXECDRIVERS_SPAWN_H
#define EXECDRIVERS_SPAWN_H

#include <stddef.h>
#include <stdint.h>

#include "plan.h"

struct ed_child {
    int pid;
    int pidfd;   /* close-on-exec */
    int control; /* close-on-exec; messages of plan.h */
};

/* A sealed memfd holding the launcher, for the life of the program. Returns it, or -errno. */
int ed_launcher(const unsigned char *image, size_t size);

/* Start the launcher with a plan, in new namespaces (clone flags), in a cgroup v2 (descriptor, or -1).
 *
 * The cost does not depend on the caller's memory: the child borrows it until it executes the launcher. With
 * keep_capabilities the child's capabilities survive that execution whatever its uid is (for user namespaces).
 * Returns 0, or -errno and nothing is left. */
int ed_spawn(int launcher, const unsigned char *plan, size_t size, uint64_t flags, int cgroup, const int stdio[3],
             int keep_capabilities, struct ed_child *child);

/* Receive one message; *fd is a descriptor that came along, or -1. Returns 1; 0 at the end; or -errno. */
int ed_receive(int control, struct ed_message *message, int *fd);

/* Tell the launcher to go on. Returns 0 or -errno. */
int ed_go(int control);

#endif
