/* Operations on what a process has besides its identity: keyring, scheduling, processors, personality. */
#include "launcher.h"

#include <linux/errno.h>
#include <linux/keyctl.h>
#include <linux/sched/types.h>

#include "processors.h"

#define POSSESSOR_ALL 0x3f000000 /* KEY_POS_ALL of the kernel's include/linux/key.h */
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_CLASS_SHIFT 13

/* Without a name, for a keyring of a known name can be joined, or made beforehand, by any container of the same user.
 * The kernel lets the owner's other processes view and link a new one: not even that. */
int op_keyring(struct launcher *l, struct args *args)
{
    (void)l;
    (void)args;
    long keyring = sys2(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
    if (keyring == -ENOSYS || keyring == -EOPNOTSUPP) /* a kernel without keys */
        return 0;
    return keyring < 0 ? (int)keyring : (int)sys3(__NR_keyctl, KEYCTL_SETPERM, keyring, POSSESSOR_ALL);
}

int op_scheduler(struct launcher *l, struct args *args)
{
    (void)l;
    struct sched_attr attr = {.size = sizeof attr};
    attr.sched_policy = (uint32_t)arg_int(args);
    attr.sched_flags = arg_int(args);
    attr.sched_nice = (int32_t)arg_int(args);
    attr.sched_priority = (uint32_t)arg_int(args);
    attr.sched_runtime = arg_int(args);
    attr.sched_deadline = arg_int(args);
    attr.sched_period = arg_int(args);
    return args->bad ? -EBADMSG : (int)sys3(__NR_sched_setattr, 0, &attr, 0);
}

int op_io_priority(struct launcher *l, struct args *args)
{
    (void)l;
    uint64_t class = arg_int(args), priority = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    return (int)sys3(__NR_ioprio_set, IOPRIO_WHO_PROCESS, 0, class << IOPRIO_CLASS_SHIFT | priority);
}

int op_affinity(struct launcher *l, struct args *args)
{
    (void)l;
    struct processors wanted = {.size = sizeof wanted.set};
    for (uint32_t left = arg_count(args); left && !args->bad; left--) {
        uint64_t processor = arg_int(args);
        if (processor >= MAX_PROCESSORS)
            return -EINVAL;
        wanted.set[processor / 64] |= 1ULL << processor % 64;
    }
    return args->bad ? -EBADMSG : (int)run_on(0, &wanted);
}

int op_personality(struct launcher *l, struct args *args)
{
    (void)l;
    uint64_t domain = arg_int(args);
    if (args->bad)
        return -EBADMSG;
    long before = sys1(__NR_personality, domain);
    return before < 0 ? (int)before : 0;
}
