/* The log: what a container writes, a line a record, as CRI has it; in files that are rotated by size.
 *
 * The file `log` is written at its end, in whole records. One that is full gets a name by how many bytes of the log came
 * before it, `log.0` the first. A record is `TIME stdout F text`, or P for the part of a line that is not its last. */
#include "monitor_state.h"

#include <linux/fcntl.h>
#include <linux/time.h>

#include "text.h"

enum {
    HEADER = 40,      /* of a record: time, stream and tag, each followed by a space */
    PIECE = 16384,    /* most of a line that one record has */
    LOSS_ROOM = 256,  /* for the line that tells of a loss */
    SMALLEST = 32768, /* bytes of a file that every record fits in */
};

static const char *reason(int error)
{
    switch (error) {
    case ENOSPC: return "No space left on device";
    case EDQUOT: return "Disk quota exceeded";
    case EFBIG: return "File too large";
    case EROFS: return "Read-only file system";
    case EIO: return "Input/output error";
    case ENOENT: return "No such file or directory";
    default: return "errno ";
    }
}

static char *put_header(struct log *log, char *at, const struct __kernel_timespec *now, int stream, char tag)
{
    if (now->tv_sec != log->second || !log->date[0]) {
        log->second = now->tv_sec;
        put_date(log->date, now->tv_sec);
    }
    memcpy(at, log->date, 19);
    at[19] = '.';
    at = put_digits(at + 20, (uint64_t)now->tv_nsec, 9);
    at = put_text(at, stream ? "Z stderr " : "Z stdout ");
    *at++ = tag;
    *at++ = ' ';
    return at;
}

static void lose(struct log *log, uint64_t bytes, int error)
{
    log->lost += bytes;
    log->lost_in_all += bytes;
    log->error = error;
}

/* Bytes of output in whole records: the newline that ends a record is the container's own only after an F. */
static uint64_t output_in(const char *records, size_t size)
{
    uint64_t bytes = 0;
    for (size_t at = 0, start = 0; at < size; at++)
        if (records[at] == '\n') {
            bytes += at + 1 - start - HEADER - (records[start + HEADER - 2] == 'P');
            start = at + 1;
        }
    return bytes;
}

static int open_file(struct log *log)
{
    log->fd = (int)sys4(__NR_openat, log->directory, "log",
                        O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0600);
    long size = log->fd < 0 ? log->fd : sys3(__NR_lseek, log->fd, 0, 2 /* SEEK_END */);
    log->size = size < 0 ? 0 : (uint64_t)size;
    return log->fd;
}

/* The maker's limit on the size of files would end the log for good before a file of it is full. What is hard of that
 * stays: then files are smaller, unless they would be too small for what we write. */
static void obey_limit(struct log *log)
{
    struct {
        uint64_t soft, hard;
    } limit = {~0ULL, ~0ULL};
    sys4(__NR_prlimit64, 0, 1 /* RLIMIT_FSIZE */, NULL, &limit);
    limit.soft = limit.hard;
    sys4(__NR_prlimit64, 0, 1, &limit, NULL);
    if (log->max_size > limit.hard && limit.hard >= SMALLEST)
        log->max_size = limit.hard;
}

int open_log(struct log *log)
{
    obey_limit(log);
    log->max_size -= LOSS_ROOM;
    return open_file(log);
}

/* As much as can be, in whole records: what of them is written. */
static size_t write_whole(struct log *log, const char *data, size_t size)
{
    size_t done = 0;
    if (log->fd < 0 && open_file(log) < 0) {
        log->error = -log->fd;
        log->fd = -1;
        return 0;
    }
    while (done < size) {
        long n = sys3(__NR_write, log->fd, data + done, size - done);
        if (n == -EINTR)
            continue;
        if (n <= 0) {
            log->error = n ? (int)-n : EIO;
            break;
        }
        done += (size_t)n;
    }
    if (done == size)
        return done;
    size_t whole = done;
    while (whole && data[whole - 1] != '\n')
        whole--;
    if (whole < done)
        sys2(__NR_ftruncate, log->fd, log->size + whole);
    return whole;
}

