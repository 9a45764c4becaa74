/* Operations on mounts and on the container's tree. Paths in it are opened by paths.c. */
#include "launcher.h"

#include <linux/fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <asm/stat.h>
#include <linux/stat.h>

#define UMOUNT_DETACH 2
#define DEV(major, minor) \
    (((minor) & 0xff) | (((major) & 0xfff) << 8) | (((minor) & ~0xffULL) << 12) | (((major) & ~0xfffULL) << 32))

static int file_mode(int fd)
{
    struct statx st;
    long result = sys5(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &st);
    return result < 0 ? (int)result : st.stx_mode & S_IFMT;
}

static int is_node(const struct statx *st, uint64_t mode, uint64_t major, uint64_t minor)
{
    return (st->stx_mode & S_IFMT) == (mode & S_IFMT) && st->stx_rdev_major == major && st->stx_rdev_minor == minor;
}

/* 1, 0, or -errno. */
int is_null_device(int fd)
{
    struct statx st;
    long result = sys5(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &st);
    return result < 0 ? (int)result : is_node(&st, S_IFCHR, 1, 3);
}

int set_attributes(int fd, int recursive, uint64_t set, uint64_t clear, uint64_t propagation)
{
    struct mount_attr attr = {.attr_set = set, .attr_clr = clear, .propagation = propagation};
    if (!set && !clear && !propagation)
        return 0;
    return (int)sys5(__NR_mount_setattr, fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof attr);
}

