/* What gcc expects of any C library, for programs without one: include it in one file of such a program. */
#ifndef EXECDRIVERS_FREESTANDING_H
#define EXECDRIVERS_FREESTANDING_H

#include <stddef.h>

#ifndef EXECDRIVERS_SIMULATED /* that is linked with a C library */

void *memset(void *to, int byte, size_t n)
{
    unsigned char *p = to;
#if defined(__x86_64__)
    __asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(byte) : "memory");
#else
    while (n--)
        *p++ = (unsigned char)byte;
#endif
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    unsigned char *p = to;
    const unsigned char *q = from;
#if defined(__x86_64__)
    __asm__ volatile("rep movsb" : "+D"(p), "+S"(q), "+c"(n) : : "memory");
#else
    while (n--)
        *p++ = *q++;
#endif
    return to;
}

#endif
#endif
