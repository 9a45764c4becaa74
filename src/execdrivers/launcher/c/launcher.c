/* The launcher: reads a plan and executes it, inside the new namespaces, as the container's first process.
 *
 * Freestanding: no libc, no heap, nothing inherited from the caller but the descriptors of plan.h. It is executed from a
 * sealed memfd, so that nothing the container does to /proc/self/exe reaches a file (CVE-2019-5736). */
#include "freestanding.h"
#include "launcher.h"
#include "message.h"

#include <linux/close_range.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <asm/poll.h>
#include <asm/stat.h>
#include <linux/time_types.h>

size_t text_length(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

/* Both: to the end of a text that has the space for it; its length then. */
size_t append_text(char *to, const char *text)
{
    size_t at = text_length(to), n = text_length(text);
    memcpy(to + at, text, n + 1);
    return at + n;
}

size_t append_number(char *to, uint64_t number)
{
    char digits[21] = "";
    size_t at = sizeof digits - 1;
    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    return append_text(to, digits + at);
}

static uint32_t arg_u32(struct args *args)
{
    uint32_t value = 0;
    if (args->end - args->at < 4)
        args->bad = 1;
    else {
        memcpy(&value, args->at, 4);
        args->at += 4;
    }
    return value;
}

uint64_t arg_int(struct args *args)
{
    uint64_t value = 0;
    if (args->end - args->at < 8)
        args->bad = 1;
    else {
        memcpy(&value, args->at, 8);
        args->at += 8;
    }
    return value;
}

/* Never NULL: an unreadable string is "" and marks the arguments as bad. */
const char *arg_str(struct args *args, uint32_t *length)
{
    uint32_t n = arg_u32(args);
    if (args->bad || (uint64_t)(args->end - args->at) < (uint64_t)n + 1 || args->at[n] != 0) {
        args->bad = 1;
        n = 0;
    }
    const char *text = args->bad ? "" : (const char *)args->at;
    if (!args->bad)
        args->at += n + 1;
    if (length)
        *length = n;
    return text;
}

/* Length of a list. An item takes 4 bytes at the least, which bounds what a damaged plan can ask for. */
uint32_t arg_count(struct args *args)
{
    uint32_t n = arg_u32(args);
    if ((uint64_t)n * 4 > (uint64_t)(args->end - args->at))
        args->bad = 1;
    return args->bad ? 0 : n;
}

/* Keep what the failing operation can add to its errno: a path tried, the kernel's own words. */
void note(struct launcher *l, const char *text)
{
    size_t n = text_length(text);
    if (n > sizeof l->detail - 1)
        n = sizeof l->detail - 1;
    memcpy(l->detail, text, n);
    l->detail[n] = 0;
}

struct rights {
    size_t length;
    int level, type, fd;
    int padding;
};

int send_message(struct launcher *l, uint32_t kind, int error, int fd)
{
    struct ed_message message = {.kind = kind, .step = l->step, .error = error};
    memcpy(message.detail, l->detail, sizeof message.detail);
    struct message_part part = {&message, sizeof message};
    struct rights rights = {.length = RIGHTS_LENGTH(1), .level = SOCKET_LEVEL, .type = RIGHTS_TYPE, .fd = fd};
    struct message_header header = {.parts = &part, .part_count = 1};
    if (fd >= 0) {
        header.control = &rights;
        header.control_length = sizeof rights;
    }
    /* A caller that does not listen is no reason to wait: MSG_NOSIGNAL | MSG_DONTWAIT. */
    long result = sys3(__NR_sendmsg, ED_CONTROL_FD, &header, 0x4040);
    return result < 0 ? (int)result : 0;
}

#define LOOKS 400 /* a tenth of a millisecond, at the most */

/* A caller that is at work for us alone, on another processor, is not waited for asleep: to be woken takes as long as what
 * is left for it to do. What is to be done at any time is done then. */
int look_out(struct launcher *l)
{
    struct pollfd control = {.fd = ED_CONTROL_FD, .events = POLLIN};
    struct __kernel_timespec none = {0};
    long ready = 0;
    for (int i = 0; l->looks_out && i < LOOKS && !ready; i++)
        if ((ready = sys5(__NR_ppoll, &control, 1, &none, NULL, 0)) == 0)
            reset_actions(l);
    return ready < 0 && ready != -EINTR ? (int)ready : 0;
}

/* Block until the caller says go. Its death closes the socket: then there is nobody to run for. */
int await_go(void)
{
    struct ed_message message;
    long n;
    do
        n = sys3(__NR_read, ED_CONTROL_FD, &message, sizeof message);
    while (n == -EINTR);
    if (n < 0 && n != -ECONNRESET)
        return (int)n;
    return n == sizeof message && message.kind == ED_GO ? 0 : -ECANCELED;
}

void end_process(int code)
{
    sys1(__NR_exit_group, code);
    __builtin_trap();
}

#define MOST_RECEIVED 3

/* A message of that kind, with so many descriptors, close-on-exec, or, if there may be more behind it, with these or none.
 * Returns how many bytes came behind it, or -errno. */
static long receive(uint32_t kind, struct ed_message *message, int *fds, size_t count, struct message_part more)
{
    struct message_part parts[] = {{message, sizeof *message}, more};
    struct {
        size_t length;
        int level, type, fds[MOST_RECEIVED], padding;
    } rights = {0};
    struct message_header header = {
        .parts = parts, .part_count = 2, .control = &rights, .control_length = sizeof rights};
    long n;
    do
        n = sys3(__NR_recvmsg, ED_CONTROL_FD, &header, 0x40000000 /* MSG_CMSG_CLOEXEC */);
    while (n == -EINTR);
    if (n < 0)
        return n;
    if (header.flags & 8 /* MSG_CTRUNC */)
        return -EMFILE;
    if ((size_t)n < sizeof *message || header.flags & 0x20 /* MSG_TRUNC */ || message->kind != kind)
        return -ECANCELED;
    size_t behind = (size_t)n - sizeof *message;
    if (!behind) {
        if (rights.length != RIGHTS_LENGTH(count) || rights.type != RIGHTS_TYPE)
            return -ECANCELED;
        memcpy(fds, rights.fds, count * sizeof *fds);
    }
    return (long)behind;
}

static int receive_descriptors(uint32_t kind, int *fds, size_t count)
{
    struct ed_message message;
    return (int)receive(kind, &message, fds, count, (struct message_part){NULL, 0});
}

int receive_stdio(int fds[3])
{
    return receive_descriptors(ED_STDIO, fds, 3);
}

int receive_network(int *fd)
{
    return receive_descriptors(ED_NETWORK, fd, 1);
}

typedef int operation(struct launcher *, struct args *);

static operation *const operations[] = {
    [ED_OP_WRITE] = op_write,
    [ED_OP_UNSHARE] = op_unshare,
    [ED_OP_PROPAGATION] = op_propagation,
    [ED_OP_ROOT] = op_root,
    [ED_OP_ROOT_OVERLAY] = op_root_overlay,
    [ED_OP_MOUNT] = op_mount,
    [ED_OP_BIND] = op_bind,
    [ED_OP_SET_ATTRIBUTES] = op_set_attributes,
    [ED_OP_SYMLINK] = op_symlink,
    [ED_OP_DEVICE] = op_device,
    [ED_OP_MASK] = op_mask,
    [ED_OP_READONLY] = op_readonly,
    [ED_OP_PIVOT] = op_pivot,
    [ED_OP_HOSTNAME] = op_hostname,
    [ED_OP_DOMAINNAME] = op_domainname,
    [ED_OP_LOOPBACK] = op_loopback,
    [ED_OP_RLIMIT] = op_rlimit,
    [ED_OP_SESSION] = op_session,
    [ED_OP_CONSOLE] = op_console,
    [ED_OP_BOUNDING] = op_bounding,
    [ED_OP_IDENTITY] = op_identity,
    [ED_OP_CAPABILITIES] = op_capabilities,
    [ED_OP_NO_NEW_PRIVILEGES] = op_no_new_privileges,
    [ED_OP_UMASK] = op_umask,
    [ED_OP_CHDIR] = op_chdir,
    [ED_OP_READY] = op_ready,
    [ED_OP_EXEC] = op_exec,
    [ED_OP_CHANNEL] = op_channel,
    [ED_OP_UNMOUNT] = op_unmount,
    [ED_OP_JOIN] = op_join,
    [ED_OP_ADOPT] = op_adopt,
    [ED_OP_STDIO] = op_stdio,
    [ED_OP_KEYRING] = op_keyring,
    [ED_OP_SCHEDULER] = op_scheduler,
    [ED_OP_IO_PRIORITY] = op_io_priority,
    [ED_OP_AFFINITY] = op_affinity,
    [ED_OP_PERSONALITY] = op_personality,
    [ED_OP_HOOK] = op_hook,
    [ED_OP_COPY_UP] = op_copy_up,
    [ED_OP_SYNC] = op_sync,
    [ED_OP_APPARMOR] = op_apparmor,
    [ED_OP_SELINUX] = op_selinux,
    [ED_OP_LANDLOCK] = op_landlock,
    [ED_OP_ENTER] = op_enter,
    [ED_OP_CLOCKS] = op_clocks,
    [ED_OP_ROOT_TREE] = op_root_tree,
    [ED_OP_ATTACH] = op_attach,
    [ED_OP_SECCOMP] = op_seccomp,
};

#define OPERATION_COUNT (sizeof operations / sizeof *operations)

static int run_operations(struct launcher *l)
{
    for (; l->step < l->count; l->step++) {
        uint32_t code, length;
        if (l->end - l->at < 8)
            return -EBADMSG;
        memcpy(&code, l->at, 4);
        memcpy(&length, l->at + 4, 4);
        l->at += 8;
        if (length > (size_t)(l->end - l->at) || code >= OPERATION_COUNT || !operations[code])
            return -EBADMSG;
        struct args args = {l->at, l->at + length, 0};
        l->at += length;
        int result = operations[code](l, &args);
        if (result < 0)
            return result;
    }
    return -EBADMSG; /* a plan ends by executing something */
}

static int run_plan(struct launcher *l, const unsigned char *plan, size_t size)
{
    struct ed_plan_header header;
    if (size < sizeof header)
        return -EBADMSG;
    memcpy(&header, plan, sizeof header);
    if (header.magic != ED_PLAN_MAGIC || header.version != ED_PLAN_VERSION || header.size != size)
        return -EBADMSG;
    l->at = plan + sizeof header;
    l->end = plan + size;
    l->count = header.count;
    return run_operations(l);
}

void fail(struct launcher *l, int result)
{
    send_message(l, ED_FAILED, -result, -1);
    end_process(125);
}

void go_on(struct launcher *l)
{
    l->step++;
    fail(l, run_operations(l));
}

static int map_plan(int fd, const unsigned char **plan, size_t *size)
{
    struct stat st;
    long result = sys2(__NR_fstat, fd, &st);
    if (result < 0)
        return (int)result;
    if ((st.st_mode & 0170000) != 0100000 /* S_IFREG */)
        return -ENODATA;
    *size = (size_t)st.st_size;
    result = SYS6(__NR_mmap, 0, *size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (result < 0 && result > -4096)
        return (int)result;
    *plan = (const unsigned char *)result;
    return 0;
}

/* A caller that starts us beside its own work sends the plan when it has it. */
static int receive_plan(struct launcher *l, const unsigned char **plan, size_t *size)
{
    static unsigned char room[ED_SHORT_PLAN];
    struct ed_message message;
    scoped_fd fd = -1;
    long behind = look_out(l);
    if (behind >= 0)
        behind = receive(ED_PLAN, &message, &fd, 1, (struct message_part){room, sizeof room});
    if (behind < 0)
        return (int)behind;
    l->network_follows = message.step != 0;
    if (!behind)
        return map_plan(fd, plan, size);
    *plan = room;
    *size = (size_t)behind;
    return 0;
}

static int find_plan(struct launcher *l, const unsigned char **plan, size_t *size)
{
    scoped_fd fd = ED_PLAN_FD;
    int result = map_plan(fd, plan, size);
    if (result != -ENODATA)
        return result;
    close_fd(&fd);
    return receive_plan(l, plan, size);
}

/* The stack begins with the count of our arguments: there is a second one where the caller is at work for us alone. */
__attribute__((noreturn, used)) void launcher_main(const long *stack)
{
    struct launcher l = {.root = -1, .console = -1, .ruleset = -1, .looks_out = *stack > 1};
    const unsigned char *plan = NULL;
    size_t size = 0;
    int result = (int)sys3(__NR_fcntl, ED_CONTROL_FD, F_SETFD, FD_CLOEXEC);
    sys1(__NR_umask, 022); /* not the caller's */
    /* What else we are given is for us alone: the command must not find the mounts and namespaces that it is made of. */
    if (result == 0)
        result = (int)sys3(__NR_close_range, ED_LAUNCHER_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    if (result == 0)
        result = find_plan(&l, &plan, &size);
    if (result != 0)
        l.step = ED_NO_STEP;
    else
        result = run_plan(&l, plan, size);
    fail(&l, result);
}

#if defined(EXECDRIVERS_SIMULATED) /* its main is the test's */
#elif defined(__x86_64__)
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call launcher_main\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n mov x0, sp\n bl launcher_main\n");
#endif
