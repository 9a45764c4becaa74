/* Filters of system calls, seccomp(2): the command's, and one of the init's own. */
#include "launcher.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

static long set_filter(const void *program, uint32_t length, uint64_t flags)
{
    struct sock_fprog filter = {.len = (unsigned short)length, .filter = (void *)(uintptr_t)program};
    return sys3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter);
}

int install_filter(struct launcher *l)
{
    if (!l->filter)
        return 0;
    long result = set_filter(l->filter, l->filter_length, l->filter_flags);
    if (result >= 0 && l->filter_flags & SECCOMP_FILTER_FLAG_NEW_LISTENER)
        result = send_message(l, ED_LISTENER, 0, (int)result);
    if (result < 0)
        l->step = l->filter_step;
    return (int)result;
}

/* Without no_new_privs it takes CAP_SYS_ADMIN, which a change of user leaves permitted, yet not in effect. */
static long raise_permitted(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    long result = sys2(__NR_capget, &header, data);
    for (int i = 0; i < 2 && result >= 0; i++)
        data[i].effective = data[i].permitted;
    return result < 0 ? result : sys2(__NR_capset, &header, data);
}

int op_seccomp(struct launcher *l, struct args *args)
{
    uint32_t size;
    l->filter = arg_str(args, &size);
    l->filter_length = size / (uint32_t)sizeof(struct sock_filter);
    l->filter_flags = arg_int(args);
    uint64_t when = arg_int(args);
    l->filter_step = l->step;
    l->filter_when_ready = when == ED_FILTER_READY;
    if (args->bad)
        return -EBADMSG;
    if (when != ED_FILTER_NOW)
        return 0;
    long result = raise_permitted();
    if (result >= 0)
        result = install_filter(l);
    l->filter = NULL;
    return result < 0 ? (int)result : 0;
}

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#else
#define OUR_ARCH AUDIT_ARCH_AARCH64
#endif

/* What waits as init does nothing but this, and so can be made to do nothing else. */
void confine_init(void)
{
#define ALLOW(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    static const struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4 /* arch */),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0 /* number */),
        ALLOW(__NR_rt_sigtimedwait),
        ALLOW(__NR_kill),
        ALLOW(__NR_wait4),
        ALLOW(__NR_sendmsg),
        ALLOW(__NR_close), /* of the socket, where it takes no message */
        ALLOW(__NR_exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    if (sys5(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) >= 0)
        set_filter(program, sizeof program / sizeof *program, 0);
}
