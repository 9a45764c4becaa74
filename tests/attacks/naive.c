/* The control: a container runtime as they were once written, which falls to the attacks. Tests of attacks run them
 * against this, too, and expect them to succeed; else they would prove nothing.
 *
 *     naive start ROOT COMMAND…     paths by name: mounts /proc and /dev, masks, gives the console, executes
 *     naive volume ROOT PATH COUNT  looks whether ROOT/PATH leads out, then makes and mounts it by name
 *     naive label ROOT              changes the root, then writes its label to /proc/self/attr/exec
 *     naive cwd ROOT PATH COMMAND…  leaves descriptor 7, the host's root, open, and changes to PATH
 *     naive join PID COMMAND…       enters the namespaces with the host's root open, and can be looked at meanwhile
 *
 * `start` says the name of each step on stdout and goes on at a byte from stdin, so that a test can act between them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int result, const char *what)
{
    if (result >= 0)
        return;
    fprintf(stderr, "naive: %s: %s\n", what, strerror(errno));
    exit(1);
}

static char *inside(const char *root, const char *path)
{
    static char paths[4][PATH_MAX];
    static int next;
    char *result = paths[next++ % 4];
    snprintf(result, PATH_MAX, "%s%s", root, path);
    return result;
}

static void pause_after(const char *step)
{
    char byte;
    printf("%s\n", step);
    fflush(stdout);
    must((int)read(0, &byte, 1), step);
}

static void private_mounts(void)
{
    must(unshare(CLONE_NEWNS), "unshare");
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
}

static void start(const char *root, char **command)
{
    must(unshare(CLONE_NEWPID), "unshare");
    private_mounts();
    must(mount(root, root, NULL, MS_BIND, NULL), "root");
    must(mount(NULL, root, NULL, MS_BIND | MS_REMOUNT | MS_NODEV, NULL), "nodev");
    pid_t child = fork();
    if (child) {
        int status;
        waitpid(child, &status, 0);
        exit(WEXITSTATUS(status));
    }
    must(mount("proc", inside(root, "/proc"), "proc", 0, NULL), "proc");
    pause_after("proc");
    must(mount("dev", inside(root, "/dev"), "tmpfs", 0, NULL), "dev");
    must(mknod(inside(root, "/dev/null"), S_IFCHR | 0666, makedev(1, 3)), "mknod");
    pause_after("dev");
    mount(NULL, inside(root, "/dev"), NULL, MS_REMOUNT | MS_BIND | MS_NODEV, NULL);
    /* What is not there needs no hiding; the container's own /dev/null hides (CVE-2025-31133). */
    mount(inside(root, "/dev/null"), inside(root, "/proc/interrupts"), NULL, MS_BIND, NULL);
    pause_after("masked");
    unlink(inside(root, "/node"));
    must(mknod(inside(root, "/node"), S_IFCHR | 0666, makedev(1, 3)), "node");
    pause_after("node");
    must(mount(inside(root, "/node"), inside(root, "/node"), NULL, MS_BIND, NULL), "bind node");
    must(mount(NULL, inside(root, "/node"), NULL, MS_BIND | MS_REMOUNT, NULL), "remount node");
    must(chroot(root), "chroot");
    must(chdir("/"), "chdir");
    pause_after("root");
    execv(command[0], command);
    must(-1, "exec");
}

/* As filepath-securejoin and mount(2) by name do: a look, then an act. CVE-2021-30465, CVE-2024-45310. */
static void volume(const char *root, const char *path, int count)
{
    char real[PATH_MAX];
    private_mounts();
    for (int i = 0; i < count; i++) {
        if (realpath(inside(root, path), real) && strncmp(real, root, strlen(root)) != 0)
            continue; /* leads out */
        mkdir(inside(root, inside(path, "/made")), 0700);
        if (mount("naive", inside(root, path), "tmpfs", 0, NULL) < 0)
            continue;
        FILE *mounts = fopen("/proc/self/mountinfo", "re");
        char line[8192], point[PATH_MAX];
        while (mounts && fgets(line, sizeof line, mounts))
            if (strstr(line, " naive ") && sscanf(line, "%*s %*s %*s %*s %s", point) == 1) {
                if (strncmp(point, root, strlen(root)) != 0)
                    printf("outside %s\n", point);
                umount2(point, MNT_DETACH);
            }
        fclose(mounts);
    }
}

static void label(const char *root)
{
    must(chroot(root), "chroot");
    int fd = open("/proc/self/attr/exec", O_WRONLY | O_CLOEXEC);
    must(fd, "attr");
    must((int)write(fd, "exec confined", 13), "write");
    printf("confined\n"); /* it believes */
}

static void cwd(const char *root, const char *path, char **command)
{
    must(dup2(open("/", O_RDONLY | O_DIRECTORY), 7), "leak");
    private_mounts();
    must(mount("proc", inside(root, "/proc"), "proc", 0, NULL), "proc");
    must(chroot(root), "chroot");
    must(chdir(path), "chdir");
    execv(command[0], command);
    must(-1, "exec");
}

static void join(int pid, char **command)
{
    must(open("/", O_RDONLY | O_DIRECTORY), "leak");
    int target = (int)syscall(SYS_pidfd_open, pid, 0);
    must(target, "pidfd_open");
    must(setns(target, CLONE_NEWPID | CLONE_NEWNS), "setns");
    pid_t child = fork();
    if (child == 0) {
        usleep(100000); /* what a real one does meanwhile */
        execv(command[0], command);
        must(-1, "exec");
    }
    waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
    if (argc > 3 && strcmp(argv[1], "start") == 0)
        start(argv[2], argv + 3);
    else if (argc > 4 && strcmp(argv[1], "volume") == 0)
        volume(argv[2], argv[3], atoi(argv[4]));
    else if (argc > 2 && strcmp(argv[1], "label") == 0)
        label(argv[2]);
    else if (argc > 4 && strcmp(argv[1], "cwd") == 0)
        cwd(argv[2], argv[3], argv + 4);
    else if (argc > 3 && strcmp(argv[1], "join") == 0)
        join(atoi(argv[2]), argv + 3);
    else
        return 2;
    return 0;
}