/* Say what was lost since the last time; whether that could be written. */
static int tell_loss(struct log *log)
{
    char line[LOSS_ROOM];
    struct __kernel_timespec now;
    sys2(__NR_clock_gettime, CLOCK_REALTIME, &now);
    char *at = put_header(log, line, &now, 1, 'F');
    at = put_text(at, "execdrivers: ");
    at = put_number(at, log->lost);
    at = put_text(at, " bytes of output were not logged: ");
    const char *why = reason(log->error);
    at = put_text(at, why);
    if (why[0] == 'e')
        at = put_number(at, (uint64_t)log->error);
    *at++ = '\n';
    size_t size = (size_t)(at - line);
    if (write_whole(log, line, size) < size)
        return 0;
    log->size += size;
    log->lost = 0;
    return 1;
}

static void flush(struct log *log)
{
    size_t used = log->used;
    log->used = 0;
    if (!used)
        return;
    size_t written = log->lost && !tell_loss(log) ? 0 : write_whole(log, log->buffer, used);
    log->size += written;
    if (written < used)
        lose(log, output_in(log->buffer + written, used - written), log->error);
}

static void file_name(char *name, uint64_t base)
{
    *put_number(put_text(name, "log."), base) = 0;
}

/* Give the full file its name, begin another, remove the oldest. Whether there is room now. */
static int rotate(struct log *log)
{
    char name[32];
    file_name(name, log->base);
    long result = sys4(__NR_renameat, log->directory, "log", log->directory, name);
    if (result < 0 && result != -ENOENT) { /* somebody may have removed it */
        log->error = (int)-result;
        return 0;
    }
    log->older[(log->oldest + log->older_count++) % ED_MAX_FILES] = log->base;
    log->base += log->size;
    close_fd(&log->fd);
    while (log->older_count > log->max_files - 1) {
        file_name(name, log->older[log->oldest]);
        sys3(__NR_unlinkat, log->directory, name, 0);
        log->oldest = (log->oldest + 1) % ED_MAX_FILES;
        log->older_count--;
    }
    if (open_file(log) < 0) {
        log->error = -log->fd;
        log->fd = -1; /* tried again at the next write */
    }
    return 1;
}

/* Eight bytes at a time: a byte of a word that has become 0 borrows from its highest bit, and so is found. */
static size_t line_length(const unsigned char *data, size_t size)
{
    static const uint64_t ones = 0x0101010101010101, highest = 0x8080808080808080;
    size_t n = 0;
    for (uint64_t word; size - n >= sizeof word; n += sizeof word) {
        __builtin_memcpy(&word, data + n, sizeof word);
        word ^= ones * '\n';
        if ((word - ones) & ~word & highest)
            break;
    }
    while (n < size && data[n] != '\n')
        n++;
    return n;
}

void write_log(struct log *log, int stream, const unsigned char *data, size_t size)
{
    struct __kernel_timespec now;
    int full = 0; /* and cannot be rotated */
    sys2(__NR_clock_gettime, CLOCK_REALTIME, &now);
    while (size) {
        size_t length = line_length(data, size < PIECE ? size : PIECE);
        int whole = length < size && data[length] == '\n';
        size_t record = HEADER + length + 1, taken = length + (size_t)whole;
        if (log->used + record > LOG_BUFFER)
            flush(log);
        if (!full && log->size + log->used + record > log->max_size) {
            flush(log);
            full = log->size && !rotate(log);
        }
        if (full)
            lose(log, taken, log->error);
        else {
            char *at = put_header(log, log->buffer + log->used, &now, stream, whole ? 'F' : 'P');
            memcpy(at, data, length);
            at[length] = '\n';
            log->used += (uint32_t)record;
        }
        data += taken;
        size -= taken;
    }
    flush(log);
}

void close_log(struct log *log)
{
    if (log->lost)
        tell_loss(log);
    close_fd(&log->fd);
}
