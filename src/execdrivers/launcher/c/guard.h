/* What a program shares with its guard: a page of memory, and the numbers of the guard's descriptors. */
#ifndef EXECDRIVERS_GUARD_H
#define EXECDRIVERS_GUARD_H

#include <stdint.h>

enum { ED_GUARD_PROGRAM_FD = 3, ED_GUARD_PAGE_FD = 4, ED_GUARD_IMAGE_FD = 5 };

enum { ED_GUARD_ROOTS = 65536 - 8 };

struct ed_guard_page {
    uint32_t count;             /* of containers that are not to outlive the program */
    uint32_t used;              /* bytes of roots */
    char roots[ED_GUARD_ROOTS]; /* the state roots that they are in, each with a NUL */
};

/* Start the guard of this program (guard.c), which executes argv when the program has ended with a count above 0.
 * *page, from then on, is for the program to write; no descriptor of it is kept. Returns 0, or -errno and nothing is
 * left. */
int ed_guard_start(char *const *argv, char *const *envp, struct ed_guard_page **page);

#endif
