/* The conformance kit's witness: a static program that tells, from inside a container, what it is and what it may do.
 *
 *     probe COMMAND [ARGUMENT…] [, COMMAND [ARGUMENT…]]…
 *
 * It needs nothing in the container: no libc, no shell, no /proc (what only /proc tells is null without it). Commands
 * run in order:
 *
 *     report                    all that a process can find out about itself, as one line of JSON
 *     stat PATH, list PATH      a node, a directory, as JSON
 *     say WORD…, complain WORD… a line on stdout, on stderr
 *     emit N [FD]               N bytes of every value
 *     line, cat, swallow        read a line, or all, and print it; or its length and checksum
 *     exit CODE, raise SIGNAL, sleep [SECONDS], run PROGRAM ARGUMENT…
 *     catch N                   print "ready", then the numbers of N signals that arrive
 *     block, ignore SIGNAL…     all signals, some signals
 *     spread N [session|orphan] N processes that sleep: in this session, in their own, or orphaned
 *     chorus N                  N processes in sessions of their own that print each signal they get
 *     relay                     a process that hands over to a child of its own all the time, and prints a number then
 *     eat N, feed N             touch N bytes of memory; have a child do it
 *     burn SECONDS              compute for so much processor time, and print how long that took
 *     tick, resize, serve NAME  count without end; wait for another size of the terminal; listen on sockets
 *
 * and those of the table ATTEMPTS, which try something and print one line of JSON with the errno (0: it worked) and
 * what came of it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_CAP_AMBIENT
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_IS_SET 1
#endif

extern char **environ;

/* --- JSON ------------------------------------------------------------------------------------------------------- */

static int comma;

static void separate(void) {
    if (comma)
        putchar(',');
    comma = 1;
}

static void text_of(const char *bytes, size_t length) {
    putchar('"');
    for (size_t i = 0; i < length; i++) {
        unsigned char c = bytes[i];
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void text(const char *value) {
    if (value)
        text_of(value, strlen(value));
    else
        fputs("null", stdout);
}

static void key(const char *name) {
    separate();
    text(name);
    putchar(':');
    comma = 0;
}

static void number(long long value) {
    separate();
    printf("%lld", value);
}

static void string(const char *value) {
    separate();
    text(value);
}

static void open_(char bracket) {
    separate();
    putchar(bracket);
    comma = 0;
}

static void close_(char bracket) {
    putchar(bracket);
    comma = 1;
}

static void number_at(const char *name, long long value) {
    key(name);
    number(value);
}

static void string_at(const char *name, const char *value) {
    key(name);
    string(value);
}

static void numbers_at(const char *name, size_t count, const unsigned *values) {
    key(name);
    open_('[');
    for (size_t i = 0; i < count; i++)
        number(values[i]);
    close_(']');
}

/* --- the report ------------------------------------------------------------------------------------------------- */

static char buffer[1 << 20];

/* The whole file, or null. */
static void file_at(const char *name, const char *path) {
    ssize_t got, length = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    key(name);
    separate();
    if (fd < 0) {
        fputs("null", stdout);
        return;
    }
    while (length < (ssize_t)sizeof buffer && (got = read(fd, buffer + length, sizeof buffer - length)) > 0)
        length += got;
    close(fd);
    text_of(buffer, length);
}

static void ids(void) {
    unsigned u[3], g[3];
    static gid_t groups[65536];
    getresuid(&u[0], &u[1], &u[2]);
    getresgid(&g[0], &g[1], &g[2]);
    numbers_at("uid", 3, u);
    numbers_at("gid", 3, g);
    int count = getgroups(65536, groups);
    numbers_at("groups", count < 0 ? 0 : count, groups);
}

static void mask_at(const char *name, unsigned long long mask) {
    char hex[17];
    snprintf(hex, sizeof hex, "%016llx", mask);
    string_at(name, hex);
}

static void capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {0};
    unsigned long long bounding = 0, ambient = 0;
    syscall(SYS_capget, &header, data);
    for (int i = 0; i < 64; i++) {
        if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1)
            bounding |= 1ULL << i;
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1)
            ambient |= 1ULL << i;
    }
    key("capabilities");
    open_('{');
    mask_at("effective", (unsigned long long)data[1].effective << 32 | data[0].effective);
    mask_at("permitted", (unsigned long long)data[1].permitted << 32 | data[0].permitted);
    mask_at("inheritable", (unsigned long long)data[1].inheritable << 32 | data[0].inheritable);
    mask_at("bounding", bounding);
    mask_at("ambient", ambient);
    close_('}');
}

