/* The monitor: stands by a container whose maker may be gone. It is the parent of the first process, or of the tool that
 * makes it, holds its stdio, writes its log, serves who attaches, and leaves word of how it ended.
 *
 * Freestanding like the launcher, without a heap: idle it sleeps in poll(2) and holds some ten pages. Before KEEP it
 * lives only as long as its maker's socket, and what it has made goes with it. */
#include "freestanding.h"
#include "monitor_state.h"

#include <asm/ioctls.h>
#include <asm/poll.h>
#include <asm/signal.h>
#include <linux/close_range.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signalfd.h>
#include <linux/time.h>
#include <linux/wait.h>

#include "signals.h"

enum { CONTROL, CHILDREN, FIRST, OUTPUT, INPUT = OUTPUT + OUTPUTS, LISTENER, CLIENT, WATCH = CLIENT + CLIENTS,
       CHANNEL = WATCH + ED_MAX_WATCHES, POLLED = CHANNEL + CHANNELS };
enum { RETRY = 1000 }; /* ms until somebody who could not be accepted is again */

/* Read what there is of an output, at most a packet: to the log, and to who is attached. Its length; 0: nothing now. */
int move_output(struct monitor *m, int which)
{
    int *fd = &m->outputs[which];
    long n = sys3(__NR_read, *fd, m->packet + 1, ED_PACKET_SIZE);
    if (n == -EAGAIN || n == -EINTR)
        return 0;
    if (n <= 0) {
        close_fd(fd);
        return 0;
    }
    write_log(&m->log, which, m->packet + 1, (size_t)n);
    tell_clients(m, which ? ED_STDERR : ED_STDOUT, (size_t)n);
    return (int)n;
}

static struct pollfd want(int fd, int events)
{
    return (struct pollfd){.fd = events ? fd : -1, .events = (short)events};
}

static void prepare(struct monitor *m, struct pollfd *polled)
{
    polled[CONTROL] = want(m->control, POLLIN);
    polled[CHILDREN] = want(m->children, POLLIN);
    polled[FIRST] = want(m->first, m->ended ? 0 : POLLIN);
    for (int i = 0; i < OUTPUTS; i++)
        polled[OUTPUT + i] = want(m->outputs[i], POLLIN);
    polled[INPUT] = want(m->input, m->pending_size ? POLLOUT : 0);
    polled[LISTENER] = want(m->listener, m->refuses ? 0 : POLLIN);
    for (int i = 0; i < CLIENTS; i++)
        polled[CLIENT + i] = want(m->clients[i].fd, client_events(&m->clients[i]));
    for (int i = 0; i < ED_MAX_WATCHES; i++)
        polled[WATCH + i] = want(m->watches[i].fd, (int)m->watches[i].events);
    for (int i = 0; i < CHANNELS; i++)
        polled[CHANNEL + i] = want(m->channels[i], POLLIN);
}

static void serve(struct monitor *m, const struct pollfd *polled)
{
    if (polled[CHILDREN].revents) {
        struct signalfd_siginfo info;
        sys3(__NR_read, m->children, &info, sizeof info);
        if (m->released)
            reap_children(m);
    }
    for (int i = 0; i < CHANNELS; i++)
        if (polled[CHANNEL + i].revents) {
            hear_channels(m); /* lest they fill, and word of the end be dropped */
            break;
        }
    if (polled[FIRST].revents) {
        m->ended = 1;
        sys2(__NR_clock_gettime, CLOCK_REALTIME, &m->end);
    }
    for (int i = 0; i < OUTPUTS; i++)
        if (polled[OUTPUT + i].revents)
            move_output(m, i);
    if (polled[INPUT].revents)
        write_input(m);
    for (int i = 0; i < CLIENTS; i++)
        if (polled[CLIENT + i].revents)
            hear_client(m, &m->clients[i], polled[CLIENT + i].revents);
    hear_waiting(m);
    if (polled[LISTENER].revents)
        accept_client(m);
    for (uint32_t i = 0; i < m->watch_count; i++)
        hear_watch(m, i, polled[WATCH + i].revents);
    if (polled[CONTROL].revents)
        take_request(m);
}

/* poll(2) takes no more than RLIMIT_NOFILE, of which some of us have little: so only what is there. */
static int poll_present(struct pollfd *polled, int timeout)
{
    struct pollfd present[POLLED];
    struct __kernel_timespec span = {.tv_sec = timeout / 1000, .tv_nsec = timeout % 1000 * 1000000L};
    int count = 0;
    for (int i = 0; i < POLLED; i++)
        if (polled[i].fd >= 0)
            present[count++] = polled[i];
    long result = SYS6(__NR_ppoll, present, count, timeout < 0 ? NULL : &span, NULL, SIGSET_SIZE, 0);
    for (int i = 0, at = 0; i < POLLED; i++)
        if (polled[i].fd >= 0)
            polled[i].revents = present[at++].revents;
    return (int)result;
}

