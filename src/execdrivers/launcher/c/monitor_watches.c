/* What the kernel tells of the container's memory while it runs, written to the journal of events (journal.py). */
#include "monitor_state.h"

#include <asm/poll.h>
#include <asm/stat.h>
#include <linux/fcntl.h>
#include <linux/time.h>

#include "text.h"

enum {
    PREFIX = 512,        /* bytes of a line's beginning, at the most */
    LINE = PREFIX + 128,
    BEFORE = 32,         /* bytes before a line: a header, or a newline */
    SECOND = 1000,       /* ms: lines that are not counted come no more often */
    LONGEST_PAUSE = 256, /* ms */
    TRIES = 100,         /* for the journal's lock, a millisecond each */
    LARGEST = 8 << 20,   /* bytes of a journal that nobody rotates */
    LOCK = 2, DONTWAIT = 4, /* LOCK_EX, LOCK_NB */
};

static int64_t milliseconds(void)
{
    struct __kernel_timespec now;
    sys2(__NR_clock_gettime, CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The number behind oom_kill in memory.events or memory.oom_control; -1: none. */
int64_t count_oom_kills(int fd)
{
    static const char key[] = "oom_kill ";
    char text[1024];
    long size = fd < 0 ? -1 : sys4(__NR_pread64, fd, text, sizeof text, 0);
    for (long start = 0; start + (long)sizeof key - 1 < size; start++) {
        long at = start, of_key = 0;
        while (of_key < (long)sizeof key - 1 && text[at] == key[of_key])
            at++, of_key++;
        if (of_key < (long)sizeof key - 1 || (start && text[start - 1] != '\n'))
            continue;
        uint64_t number = 0;
        for (; at < size && text[at] >= '0' && text[at] <= '9'; at++)
            number = 10 * number + (uint64_t)(text[at] - '0');
        return (int64_t)(number & INT64_MAX);
    }
    return -1;
}

/* A file that has meanwhile been given another name is no longer the journal. */
static int is_journal(struct monitor *m, int fd, struct stat *own)
{
    struct stat named;
    return sys2(__NR_fstat, fd, own) >= 0 && sys4(__NR_newfstatat, m->events, "journal", &named, 0) >= 0
           && own->st_ino == named.st_ino && own->st_dev == named.st_dev;
}

/* Locked, as its other writers do; but one that holds the lock for long is not waited for. */
static int open_journal(struct monitor *m, struct stat *st, int *locked)
{
    for (int tries = 0; tries < TRIES;) {
        scoped_fd fd = (int)sys4(__NR_openat, m->events, "journal", O_RDWR | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0);
        if (fd < 0)
            return fd;
        while (!(*locked = sys2(__NR_flock, fd, LOCK | DONTWAIT) >= 0) && ++tries < TRIES) {
            struct __kernel_timespec nap = {.tv_nsec = 1000000};
            sys2(__NR_nanosleep, &nap, NULL);
        }
        tries++;
        if (is_journal(m, fd, st)) {
            int opened = fd;
            fd = -1;
            return opened;
        }
    }
    return -EBUSY;
}

/* What is to come before a line: a file's header, or the end of what somebody could write only half of. Its length. */
static size_t put_beginning(char *to, int fd, const struct stat *st)
{
    char last = 0;
    if (!st->st_size)
        return (size_t)(put_text(to, "{\"journal\":1,\"before\":0}\n") - to);
    if (sys4(__NR_pread64, fd, &last, 1, st->st_size - 1) == 1 && last == '\n')
        return 0;
    *to = '\n';
    return 1;
}

/* As journal.py does: all of it, or nothing. */
static void write_line(struct monitor *m, uint32_t which, int64_t count)
{
    char line[BEFORE + LINE];
    struct stat st;
    struct __kernel_timespec now;
    int locked = 0;
    scoped_fd fd = open_journal(m, &st, &locked);
    if (fd < 0 || st.st_size > LARGEST)
        return;
    size_t before = put_beginning(line, fd, &st);
    int prefix = watch_prefix(m, which, line + before, PREFIX);
    if (prefix < 0)
        return;
    sys2(__NR_clock_gettime, CLOCK_REALTIME, &now);
    char *at = put_seconds(line + before + prefix, now.tv_sec, now.tv_nsec);
    if (count >= 0)
        at = put_number(put_text(at, ",\"oom_kills\":"), (uint64_t)count);
    at = put_text(at, "}\n");
    long size = at - line, written = sys3(__NR_write, fd, line, size);
    if (written > 0 && written < size && locked)
        sys2(__NR_ftruncate, fd, st.st_size);
}

static void end_watch(struct watch *watch)
{
    close_fd(&watch->fd);
    close_fd(&watch->count_fd);
    watch->look_again = 0;
}

/* Whether it has grown. */
static int look(struct monitor *m, uint32_t which)
{
    struct watch *watch = &m->watches[which];
    int64_t count = count_oom_kills(watch->count_fd);
    if (count < 0) {
        end_watch(watch);
        return 1;
    }
    if ((uint64_t)count <= watch->told)
        return 0;
    watch->told = (uint64_t)count;
    write_line(m, which, count);
    return 1;
}

/* Version 1, with its eventfd, tells before it kills: so look again, after longer and longer pauses. */
static void look_and_again(struct monitor *m, uint32_t which)
{
    struct watch *watch = &m->watches[which];
    if (look(m, which) || !(watch->events & POLLIN) || watch->pause > LONGEST_PAUSE)
        watch->look_again = 0;
    else {
        watch->look_again = milliseconds() + watch->pause;
        watch->pause *= 2;
    }
}

void hear_watch(struct monitor *m, uint32_t which, short events)
{
    struct watch *watch = &m->watches[which];
    if (watch->fd < 0 || (!events && (!watch->look_again || milliseconds() < watch->look_again)))
        return;
    if (!events)
        return look_and_again(m, which);
    uint64_t drained;
    if (watch->events & POLLIN && sys3(__NR_read, watch->fd, &drained, sizeof drained) <= 0 && events & (POLLERR | POLLHUP))
        return end_watch(watch);
    if (watch->count_fd >= 0) {
        watch->pause = 1;
        return look_and_again(m, which);
    }
    if (watch->events & POLLPRI && events & POLLERR)
        return end_watch(watch);
    int64_t now = milliseconds();
    if (!watch->written || now - watch->written >= SECOND) {
        watch->written = now;
        write_line(m, which, -1);
    }
}

/* Milliseconds until the first is to be looked at again; -1: none is. */
int watches_timeout(struct monitor *m)
{
    int64_t first = 0;
    for (uint32_t i = 0; i < m->watch_count; i++) {
        int64_t when = m->watches[i].look_again;
        if (when && (!first || when < first))
            first = when;
    }
    if (!first)
        return -1;
    int64_t left = first - milliseconds();
    return left < 0 ? 0 : (int)left;
}

void end_watches(struct monitor *m)
{
    for (uint32_t i = 0; i < m->watch_count; i++)
        if (m->watches[i].count_fd >= 0)
            look(m, i);
}
