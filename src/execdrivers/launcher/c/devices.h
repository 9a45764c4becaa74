/* Device rules of cgroup v2, which are BPF programs. Included by the cffi module; runs in the calling program. */
#ifndef EXECDRIVERS_DEVICES_H
#define EXECDRIVERS_DEVICES_H

#include <stdint.h>

/* Load a program of type BPF_PROG_TYPE_CGROUP_DEVICE. Returns its descriptor (close-on-exec), or -errno. */
int ed_device_program_load(const void *instructions, uint32_t count);

/* Attach it to a cgroup, in the place of the one that is attached there, if any. Returns 0, or -errno. */
int ed_device_program_attach(int cgroup, int program);

#endif
