/* Landlock: a process gives up, for itself and all that it starts, access to files, ports and processes.
 *
 * Documentation/userspace-api/landlock.rst. The structures and numbers are written out here, since headers older than
 * the kernel lack the newer ones. */
#include "launcher.h"

#include <asm/stat.h>
#include <linux/fcntl.h>
#include <linux/stat.h>

#define CREATE_RULESET 444 /* the same on every architecture */
#define ADD_RULE 445
#define RESTRICT_SELF 446

enum { RULE_PATH = 1, RULE_PORT = 2 };
enum {
    EXECUTE = 1 << 0,
    WRITE_FILE = 1 << 1,
    READ_FILE = 1 << 2,
    READ_DIRECTORY = 1 << 3,
    REMOVE_DIRECTORY = 1 << 4,
    REMOVE_FILE = 1 << 5,
    MAKE_ANY = 0x7f << 6, /* character device, directory, file, socket, fifo, block device, link */
    REFER = 1 << 13,      /* from ABI 2: rename and link between directories */
    TRUNCATE = 1 << 14,   /* from ABI 3 */
    IOCTL_DEVICE = 1 << 15, /* from ABI 5 */

    READ = READ_FILE | READ_DIRECTORY,
    CHANGE = WRITE_FILE | REMOVE_DIRECTORY | REMOVE_FILE | MAKE_ANY | REFER | TRUNCATE | IOCTL_DEVICE,
    OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE, /* what can be granted of a file */
};
enum { BIND = 1 << 0, CONNECT = 1 << 1 };

struct ruleset {
    uint64_t files, ports, scopes;
};

struct path_rule {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

struct port_rule {
    uint64_t allowed, port;
};

static int allow_path(struct launcher *l, int ruleset, const char *path, uint64_t rights)
{
    scoped_fd fd = (int)sys4(__NR_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC, 0);
    struct statx st;
    long result = fd < 0 ? fd : sys5(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &st);
    if (result >= 0) {
        struct path_rule rule = {(st.stx_mode & S_IFMT) == S_IFDIR ? rights : rights & OF_FILES, fd};
        result = sys4(ADD_RULE, ruleset, RULE_PATH, &rule, 0);
    }
    if (result < 0)
        note(l, path);
    return (int)result;
}

static int allow_paths(struct launcher *l, int ruleset, struct args *paths, uint64_t rights)
{
    int result = 0;
    for (uint32_t n = arg_count(paths); n && result >= 0; n--)
        result = allow_path(l, ruleset, arg_str(paths, NULL), rights);
    return result;
}

static int allow_ports(int ruleset, struct args *ports, uint64_t rights)
{
    int result = 0;
    for (uint32_t n = arg_count(ports); n && result >= 0; n--) {
        struct port_rule rule = {rights, arg_int(ports)};
        result = (int)sys4(ADD_RULE, ruleset, RULE_PORT, &rule, 0);
    }
    return result;
}

int op_landlock(struct launcher *l, struct args *args)
{
    uint64_t abi = arg_int(args), restricts = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    struct ruleset handled = {.ports = restricts >> 1 & 3, .scopes = restricts >> 3 & 3};
    if (restricts & 1)
        handled.files = abi >= 5 ? 0xffff : abi >= 3 ? 0x7fff : abi == 2 ? 0x3fff : 0x1fff;
    int ruleset = l->ruleset = (int)sys3(CREATE_RULESET, &handled, sizeof handled, 0); /* close-on-exec */
    if (ruleset < 0)
        return ruleset;
    l->ruleset_step = l->step;
    int result = allow_paths(l, ruleset, args, handled.files & READ);
    if (result >= 0)
        result = allow_paths(l, ruleset, args, handled.files & (READ | CHANGE));
    if (result >= 0)
        result = allow_paths(l, ruleset, args, handled.files & (READ | EXECUTE));
    if (result >= 0)
        result = allow_ports(ruleset, args, BIND);
    if (result >= 0)
        result = allow_ports(ruleset, args, CONNECT);
    return args->bad ? -EBADMSG : result;
}

int enforce_landlock(struct launcher *l)
{
    int result = l->ruleset < 0 ? 0 : (int)sys2(RESTRICT_SELF, l->ruleset, 0);
    if (result < 0)
        l->step = l->ruleset_step;
    return result;
}