static int move_onto(int mount, int destination)
{
    return (int)sys5(__NR_move_mount, mount, "", destination, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* Mount onto what was opened as the path. */
int attach(struct launcher *l, int mount, int destination, const char *path)
{
    int result = move_onto(mount, destination);
    return result < 0 ? result : keep_ground(l, mount, path);
}

static int clone_tree(int directory, const char *path, int recursive)
{
    return (int)sys3(__NR_open_tree, directory, path,
                     OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0) |
                         (*path ? 0 : AT_EMPTY_PATH));
}

/* A file system context keeps the kernel's own explanation ("e tmpfs: Bad value for 'size'"). */
static void note_fs_log(struct launcher *l, int context)
{
    char text[sizeof l->detail];
    long n = sys3(__NR_read, context, text, sizeof text - 1);
    if (n <= 0)
        return;
    text[n] = 0;
    note(l, text[0] && text[1] == ' ' ? text + 2 : text);
}

static int fs_option(int context, const char *option)
{
    char key[256];
    size_t n = 0;
    while (option[n] && option[n] != '=' && n < sizeof key - 1)
        n++;
    memcpy(key, option, n);
    key[n] = 0;
    if (option[n] == '=')
        return (int)sys5(__NR_fsconfig, context, FSCONFIG_SET_STRING, key, option + n + 1, 0);
    return (int)sys5(__NR_fsconfig, context, FSCONFIG_SET_FLAG, key, NULL, 0);
}

/* A new mount of a file system, not attached anywhere; the options are read from args unless that is NULL. */
int make_mount(struct launcher *l, const char *type, const char *source, struct args *options, uint64_t attributes)
{
    scoped_fd context = (int)sys2(__NR_fsopen, type, FSOPEN_CLOEXEC);
    if (context < 0)
        return context;
    long result = 0;
    if (*source)
        result = sys5(__NR_fsconfig, context, FSCONFIG_SET_STRING, "source", source, 0);
    const char *option = "";
    for (uint32_t n = options ? arg_count(options) : 0; n && result >= 0; n--)
        result = fs_option(context, option = arg_str(options, NULL));
    if (result >= 0) {
        option = "";
        result = sys5(__NR_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
    }
    if (result >= 0)
        result = sys3(__NR_fsmount, context, FSMOUNT_CLOEXEC, attributes);
    if (result < 0) {
        note(l, option); /* for want of the kernel's own words */
        note_fs_log(l, context);
    }
    return (int)result;
}

int op_propagation(struct launcher *l, struct args *args)
{
    (void)l;
    uint64_t flags = arg_int(args);
    return args->bad ? -EBADMSG : (int)sys5(__NR_mount, NULL, "/", NULL, flags, NULL);
}

int op_root(struct launcher *l, struct args *args)
{
    const char *path = arg_str(args, NULL);
    int recursive = (int)arg_int(args);
    uint64_t set = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    l->root = clone_tree(AT_FDCWD, path, recursive);
    if (l->root < 0)
        return l->root;
    int result = set_attributes(l->root, recursive, set, 0, 0);
    if (result < 0)
        return result;
    /* pivot_root wants a mount point; the place itself will do, over what is there. */
    return (int)sys5(__NR_move_mount, l->root, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
}

int op_root_tree(struct launcher *l, struct args *args)
{
    l->root = (int)arg_int(args);
    if (args->bad)
        return -EBADMSG;
    /* Over "/", since the way to its own place may be closed to us. */
    return (int)sys5(__NR_move_mount, l->root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
}

int op_root_overlay(struct launcher *l, struct args *args)
{
    const char *path = arg_str(args, NULL);
    uint64_t set = arg_int(args);
    int userxattr = (int)arg_int(args);
    scoped_fd lower = *path ? (int)sys4(__NR_openat, AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0) : l->root;
    if (lower < 0)
        return lower;
    scoped_fd layer = make_mount(l, "tmpfs", "tmpfs", args, 0);
    if (layer < 0 || args->bad)
        return args->bad ? -EBADMSG : layer;
    /* overlayfs takes layers by path, and only from mounts that are attached. */
    long result = move_onto(layer, lower);
    if (result < 0)
        return (int)result;
    result = sys3(__NR_mkdirat, layer, "upper", 0755);
    if (result >= 0)
        result = sys3(__NR_mkdirat, layer, "work", 0700);
    if (result >= 0)
        result = sys1(__NR_fchdir, layer);
    if (result < 0)
        return (int)result;
    scoped_fd context = (int)sys2(__NR_fsopen, "overlay", FSOPEN_CLOEXEC);
    if (context < 0)
        return context;
    char lower_path[] = "/proc/self/fd/\0\0\0\0\0\0\0\0\0\0";
    char digits[10];
    size_t count = 0, at = 14;
    for (int n = lower; n || !count; n /= 10)
        digits[count++] = (char)('0' + n % 10);
    while (count)
        lower_path[at++] = digits[--count];
    const char *options[][2] = {
        {"source", "overlay"}, {"lowerdir", lower_path}, {"upperdir", "upper"}, {"workdir", "work"}};
    for (size_t i = 0; i < sizeof options / sizeof *options && result >= 0; i++)
        result = sys5(__NR_fsconfig, context, FSCONFIG_SET_STRING, options[i][0], options[i][1], 0);
    if (result >= 0 && userxattr)
        result = sys5(__NR_fsconfig, context, FSCONFIG_SET_FLAG, "userxattr", NULL, 0);
    if (result >= 0)
        result = sys5(__NR_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
    if (result >= 0)
        result = sys3(__NR_fsmount, context, FSMOUNT_CLOEXEC, set);
    long back = sys1(__NR_chdir, "/");
    if (result < 0)
        note_fs_log(l, context);
    if (result < 0 || back < 0)
        return (int)(result < 0 ? result : back);
    l->root = (int)result;
    return move_onto(l->root, lower);
}

static int is_tmpfs(const char *type)
{
    static const char tmpfs[] = "tmpfs";
    for (size_t i = 0; i < sizeof tmpfs; i++)
        if (type[i] != tmpfs[i])
            return 0;
    return 1;
}

int op_mount(struct launcher *l, struct args *args)
{
    const char *type = arg_str(args, NULL);
    const char *source = arg_str(args, NULL);
    const char *path = arg_str(args, NULL);
    uint64_t attributes = arg_int(args);
    scoped_fd destination = open_destination(l, path, 1);
    if (destination < 0)
        return destination;
    scoped_fd mount = make_mount(l, type, source, args, attributes);
    if (mount < 0 || args->bad)
        return args->bad ? -EBADMSG : mount;
    int result = attach(l, mount, destination, path);
    if (result >= 0 && is_tmpfs(type))
        note_fresh(l, path);
    return result;
}

int op_bind(struct launcher *l, struct args *args)
{
    const char *source = arg_str(args, NULL);
    const char *path = arg_str(args, NULL);
    int recursive = (int)arg_int(args);
    uint64_t set = arg_int(args), clear = arg_int(args);
    uint64_t recursive_set = arg_int(args), recursive_clear = arg_int(args);
    uint64_t propagation = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    scoped_fd tree = clone_tree(AT_FDCWD, source, recursive);
    if (tree < 0) {
        note(l, "source");
        return tree;
    }
    int mode = file_mode(tree);
    if (mode < 0)
        return mode;
    int result = set_attributes(tree, 1, recursive_set, recursive_clear, 0);
    if (result >= 0)
        result = set_attributes(tree, 0, set, clear, 0);
    if (result < 0)
        return result;
    scoped_fd destination = open_destination(l, path, mode == S_IFDIR);
    if (destination < 0)
        return destination;
    result = attach(l, tree, destination, path);
    return result < 0 ? result : set_attributes(tree, recursive, 0, 0, propagation);
}

int op_attach(struct launcher *l, struct args *args)
{
    scoped_fd tree = (int)arg_int(args);
    const char *path = arg_str(args, NULL);
    if (args->bad)
        return -EBADMSG;
    int mode = file_mode(tree);
    if (mode < 0)
        return mode;
    scoped_fd destination = open_destination(l, path, mode == S_IFDIR);
    return destination < 0 ? destination : attach(l, tree, destination, path);
}

int op_set_attributes(struct launcher *l, struct args *args)
{
    const char *path = arg_str(args, NULL);
    int recursive = (int)arg_int(args);
    uint64_t set = arg_int(args), clear = arg_int(args), propagation = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    scoped_fd mount = open_inside(l, path, O_PATH);
    return mount < 0 ? mount : set_attributes(mount, recursive, set, clear, propagation);
}

int op_symlink(struct launcher *l, struct args *args)
{
    const char *target = arg_str(args, NULL), *path = arg_str(args, NULL), *name;
    if (args->bad)
        return -EBADMSG;
    int place = fresh_place(l, path, &name);
    scoped_fd parent = place < 0 ? open_parent(l, path, &name) : -1;
    if (place < 0 && parent < 0)
        return parent;
    long result = sys3(__NR_symlinkat, target, place < 0 ? parent : place, name);
    return result == -EEXIST ? 0 : (int)result;
}

/* A node where nobody can exchange it. Returns 1 where something else is. */
static int make_node_here(struct launcher *l, int place, const char *name, const char *path, uint64_t mode, uint64_t dev)
{
    long umask = sys1(__NR_umask, 0);
    long result = sys4(__NR_mknodat, place, name, mode, dev);
    sys1(__NR_umask, umask);
    if (result < 0)
        return result == -EEXIST ? 1 : (int)result;
    scoped_fd tree = clone_tree(place, name, 0);
    if (tree < 0)
        return tree;
    result = set_attributes(tree, 0, 0, MOUNT_ATTR_NODEV, 0);
    if (result >= 0)
        result = sys5(__NR_move_mount, tree, "", place, name, MOVE_MOUNT_F_EMPTY_PATH);
    return result < 0 ? (int)result : keep_ground(l, tree, path);
}

/* A node, bound onto itself: its own mount is usable though the file system it lies on is nodev, or becomes it. */
int op_device(struct launcher *l, struct args *args)
{
    const char *path = arg_str(args, NULL), *name;
    uint64_t mode = arg_int(args), major = arg_int(args), minor = arg_int(args);
    uint64_t uid = arg_int(args), gid = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    int place = uid || gid ? -ENOENT : fresh_place(l, path, &name);
    if (place >= 0) {
        int made = make_node_here(l, place, name, path, mode, DEV(major, minor));
        if (made <= 0)
            return made;
    }
    scoped_fd parent = open_parent(l, path, &name);
    if (parent < 0)
        return parent;
    /* By the umask and not by a chmod afterwards, which would follow what has taken the node's place meanwhile. */
    long umask = sys1(__NR_umask, 0);
    long result = sys4(__NR_mknodat, parent, name, mode, DEV(major, minor));
    if (result == -EEXIST) {
        sys3(__NR_unlinkat, parent, name, 0);
        result = sys4(__NR_mknodat, parent, name, mode, DEV(major, minor));
    }
    sys1(__NR_umask, umask);
    if (result < 0)
        return (int)result;
    scoped_fd node = open_below(parent, name, O_PATH | O_NOFOLLOW, RESOLVE_BENEATH);
    if (node < 0)
        return node;
    struct statx st;
    result = sys5(__NR_statx, node, "", AT_EMPTY_PATH, STATX_TYPE | STATX_UID | STATX_GID, &st);
    if (result < 0)
        return (int)result;
    /* It gets a mount on which devices work, so it must be no other node, put in its place by who shares the rootfs. */
    if (!is_node(&st, mode, major, minor)) {
        note(l, "another file took its place");
        return -EBUSY;
    }
    if (st.stx_uid != uid || st.stx_gid != gid)
        result = sys5(__NR_fchownat, node, "", uid, gid, AT_EMPTY_PATH);
    if (result < 0)
        return (int)result;
    scoped_fd tree = clone_tree(node, "", 0);
    if (tree < 0)
        return tree;
    result = set_attributes(tree, 0, 0, MOUNT_ATTR_NODEV, 0);
    return result < 0 ? (int)result : attach(l, tree, node, path);
}

/* What a kernel or a rootfs does not have needs no hiding. */
static int unless_absent(int error)
{
    return error == -ENOENT || error == -ENOTDIR ? 0 : error;
}

int op_mask(struct launcher *l, struct args *args)
{
    const char *path = arg_str(args, NULL);
    if (args->bad)
        return -EBADMSG;
    scoped_fd target = open_inside(l, path, O_PATH);
    if (target < 0)
        return unless_absent(target);
    int mode = file_mode(target);
    if (mode < 0)
        return mode;
    if (mode == S_IFDIR) {
        scoped_fd empty = make_mount(l, "tmpfs", "tmpfs", NULL, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID |
                                                                    MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
        return empty < 0 ? empty : attach(l, empty, target, path);
    }
    /* The host's null device, looked at before it is used: what looks like it may be anything (CVE-2025-31133). */
    scoped_fd null = clone_tree(AT_FDCWD, "/dev/null", 0);
    if (null < 0)
        return null;
    int is_null = is_null_device(null);
    if (is_null < 0)
        return is_null;
    if (!is_null) {
        note(l, "the host's /dev/null is not the null device");
        return -ENODEV;
    }
    /* It is the host's own node: the container's root must not chmod(2) it. */
    int result = set_attributes(null, 0, MOUNT_ATTR_RDONLY, 0, 0);
    return result < 0 ? result : attach(l, null, target, path);
}

int op_readonly(struct launcher *l, struct args *args)
{
    const char *path = arg_str(args, NULL);
    if (args->bad)
        return -EBADMSG;
    scoped_fd target = open_inside(l, path, O_PATH);
    if (target < 0)
        return unless_absent(target);
    scoped_fd tree = clone_tree(target, "", 1);
    if (tree < 0)
        return tree;
    int result = set_attributes(tree, 1, MOUNT_ATTR_RDONLY, 0, 0);
    return result < 0 ? result : attach(l, tree, target, path);
}

int op_pivot(struct launcher *l, struct args *args)
{
    (void)args;
    forget_grounds(l, "");
    long result = sys1(__NR_fchdir, l->root);
    if (result >= 0)
        result = sys2(__NR_pivot_root, ".", ".");
    if (result >= 0) /* the host's root now lies over ours */
        result = sys2(__NR_umount2, ".", UMOUNT_DETACH);
    if (result >= 0)
        result = sys1(__NR_chdir, "/");
    return (int)result;
}

int op_unmount(struct launcher *l, struct args *args)
{
    const char *path = arg_str(args, NULL);
    if (args->bad)
        return -EBADMSG;
    scoped_fd target = open_inside(l, path, O_PATH);
    if (target < 0)
        return target;
    /* umount2(2) takes paths alone; from inside the mount its root is ".". */
    long result = sys1(__NR_fchdir, target);
    if (result >= 0)
        result = sys2(__NR_umount2, ".", UMOUNT_DETACH);
    long back = sys1(__NR_chdir, "/");
    forget_grounds(l, path);
    return (int)(result < 0 ? result : back);
}
