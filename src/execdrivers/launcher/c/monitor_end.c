/* The end: how the first process ended, the rest of its output, the word that is left of it, what is to follow. */
#include "monitor_state.h"

#include <asm/poll.h>
#include <asm/siginfo.h>
#include <asm/signal.h>
#include <linux/fcntl.h>
#include <linux/wait.h>

#include "text.h"

enum {
    DRAIN = 1 << 20,  /* bytes of an output after the end: what a pipe holds at the most */
    SOON = 5000,      /* ms in which whoever is the parent tells of an end */
    EXIT_ROOM = 256,  /* bytes of the file exit, taken before they are needed */
};

/* PIDFD_GET_INFO of linux/pidfd.h, in the form that all kernels since 6.13 know. */
#define PIDFD_INFO 0xC040FF0BU
struct pidfd_exit {
    uint64_t mask;
    uint32_t other[13];
    int32_t status;
};
_Static_assert(sizeof(struct pidfd_exit) == 64, "the kernel's size");

static void know(struct monitor *m, int status)
{
    m->known = 1;
    m->status = status;
}

void reap_children(struct monitor *m)
{
    int status;
    long pid;
    while ((pid = sys4(__NR_wait4, -1, &status, WNOHANG | __WALL, NULL)) > 0)
        if (pid == m->first_pid && !m->known)
            know(m, status);
}

/* What launchers tell. Whether one of them may tell yet. */
int hear_channels(struct monitor *m)
{
    int open = 0;
    for (int i = 0; i < CHANNELS; i++) {
        struct ed_message message;
        long n = 0;
        while (m->channels[i] >= 0
               && (n = SYS6(__NR_recvfrom, m->channels[i], &message, sizeof message, 0x40, NULL, NULL)) > 0) {
            if (n != sizeof message)
                continue;
            /* A reaper tells of the init; what the init itself has told of the command came first. */
            if (message.kind == ED_EXITED
                || (message.kind == ED_REAPED && !m->known && (int)message.step == m->first_pid))
                know(m, message.error);
        }
        if (n != -EAGAIN && n != -EINTR)
            close_fd(&m->channels[i]);
        open += m->channels[i] >= 0;
    }
    return open;
}

/* What the kernel keeps of a process that somebody else has reaped. Whether it is worth asking again. */
static int ask_kernel(struct monitor *m)
{
    struct pidfd_exit info = {.mask = 8 /* PIDFD_INFO_EXIT */};
    if (sys3(__NR_ioctl, m->first, PIDFD_INFO, &info) < 0)
        return 0;
    if (info.mask & 8)
        know(m, info.status);
    return !m->known;
}

/* Our own child's status is that of a launcher which reaps for the command; what it has told goes before. */
static void learn_status(struct monitor *m)
{
    int open = hear_channels(m);
    reap_children(m);
    for (int waited = 0; !m->known && waited < SOON; waited += 10) {
        struct pollfd polled[CHANNELS];
        struct __kernel_timespec span = {.tv_nsec = 10000000};
        /* Those who tell do not wait for room, so that word of the end may be missing among much else. */
        int later = ask_kernel(m);
        if (m->known || (!open && !later))
            return;
        for (int i = 0; i < CHANNELS; i++)
            polled[i] = (struct pollfd){.fd = m->channels[i], .events = POLLIN};
        SYS6(__NR_ppoll, polled, CHANNELS, &span, NULL, 8, 0);
        open = hear_channels(m);
        reap_children(m);
    }
}

/* Bounded, since processes that outlive the first may go on writing. */
static void drain(struct monitor *m)
{
    for (int i = 0; i < OUTPUTS; i++)
        for (int left = DRAIN, n; left > 0 && m->outputs[i] >= 0 && (n = move_output(m, i)) > 0;)
            left -= n;
}

/* The file is there, with room, before the container runs: a full disk does not keep its end from being told. */
int prepare_exit(struct monitor *m)
{
    char room[EXIT_ROOM];
    memset(room, ' ', sizeof room);
    m->exit_file = (int)sys4(__NR_openat, m->directory, "exit.new",
                             O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    long n = m->exit_file < 0 ? m->exit_file : sys3(__NR_write, m->exit_file, room, sizeof room);
    return n < 0 ? (int)n : n < (long)sizeof room ? -ENOSPC : 0;
}

static void leave_word(struct monitor *m, int64_t oom_kills)
{
    char text[EXIT_ROOM];
    char *at = put_text(text, "{\"status\":");
    at = m->known ? put_number(at, (uint64_t)m->status) : put_text(at, "null");
    at = put_text(at, m->started ? ",\"started\":true" : ",\"started\":false");
    at = put_text(at, ",\"time\":");
    at = put_seconds(at, m->end.tv_sec, m->end.tv_nsec);
    at = put_text(at, ",\"oom_kills\":");
    at = oom_kills < 0 ? put_text(at, "null") : put_number(at, (uint64_t)oom_kills);
    at = put_text(at, ",\"log_lost\":");
    at = put_number(at, m->log.lost_in_all);
    at = put_text(at, "}\n");
    size_t size = (size_t)(at - text);
    if (sys4(__NR_pwrite64, m->exit_file, text, size, 0) == (long)size && sys2(__NR_ftruncate, m->exit_file, size) >= 0)
        sys4(__NR_renameat, m->directory, "exit.new", m->directory, "exit");
}

void conclude(struct monitor *m)
{
    learn_status(m);
    close_fd(&m->slave);
    drain(m);
    close_log(&m->log);
    end_clients(m);
    end_watches(m);
    sys3(__NR_unlinkat, m->directory, "attach", 0);
    leave_word(m, count_oom_kills(m->oom));
    start_aftermath(m);
    for (;;)
        sys1(__NR_exit_group, 0);
}
