/* AppArmor and SELinux: the profile, or label, that confines the command from its execution on. */
#include "launcher.h"

#include <asm/statfs.h>
#include <linux/fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <asm/stat.h>

#define PROC_ROOT_INODE 1 /* fs/proc/internal.h; no other directory of a procfs has it */

/* The container's /proc may be anything (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881): a procfs of our own, attached
 * nowhere, is what it says it is. Who joins a container has not the rights to make one; what he finds must be the root
 * of a procfs, whose files are what they are unless something is mounted on them. */
static int open_proc(struct launcher *l)
{
    int proc = make_mount(l, "proc", "proc", NULL, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    if (proc != -EPERM)
        return proc;
    proc = (int)sys4(__NR_openat, AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    struct statfs fs;
    struct statx st;
    if (proc >= 0 && sys2(__NR_fstatfs, proc, &fs) >= 0 && fs.f_type == PROC_SUPER_MAGIC &&
        sys5(__NR_statx, proc, "", AT_EMPTY_PATH, STATX_INO, &st) >= 0 && st.stx_ino == PROC_ROOT_INODE) {
        l->detail[0] = 0;
        return proc;
    }
    close_fd(&proc);
    note(l, "the container has no procfs at /proc to set the profile through");
    return -EPERM;
}

/* What is set here waits for the next execution, by us or by a child: a reaping init itself executes nothing more. Early,
 * since it takes a descriptor, of which the container's limits may leave none. */
static int set_on_exec(struct launcher *l, struct args *args, const char *file, const char *verb)
{
    uint32_t length;
    const char *profile = arg_str(args, &length);
    char text[4096] = ""; /* the kernel takes a page */
    if (args->bad || length > sizeof text - 6)
        return args->bad ? -EBADMSG : -ENAMETOOLONG;
    append_text(text, verb);
    length = (uint32_t)append_text(text, profile);
    scoped_fd proc = open_proc(l);
    if (proc < 0)
        return proc;
    struct open_how how = {.flags = O_WRONLY | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};
    scoped_fd fd = (int)sys4(__NR_openat2, proc, file, &how, sizeof how);
    long result = fd < 0 ? fd : sys3(__NR_write, fd, text, length);
    return result < 0 ? (int)result : 0;
}

int op_apparmor(struct launcher *l, struct args *args)
{
    return set_on_exec(l, args, "thread-self/attr/apparmor/exec", "exec ");
}

int op_selinux(struct launcher *l, struct args *args)
{
    return set_on_exec(l, args, "thread-self/attr/exec", "");
}
