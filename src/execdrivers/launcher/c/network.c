/* A network namespace that the caller makes for a launcher which is at work already: see ed_give_network in spawn.h.
 *
 * To make one takes longer than all else of a container's, so it is done on another processor than the rest. The calling
 * thread is in the new one meanwhile, and nobody else: namespaces are a thread's. No handler of a signal runs there. */
#include "spawn.h"

#include <sched.h>

#include "loopback.h"

static int open_network(void)
{
    return (int)sys4(__NR_openat, AT_FDCWD, "/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC, 0);
}

static int make_network(void)
{
    scoped_fd home = open_network();
    if (home < 0 || sys2(__NR_setns, home, CLONE_NEWNET) < 0) /* that we can come back is tried before we leave */
        return -EOPNOTSUPP;
    long result = sys1(__NR_unshare, CLONE_NEWNET);
    if (result < 0)
        return (int)result;
    scoped_fd made = open_network();
    int raised = made < 0 ? made : raise_loopback();
    do
        result = sys2(__NR_setns, home, CLONE_NEWNET);
    while (result == -ENOMEM);
    if (result < 0)
        return -ENOTRECOVERABLE;
    if (raised < 0)
        return raised;
    int given = made;
    made = -1;
    return given;
}

int ed_give_network(int control)
{
    uint64_t before = block_signals();
    scoped_fd made = make_network();
    restore_signals(before);
    return made < 0 ? made : send_descriptors(control, (struct ed_message){.kind = ED_NETWORK}, (int[]){made}, 1);
}
