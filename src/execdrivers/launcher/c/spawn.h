/* The caller's side. Included by the cffi module; everything here runs in the calling program. */
#ifndef EXECDRIVERS_SPAWN_H
#define EXECDRIVERS_SPAWN_H

#include <stddef.h>
#include <stdint.h>

#include "plan.h"

struct ed_child {
    int pid;
    int pidfd; /* close-on-exec */
};

struct ed_spawn {
    const int *descriptors; /* become 0, 1, 2 … of the child, which gets no others */
    int descriptor_count;
    uint64_t flags;         /* of clone3: new namespaces */
    int cgroup;             /* of cgroup v2 to be born in, or -1 */
    int keep_capabilities;  /* they survive the execution whatever the child's uid is (for user namespaces) */
    int caller;             /* of path: our pid, and it is killed as the calling thread ends; 0: it lives on */
    const char *directory;  /* where path is executed; NULL: where we are */
    const char *path;       /* executed in a session of its own, signals as a new program expects them;
                               NULL: the launcher that is descriptor ED_LAUNCHER_FD */
    char *const *argv, *const *envp;
};

/* A sealed memfd that holds the data; close-on-exec. Returns it, or -errno. */
int ed_memfd(const char *name, const unsigned char *data, size_t size, int executable);

/* The same of a launcher's plan. */
int ed_plan(const unsigned char *plan, size_t size);

/* The same of the launcher itself. One for each launch: who comes to execute it in a container, as "#!/proc/self/exe", and
 * is root there, may change its mode or open it for writing, and so keep others from being started from it. */
int ed_launcher(void);

/* Two ends of a control socket, close-on-exec: ours, which learns who sends, and the launcher's. 0, or -errno. */
int ed_channel(int pair[2]);

/* Start a launcher, or a tool that will start one.
 *
 * The cost does not depend on the caller's memory: the child borrows it until it executes the program.
 * Returns 0, or -errno and nothing is left. */
int ed_spawn(const struct ed_spawn *how, struct ed_child *child);

struct ed_begin {
    int stdio[3];
    int plan;             /* or -1: it is given later (ed_give_plan) */
    const int *more;      /* become ED_LAUNCHER_FD + 1 … of the launcher */
    int more_count;
    uint64_t flags;       /* the rest is as in struct ed_spawn */
    int cgroup;
    int keep_capabilities;
    int beside;           /* go on at once, while the namespaces are made and the launcher is executed on another processor
                             if there is one. What fails of that the launcher says itself: ED_FAILED, of step ED_NO_STEP.
                             The launcher's affinity becomes an explicit one; as ours, but of itself it follows no cpuset */
    int alone;            /* we begin no other meanwhile: it looks out for what it is given, a tenth of a millisecond at
                             the most each time, before it sleeps */
};

struct ed_begun {
    struct ed_child child;
    int control;      /* our end of the launcher's socket, close-on-exec */
    uint64_t started; /* when the child was, as in proc_pid_stat(5), if that could be told without looking; else 0 */
};

/* Start a launcher. Returns 0, or -errno and nothing is left. */
int ed_begin(const struct ed_begin *how, struct ed_begun *begun);

/* With a promise of ed_give_network, or without. Returns 0 or -errno. */
int ed_give_plan(int control, const unsigned char *plan, size_t size, int network);

/* Make a network namespace, and give it to a launcher. Takes the rights to enter the thread's own one again.
 * Returns 0 or -errno: -EOPNOTSUPP, it could not come back, and did nothing; -ENOTRECOVERABLE, it did not come back. */
int ed_give_network(int control);

/* Receive one message; *fd is a descriptor that came along, or -1; *pid the sender's, as this process sees it.
 * Returns 1; 0 at the end; or -errno, -EINTR when a signal came first. */
int ed_receive(int control, struct ed_message *message, int *fd, int *pid);

/* The last that a launcher that has ended said, if it was ED_FAILED or ED_EXITED: what came before is passed over.
 * Returns 1; 0 when it said neither, *kind being the last of all; or -errno. */
int ed_last_words(int control, struct ed_message *message, uint32_t *kind);

/* Hand the launcher the three descriptors that its operation stdio waits for. Returns 0 or -errno. */
int ed_send_stdio(int control, const int *fds);

/* The mounts at a path, taken hold of and attached nowhere; close-on-exec. Returns the descriptor, or -errno. */
int ed_open_tree(const char *path, int recursive);

/* MOUNT_ATTR_* and a propagation (MS_*) of such mounts; user_namespace maps their ids unless it is -1.
 * Returns 0 or -errno. */
int ed_set_attributes(int tree, int recursive, uint64_t set, uint64_t clear, uint64_t propagation, int user_namespace);

/* Tell the launcher to go on. Returns 0 or -errno. */
int ed_go(int control);

/* Version of the kernel's Landlock; 0: none. */
int ed_landlock_abi(void);

#endif
