/* The guard: sees to it that the containers of a program end with it.
 *
 * One process for a program, whatever its containers. It waits for the end of the whole program, on a pidfd: the end of
 * a thread is none. Then a look at the page that the program has written to says whether anything of it is left. If so
 * the guard becomes the program that cleans up (its arguments); otherwise it just ends.
 *
 * Arguments: the path of that program, and its arguments, environment as ours. Descriptors: guard.h. */
#include "guard.h"

#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signal.h>

#include "freestanding.h"
#include "signals.h"
#include "sys.h"

__attribute__((noreturn)) static void end_process(int code)
{
    sys1(__NR_exit_group, code);
    __builtin_trap();
}

/* They are blocked, since we were started so; what is blocked would be kept, and end the program that cleans up. */
static void ignore_signals(void)
{
    struct kernel_sigaction action = {.handler = (void *)1 /* SIG_IGN */};
    for (int number = 1; number <= SIGNALS; number++)
        sys4(__NR_rt_sigaction, number, &action, NULL, SIGSET_SIZE);
    uint64_t none = 0;
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &none, NULL, SIGSET_SIZE);
}

/* Who started us waits for the first process: the second is nobody's child, and in a session of its own. */
static void leave(void)
{
    long pid = SYS6(__NR_clone, 17 /* SIGCHLD */, 0, 0, 0, 0, 0);
    if (pid != 0)
        end_process(pid < 0 ? (int)-pid : 0);
    ignore_signals();
    sys0(__NR_setsid);
    sys1(__NR_chdir, "/");
    sys5(__NR_prctl, PR_SET_NAME, "execdrivers-grd", 0, 0, 0);
    sys1(__NR_close, ED_GUARD_IMAGE_FD);
}

__attribute__((noreturn, used)) void guard_main(long *stack)
{
    char **argv = (char **)(stack + 1), **envp = argv + stack[0] + 1;
    struct ed_guard_page page = {0};
    struct pollfd program = {.fd = ED_GUARD_PROGRAM_FD, .events = POLLIN};
    leave();
    while (sys5(__NR_ppoll, &program, 1, 0, 0, 0) <= 0)
        ;
    sys4(__NR_pread64, ED_GUARD_PAGE_FD, &page, sizeof page.count, 0);
    if (page.count == 0)
        end_process(0);
    sys1(__NR_close, ED_GUARD_PROGRAM_FD);
    default_signals();
    sys3(__NR_execve, argv[1], argv + 1, envp);
    end_process(127);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call guard_main\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n mov x0, sp\n bl guard_main\n");
#endif
