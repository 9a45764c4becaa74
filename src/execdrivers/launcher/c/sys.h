/* System calls without a libc, and the few helpers the launcher needs.
 *
 * Convention of all C here: a function that can fail returns a value >= 0, or -errno. */
#ifndef EXECDRIVERS_SYS_H
#define EXECDRIVERS_SYS_H

#include <asm/unistd.h>
#include <linux/errno.h>
#include <stddef.h>
#include <stdint.h>

#ifdef EXECDRIVERS_SIMULATED
long sys6(long number, long a, long b, long c, long d, long e, long f); /* tests/fuzz/kernel.c */
#else
/* Always inline: after a clone that shares memory, parent and child must not return through one stack slot. */
__attribute__((always_inline)) static inline long sys6(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
#else
#error "execdrivers_native is written for x86_64 and aarch64"
#endif
}
#endif

/* Any integer or pointer as a system call's argument. */
#define SYS_ARG(x) ((long)(uintptr_t)(x))
#define sys0(n) sys6(n, 0, 0, 0, 0, 0, 0)
#define sys1(n, a) sys6(n, SYS_ARG(a), 0, 0, 0, 0, 0)
#define sys2(n, a, b) sys6(n, SYS_ARG(a), SYS_ARG(b), 0, 0, 0, 0)
#define sys3(n, a, b, c) sys6(n, SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), 0, 0, 0)
#define sys4(n, a, b, c, d) sys6(n, SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), SYS_ARG(d), 0, 0)
#define sys5(n, a, b, c, d, e) sys6(n, SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), SYS_ARG(d), SYS_ARG(e), 0)
#define SYS6(n, a, b, c, d, e, f) \
    sys6(n, SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), SYS_ARG(d), SYS_ARG(e), SYS_ARG(f))

static inline void close_fd(int *fd)
{
    if (*fd >= 0)
        sys1(__NR_close, *fd);
    *fd = -1;
}

/* A descriptor that closes itself when it leaves its scope. */
#define scoped_fd __attribute__((cleanup(close_fd))) int

#endif
