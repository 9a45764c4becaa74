/* A launcher's birth beside its caller: see ed_begin in spawn.h. Beside spawn.c in the module.
 *
 * As any child here it borrows the caller's memory until it executes the launcher. Since the caller does not sleep
 * meanwhile, it has a stack of its own and touches nothing but its berth. The kernel says when it has left the memory:
 * it clears the word that CLONE_CHILD_CLEARTID names. */
#include "spawn.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <time.h>

#include "clone.h"
#include "processors.h"

#define BERTHS 16
#define NEW_NAMESPACES                                                                                            \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET) /* what unshare(2) makes for itself */

struct berth {
    int taken; /* 0: nobody is in it. A fork of this program may find one taken for good, and does without */
    uint64_t unshare;
    struct ed_spawn how;
    int descriptors[ED_MAX_DESCRIPTORS];
    unsigned char stack[4096] __attribute__((aligned(16)));
};

static struct berth berths[BERTHS];

static struct berth *take_berth(void)
{
    for (struct berth *berth = berths; berth < berths + BERTHS; berth++) {
        int nobody = 0;
        if (__atomic_compare_exchange_n(&berth->taken, &nobody, -1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return berth;
    }
    return NULL;
}

/* Runs beside the parent, in its memory: system calls only, no return. */
__attribute__((noreturn)) static void begin_beside(void *place)
{
    const struct berth *berth = place;
    const struct ed_spawn *how = &berth->how;
    int control = how->descriptors[ED_CONTROL_FD];
    long result = berth->unshare ? sys1(__NR_unshare, berth->unshare) : 0;
    if (result >= 0 && how->keep_capabilities)
        result = raise_capabilities();
    if (result >= 0)
        result = arrange_descriptors(how);
    if (result >= 0) {
        control = ED_CONTROL_FD;
        result = execute_launcher(how);
    }
    struct ed_message message = {.kind = ED_FAILED, .step = ED_NO_STEP, .error = (int)-result};
    sys3(__NR_write, control, &message, sizeof message);
    for (;;)
        sys1(__NR_exit, 127);
}

/* Where a virtual machine's other processors idle its kernel may take them for busy, and queue the child behind us on
 * ours, of all. This has it go to another, and then lets it run where we may; where that fails nothing is lost. */
static void move_aside(long pid)
{
    struct processors ours;
    unsigned int here;
    if (our_processors(&ours, &here) < 0)
        return;
    struct processors others = ours;
    others.set[here / 64] &= ~(1ULL << here % 64);
    if (run_on(pid, &others) >= 0) /* there is another */
        run_on(pid, &ours);
}

/* The child inherits that all signals wait: a handler must not run in it on our memory. */
static int begin_in_berth(struct berth *berth, struct ed_child *child)
{
    const struct ed_spawn *how = &berth->how;
    int pidfd = -1;
    struct clone_args clone = {.flags = CLONE_VM | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | CLONE_CHILD_SETTID |
                                        CLONE_CHILD_CLEARTID | (how->flags & ~(uint64_t)NEW_NAMESPACES),
                               .pidfd = (uintptr_t)&pidfd,
                               .child_tid = (uintptr_t)&berth->taken,
                               .stack = (uintptr_t)berth->stack,
                               .stack_size = sizeof berth->stack,
                               .exit_signal = SIGCHLD};
    add_cgroup(&clone, how);
    berth->unshare = how->flags & NEW_NAMESPACES;
    uint64_t before = block_signals();
    long pid = clone_to(&clone, begin_beside, berth);
    restore_signals(before);
    if (pid < 0) {
        __atomic_store_n(&berth->taken, 0, __ATOMIC_RELEASE);
        return (int)pid;
    }
    move_aside(pid);
    *child = (struct ed_child){.pid = (int)pid, .pidfd = pidfd};
    return 0;
}

/* Of the same clock as a process's start time, in the same ticks. */
static uint64_t ticks_since_boot(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_BOOTTIME, &now) < 0)
        return 0;
    return (uint64_t)now.tv_sec * 100 /* USER_HZ */ + (uint64_t)now.tv_nsec / 10000000;
}

