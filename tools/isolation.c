/* What a process can still reach: run inside containers by tools/compare-isolation, in the manner of amicontained.
 *
 * Prints lines of "KIND NAME VALUE". Every system call is tried with arguments that no kernel accepts; what is refused
 * (EPERM, ENOSYS, or killed) before the arguments are looked at is out of reach. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define LAST_CALL 480

static const char *name_of(int error)
{
    return error ? strerrorname_np(error) : "works";
}

/* Calls that end, stop or copy the process, whatever their arguments, or that act without any. */
static int is_untried(int call)
{
    switch (call) {
    case SYS_exit:
    case SYS_exit_group:
    case SYS_rt_sigreturn:
    case SYS_sync:
    case SYS_vhangup:
#ifdef SYS_fork
    case SYS_fork:
    case SYS_vfork:
    case SYS_pause:
#endif
        return 1;
    }
    return 0;
}

static void try_call(int call)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(1); /* what waits is not refused */
        errno = 0;
        long result = syscall(call, -1L, -1L, -1L, -1L, -1L, -1L);
        _exit(result == -1 && (errno == EPERM || errno == ENOSYS) ? errno : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status))
        printf("call %d %s\n", call, name_of(WEXITSTATUS(status)));
    else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        printf("call %d killed\n", call);
}

static void try_path(const char *path)
{
    struct stat st;
    char text[16];
    const char *state = "absent";
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        DIR *directory = opendir(path);
        int entries = 0;
        while (directory && readdir(directory))
            entries++;
        state = !directory ? "closed" : entries <= 2 ? "empty" : faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) ? "read" : "write";
    } else if (errno != ENOENT) {
        int reading = open(path, O_RDONLY | O_NONBLOCK), writing = open(path, O_WRONLY | O_NONBLOCK);
        int readable = reading >= 0 && read(reading, text, sizeof text) > 0;
        state = S_ISCHR(st.st_mode) ? "empty" : writing >= 0 ? "write" : readable ? "read" : reading >= 0 ? "empty" : "closed";
    }
    printf("path %s %s\n", path, state);
}

static void try_namespaces(void)
{
    static const char *const kinds[] = {"pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char path[64], target[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
        ssize_t n = readlink(path, target, sizeof target - 1);
        target[n < 0 ? 0 : n] = 0;
        printf("namespace %s %s\n", kinds[i], target);
    }
}

static void list_devices(void)
{
    DIR *directory = opendir("/dev");
    struct stat st;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)))
            printf("device %s %u:%u\n", entry->d_name, major(st.st_rdev), minor(st.st_rdev));
}

static void try_node(const char *name, mode_t type, unsigned major, unsigned minor)
{
    static const char *const places[] = {"/dev", "/tmp", "/dev/shm", "/", "/root"};
    const char *best = "cannot be made";
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/isolation-node", places[i]);
        if (mknod(path, type | 0600, makedev(major, minor)) < 0)
            continue;
        int fd = open(path, O_RDONLY | O_NONBLOCK);
        best = fd >= 0 ? "opened" : strcmp(best, "opened") == 0 ? best : "cannot be opened";
        unlink(path);
    }
    printf("node %s %s\n", name, best);
}

static int in_child(int (*act)(void))
{
    pid_t child = fork();
    if (child == 0)
        _exit(act() < 0 ? errno : 0);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

static int make_user_namespace(void)
{
    return unshare(CLONE_NEWUSER);
}

static int find_keyring(void)
{
    return (int)syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3 /* the session's */, 0);
}

static int read_log(void)
{
    char text[64];
    return klogctl(3 /* SYSLOG_ACTION_READ_ALL */, text, sizeof text);
}

static void read_status(void)
{
    char line[256], value[64];
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof line, file)) {
        static const char *const fields[] = {"CapEff", "CapBnd", "CapInh", "NoNewPrivs", "Seccomp", "Uid"};
        for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
            if (strncmp(line, fields[i], strlen(fields[i])) == 0 && line[strlen(fields[i])] == ':' &&
                sscanf(line + strlen(fields[i]) + 1, "%63s", value) == 1)
                printf("status %s %s\n", fields[i], value);
    }
    char label[128] = "";
    int fd = open("/proc/self/attr/current", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, label, sizeof label - 1);
    label[n < 0 ? 0 : n] = 0;
    label[strcspn(label, "\n")] = 0;
    printf("status label %s\n", *label ? label : "none");
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_status();
    try_namespaces();
    for (int i = 1; i < argc; i++)
        try_path(argv[i]);
    list_devices();
    try_node("memory", S_IFCHR, 1, 1);
    try_node("loop", S_IFBLK, 7, 0);
    printf("try user-namespace %s\n", name_of(in_child(make_user_namespace)));
    printf("try session-keyring %s\n", name_of(in_child(find_keyring)));
    printf("try kernel-log %s\n", name_of(in_child(read_log)));
    fflush(stdout);
    for (int call = 0; call < LAST_CALL; call++)
        if (!is_untried(call))
            try_call(call);
    return 0;
}
