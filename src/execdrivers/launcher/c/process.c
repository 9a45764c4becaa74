/* Operations on the process itself: limits, session, terminal, identity, capabilities. */
#include "launcher.h"

#include <asm/ioctls.h>
#include <asm/signal.h>
#include <asm/termios.h>
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/prctl.h>

#include "signals.h"

#define MAX_GROUPS 65536

int op_rlimit(struct launcher *l, struct args *args)
{
    uint64_t resource = arg_int(args);
    uint64_t limit[2] = {arg_int(args), arg_int(args)};
    if (args->bad)
        return -EBADMSG;
    /* The last time that there is surely a descriptor to be had. */
    int result = resource == 7 /* RLIMIT_NOFILE */ ? own_null_device(l) : 0;
    return result < 0 ? result : (int)sys4(__NR_prlimit64, 0, resource, limit, NULL);
}

int op_session(struct launcher *l, struct args *args)
{
    (void)l;
    (void)args;
    long result = sys0(__NR_setsid);
    if (result == -EPERM && sys1(__NR_getsid, 0) == sys0(__NR_getpid)) /* it leads one, as what a tool executes may */
        return 0;
    return result < 0 ? (int)result : 0;
}

/* By descriptor, and onto a file made just now: neither end can be swapped for another (CVE-2025-52565). */
static int bind_console(int slave)
{
    scoped_fd place = (int)sys4(__NR_openat, AT_FDCWD, "/dev/console",
                                O_CREAT | O_EXCL | O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (place < 0)
        return place;
    scoped_fd tree = (int)sys3(__NR_open_tree, slave, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    if (tree < 0)
        return tree;
    return (int)sys5(__NR_move_mount, tree, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

int op_console(struct launcher *l, struct args *args)
{
    uint64_t rows = arg_int(args), columns = arg_int(args), uid = arg_int(args);
    int first = (int)arg_int(args);
    if (args->bad)
        return -EBADMSG;
    l->console = (int)sys4(__NR_openat, AT_FDCWD, "/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (l->console < 0)
        return l->console;
    int locked = 0;
    long result = sys3(__NR_ioctl, l->console, TIOCSPTLCK, &locked);
    if (result < 0)
        return (int)result;
    scoped_fd slave = (int)sys3(__NR_ioctl, l->console, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return slave;
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    if (rows && columns)
        result = sys3(__NR_ioctl, slave, TIOCSWINSZ, &size);
    if (result >= 0)
        result = sys3(__NR_fchown, slave, uid, -1);
    if (result < 0)
        return (int)result;
    result = first ? bind_console(slave) : 0;
    if (result >= 0)
        result = sys3(__NR_ioctl, slave, TIOCSCTTY, 0);
    for (int fd = 0; fd <= 2 && result >= 0; fd++)
        result = sys3(__NR_dup3, slave, fd, 0);
    return result < 0 ? (int)result : 0;
}

static int keep_bounding(struct launcher *l, uint64_t mask)
{
    for (int cap = 0; cap < 64; cap++) {
        if ((mask | l->dropped) >> cap & 1)
            continue;
        long result = sys5(__NR_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
        if (result == -EINVAL) /* past the last one the kernel knows */
            break;
        if (result < 0)
            return (int)result;
        l->dropped |= 1ULL << cap;
    }
    return 0;
}

int keep_capabilities(struct launcher *l, uint64_t mask)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    long result = keep_bounding(l, mask);
    if (result >= 0)
        result = sys2(__NR_capget, &header, data);
    for (int i = 0; i < 2; i++) {
        data[i].permitted &= (uint32_t)(mask >> 32 * i);
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    return result < 0 ? (int)result : (int)sys2(__NR_capset, &header, data);
}

int op_bounding(struct launcher *l, struct args *args)
{
    uint64_t mask = arg_int(args);
    return args->bad ? -EBADMSG : keep_bounding(l, mask);
}

int op_identity(struct launcher *l, struct args *args)
{
    (void)l;
    static uint32_t groups[MAX_GROUPS];
    uint64_t uid = arg_int(args), gid = arg_int(args);
    int set_groups = (int)arg_int(args);
    uint32_t count = arg_count(args);
    if (count > MAX_GROUPS)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        groups[i] = (uint32_t)arg_int(args);
    if (args->bad)
        return -EBADMSG;
    /* Capabilities are set by an operation of their own afterwards, so they must survive the change of uid. */
    long result = sys5(__NR_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
    if (result >= 0 && set_groups)
        result = sys2(__NR_setgroups, count, groups);
    if (result >= 0)
        result = sys3(__NR_setresgid, gid, gid, gid);
    if (result >= 0)
        result = sys3(__NR_setresuid, uid, uid, uid);
    return (int)result;
}

int op_capabilities(struct launcher *l, struct args *args)
{
    (void)l;
    uint64_t effective = arg_int(args), permitted = arg_int(args);
    uint64_t inheritable = arg_int(args), ambient = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    for (int i = 0; i < 2; i++) {
        data[i].effective = (uint32_t)(effective >> 32 * i);
        data[i].permitted = (uint32_t)(permitted >> 32 * i);
        data[i].inheritable = (uint32_t)(inheritable >> 32 * i);
    }
    long result = sys5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (result >= 0)
        result = sys2(__NR_capset, &header, data);
    for (int cap = 0; cap < 64 && result >= 0; cap++)
        if (ambient >> cap & 1)
            result = sys5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
    return (int)result;
}

int op_no_new_privileges(struct launcher *l, struct args *args)
{
    (void)l;
    (void)args;
    return (int)sys5(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

int op_umask(struct launcher *l, struct args *args)
{
    (void)l;
    uint64_t mask = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    sys1(__NR_umask, mask);
    return 0;
}

int op_chdir(struct launcher *l, struct args *args)
{
    (void)l;
    const char *path = arg_str(args, NULL);
    return args->bad ? -EBADMSG : (int)sys1(__NR_chdir, path);
}

/* What can be done for the execution before the caller's word is. */
int op_ready(struct launcher *l, struct args *args)
{
    (void)args;
    int result = own_null_device(l);
    if (result < 0)
        return result;
    reset_actions(l);
    if (l->filter_when_ready) {
        result = confine_command(l);
        if (result < 0)
            return result;
        l->filter = NULL; /* it is in force */
        close_fd(&l->ruleset);
    }
    result = send_message(l, ED_READY, 0, l->console);
    close_fd(&l->console);
    if (result >= 0)
        result = look_out(l);
    return result < 0 ? result : await_go();
}
