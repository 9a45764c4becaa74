/* The monitor's code on a made-up kernel, where anything may fail: for ASan and UBSan, and for what must hold of a log.
 *
 * Arguments: the first seed, and how many. A finding ends the program with a message. */
#include <linux/fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asm/stat.h>

#include "message.h"
#include "monitor_state.h"

/* --- chance --------------------------------------------------------------------------------------------------- */

static uint64_t state, current; /* of the generator; the seed at hand */

static uint32_t chance(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

#define CHECK(condition, what)                                                    \
    do                                                                            \
        if (!(condition)) {                                                       \
            fprintf(stderr, "seed %llu: %s: %s\n", (unsigned long long)current, what, #condition); \
            abort();                                                              \
        }                                                                         \
    while (0)

/* --- the kernel ------------------------------------------------------------------------------------------------ */

enum { FILES = 64, FDS = 512, FAULTLESS = 0 };

struct file {
    char name[32];
    char *data;
    size_t size;
};

static struct {
    struct file files[FILES];
    int file_of[FDS], is_open[FDS];
    uint32_t faults; /* one in so many calls; 0: none */
    uint64_t removed;
    int64_t seconds;
    int mapped;
    /* what comes next */
    const unsigned char *body;
    size_t body_size;
    unsigned char request[64];
    size_t request_size;
    int request_fds, next_fd;
    unsigned char text[2048];
    size_t text_size;
} kernel;

static int fault(void)
{
    return kernel.faults && chance(kernel.faults) == 0;
}

static int open_fd(int file)
{
    for (int fd = 10; fd < FDS; fd++)
        if (!kernel.is_open[fd]) {
            kernel.is_open[fd] = 1;
            kernel.file_of[fd] = file;
            return fd;
        }
    CHECK(0, "descriptors are left open");
    return -1;
}

static int find(const char *name)
{
    for (int i = 0; i < FILES; i++)
        if (!strcmp(kernel.files[i].name, name))
            return i;
    return -1;
}

static long open_name(const char *name)
{
    int file = find(name);
    if (fault())
        return -ENOSPC;
    if (file < 0)
        file = find("");
    CHECK(file >= 0, "too many files");
    strcpy(kernel.files[file].name, name);
    return open_fd(file);
}

static long append(int fd, const char *data, size_t size)
{
    struct file *file = &kernel.files[kernel.file_of[fd]];
    if (fault())
        return chance(2) ? -EINTR : -ENOSPC;
    if (kernel.faults && chance(kernel.faults) == 0)
        size = chance((uint32_t)size) + 1;
    file->data = realloc(file->data, file->size + size);
    memcpy(file->data + file->size, data, size);
    file->size += size;
    return (long)size;
}

enum { HEAD = 40 };

static int is_record(const char *line, size_t size)
{
    static const char form[] = "dddd-dd-ddTdd:dd:dd.dddddddddZ std";
    if (size <= HEAD)
        return 0;
    for (size_t i = 0; i < sizeof form - 1; i++)
        if (form[i] == 'd' && i < 30 ? line[i] < '0' || line[i] > '9' : line[i] != form[i])
            return 0;
    return (!memcmp(line + 34, "out ", 4) || !memcmp(line + 34, "err ", 4)) && (line[38] == 'F' || line[38] == 'P')
           && line[39] == ' ';
}

/* Bytes of output in a file, which must be whole records; what the monitor says itself is none. */
static uint64_t output_of(const struct file *file, int *told)
{
    uint64_t bytes = 0;
    for (size_t at = 0; at < file->size;) {
        const char *line = file->data + at, *end = memchr(line, '\n', file->size - at);
        CHECK(end, "a record is torn");
        size_t size = (size_t)(end - line) + 1;
        CHECK(is_record(line, size), "no record");
        if (size > HEAD + 13 && !memcmp(line + HEAD, "execdrivers: ", 13))
            ++*told;
        else
            bytes += size - HEAD - (line[38] == 'P');
        at += size;
    }
    return bytes;
}

static void forget(int file)
{
    free(kernel.files[file].data);
    kernel.files[file] = (struct file){0};
}

static long rename_file(const char *from, const char *to)
{
    int file = find(from), other = find(to);
    if (fault())
        return -EROFS;
    if (file < 0)
        return -ENOENT;
    CHECK(other < 0, "a file of the log is overwritten");
    strcpy(kernel.files[file].name, to);
    return 0;
}

static long map(size_t size, int fd)
{
    if (fault())
        return -ENOMEM;
    void *data = malloc(size); /* of this very size, so that a byte too many is seen */
    CHECK(data, "memory");
    kernel.mapped++;
    if (fd < 0)
        memset(data, 0, size);
    else
        memcpy(data, kernel.body, size);
    return (long)(uintptr_t)data;
}

static long receive(struct message_header *header)
{
    struct {
        size_t length;
        int level, type, fds[DESCRIPTORS];
    } *rights = header->control;
    size_t size = kernel.request_size < header->parts->length ? kernel.request_size : header->parts->length;
    memcpy(header->parts->base, kernel.request, size);
    header->flags = chance(20) ? 0 : 8; /* MSG_CTRUNC */
    if (kernel.request_fds) {
        rights->length = RIGHTS_LENGTH((size_t)kernel.request_fds);
        rights->level = SOCKET_LEVEL;
        rights->type = RIGHTS_TYPE;
        for (int i = 0; i < kernel.request_fds; i++)
            rights->fds[i] = open_fd(FILES);
    }
    return (long)size;
}

static long take(void *to, size_t size)
{
    size = size < kernel.text_size ? size : kernel.text_size;
    memcpy(to, kernel.text, size);
    return (long)size;
}

long sys6(long number, long a, long b, long c, long d, long e, long f)
{
    (void)f;
    switch (number) {
    case __NR_openat:
        return open_name((const char *)b);
    case __NR_close:
        CHECK(a >= 0 && a < FDS && kernel.is_open[a], "closed twice");
        kernel.is_open[a] = 0;
        return 0;
    case __NR_lseek:
        return (long)kernel.files[kernel.file_of[a]].size;
    case __NR_write:
        return a < FDS && kernel.is_open[a] && kernel.file_of[a] < FILES ? append((int)a, (const char *)b, (size_t)c)
               : chance(3) ? (long)chance((uint32_t)c) + 1 : chance(2) ? -EAGAIN : -EPIPE;
    case __NR_ftruncate:
        CHECK((size_t)b <= kernel.files[kernel.file_of[a]].size, "grown by cutting");
        kernel.files[kernel.file_of[a]].size = (size_t)b;
        return 0;
    case __NR_renameat:
        return rename_file((const char *)b, (const char *)d);
    case __NR_unlinkat: {
        int file = find((const char *)b), told = 0;
        if (file >= 0 && file < FILES && strncmp((const char *)b, "log.", 4) == 0)
            kernel.removed += output_of(&kernel.files[file], &told);
        if (file >= 0)
            forget(file);
        return file < 0 ? -ENOENT : 0;
    }
    case __NR_clock_gettime: {
        struct __kernel_timespec *now = (void *)b;
        kernel.seconds += (int64_t)chance(3) - (chance(50) == 0) * 100000;
        *now = (struct __kernel_timespec){.tv_sec = kernel.seconds, .tv_nsec = chance(1000000000)};
        return 0;
    }
    case __NR_fstat:
        memset((void *)b, 0, sizeof(struct stat));
        ((struct stat *)b)->st_size = (long)kernel.body_size;
        return fault() ? -EIO : 0;
    case __NR_mmap:
        return map((size_t)b, (int)e);
    case __NR_munmap:
        kernel.mapped--;
        free((void *)a);
        return 0;
    case __NR_recvmsg:
        return receive((void *)b);
    case __NR_recvfrom:
        return chance(20) == 0 ? chance(2) ? -EAGAIN : -ECONNRESET : take((void *)b, (size_t)c);
    case __NR_pread64:
        return take((void *)b, (size_t)c);
    case __NR_clone3:
        return fault() ? -EAGAIN : 4242;
    case __NR_socket:
    case __NR_accept4:
        return fault() ? -EMFILE : open_fd(FILES);
    case __NR_fcntl:
    case __NR_ioctl:
        return chance(8) && (c == F_DUPFD_CLOEXEC || b == F_DUPFD_CLOEXEC) ? open_fd(FILES) : -EINVAL;
    case __NR_wait4:
        return -ECHILD;
    case __NR_exit_group:
        exit(3); /* nothing here may end it */
    default: /* poll, send and the like */
        return chance(6) ? 0 : -EAGAIN;
    }
}

static void start(uint64_t seed, uint32_t faults)
{
    for (int i = 0; i < FILES; i++)
        forget(i);
    memset(&kernel, 0, sizeof kernel);
    state = seed * 2654435761u + 1;
    for (int i = 0; i < 5; i++)
        chance(2);
    kernel.faults = faults;
    kernel.seconds = (int64_t)chance(2000000000);
}

static void finish(void)
{
    for (int fd = 0; fd < FDS; fd++)
        CHECK(!kernel.is_open[fd], "a descriptor is left open");
    CHECK(kernel.mapped == 0, "memory is left mapped");
}

/* --- the log --------------------------------------------------------------------------------------------------- */

static uint64_t fill(unsigned char *data, size_t size)
{
    uint32_t every = chance(3) ? 1 + chance(200) : 40000;
    for (size_t i = 0; i < size; i++)
        data[i] = chance(every) ? (unsigned char)('a' + chance(26)) : '\n';
    return size;
}

static void try_log(uint64_t seed)
{
    static unsigned char data[ED_PACKET_SIZE];
    struct log *log = calloc(1, sizeof *log);
    uint64_t given = 0, kept = 0, base = 0;
    int told = 0, chained = 1;
    start(seed, seed % 3 ? 2 + chance(40) : FAULTLESS);
    log->fd = -1;
    log->max_size = 32768 + chance(100000);
    log->max_files = 2 + chance(6);
    uint64_t most = log->max_size;
    if (open_log(log) < 0)
        log->fd = -1;
    for (uint32_t i = chance(60); i > 0; i--) {
        size_t size = fill(data, 1 + chance(sizeof data));
        given += size;
        write_log(log, (int)chance(2), data, size);
        CHECK(log->used == 0, "not all was written");
    }
    close_log(log);
    for (int i = 0; i < FILES; i++)
        if (kernel.files[i].name[0]) {
            CHECK(kernel.files[i].size <= most, "a file is too large");
            kept += output_of(&kernel.files[i], &told);
        }
    CHECK(kept + kernel.removed + log->lost_in_all == given, "output is neither logged nor told of as lost");
    CHECK(kernel.faults || (!log->lost_in_all && !told), "lost without a reason");
    for (uint32_t i = 0; i < log->older_count; i++) { /* each name says how much was before */
        char name[32];
        uint64_t own = log->older[(log->oldest + i) % ED_MAX_FILES];
        snprintf(name, sizeof name, "log.%llu", (unsigned long long)own);
        int file = find(name);
        chained &= file >= 0 && (i == 0 || own == base);
        base = own + (file >= 0 ? kernel.files[file].size : 0);
    }
    CHECK(kernel.faults || chained, "names that do not tell where a file begins");
    finish();
    free(log);
}

/* --- requests, packets, counts --------------------------------------------------------------------------------- */

/* Mostly sound, with a flaw here and there. */
static unsigned char *make_body(uint32_t kind, size_t *size)
{
    static unsigned char room[4096];
    union {
        struct ed_spawn_body spawn;
        struct ed_keep_body keep;
    } head;
    memset(&head, 0, sizeof head);
    size_t at = kind == ED_KEEP ? sizeof head.keep : sizeof head.spawn, strings = chance(6);
    if (kind == ED_KEEP) {
        head.keep.log_size = 65536;
        head.keep.log_files = chance(2000);
        head.keep.descriptors = chance(64);
        head.keep.watch_count = chance(3);
        for (uint32_t i = 0; i < head.keep.watch_count; i++)
            head.keep.watches[i].counted = chance(2);
        head.keep.argument_count = chance(3);
    } else {
        head.spawn.has_cgroup = chance(2);
        head.spawn.has_path = chance(2);
        head.spawn.has_directory = chance(2);
        head.spawn.argument_count = chance(3);
        head.spawn.variable_count = chance(3);
    }
    memcpy(room, &head, at);
    for (; strings; strings--)
        for (uint32_t i = chance(9); i < 9; i++)
            room[at++] = i < 8 ? 'x' : 0;
    for (uint32_t flaws = chance(3) ? 0 : 3; flaws; flaws--)
        room[chance((uint32_t)at)] = (unsigned char)chance(256);
    if (chance(5) == 0)
        at = chance((uint32_t)at);
    *size = at;
    unsigned char *body = malloc(at ? at : 1);
    memcpy(body, room, at);
    return body;
}

static void close_all(struct monitor *m)
{
    int *const single[] = {&m->first, &m->directory, &m->exit_file, &m->keep_body, &m->terminal, &m->slave, &m->input,
                           &m->listener, &m->oom, &m->events, &m->outputs[0], &m->outputs[1], &m->log.fd};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++)
        close_fd(single[i]);
    for (int i = 0; i < CLIENTS; i++)
        close_fd(&m->clients[i].fd);
    for (int i = 0; i < CHANNELS; i++)
        close_fd(&m->channels[i]);
    for (int i = 0; i < ED_MAX_WATCHES; i++) {
        close_fd(&m->watches[i].fd);
        close_fd(&m->watches[i].count_fd);
    }
}

static void try_requests(uint64_t seed)
{
    struct monitor *m = calloc(1, sizeof *m);
    start(seed, chance(2) ? 2 + chance(30) : FAULTLESS);
    set_absent(m);
    m->control = -1; /* answers go nowhere */
    for (int i = 0; i < 12; i++) {
        uint32_t kind = chance(3) ? ED_KEEP : ED_SPAWN;
        if (m->kept && chance(3) == 0)
            kind = ED_CHANNELS;
        unsigned char *body = make_body(kind, &kernel.body_size);
        char prefix[64];
        kernel.body = body;
        kernel.request_size = chance(30) ? sizeof kind : chance(sizeof kind) + 1;
        kernel.request_fds = (int)chance(chance(4) ? 12 : DESCRIPTORS + 1);
        memcpy(kernel.request, &kind, sizeof kind);
        take_request(m);
        if (m->keep_body >= 0)
            for (uint32_t which = 0; which < m->watch_count; which++)
                watch_prefix(m, which, prefix, sizeof prefix);
        free(body);
    }
    close_all(m);
    finish();
    free(m);
}

static void try_packets(uint64_t seed)
{
    struct monitor *m = calloc(1, sizeof *m);
    start(seed, 2 + chance(30));
    set_absent(m);
    m->input = open_fd(FILES);
    if (chance(2))
        m->terminal = open_fd(FILES);
    for (int i = 0; i < 60; i++) {
        struct client *client = &m->clients[chance(CLIENTS)];
        kernel.text_size = chance(20) ? 1 + chance(chance(2) ? 6 : sizeof kernel.text) : 0;
        kernel.text[0] = (unsigned char)"ierzi"[chance(5)];
        if (client->fd < 0)
            accept_client(m);
        else
            hear_client(m, client, (short)(1 << chance(5)));
        if (chance(3) == 0)
            tell_clients(m, ED_STDOUT, 1 + chance(ED_PACKET_SIZE));
        if (chance(3) == 0)
            write_input(m);
        hear_waiting(m);
        CHECK(m->pending_at + m->pending_size <= ED_PACKET_SIZE, "more than there is room for");
        CHECK(m->input >= 0 || !m->pending_size, "input for nobody");
    }
    end_clients(m);
    close_all(m);
    finish();
    free(m);
}

static void try_counts(uint64_t seed)
{
    static const char *const parts[] = {"oom_kill ", "oom_kill", "no_oom_kill ", "\n", "7", "18446744073709551616", " "};
    start(seed, FAULTLESS);
    for (uint32_t i = chance(12); i; i--) {
        const char *part = parts[chance(7)];
        size_t size = strlen(part);
        memcpy(kernel.text + kernel.text_size, part, size);
        kernel.text_size += size;
    }
    count_oom_kills(open_fd(FILES));
    kernel.text_size = (size_t)sprintf((char *)kernel.text, "low 0\noom 9\noom_kill %u\noom_group_kill 5\n", (unsigned)seed);
    CHECK(count_oom_kills(10) == (int64_t)(unsigned)seed, "misread");
}

int main(int count, char **arguments)
{
    uint64_t first = count > 1 ? strtoull(arguments[1], NULL, 10) : 0;
    uint64_t number = count > 2 ? strtoull(arguments[2], NULL, 10) : 1000;
    for (uint64_t seed = first; seed < first + number; seed++) {
        current = seed;
        try_log(seed);
        try_requests(seed);
        try_packets(seed);
        try_counts(seed);
    }
    return 0;
}
