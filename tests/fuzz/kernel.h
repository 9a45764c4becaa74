/* A kernel made up for the launcher's tests: what system calls answer is written in a script. */
#ifndef EXECDRIVERS_KERNEL_H
#define EXECDRIVERS_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* Run the launcher on a plan. In the script each pair of bytes is (skip, what): after so many calls that go well, the
 * next one fails with the errno `what`, if that is below 128; else it goes well in another way than the usual, by the
 * bytes that follow: how many of them, and they themselves, which the call may hand out as its data.
 *
 * Whatever the launcher passes must be readable, and writable where it is written to: the sanitizers see to that.
 * Aborts when a command is executed although a call has failed whose failure matters, or with a descriptor that would
 * be left open in it. Returns whether a command was executed. */
int run_launcher(const uint8_t *plan, size_t plan_size, const uint8_t *script, size_t script_size);

/* How many system calls the last run made. */
unsigned int calls_made(void);

#endif
