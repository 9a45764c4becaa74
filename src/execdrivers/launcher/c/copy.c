/* A tmpfs filled with what it covers.
 *
 * What is copied may be a stranger's, and change meanwhile: every name is opened from the directory that holds it, and
 * never followed. The tmpfs itself bounds what is copied (its options size and nr_inodes). */
#include "launcher.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/stat.h>
#include <linux/time.h>

#define MAX_DEPTH 128
#define XATTR_MAX 65536 /* XATTR_LIST_MAX and XATTR_SIZE_MAX of linux/limits.h */
#define SEEK_SET 0
#define SEEK_DATA 3
#define SEEK_HOLE 4

struct entry {
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

/* Where we are, from the top, for a message that names it. */
struct place {
    char path[192];
    size_t length;
    unsigned depth;
};

static size_t enter(struct place *place, const char *name)
{
    size_t before = place->length, n = text_length(name);
    if (before + n + 2 <= sizeof place->path) {
        memcpy(place->path + before, "/", 1);
        memcpy(place->path + before + 1, name, n + 1);
        place->length = before + 1 + n;
    }
    place->depth++;
    return before;
}

static void leave(struct place *place, size_t before)
{
    place->path[place->length = before] = 0;
    place->depth--;
}

static int copy_data(int from, int to, uint64_t size)
{
    long result = sys2(__NR_ftruncate, to, size);
    for (uint64_t at = 0; at < size && result >= 0;) {
        long data = sys3(__NR_lseek, from, at, SEEK_DATA), hole = (long)size;
        if (data == -ENXIO) /* nothing but a hole */
            return 0;
        if (data == -EINVAL)
            data = (long)at; /* a file system that cannot tell */
        else if (data >= 0)
            hole = sys3(__NR_lseek, from, data, SEEK_HOLE);
        if (data < 0 || hole < 0)
            return (int)(data < 0 ? data : hole);
        result = sys3(__NR_lseek, from, data, SEEK_SET);
        if (result >= 0)
            result = sys3(__NR_lseek, to, data, SEEK_SET);
        for (at = (uint64_t)data; at < (uint64_t)hole && at < size && result >= 0; at += (uint64_t)result) {
            result = sys4(__NR_sendfile, to, from, NULL, (uint64_t)hole - at);
            if (result == 0) /* it has become shorter */
                return 0;
        }
    }
    return result < 0 ? (int)result : 0;
}

static int copy_xattrs(int from, int to)
{
    static char names[XATTR_MAX], value[XATTR_MAX];
    long size = sys3(__NR_flistxattr, from, names, sizeof names);
    if (size == -EOPNOTSUPP)
        return 0;
    for (const char *name = names; size > 0; size -= (long)text_length(name) + 1, name += text_length(name) + 1) {
        long n = sys4(__NR_fgetxattr, from, name, value, sizeof value);
        long result = n < 0 ? n : sys5(__NR_fsetxattr, to, name, value, n, 0);
        if (result < 0 && result != -ENODATA) /* gone meanwhile */
            return (int)result;
    }
    return size < 0 ? (int)size : 0;
}

/* In an order in which none undoes another: a change of the owner takes set-user-ID and file capabilities. */
static int copy_attributes(int from, int to, const struct statx *st)
{
    struct __kernel_timespec times[2] = {{st->stx_atime.tv_sec, st->stx_atime.tv_nsec},
                                         {st->stx_mtime.tv_sec, st->stx_mtime.tv_nsec}};
    long result = sys3(__NR_fchown, to, st->stx_uid, st->stx_gid);
    if (result >= 0)
        result = copy_xattrs(from, to);
    if (result >= 0)
        result = sys2(__NR_fchmod, to, st->stx_mode & 07777);
    if (result >= 0)
        result = sys4(__NR_utimensat, to, NULL, times, 0);
    return (int)result;
}

static int look(int fd, struct statx *st)
{
    return (int)sys5(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, st);
}

static int copy_file(int from_directory, int to_directory, const char *name)
{
    struct statx st;
    /* O_NONBLOCK: a FIFO may have taken its place. */
    scoped_fd from = (int)sys4(__NR_openat, from_directory, name,
                               O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
    int result = from < 0 ? from : look(from, &st);
    if (result < 0)
        return result;
    if ((st.stx_mode & S_IFMT) != S_IFREG)
        return -ESTALE;
    scoped_fd to = (int)sys4(__NR_openat, to_directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return to;
    result = copy_data(from, to, st.stx_size);
    return result < 0 ? result : copy_attributes(from, to, &st);
}

static int copy_link(int from, int to, const char *name, const struct statx *st)
{
    char target[4096];
    struct __kernel_timespec times[2] = {{st->stx_atime.tv_sec, st->stx_atime.tv_nsec},
                                         {st->stx_mtime.tv_sec, st->stx_mtime.tv_nsec}};
    long n = sys4(__NR_readlinkat, from, name, target, sizeof target - 1);
    if (n < 0)
        return (int)n;
    target[n] = 0;
    long result = sys3(__NR_symlinkat, target, to, name);
    if (result >= 0)
        result = sys5(__NR_fchownat, to, name, st->stx_uid, st->stx_gid, AT_SYMLINK_NOFOLLOW);
    if (result >= 0)
        result = sys4(__NR_utimensat, to, name, times, AT_SYMLINK_NOFOLLOW);
    return (int)result;
}

static int copy_special(int to, const char *name, const struct statx *st)
{
    long result = sys4(__NR_mknodat, to, name, (st->stx_mode & S_IFMT) | 0600, 0);
    if (result >= 0)
        result = sys5(__NR_fchownat, to, name, st->stx_uid, st->stx_gid, AT_SYMLINK_NOFOLLOW);
    if (result >= 0) /* nobody else is in the new file system yet */
        result = sys3(__NR_fchmodat, to, name, st->stx_mode & 07777);
    return (int)result;
}

static int copy_contents(struct launcher *l, struct place *place, int from, int to);

static int copy_directory(struct launcher *l, struct place *place, int from_directory, int to_directory, const char *name)
{
    struct statx st;
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    if (place->depth > MAX_DEPTH)
        return -ENAMETOOLONG;
    scoped_fd from = (int)sys4(__NR_openat, from_directory, name, flags, 0);
    int result = from < 0 ? from : look(from, &st);
    if (result >= 0)
        result = (int)sys3(__NR_mkdirat, to_directory, name, 0700);
    if (result < 0)
        return result;
    scoped_fd to = (int)sys4(__NR_openat, to_directory, name, flags, 0);
    result = to < 0 ? to : copy_contents(l, place, from, to);
    return result < 0 ? result : copy_attributes(from, to, &st);
}

static int copy_entry(struct launcher *l, struct place *place, int from, int to, const char *name)
{
    struct statx st;
    int result = (int)sys5(__NR_statx, from, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st);
    if (result < 0)
        return result == -ENOENT ? 0 : result; /* gone meanwhile */
    switch (st.stx_mode & S_IFMT) {
    case S_IFREG:
        return copy_file(from, to, name);
    case S_IFDIR:
        return copy_directory(l, place, from, to, name);
    case S_IFLNK:
        return copy_link(from, to, name, &st);
    case S_IFIFO:
    case S_IFSOCK:
        return copy_special(to, name, &st);
    default: /* devices are made where the spec lists them and nowhere else */
        return -EPERM;
    }
}

static int copy_contents(struct launcher *l, struct place *place, int from, int to)
{
    char buffer[2048];
    long n;
    while ((n = sys3(__NR_getdents64, from, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += ((struct entry *)(void *)(buffer + at))->length) {
            const char *name = ((struct entry *)(void *)(buffer + at))->name;
            if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2])))
                continue;
            size_t before = enter(place, name);
            int result = copy_entry(l, place, from, to, name);
            if (result < 0 && !l->detail[0])
                note(l, place->path);
            if (result < 0)
                return result;
            leave(place, before);
        }
    return (int)n;
}

int op_copy_up(struct launcher *l, struct args *args)
{
    const char *source = arg_str(args, NULL), *path = arg_str(args, NULL);
    uint64_t attributes = arg_int(args);
    int whole = (int)arg_int(args);
    struct place place = {.length = 0};
    scoped_fd destination = open_destination(l, path, 1);
    if (destination < 0)
        return destination;
    /* Read-only is what it becomes. */
    scoped_fd mount = make_mount(l, "tmpfs", source, args, attributes & ~(uint64_t)MOUNT_ATTR_RDONLY);
    if (mount < 0 || args->bad)
        return args->bad ? -EBADMSG : mount;
    scoped_fd from = (int)sys4(__NR_openat, destination, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    scoped_fd to = (int)sys4(__NR_openat, mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (from < 0 || to < 0)
        return from < 0 ? from : to;
    int result = copy_contents(l, &place, from, to);
    struct statx st;
    if (result >= 0 && whole && (result = look(from, &st)) >= 0)
        result = copy_attributes(from, to, &st);
    if (result >= 0)
        result = set_attributes(mount, 0, attributes & MOUNT_ATTR_RDONLY, 0, 0);
    return result < 0 ? result : attach(l, mount, destination, path);
}
