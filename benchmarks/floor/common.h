/* What both launchers of the floors do alike: what a process gives up, and how it begins. */
#ifndef FLOOR_COMMON_H
#define FLOOR_COMMON_H

#include "../../src/execdrivers/launcher/c/freestanding.h"
#include "../../src/execdrivers/launcher/c/sys.h"

#include "filter.h" /* made when it is built */

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

#define CAPS 0xa80425fbULL

__attribute__((noreturn)) static void leave(int code)
{
    for (;;)
        sys1(__NR_exit_group, code);
}

static long must(long result, int code)
{
    if (result < 0)
        leave(code);
    return result;
}

/* All but the default capabilities, groups, and new privileges; for good. */
__attribute__((always_inline)) static inline void give_up_privileges(void)
{
    for (int cap = 0; cap < 41; cap++)
        if (!(CAPS >> cap & 1))
            must(sys5(__NR_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0), 60);
    must(sys2(__NR_setgroups, 0, NULL), 61);
    must(sys3(__NR_setresgid, 0, 0, 0), 62);
    must(sys3(__NR_setresuid, 0, 0, 0), 63);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{.effective = (uint32_t)CAPS, .permitted = (uint32_t)CAPS}};
    must(sys2(__NR_capset, &header, data), 64);
    must(sys5(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 65);
}

/* The default filter of system calls: the last before the execution. */
__attribute__((always_inline)) static inline void install_filter(void)
{
    struct sock_fprog program = {sizeof filter / 8, (struct sock_filter *)filter};
    must(sys3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), 66);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call launcher_main\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n mov x0, sp\n bl launcher_main\n");
#endif

#endif
