/* A child that borrows our memory, on a stack of its own, while we go on: for the caller, and for the launcher. */
#ifndef EXECDRIVERS_CLONE_H
#define EXECDRIVERS_CLONE_H

#include <linux/sched.h>

#include "sys.h"

/* clone3(2) of a child that does `go`, which does not return, with `what`, on the stack that the arguments name. */
static inline long clone_to(const struct clone_args *clone, void (*go)(void *), void *what)
{
    long result;
#if defined(EXECDRIVERS_SIMULATED)
    result = sys2(__NR_clone3, clone, sizeof *clone);
    if (result == 0)
        go(what);
#elif defined(__x86_64__)
    __asm__ volatile("syscall\n"
                     "test %%rax, %%rax\n"
                     "jnz 1f\n"
                     "mov %[what], %%rdi\n"
                     "xor %%ebp, %%ebp\n"
                     "call *%[go]\n"
                     "1:\n"
                     : "=a"(result)
                     : "a"(__NR_clone3), "D"(clone), "S"(sizeof *clone), [go] "r"(go), [what] "r"(what)
                     : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = __NR_clone3;
    register long x0 __asm__("x0") = (long)clone;
    register long x1 __asm__("x1") = sizeof *clone;
    __asm__ volatile("svc #0\n"
                     "cbnz x0, 1f\n"
                     "mov x0, %[what]\n"
                     "mov x29, #0\n"
                     "blr %[go]\n"
                     "1:\n"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), [go] "r"(go), [what] "r"(what)
                     : "memory");
    result = x0;
#endif
    return result;
}

#endif
