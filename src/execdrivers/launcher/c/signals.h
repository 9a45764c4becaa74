/* Signals as a new program expects them, by system calls alone. For who has included a header with SIG_SETMASK. */
#ifndef EXECDRIVERS_SIGNALS_H
#define EXECDRIVERS_SIGNALS_H

#include "sys.h"

#define SIGNALS 64
#define SIGSET_SIZE 8

struct kernel_sigaction {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

/* Handlers go with an execution anyway; what the caller ignored (Python: SIGPIPE) would stay. */
static inline void default_actions(void)
{
    struct kernel_sigaction action = {0};
    for (int number = 1; number <= SIGNALS; number++)
        sys4(__NR_rt_sigaction, number, &action, NULL, SIGSET_SIZE);
}

/* So would what it blocked. */
static inline void unblock_signals(void)
{
    uint64_t none = 0;
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &none, NULL, SIGSET_SIZE);
}

static inline void default_signals(void)
{
    default_actions();
    unblock_signals();
}

#endif
