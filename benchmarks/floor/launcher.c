/* The floor's launcher: what the native driver makes for a default container, hard-coded, as fast as we can write it.
 *
 * argv[1] is the rootfs, the rest the command. No plan, no messages, no error reporting but an exit code. */
#include "common.h"

#include <linux/if.h>
#include <linux/keyctl.h>
#include <linux/sockios.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define NOT_HERE(r) ((r) == -ENOENT || (r) == -ENOTDIR)

static long mount_it(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
    return sys5(__NR_mount, source, target, type, flags, data);
}

static void device(const char *path, unsigned int major, unsigned int minor)
{
    must(sys4(__NR_mknodat, AT_FDCWD, path, S_IFCHR | 0666, major << 8 | minor), 30);
    must(mount_it(path, path, NULL, MS_BIND, NULL), 31);
}

static void mask(const char *path, int directory)
{
    long r = directory ? mount_it("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)
                       : mount_it("/dev/null", path, NULL, MS_BIND, NULL);
    if (!NOT_HERE(r))
        must(r, 40);
}

static void readonly(const char *path)
{
    long r = mount_it(path, path, NULL, MS_BIND | MS_REC, NULL);
    if (!NOT_HERE(r)) {
        must(r, 41);
        must(mount_it(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), 42);
    }
}

__attribute__((noreturn, used)) void launcher_main(long *stack)
{
    char **argv = (char **)(stack + 1);
    const char *root = argv[1];
    static char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                                        "HOSTNAME=floor", NULL};
    sys1(__NR_umask, 0);
    sys0(__NR_setsid);
    long keyring = must(sys2(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL), 67);
    must(sys3(__NR_keyctl, KEYCTL_SETPERM, keyring, 0x3f000000), 68);
    must(sys2(__NR_sethostname, "floor", 5), 10);
    long s = must(sys3(__NR_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), 11);
    struct ifreq lo = {.ifr_name = "lo"};
    lo.ifr_flags = IFF_UP | IFF_RUNNING;
    must(sys3(__NR_ioctl, s, SIOCSIFFLAGS, &lo), 12);
    sys1(__NR_close, s);

    must(mount_it(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 13);
    must(mount_it(root, root, NULL, MS_BIND, NULL), 14);
    must(mount_it(NULL, root, NULL, MS_BIND | MS_REMOUNT | MS_NODEV, NULL), 15);
    must(sys1(__NR_chdir, root), 16);
    must(mount_it("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), 17);
    must(mount_it("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"), 18);
    device("dev/null", 1, 3);
    device("dev/zero", 1, 5);
    device("dev/full", 1, 7);
    device("dev/random", 1, 8);
    device("dev/urandom", 1, 9);
    device("dev/tty", 5, 0);
    static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"},
                                           {"/proc/self/fd/0", "dev/stdin"},
                                           {"/proc/self/fd/1", "dev/stdout"},
                                           {"/proc/self/fd/2", "dev/stderr"},
                                           {"/proc/kcore", "dev/core"},
                                           {"pts/ptmx", "dev/ptmx"}};
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        must(sys3(__NR_symlinkat, links[i][0], AT_FDCWD, links[i][1]), 19);
    must(sys3(__NR_mkdirat, AT_FDCWD, "dev/pts", 0755), 20);
    must(mount_it("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"), 21);
    must(mount_it("sysfs", "sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), 22);
    must(sys3(__NR_mkdirat, AT_FDCWD, "dev/mqueue", 0755), 23);
    must(mount_it("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), 24);
    must(sys3(__NR_mkdirat, AT_FDCWD, "dev/shm", 0755), 25);
    must(mount_it("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k"), 26);
    must(mount_it(NULL, "dev", NULL, MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV, NULL), 27);
    mask("proc/asound", 1);
    mask("proc/acpi", 1);
    mask("proc/interrupts", 0);
    mask("proc/kcore", 0);
    mask("proc/keys", 0);
    mask("proc/latency_stats", 0);
    mask("proc/timer_list", 0);
    mask("proc/timer_stats", 0);
    mask("proc/sched_debug", 0);
    mask("proc/scsi", 1);
    mask("sys/firmware", 1);
    mask("sys/devices/virtual/powercap", 1);
    readonly("proc/bus");
    readonly("proc/fs");
    readonly("proc/irq");
    readonly("proc/sys");
    readonly("proc/sysrq-trigger");
    must(sys2(__NR_pivot_root, ".", "."), 50);
    must(sys2(__NR_umount2, ".", MNT_DETACH), 51);
    must(sys1(__NR_chdir, "/"), 52);

    give_up_privileges();
    uint64_t none = 0;
    sys4(__NR_rt_sigprocmask, 2, &none, NULL, 8);
    sys1(__NR_umask, 022);
    install_filter();
    sys3(__NR_execve, argv[2], argv + 2, environment);
    leave(127);
}