static int begin(const struct ed_begin *how, int theirs, int image, struct ed_child *child)
{
    static char *const name[] = {"execdrivers-launcher", NULL}, *const looking[] = {"execdrivers-launcher", "alone", NULL};
    static char *const envp[] = {NULL};
    struct berth ours = {.taken = 0}, *berth = how->beside ? take_berth() : NULL;
    struct berth *used = berth ? berth : &ours; /* then as any other child, while we sleep; also where all are taken */
    int count = 0;
    for (; count < 3; count++)
        used->descriptors[count] = how->stdio[count];
    used->descriptors[count++] = how->plan < 0 ? theirs : how->plan; /* which is no file */
    used->descriptors[count++] = theirs;
    used->descriptors[count++] = image;
    for (int i = 0; i < how->more_count; i++)
        used->descriptors[count++] = how->more[i];
    used->how = (struct ed_spawn){.descriptors = used->descriptors,
                                  .descriptor_count = count,
                                  .flags = how->flags,
                                  .cgroup = how->cgroup,
                                  .keep_capabilities = how->keep_capabilities,
                                  .argv = how->alone ? looking : name,
                                  .envp = envp};
    return berth ? begin_in_berth(berth, child) : spawn_child(&used->how, child);
}

int ed_launcher(void)
{
    return ed_memfd("execdrivers-launcher", ed_launcher_image, ed_launcher_size, 1);
}

/* The image of the next launch, made while the one before is at work: a descriptor, whose it is, and what it is of, for
 * a program may close all that it does not know, and open others. */
static struct {
    int fd;
    pid_t pid;
    dev_t device;
    ino_t inode;
} spare = {.fd = -1};
static bool spare_in_use; /* who finds it so does without */

static bool spare_is_there(void)
{
    struct stat found;
    return spare.fd >= 0 && fstat(spare.fd, &found) == 0 && found.st_dev == spare.device &&
           found.st_ino == spare.inode;
}

static int take_image(void)
{
    int fd = -1;
    if (!__atomic_test_and_set(&spare_in_use, __ATOMIC_ACQUIRE)) {
        if (spare_is_there() && spare.pid == getpid())
            fd = spare.fd;
        else if (spare_is_there())
            close(spare.fd); /* of whom we are a fork, and who uses it */
        spare.fd = -1;
        __atomic_clear(&spare_in_use, __ATOMIC_RELEASE);
    }
    return fd >= 0 ? fd : ed_launcher();
}

static void make_spare(void)
{
    struct stat made;
    if (__atomic_test_and_set(&spare_in_use, __ATOMIC_ACQUIRE))
        return;
    int fd = spare.fd < 0 ? ed_launcher() : -1;
    if (fd >= 0 && fstat(fd, &made) == 0) {
        spare.fd = fd;
        spare.pid = getpid();
        spare.device = made.st_dev;
        spare.inode = made.st_ino;
    } else if (fd >= 0)
        close(fd);
    __atomic_clear(&spare_in_use, __ATOMIC_RELEASE);
}

int ed_begin(const struct ed_begin *how, struct ed_begun *begun)
{
    int pair[2];
    if (how->more_count > ED_MAX_DESCRIPTORS - ED_LAUNCHER_FD - 1)
        return -E2BIG;
    scoped_fd image = take_image();
    if (image < 0)
        return image;
    int result = ed_channel(pair);
    if (result < 0)
        return result;
    scoped_fd control = pair[0], theirs = pair[1];
    uint64_t before = ticks_since_boot();
    result = begin(how, theirs, image, &begun->child);
    if (result < 0)
        return result;
    begun->started = ticks_since_boot() == before ? before : 0;
    begun->control = control;
    control = -1;
    return 0;
}

int ed_go(int control)
{
    struct ed_message message = {.kind = ED_GO};
    int result = send(control, &message, sizeof message, MSG_NOSIGNAL) < 0 ? -errno : 0;
    make_spare(); /* there is time for that now */
    return result;
}