static const char *const LIMITS[] = {
    [RLIMIT_AS] = "AS",         [RLIMIT_CORE] = "CORE",         [RLIMIT_CPU] = "CPU",
    [RLIMIT_DATA] = "DATA",     [RLIMIT_FSIZE] = "FSIZE",       [RLIMIT_LOCKS] = "LOCKS",
    [RLIMIT_MEMLOCK] = "MEMLOCK", [RLIMIT_MSGQUEUE] = "MSGQUEUE", [RLIMIT_NICE] = "NICE",
    [RLIMIT_NOFILE] = "NOFILE", [RLIMIT_NPROC] = "NPROC",       [RLIMIT_RSS] = "RSS",
    [RLIMIT_RTPRIO] = "RTPRIO", [RLIMIT_RTTIME] = "RTTIME",     [RLIMIT_SIGPENDING] = "SIGPENDING",
    [RLIMIT_STACK] = "STACK",
};
#define N_LIMITS (sizeof LIMITS / sizeof *LIMITS)

static void limits(void) {
    key("rlimits");
    open_('{');
    for (unsigned i = 0; i < N_LIMITS; i++) {
        struct rlimit limit;
        getrlimit(i, &limit);
        key(LIMITS[i]);
        open_('[');
        number(limit.rlim_cur == RLIM_INFINITY ? -1 : (long long)limit.rlim_cur);
        number(limit.rlim_max == RLIM_INFINITY ? -1 : (long long)limit.rlim_max);
        close_(']');
    }
    close_('}');
}

static void signals(void) {
    sigset_t blocked;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    for (int what = 0; what < 2; what++) {
        key(what ? "ignored" : "blocked");
        open_('[');
        for (int n = 1; n <= SIGRTMAX; n++) {
            struct sigaction action;
            if (what ? !sigaction(n, NULL, &action) && action.sa_handler == SIG_IGN : sigismember(&blocked, n) == 1)
                number(n);
        }
        close_(']');
    }
}

static void scheduling(void) {
    struct sched_param param = {0};
    cpu_set_t cpus;
    errno = 0;
    number_at("nice", getpriority(PRIO_PROCESS, 0));
    number_at("policy", sched_getscheduler(0));
    sched_getparam(0, &param);
    number_at("priority", param.sched_priority);
    number_at("ioprio", syscall(SYS_ioprio_get, 1, 0));
    key("cpus");
    open_('[');
    if (!sched_getaffinity(0, sizeof cpus, &cpus))
        for (int i = 0; i < CPU_SETSIZE; i++)
            if (CPU_ISSET(i, &cpus))
                number(i);
    close_(']');
}

static void descriptors(void) {
    key("fds");
    open_('{');
    for (int fd = 0; fd < 4096; fd++) {
        struct stat st;
        char name[32], target[4096];
        if (fstat(fd, &st))
            continue;
        snprintf(name, sizeof name, "%d", fd);
        key(name);
        open_('{');
        number_at("type", st.st_mode & S_IFMT);
        number_at("flags", fcntl(fd, F_GETFL));
        number_at("tty", isatty(fd));
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(name, target, sizeof target - 1);
        target[length < 0 ? 0 : length] = 0;
        string_at("target", length < 0 ? NULL : target);
        close_('}');
    }
    close_('}');
}

static void terminal(void) {
    struct winsize size = {0};
    int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    number_at("controlling", fd >= 0);
    if (fd >= 0)
        close(fd);
    number_at("foreground", isatty(0) && tcgetpgrp(0) == getpgrp());
    if (!ioctl(0, TIOCGWINSZ, &size)) {
        unsigned values[2] = {size.ws_row, size.ws_col};
        numbers_at("winsize", 2, values);
    }
}

static void namespaces(void) {
    static const char *const kinds[] = {"pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time"};
    key("namespaces");
    open_('{');
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char path[64];
        struct stat st;
        snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
        if (!stat(path, &st))
            number_at(kinds[i], st.st_ino);
    }
    close_('}');
}

