/* Paths inside the root-to-be, which may be a stranger's and change meanwhile.
 *
 * A path is resolved with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) and used by descriptor from then on, so that
 * no symbolic link of a hostile rootfs, however it is swapped meanwhile, leads outside.
 *
 * A mount goes along when the directory below it is renamed, which whoever shares the rootfs can do from another mount
 * namespace. So what is to be masked in /proc is not looked for at /proc, where a decoy may lie for a moment, but in
 * the very mount that was made there: its ground. */
#include "launcher.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/openat2.h>

int open_below(int directory, const char *path, uint64_t flags, uint64_t resolve)
{
    while (*path == '/')
        path++;
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve | RESOLVE_NO_MAGICLINKS};
    long fd;
    do /* EAGAIN: somebody renamed along the path; the kernel cannot tell whether it stayed inside */
        fd = sys4(__NR_openat2, directory, *path ? path : ".", &how, sizeof how);
    while (fd == -EAGAIN || fd == -EINTR);
    return (int)fd;
}

/* Whether a path is another one or lies below it. */
static int is_at_or_below(const char *path, const char *above, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (path[i] != above[i])
            return 0;
    return path[length] == 0 || path[length] == '/';
}

static int is_dots(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

static const struct ground *ground_of(const struct launcher *l, const char *path)
{
    for (uint32_t i = 0; i < l->ground_count; i++)
        if (is_at_or_below(path, l->grounds[i].path, l->grounds[i].length))
            return &l->grounds[i];
    return NULL;
}

int open_inside(const struct launcher *l, const char *path, uint64_t flags)
{
    const struct ground *ground = ground_of(l, path);
    if (ground && !path[ground->length] && flags == (O_PATH | O_DIRECTORY)) /* itself; if no directory, it will say so */
        return (int)sys3(__NR_fcntl, ground->fd, F_DUPFD_CLOEXEC, 0);
    int fd = ground ? open_below(ground->fd, path + ground->length, flags, RESOLVE_BENEATH) : -EXDEV;
    /* A link from one mount to another, such as /dev/core, is followed from the root. */
    return fd == -EXDEV ? open_below(l->root, path, flags, RESOLVE_IN_ROOT) : fd;
}

/* A new mount covers those at and below its path: they are no ground any more. */
void forget_grounds(struct launcher *l, const char *path)
{
    size_t length = text_length(path);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < l->ground_count; i++)
        if (is_at_or_below(l->grounds[i].path, path, length))
            close_fd(&l->grounds[i].fd);
        else
            l->grounds[kept++] = l->grounds[i];
    l->ground_count = kept;
}

/* A mount that was made at the path is a ground, unless it lies on one. */
int keep_ground(struct launcher *l, int mount, const char *path)
{
    forget_grounds(l, path);
    if (ground_of(l, path)) /* it is reached from there */
        return 0;
    if (l->ground_count == sizeof l->grounds / sizeof *l->grounds) {
        note(l, "too many mounts on the root itself");
        return -E2BIG;
    }
    long fd = sys3(__NR_fcntl, mount, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0)
        l->grounds[l->ground_count++] = (struct ground){.path = path, .length = text_length(path), .fd = (int)fd};
    return fd < 0 ? (int)fd : 0;
}

/* The mount at that path, just made, is empty, and ours alone. */
void note_fresh(struct launcher *l, const char *path)
{
    struct ground *last = l->grounds + l->ground_count - 1;
    if (l->ground_count && last->path == path)
        last->fresh = !l->among_others;
}

/* The mount, still held by the launcher, in whose root a path lies, and the name there; or -ENOENT. Where nobody else can
 * put anything, names need no looking after. */
int fresh_place(const struct launcher *l, const char *path, const char **name)
{
    const struct ground *ground = ground_of(l, path);
    if (!ground || !ground->fresh || path[ground->length] != '/')
        return -ENOENT;
    *name = path + ground->length + 1;
    for (const char *at = *name; *at; at++)
        if (*at == '/')
            return -ENOENT;
    return **name && !is_dots(*name) ? ground->fd : -ENOENT;
}

/* The directory that the first bytes of a path name, made where missing; opened. */
static int make_directories(const struct launcher *l, const char *path, size_t slash)
{
    char prefix[4096];
    int directory = open_inside(l, "/", O_PATH | O_DIRECTORY);
    for (size_t at = 0; at < slash && directory >= 0;) {
        while (at < slash && path[at] == '/')
            at++;
        size_t end = at;
        while (end < slash && path[end] != '/')
            end++;
        if (end == at)
            break;
        memcpy(prefix, path, end);
        prefix[end] = 0;
        int next = open_inside(l, prefix, O_PATH | O_DIRECTORY);
        if (next == -ENOENT) {
            long made = sys3(__NR_mkdirat, directory, prefix + at, 0755);
            /* NOFOLLOW: what is there now must be the directory just made, not a link put in its place. */
            next = made < 0 && made != -EEXIST
                       ? (int)made
                       : open_below(directory, prefix + at, O_PATH | O_DIRECTORY | O_NOFOLLOW, RESOLVE_BENEATH);
        }
        close_fd(&directory);
        directory = next;
        at = end;
    }
    return directory;
}

/* Split "/a/b/c" into the directory "/a/b" (opened, made where missing) and the name "c". */
int open_parent(const struct launcher *l, const char *path, const char **name)
{
    char prefix[4096];
    size_t length = text_length(path), slash = length;
    if (length >= sizeof prefix)
        return -ENAMETOOLONG;
    while (slash && path[slash - 1] != '/')
        slash--;
    *name = path + slash;
    if (!**name)
        return -EINVAL;
    memcpy(prefix, path, slash);
    prefix[slash > 1 ? slash - 1 : slash] = 0;
    int directory = open_inside(l, prefix, O_PATH | O_DIRECTORY);
    return directory == -ENOENT ? make_directories(l, path, slash) : directory;
}

/* The destination of a mount, made where missing: a directory, or an empty file. */
int open_destination(const struct launcher *l, const char *path, int directory)
{
    const char *name;
    int place = directory ? fresh_place(l, path, &name) : -ENOENT;
    if (place >= 0) {
        long made = sys3(__NR_mkdirat, place, name, 0755);
        if (made != -EEXIST)
            return made < 0 ? (int)made : open_below(place, name, O_PATH | O_NOFOLLOW, RESOLVE_BENEATH);
    }
    int fd = open_inside(l, path, O_PATH);
    if (fd != -ENOENT)
        return fd;
    scoped_fd parent = open_parent(l, path, &name);
    if (parent < 0)
        return parent;
    long made;
    if (directory)
        made = sys3(__NR_mkdirat, parent, name, 0755);
    else {
        made = sys4(__NR_openat, parent, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (made >= 0)
            sys1(__NR_close, made);
    }
    if (made < 0 && made != -EEXIST)
        return (int)made;
    return open_below(parent, name, O_PATH | O_NOFOLLOW, RESOLVE_BENEATH);
}
