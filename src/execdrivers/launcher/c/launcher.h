/* Inside the launcher: its state, the reading of arguments, and the operations, one per line of plan.h. */
#ifndef EXECDRIVERS_LAUNCHER_H
#define EXECDRIVERS_LAUNCHER_H

#include "plan.h"
#include "sys.h"

/* freestanding.h has them. */
void *memset(void *to, int byte, size_t n);
void *memcpy(void *restrict to, const void *restrict from, size_t n);

/* A mount made by the plan: what lies below its path is reached from it, not through the root (paths.c). */
struct ground {
    const char *path;
    size_t length;
    int fd;
    int fresh; /* nobody else has ever had it: what is in it we have put there */
};

struct launcher {
    int root;     /* mount of the root-to-be, then "/" */
    int console;  /* master of the container's terminal until it is sent, or -1 */
    int ruleset;  /* of Landlock, or -1 */
    int among_others; /* in a mount namespace that others are in */
    int looks_out;       /* for what the caller sends, before it sleeps */
    int network_follows; /* the caller sends it, for op_loopback */
    int null_is_own; /* stdio is not the host's null device */
    int actions_are_default; /* what comes of signals, though they wait until the execution */
    uint64_t dropped; /* from the bounding set, as a mask */
    uint32_t ruleset_step, filter_step;
    uint32_t step, count; /* the operation that is at work, and how many there are */
    const unsigned char *at, *end; /* of the plan: the next operation */
    uint32_t ground_count;
    struct ground grounds[256];
    /* The seccomp filter that the command is to have; NULL: none, or it is in force. */
    const void *filter;
    uint32_t filter_length; /* in instructions */
    uint64_t filter_flags;
    int filter_when_ready;
    char detail[sizeof(((struct ed_message *)0)->detail)];
};

/* Reads arguments of one operation; `bad` once anything did not fit, so that it is checked once at the end. */
struct args {
    const unsigned char *at, *end;
    int bad;
};

uint64_t arg_int(struct args *args);
const char *arg_str(struct args *args, uint32_t *length);
uint32_t arg_count(struct args *args);

size_t text_length(const char *text);
size_t append_text(char *to, const char *text);
size_t append_number(char *to, uint64_t number);
void note(struct launcher *l, const char *text);
int send_message(struct launcher *l, uint32_t kind, int error, int fd);
int look_out(struct launcher *l);
int await_go(void);
int receive_stdio(int fds[3]);
int receive_network(int *fd);

/* Say what the operation that is at work has come to, and end. */
__attribute__((noreturn)) void fail(struct launcher *l, int result);

/* The rest of the plan, after the operation that is at work. */
__attribute__((noreturn)) void go_on(struct launcher *l);

/* A filter may make even this fail; then a trap ends us, whatever it forbids. */
__attribute__((noreturn)) void end_process(int code);

/* paths.c */
int open_below(int directory, const char *path, uint64_t flags, uint64_t resolve);
int open_inside(const struct launcher *l, const char *path, uint64_t flags);
int open_parent(const struct launcher *l, const char *path, const char **name);
int open_destination(const struct launcher *l, const char *path, int directory);
int fresh_place(const struct launcher *l, const char *path, const char **name);
int keep_ground(struct launcher *l, int mount, const char *path);
void note_fresh(struct launcher *l, const char *path);
void forget_grounds(struct launcher *l, const char *path);
/* mounts.c */
int make_mount(struct launcher *l, const char *type, const char *source, struct args *options, uint64_t attributes);
int set_attributes(int fd, int recursive, uint64_t set, uint64_t clear, uint64_t propagation);
int attach(struct launcher *l, int mount, int destination, const char *path);
int is_null_device(int fd);
int make_mount(struct launcher *l, const char *type, const char *source, struct args *options, uint64_t attributes);
int op_propagation(struct launcher *l, struct args *args);
int op_root(struct launcher *l, struct args *args);
int op_root_overlay(struct launcher *l, struct args *args);
int op_root_tree(struct launcher *l, struct args *args);
int op_mount(struct launcher *l, struct args *args);
int op_bind(struct launcher *l, struct args *args);
int op_attach(struct launcher *l, struct args *args);
int op_set_attributes(struct launcher *l, struct args *args);
int op_symlink(struct launcher *l, struct args *args);
int op_device(struct launcher *l, struct args *args);
int op_mask(struct launcher *l, struct args *args);
int op_readonly(struct launcher *l, struct args *args);
int op_pivot(struct launcher *l, struct args *args);
int op_unmount(struct launcher *l, struct args *args);
/* system.c */
int op_write(struct launcher *l, struct args *args);
int op_unshare(struct launcher *l, struct args *args);
int op_clocks(struct launcher *l, struct args *args);
int op_hostname(struct launcher *l, struct args *args);
int op_domainname(struct launcher *l, struct args *args);
int op_loopback(struct launcher *l, struct args *args);
int op_channel(struct launcher *l, struct args *args);
int op_stdio(struct launcher *l, struct args *args);
int op_sync(struct launcher *l, struct args *args);
/* process.c */
int keep_capabilities(struct launcher *l, uint64_t mask);
int op_rlimit(struct launcher *l, struct args *args);
int op_session(struct launcher *l, struct args *args);
int op_console(struct launcher *l, struct args *args);
int op_bounding(struct launcher *l, struct args *args);
int op_identity(struct launcher *l, struct args *args);
int op_capabilities(struct launcher *l, struct args *args);
int op_no_new_privileges(struct launcher *l, struct args *args);
int op_umask(struct launcher *l, struct args *args);
int op_chdir(struct launcher *l, struct args *args);
int op_ready(struct launcher *l, struct args *args);
/* copy.c */
int op_copy_up(struct launcher *l, struct args *args);
/* attributes.c */
int op_keyring(struct launcher *l, struct args *args);
int op_scheduler(struct launcher *l, struct args *args);
int op_io_priority(struct launcher *l, struct args *args);
int op_affinity(struct launcher *l, struct args *args);
int op_personality(struct launcher *l, struct args *args);
/* apparmor.c */
int op_apparmor(struct launcher *l, struct args *args);
int op_selinux(struct launcher *l, struct args *args);
/* landlock.c */
int enforce_landlock(struct launcher *l);
int op_landlock(struct launcher *l, struct args *args);
/* seccomp.c */
int install_filter(struct launcher *l);
void confine_init(void);
int op_seccomp(struct launcher *l, struct args *args);
/* hooks.c */
int op_hook(struct launcher *l, struct args *args);
/* exec.c */
const char **string_list(struct args *args);
void hear_of_children(void);
void reset_actions(struct launcher *l);
int own_null_device(struct launcher *l);
int confine_command(struct launcher *l);
int op_exec(struct launcher *l, struct args *args);
int op_enter(struct launcher *l, struct args *args);
int op_join(struct launcher *l, struct args *args);
int op_adopt(struct launcher *l, struct args *args);

#endif
