/* Sets of processors, for the kernel to run a process on. */
#ifndef EXECDRIVERS_PROCESSORS_H
#define EXECDRIVERS_PROCESSORS_H

#include "sys.h"

#define MAX_PROCESSORS 8192

struct processors {
    long size; /* in bytes, as the kernel has it */
    uint64_t set[MAX_PROCESSORS / 64];
};

/* Those that we may run on, and the one that we run on. 0, or -errno. */
static inline int our_processors(struct processors *ours, unsigned int *here)
{
    ours->size = sys3(__NR_sched_getaffinity, 0, sizeof ours->set, ours->set);
    if (ours->size < 0)
        return (int)ours->size;
    long result = sys3(__NR_getcpu, here, NULL, NULL);
    return result < 0 ? (int)result : *here < 8 * (unsigned long)ours->size ? 0 : -ERANGE;
}

static inline long run_on(long pid, const struct processors *those)
{
    return sys3(__NR_sched_setaffinity, pid, those->size, those->set);
}

#endif
