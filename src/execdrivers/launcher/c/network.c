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

/* Its interface goes up when it is given already: that is soon enough for who still waits for its word. */
static int make_and_give(int control)
{
    scoped_fd home = open_network();
    if (home < 0 || sys2(__NR_setns, home, CLONE_NEWNET) < 0) /* that we can come back is tried before we leave */
        return -EOPNOTSUPP;
    long left = sys1(__NR_unshare, CLONE_NEWNET);
    if (left < 0)
        return (int)left;
    scoped_fd made = open_network();
    int result = made;
    if (result >= 0)
        result = send_descriptors(control, (struct ed_message){.kind = ED_NETWORK}, (int[]){made}, 1);
    if (result >= 0)
        result = raise_loopback();
    long back;
    do
        back = sys2(__NR_setns, home, CLONE_NEWNET);
    while (back == -ENOMEM);
    return back < 0 ? -ENOTRECOVERABLE : result;
}

int ed_give_network(int control)
{
    uint64_t before = block_signals();
    int result = make_and_give(control);
    restore_signals(before);
    return result;
}