__attribute__((noreturn)) static void run(struct monitor *m)
{
    struct pollfd polled[POLLED];
    while (!m->ended || !m->released) {
        prepare(m, polled);
        int timeout = watches_timeout(m);
        if (m->refuses && (timeout < 0 || timeout > RETRY))
            timeout = RETRY;
        m->refuses = 0;
        int result = poll_present(polled, timeout);
        if (result >= 0)
            serve(m, polled);
        else if (result != -EINTR) { /* out of memory, or a limit of next to nothing: not again at once */
            struct __kernel_timespec nap = {.tv_nsec = 10000000};
            sys2(__NR_nanosleep, &nap, NULL);
            if (m->control >= 0)
                take_request(m); /* which may be that its maker has died */
        }
    }
    conclude(m);
}

/* Tell the maker who we are: the first word. */
static int introduce(struct monitor *m)
{
    struct ed_child own = {.pid = (int)sys0(__NR_getpid)};
    own.pidfd = (int)sys2(__NR_pidfd_open, own.pid, 0);
    if (own.pidfd < 0)
        return own.pidfd;
    answer(m, 0, &own);
    return 0;
}

/* All signals stay blocked: who wants us gone has SIGKILL. Nothing is ignored, which our children would inherit. */
static int settle(struct monitor *m)
{
    static const uint64_t all = ~0ULL, child = 1ULL << (SIGCHLD - 1);
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all, NULL, SIGSET_SIZE);
    struct kernel_sigaction action = {0};
    for (int number = 1; number <= SIGNALS; number++)
        sys4(__NR_rt_sigaction, number, &action, NULL, SIGSET_SIZE);
    sys0(__NR_setsid);
    sys1(__NR_chdir, "/");
    sys5(__NR_prctl, PR_SET_NAME, "execdrivers-mon", 0, 0, 0);
    sys3(__NR_close_range, ED_PLAN_FD, ED_PLAN_FD, 0);
    sys3(__NR_close_range, ED_LAUNCHER_FD, ~0U, 0);
    long result = sys3(__NR_fcntl, ED_CONTROL_FD, F_SETFD, FD_CLOEXEC);
    if (result >= 0)
        result = sys5(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (result >= 0)
        result = m->children = (int)sys4(__NR_signalfd4, -1, &child, SIGSET_SIZE, O_CLOEXEC | O_NONBLOCK);
    return result < 0 ? (int)result : introduce(m);
}

void set_absent(struct monitor *m)
{
    m->first = m->directory = m->exit_file = m->keep_body = m->terminal = m->slave = m->input = m->listener = -1;
    m->oom = m->events = m->log.fd = m->log.directory = -1;
    for (int i = 0; i < OUTPUTS; i++)
        m->outputs[i] = -1;
    for (int i = 0; i < CLIENTS; i++)
        m->clients[i].fd = -1;
    for (int i = 0; i < CHANNELS; i++)
        m->channels[i] = -1;
    for (int i = 0; i < ED_MAX_WATCHES; i++)
        m->watches[i].fd = m->watches[i].count_fd = -1;
}

__attribute__((noreturn, used)) void monitor_main(void)
{
    static struct monitor m;
    /* The maker waits for its child, and gets none that it would have to reap later. */
    long pid = sys5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid != 0) {
        struct ed_reply reply = {.result = (int32_t)pid};
        if (pid < 0)
            SYS6(__NR_sendto, ED_CONTROL_FD, &reply, sizeof reply, 0x4000 /* MSG_NOSIGNAL */, NULL, 0);
        sys1(__NR_exit_group, 0);
    }
    set_absent(&m);
    m.control = ED_CONTROL_FD;
    int result = settle(&m);
    if (result >= 0)
        run(&m);
    struct ed_reply reply = {.result = result};
    SYS6(__NR_sendto, ED_CONTROL_FD, &reply, sizeof reply, 0x4000 /* MSG_NOSIGNAL */, NULL, 0);
    sys1(__NR_exit_group, 125);
    __builtin_unreachable();
}

#if defined(EXECDRIVERS_SIMULATED) /* its main is the test's */
#elif defined(__x86_64__)
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n and $-16, %rsp\n call monitor_main\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n bl monitor_main\n");
#endif