static void node(const char *path) {
    struct stat st;
    char target[4096];
    open_('{');
    if (!lstat(path, &st)) {
        number_at("type", st.st_mode & S_IFMT);
        number_at("mode", st.st_mode & 07777);
        number_at("major", major(st.st_rdev));
        number_at("minor", minor(st.st_rdev));
        number_at("uid", st.st_uid);
        number_at("gid", st.st_gid);
        number_at("size", st.st_size);
        ssize_t length = S_ISLNK(st.st_mode) ? readlink(path, target, sizeof target - 1) : -1;
        if (length >= 0) {
            target[length] = 0;
            string_at("target", target);
        }
    }
    close_('}');
}

static void directory_at(const char *name, const char *path, int details) {
    DIR *directory = opendir(path);
    key(name);
    if (!directory) {
        string(NULL);
        return;
    }
    open_(details ? '{' : '[');
    for (struct dirent *entry; (entry = readdir(directory));) {
        char full[4096];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (details) {
            snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
            key(entry->d_name);
            node(full);
        } else
            string(entry->d_name);
    }
    close_(details ? '}' : ']');
    closedir(directory);
}

static void interfaces(void) {
    struct if_nameindex *all = if_nameindex();
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    key("interfaces");
    open_('{');
    for (struct if_nameindex *item = all; item && item->if_index; item++) {
        struct ifreq request = {0};
        strncpy(request.ifr_name, item->if_name, IFNAMSIZ - 1);
        ioctl(fd, SIOCGIFFLAGS, &request);
        number_at(item->if_name, request.ifr_flags & 0xffff);
    }
    close_('}');
    if (all)
        if_freenameindex(all);
    if (fd >= 0)
        close(fd);
}

static void clocks(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    number_at("monotonic", at.tv_sec);
    clock_gettime(CLOCK_BOOTTIME, &at);
    number_at("boottime", at.tv_sec);
}

static int all_argc;
static char **all_argv;

