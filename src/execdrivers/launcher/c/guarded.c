/* The guard's start, on the program's side: see guard.h. Beside spawn.c in the module. */
#include "guard.h"

#include <sys/syscall.h>

static const unsigned char ed_guard_image[];
static const size_t ed_guard_size;

/* Memory that this program shares with who is given the descriptor. */
static int new_page(struct ed_guard_page **page)
{
    int fd = memfd_create("execdrivers-guarded", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    void *memory = MAP_FAILED;
    if (ftruncate(fd, sizeof **page) == 0)
        memory = mmap(NULL, sizeof **page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        int result = -errno;
        close(fd);
        return result;
    }
    *page = memory;
    return fd;
}

/* The first process leaves at once, with an error when the second could not be made. */
static int await_leaving(struct ed_child *child)
{
    int status = 0;
    pid_t pid;
    while ((pid = waitpid(child->pid, &status, __WALL)) < 0 && errno == EINTR)
        ;
    close(child->pidfd);
    /* Somebody else may have reaped it, by a handler of SIGCHLD. */
    return pid < 0 || !WIFEXITED(status) ? 0 : -WEXITSTATUS(status);
}

static int start_guard(char *const *argv, char *const *envp, int page, int *fds)
{
    fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fds[0] < 0)
        return -errno;
    fds[1] = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (fds[1] < 0)
        return -errno;
    fds[2] = ed_memfd("execdrivers-guard", ed_guard_image, ed_guard_size, 1);
    if (fds[2] < 0)
        return fds[2];
    int descriptors[] = {fds[0], fds[0], fds[0], fds[1], page, fds[2]};
    struct ed_spawn how = {
        .descriptors = descriptors, .descriptor_count = 6, .cgroup = -1, .argv = argv, .envp = envp};
    struct ed_child child;
    int result = ed_spawn(&how, &child);
    return result < 0 ? result : await_leaving(&child);
}

int ed_guard_start(char *const *argv, char *const *envp, struct ed_guard_page **page)
{
    int fds[3] = {-1, -1, -1};
    int fd = new_page(page);
    if (fd < 0)
        return fd;
    int result = start_guard(argv, envp, fd, fds);
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    close(fd);
    if (result < 0)
        munmap(*page, sizeof **page);
    return result;
}