static int report(int argc, char **argv) {
    struct utsname name;
    (void)argc, (void)argv;
    /* What is opened later must not be counted. */
    comma = 0;
    open_('{');
    descriptors();
    key("argv");
    open_('[');
    for (int i = 0; i < all_argc; i++)
        string(all_argv[i]);
    close_(']');
    key("env");
    open_('[');
    for (char **item = environ; *item; item++)
        string(*item);
    close_(']');
    string_at("cwd", getcwd(buffer, sizeof buffer));
    number_at("pid", getpid());
    number_at("ppid", getppid());
    number_at("pgid", getpgrp());
    number_at("sid", getsid(0));
    ids();
    capabilities();
    number_at("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    number_at("seccomp", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
    number_at("securebits", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
    mode_t mask = umask(0);
    umask(mask);
    number_at("umask", mask);
    limits();
    signals();
    scheduling();
    number_at("personality", personality(0xffffffff));
    uname(&name);
    string_at("hostname", name.nodename);
    string_at("domainname", name.domainname);
    string_at("machine", name.machine);
    terminal();
    namespaces();
    interfaces();
    clocks();
    directory_at("root", "/", 0);
    directory_at("dev", "/dev", 1);
    directory_at("proc", "/proc", 0);
    file_at("status", "/proc/self/status");
    file_at("mountinfo", "/proc/self/mountinfo");
    file_at("cgroup", "/proc/self/cgroup");
    file_at("oom_score_adj", "/proc/self/oom_score_adj");
    file_at("apparmor", "/proc/self/attr/current");
    close_('}');
    putchar('\n');
    return 0;
}

/* --- attempts: 0 or -1 with errno, and perhaps a result in `buffer` ------------------------------------------------ */

static char *result;
static size_t result_length;

static void tell(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    result_length = vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    result = buffer;
}

static long long integer(const char *word) { return strtoll(word, NULL, 0); }

static int done(int fd) { return fd < 0 ? -1 : close(fd); }

static int a_write(int argc, char **argv) {
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return -1;
    const char *content = argc > 2 ? argv[2] : "";
    ssize_t wrote = write(fd, content, strlen(content));
    int error = errno;
    close(fd);
    errno = error;
    return wrote == (ssize_t)strlen(content) ? 0 : -1;
}

/* Writes without creating or truncating. */
static int a_put(int argc, char **argv) {
    int fd = open(argv[1], O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t wrote = write(fd, argv[2], strlen(argv[2]));
    int error = errno;
    close(fd);
    errno = error;
    (void)argc;
    return wrote < 0 ? -1 : 0;
}

static int a_read(int argc, char **argv) {
    int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    size_t most = argc > 2 ? (size_t)integer(argv[2]) : sizeof buffer;
    if (fd < 0)
        return -1;
    ssize_t got = 0, length = 0;
    while ((size_t)length < most && (got = read(fd, buffer + length, most - length)) > 0)
        length += got;
    int failed = !length && got < 0, error = errno;
    close(fd);
    errno = error;
    result = buffer, result_length = length;
    return failed ? -1 : 0;
}

static int a_open(int argc, char **argv) {
    int writes = argc > 2 && !strcmp(argv[2], "w");
    return done(open(argv[1], (writes ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

static int a_fill(int argc, char **argv) {
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    long long left = integer(argv[2]), wrote = 0;
    if (fd < 0)
        return -1;
    memset(buffer, 'x', 65536);
    while (left > 0) {
        ssize_t n = write(fd, buffer, left < 65536 ? left : 65536);
        if (n <= 0)
            break;
        left -= n, wrote += n;
    }
    int failed = left || (argc > 3 && !strcmp(argv[3], "sync") && fsync(fd)), error = errno;
    close(fd);
    tell("%lld", wrote);
    errno = error;
    return failed ? -1 : 0;
}

static int a_mkdir(int argc, char **argv) { return (void)argc, mkdir(argv[1], 0777); }
static int a_unlink(int argc, char **argv) { return (void)argc, remove(argv[1]); }
static int a_chmod(int argc, char **argv) { return (void)argc, chmod(argv[1], integer(argv[2])); }
static int a_chown(int argc, char **argv) { return (void)argc, chown(argv[1], integer(argv[2]), integer(argv[2])); }
static int a_truncate(int argc, char **argv) { return (void)argc, truncate(argv[1], 0); }
static int a_chdir(int argc, char **argv) { return (void)argc, chdir(argv[1]); }

static int a_mknod(int argc, char **argv) {
    mode_t kind = *argv[2] == 'b' ? S_IFBLK : *argv[2] == 'p' ? S_IFIFO : S_IFCHR;
    return (void)argc, mknod(argv[1], kind | 0666, makedev(integer(argv[3]), integer(argv[4])));
}

static int a_mount(int argc, char **argv) {
    return mount(argv[1], argv[2], argv[3], argc > 4 ? integer(argv[4]) : 0, argc > 5 ? argv[5] : NULL);
}

static int a_umount(int argc, char **argv) { return (void)argc, umount2(argv[1], MNT_DETACH); }
static int a_chroot(int argc, char **argv) { return (void)argc, chroot(argv[1]); }
static int a_sethostname(int argc, char **argv) { return (void)argc, sethostname(argv[1], strlen(argv[1])); }
static int a_setuid(int argc, char **argv) { return (void)argc, setuid(integer(argv[1])); }
static int a_setgid(int argc, char **argv) { return (void)argc, setgid(integer(argv[1])); }
static int a_nice(int argc, char **argv) { return (void)argc, setpriority(PRIO_PROCESS, 0, integer(argv[1])); }
static int a_kill(int argc, char **argv) { return (void)argc, kill(integer(argv[1]), integer(argv[2])); }
static int a_unshare(int argc, char **argv) { return (void)argc, unshare(integer(argv[1])); }

static int a_setgroups(int argc, char **argv) {
    gid_t group = integer(argv[1]);
    return (void)argc, setgroups(1, &group);
}

static int a_settime(int argc, char **argv) {
    struct timespec at;
    (void)argc, (void)argv;
    clock_gettime(CLOCK_REALTIME, &at);
    return clock_settime(CLOCK_REALTIME, &at);
}

static int a_rawsocket(int argc, char **argv) {
    return (void)argc, (void)argv, done(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
}

static socklen_t abstract(struct sockaddr_un *address, const char *name) {
    address->sun_family = AF_UNIX;
    strncpy(address->sun_path + 1, name, sizeof address->sun_path - 2);
    return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
}

static int a_connect_abstract(int argc, char **argv) {
    struct sockaddr_un address = {0};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int failed = connect(fd, (void *)&address, abstract(&address, argv[1])), error = errno;
    close(fd);
    errno = error;
    return (void)argc, failed;
}

/* TCP on 127.0.0.1: to ourselves without a port, else to who listens there. */
static int a_connect(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), listener = -1, failed = 0;
    if (argc > 1)
        address.sin_port = htons(integer(argv[1]));
    else {
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        failed = bind(listener, (void *)&address, length) || listen(listener, 1) ||
                 getsockname(listener, (void *)&address, &length);
    }
    failed = failed || connect(fd, (void *)&address, length);
    int error = errno;
    close(fd);
    if (listener >= 0)
        close(listener);
    errno = error;
    return failed ? -1 : 0;
}

/* N datagrams of so many bytes to ourselves. */
static int a_send(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = integer(argv[2]);
    int failed = bind(fd, (void *)&address, length) || getsockname(fd, (void *)&address, &length);
    for (long long left = integer(argv[1]); left > 0 && !failed; left--)
        failed = sendto(fd, buffer, size, 0, (void *)&address, length) != size || recv(fd, buffer, size, 0) != size;
    int error = errno;
    close(fd);
    errno = error;
    (void)argc;
    return failed ? -1 : 0;
}

static int a_msgget(int argc, char **argv) {
    return (void)argc, msgget(integer(argv[1]), 0) < 0 ? -1 : 0;
}

static int a_fork(int argc, char **argv) {
    int most = integer(argv[1]), made = 0, error = 0;
    (void)argc;
    fflush(stdout);
    for (; made < most; made++) {
        pid_t pid = fork();
        if (pid < 0) {
            error = errno;
            break;
        }
        if (!pid)
            for (;;)
                pause();
    }
    signal(SIGTERM, SIG_IGN);
    tell("%d", made);
    errno = error;
    return error ? -1 : 0;
}

static void *idle(void *argument) {
    pause();
    return argument;
}

static int a_threads(int argc, char **argv) {
    int most = integer(argv[1]), made = 0, error = 0;
    (void)argc;
    for (; made < most && !error; made += !error) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 65536);
        error = pthread_create(&thread, &attributes, idle, NULL);
    }
    tell("%d", made);
    errno = error;
    return error ? -1 : 0;
}

static int a_ptrace(int argc, char **argv) {
    return (void)argc, ptrace(PTRACE_ATTACH, integer(argv[1]), 0, 0) ? -1 : 0;
}

static int a_rlimit(int argc, char **argv) {
    for (unsigned i = 0; i < N_LIMITS; i++)
        if (!strcmp(LIMITS[i], argv[1])) {
            struct rlimit limit = {integer(argv[2]), integer(argv[3])};
            return (void)argc, setrlimit(i, &limit);
        }
    errno = EINVAL;
    return -1;
}

static int a_statfs(int argc, char **argv) {
    struct statfs st;
    if (statfs(argv[1], &st))
        return -1;
    tell("%llu", (unsigned long long)st.f_bsize * st.f_blocks);
    return (void)argc, 0;
}

/* A child that executes it and tells whether that worked. */
static int a_spawn(int argc, char **argv) {
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        argv[argc] = NULL;
        execv(argv[1], argv + 1);
        _exit(errno);
    }
    if (waitpid(pid, &status, 0) < 0)
        return -1;
    errno = WEXITSTATUS(status);
    return errno ? -1 : 0;
}

/* Any system call that takes numbers. */
static int a_syscall(int argc, char **argv) {
    long words[7] = {0};
    for (int i = 1; i < argc && i < 8; i++)
        words[i - 1] = integer(argv[i]);
    return syscall(words[0], words[1], words[2], words[3], words[4], words[5], words[6]) < 0 ? -1 : 0;
}

static const struct attempt {
    const char *name;
    int least;
    int (*call)(int, char **);
} ATTEMPTS[] = {
    {"write", 1, a_write},     {"put", 2, a_put},           {"read", 1, a_read},
    {"open", 1, a_open},       {"fill", 2, a_fill},         {"mkdir", 1, a_mkdir},
    {"unlink", 1, a_unlink},   {"chmod", 2, a_chmod},       {"chown", 2, a_chown},
    {"chdir", 1, a_chdir},     {"mknod", 4, a_mknod},       {"mount", 3, a_mount},
    {"umount", 1, a_umount},   {"chroot", 1, a_chroot},     {"sethostname", 1, a_sethostname},
    {"setuid", 1, a_setuid},   {"setgid", 1, a_setgid},     {"setgroups", 1, a_setgroups},
    {"nice", 1, a_nice},       {"kill", 2, a_kill},         {"unshare", 1, a_unshare},
    {"settime", 0, a_settime}, {"rawsocket", 0, a_rawsocket}, {"connect", 0, a_connect},
    {"connect-abstract", 1, a_connect_abstract},            {"msgget", 1, a_msgget},       {"send", 2, a_send},
    {"fork", 1, a_fork},       {"threads", 1, a_threads},   {"ptrace", 1, a_ptrace},
    {"rlimit", 3, a_rlimit},   {"statfs", 1, a_statfs},     {"spawn", 1, a_spawn},
    {"syscall", 1, a_syscall}, {"truncate", 1, a_truncate},
};

static int attempt(const struct attempt *what, int argc, char **argv) {
    result = NULL;
    errno = 0;
    int failed = what->call(argc, argv), error = failed ? errno : 0;
    comma = 0;
    open_('{');
    string_at("command", what->name);
    number_at("errno", error);
    key("result");
    separate();
    if (result)
        text_of(result, result_length);
    else
        fputs("null", stdout);
    close_('}');
    putchar('\n');
    return 0;
}

/* --- other commands ----------------------------------------------------------------------------------------------- */

static int c_say(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        printf("%s%s", i > 1 ? " " : "", argv[i]);
    putchar('\n');
    return 0;
}

static int c_complain(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        fprintf(stderr, "%s%s", i > 1 ? " " : "", argv[i]);
    fputc('\n', stderr);
    return 0;
}

static int c_exit(int argc, char **argv) {
    fflush(NULL);
    _exit(argc > 1 ? integer(argv[1]) : 0);
}

static int c_raise(int argc, char **argv) {
    fflush(NULL);
    (void)argc;
    return kill(getpid(), integer(argv[1])) ? 1 : 0;
}

static int c_sleep(int argc, char **argv) {
    fflush(NULL);
    if (argc > 1) {
        double seconds = strtod(argv[1], NULL);
        struct timespec left = {seconds, (seconds - (long)seconds) * 1e9};
        while (nanosleep(&left, &left) && errno == EINTR)
            ;
        return 0;
    }
    for (;;)
        pause();
}

static int c_cat(int argc, char **argv) {
    (void)argc, (void)argv;
    fflush(NULL);
    for (ssize_t got; (got = read(0, buffer, 65536)) > 0;)
        for (ssize_t n, at = 0; at < got; at += n)
            if ((n = write(1, buffer + at, got - at)) < 0)
                return 1;
    return 0;
}

/* One line of the input, without reading beyond it. */
static int c_line(int argc, char **argv) {
    size_t length = 0;
    (void)argc, (void)argv;
    fflush(NULL);
    while (length < sizeof buffer - 1 && read(0, buffer + length, 1) == 1 && buffer[length] != '\n')
        length++;
    printf("%.*s\n", (int)length, buffer);
    return 0;
}

/* Reads to the end: bytes and their FNV-1a. */
static int c_swallow(int argc, char **argv) {
    uint64_t hash = 0xcbf29ce484222325u;
    long long count = 0;
    (void)argc, (void)argv;
    fflush(NULL);
    for (ssize_t got; (got = read(0, buffer, 65536)) > 0; count += got)
        for (ssize_t i = 0; i < got; i++)
            hash = (hash ^ (unsigned char)buffer[i]) * 0x100000001b3u;
    printf("%lld %016llx\n", count, (unsigned long long)hash);
    return 0;
}

/* N bytes of every value, to fd 1 or another. */
static int c_emit(int argc, char **argv) {
    long long count = integer(argv[1]);
    int fd = argc > 2 ? integer(argv[2]) : 1;
    fflush(NULL);
    for (long long at = 0; at < count;) {
        size_t some = count - at < 65536 ? count - at : 65536;
        for (size_t i = 0; i < some; i++)
            buffer[i] = (at + i) ^ (at + i) >> 8 ^ (at + i) >> 16;
        for (size_t sent = 0; sent < some;) {
            ssize_t n = write(fd, buffer + sent, some - sent);
            if (n < 0)
                return 1;
            sent += n;
        }
        at += some;
    }
    return 0;
}

/* Says "ready", then the number of each signal that arrives, N of them. */
static int c_catch(int argc, char **argv) {
    sigset_t all;
    (void)argc;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    puts("ready");
    fflush(stdout);
    for (int left = integer(argv[1]); left > 0; left--) {
        siginfo_t info;
        int caught;
        while ((caught = sigwaitinfo(&all, &info)) < 0 && errno == EINTR)
            ; /* a thaw interrupts */
        printf("%d\n", caught);
        fflush(stdout);
    }
    sigprocmask(SIG_UNBLOCK, &all, NULL);
    return 0;
}

static int c_block(int argc, char **argv) {
    sigset_t all;
    (void)argc, (void)argv;
    sigfillset(&all);
    return sigprocmask(SIG_BLOCK, &all, NULL);
}

static int c_ignore(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        signal(integer(argv[i]), SIG_IGN);
    return 0;
}

/* N processes that sleep: children; with "session" each leading one; with "orphan" children of whom adopts them. */
static int c_spread(int argc, char **argv) {
    int count = integer(argv[1]), session = argc > 2 && !strcmp(argv[2], "session");
    int orphan = argc > 2 && !strcmp(argv[2], "orphan"), ready[2];
    fflush(NULL);
    if (pipe2(ready, O_CLOEXEC))
        return 1;
    for (int i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid < 0)
            return 1;
        if (pid) {
            if (orphan)
                waitpid(pid, NULL, 0); /* the one in between, which leaves at once */
            continue;
        }
        if (session || orphan)
            setsid();
        if (orphan && fork())
            _exit(0);
        signal(SIGTERM, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        (void)!write(ready[1], "", 1);
        close(ready[1]);
        for (int fd = 0; fd < 3; fd++)
            dup2(ready[0], fd);
        for (;;)
            pause();
    }
    for (int i = 0; i < count; i++)
        (void)!read(ready[0], buffer, 1);
    close(ready[0]);
    close(ready[1]);
    return 0;
}

/* N children, each leading a session, that print the number of every signal that they get. */
static int c_chorus(int argc, char **argv) {
    int count = integer(argv[1]), ready[2];
    sigset_t all;
    (void)argc;
    fflush(NULL);
    if (pipe2(ready, O_CLOEXEC))
        return 1;
    for (int i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid < 0)
            return 1;
        if (pid)
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a driver may not promise to kill us all */
        setsid();
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
        (void)!write(ready[1], "", 1);
        for (;;) {
            int caught = sigwaitinfo(&all, NULL);
            if (caught > 0)
                dprintf(1, "%d\n", caught);
        }
    }
    for (int i = 0; i < count; i++)
        (void)!read(ready[0], buffer, 1);
    close(ready[0]);
    close(ready[1]);
    return 0;
}

/* A child that has a child, ends, and so on; each prints a number. SIGTERM ends it. */
static int c_relay(int argc, char **argv) {
    (void)argc, (void)argv;
    fflush(NULL);
    signal(SIGCHLD, SIG_IGN); /* whom we adopt nobody need reap */
    pid_t pid = fork();
    if (pid)
        return pid < 0;
    setsid();
    signal(SIGTERM, SIG_DFL);
    for (unsigned long long n = 0;; n++) {
        dprintf(1, "%llu\n", n);
        usleep(300);
        while ((pid = fork()) < 0)
            usleep(300);
        if (pid)
            _exit(0);
    }
}

static void touch(long long bytes) {
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        printf("mmap %d\n", errno);
        return;
    }
    for (long long i = 0; i < bytes; i += 4096)
        memory[i] = 1;
    printf("ate %lld\n", bytes);
}

static int c_eat(int argc, char **argv) {
    fflush(NULL);
    (void)argc;
    touch(integer(argv[1]));
    fflush(NULL);
    return 0;
}

/* A child that eats; how it ended. */
static int c_feed(int argc, char **argv) {
    int status;
    fflush(NULL);
    pid_t pid = fork();
    (void)argc;
    if (!pid) {
        touch(integer(argv[1]));
        fflush(NULL);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    printf(WIFSIGNALED(status) ? "child signal %d\n" : "child exit %d\n",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return 0;
}

static double seconds_of(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
}

/* Computes for S seconds of processor time; how long that took by the clock. */
static int c_burn(int argc, char **argv) {
    double began = seconds_of(CLOCK_MONOTONIC), until = seconds_of(CLOCK_PROCESS_CPUTIME_ID) + strtod(argv[1], NULL);
    fflush(NULL);
    (void)argc;
    while (seconds_of(CLOCK_PROCESS_CPUTIME_ID) < until)
        ;
    printf("%.6f\n", seconds_of(CLOCK_MONOTONIC) - began);
    return 0;
}

/* Counts without end, a number now and then. */
static int c_tick(int argc, char **argv) {
    (void)argc, (void)argv;
    for (unsigned long long n = 0;; n++) {
        printf("%llu\n", n);
        fflush(stdout);
        usleep(1000);
    }
    return 0;
}

static volatile sig_atomic_t resized;
static void on_resize(int number) { resized = number; }

/* Says "ready", waits for the terminal to change its size, and tells it. */
static int c_resize(int argc, char **argv) {
    struct winsize size = {0};
    sigset_t one;
    (void)argc, (void)argv;
    sigemptyset(&one);
    sigaddset(&one, SIGWINCH);
    sigprocmask(SIG_BLOCK, &one, NULL);
    signal(SIGWINCH, on_resize);
    puts("ready");
    fflush(stdout);
    int number;
    sigwait(&one, &number);
    ioctl(0, TIOCGWINSZ, &size);
    printf("%d %d\n", size.ws_row, size.ws_col);
    return 0;
}

/* Listens on an abstract socket, a TCP port and a message queue of the key, says "ready PORT", and sleeps. */
static int c_serve(int argc, char **argv) {
    struct sockaddr_un local = {0};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int unix_socket = socket(AF_UNIX, SOCK_STREAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);
    (void)argc;
    if (bind(unix_socket, (void *)&local, abstract(&local, argv[1])) || listen(unix_socket, 9) ||
        bind(tcp, (void *)&address, length) || listen(tcp, 9) || getsockname(tcp, (void *)&address, &length))
        perror("serve");
    printf("ready %d\n", ntohs(address.sin_port));
    return c_sleep(1, NULL);
}

static int c_exec(int argc, char **argv) {
    fflush(NULL);
    argv[argc] = NULL;
    execv(argv[1], argv + 1);
    perror(argv[1]);
    return 1;
}

/* What the following commands print goes to the end of a file. */
static int c_to(int argc, char **argv) {
    (void)argc;
    fflush(NULL);
    return freopen(argv[1], "a", stdout) ? 0 : 1;
}

static int c_stat(int argc, char **argv) {
    (void)argc;
    comma = 0;
    node(argv[1]);
    putchar('\n');
    return 0;
}

static int c_list(int argc, char **argv) {
    (void)argc;
    comma = 0;
    open_('{');
    directory_at("entries", argv[1], 0);
    close_('}');
    putchar('\n');
    return 0;
}

static const struct attempt COMMANDS[] = {
    {"report", 0, report},   {"say", 0, c_say},       {"complain", 0, c_complain}, {"exit", 0, c_exit},
    {"raise", 1, c_raise},   {"sleep", 0, c_sleep},   {"cat", 0, c_cat},           {"line", 0, c_line},
    {"swallow", 0, c_swallow}, {"emit", 1, c_emit},   {"catch", 1, c_catch},       {"ignore", 1, c_ignore},
    {"spread", 1, c_spread}, {"eat", 1, c_eat},       {"feed", 1, c_feed},         {"burn", 1, c_burn},
    {"tick", 0, c_tick},     {"resize", 0, c_resize}, {"serve", 1, c_serve},       {"run", 1, c_exec},
    {"stat", 1, c_stat},     {"list", 1, c_list},     {"block", 0, c_block}, {"to", 1, c_to},
    {"chorus", 1, c_chorus}, {"relay", 0, c_relay},
};

static int command(int argc, char **argv) {
    for (unsigned i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++)
        if (!strcmp(COMMANDS[i].name, argv[0]) && argc > COMMANDS[i].least)
            return COMMANDS[i].call(argc, argv);
    for (unsigned i = 0; i < sizeof ATTEMPTS / sizeof *ATTEMPTS; i++)
        if (!strcmp(ATTEMPTS[i].name, argv[0]) && argc > ATTEMPTS[i].least)
            return attempt(&ATTEMPTS[i], argc, argv);
    fprintf(stderr, "probe: %s: no such command, or arguments missing\n", argv[0]);
    return 2;
}

int main(int argc, char **argv) {
    /* `report` tells of our arguments as they were; commands may cut theirs off. */
    char *words[argc + 1];
    memcpy(words, argv, sizeof words);
    all_argc = argc, all_argv = argv;
    for (int at = 1, end; at < argc; at = end + 1) {
        for (end = at; end < argc && strcmp(words[end], ","); end++)
            ;
        int status = end > at ? command(end - at, words + at) : 0;
        fflush(stdout);
        if (status)
            return status;
    }
    return 0;
}
