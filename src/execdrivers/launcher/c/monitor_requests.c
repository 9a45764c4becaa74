/* What the maker asks of its monitor, and the strings that come with it. */
#include "monitor_state.h"

#include <asm/ioctls.h>
#include <asm/signal.h>
#include <asm/stat.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/wait.h>

#include "child.h"
#include "message.h"

/* A body, mapped while it is read. */
struct body {
    const unsigned char *data;
    size_t size, at;
    int bad;
};

static int map_body(struct body *body, int fd)
{
    struct stat st;
    *body = (struct body){0};
    long result = sys2(__NR_fstat, fd, &st);
    if (result < 0)
        return (int)result;
    body->size = (size_t)st.st_size;
    if (!body->size)
        return -EBADMSG;
    result = SYS6(__NR_mmap, 0, body->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (result < 0 && result > -4096)
        return (int)result;
    body->data = (const unsigned char *)result;
    return 0;
}

static void unmap_body(struct body *body)
{
    if (body->data)
        sys2(__NR_munmap, body->data, body->size);
    body->data = NULL;
}

static void read_struct(struct body *body, void *to, size_t size)
{
    if (body->size - body->at < size)
        body->bad = 1;
    else {
        memcpy(to, body->data + body->at, size);
        body->at += size;
    }
}

/* Never NULL: one without its end is "" and marks the body as bad. */
static const char *next_string(struct body *body)
{
    size_t end = body->at;
    while (end < body->size && body->data[end])
        end++;
    if (end == body->size) {
        body->bad = 1;
        return "";
    }
    const char *text = (const char *)body->data + body->at;
    body->at = end + 1;
    return text;
}

/* Pointers to so many strings, and NULL: as execve wants them, in a mapping of their own. */
static const char **next_list(struct body *body, const char **list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        list[i] = next_string(body);
    list[count] = NULL;
    return list + count + 1;
}

struct lists {
    const char **argv, **envp;
    size_t size;
};

static int map_lists(struct body *body, struct lists *lists, uint32_t arguments, uint32_t variables)
{
    /* Each string takes a byte at the least, which bounds what a damaged body can ask for. */
    if (body->bad || (uint64_t)arguments + variables > body->size - body->at)
        return -EBADMSG;
    lists->size = ((size_t)arguments + variables + 2) * sizeof(char *);
    long result = SYS6(__NR_mmap, 0, lists->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (result < 0 && result > -4096)
        return (int)result;
    lists->argv = (const char **)result;
    lists->envp = next_list(body, lists->argv, arguments);
    next_list(body, lists->envp, variables);
    return body->bad ? -EBADMSG : 0;
}

static void unmap_lists(struct lists *lists)
{
    if (lists->argv)
        sys2(__NR_munmap, lists->argv, lists->size);
}

static int spawn(int body_fd, const int *fds, int count, struct ed_child *child)
{
    struct ed_spawn_body head = {0};
    struct body body;
    struct lists lists = {0};
    int result = map_body(&body, body_fd);
    if (result < 0)
        return result;
    read_struct(&body, &head, sizeof head);
    struct ed_spawn how = {.flags = head.flags, .keep_capabilities = (int)head.keep_capabilities, .cgroup = -1};
    if (head.has_cgroup && count > 0) {
        how.cgroup = *fds++;
        count--;
    }
    how.descriptors = fds;
    how.descriptor_count = count;
    if (head.has_path)
        how.path = next_string(&body);
    if (head.has_directory)
        how.directory = next_string(&body);
    result = map_lists(&body, &lists, head.argument_count, head.variable_count);
    if (result == 0 && count <= (how.path ? 2 : ED_LAUNCHER_FD))
        result = -EBADF;
    how.argv = (char *const *)lists.argv;
    how.envp = (char *const *)lists.envp;
    if (result == 0)
        result = spawn_child(&how, child);
    unmap_lists(&lists);
    unmap_body(&body);
    return result;
}

static int read_head(int fd, struct ed_keep_body *head, struct body *body)
{
    int result = map_body(body, fd);
    if (result == 0) {
        read_struct(body, head, sizeof *head);
        if (body->bad || head->watch_count > ED_MAX_WATCHES)
            result = -EBADMSG;
    }
    if (result < 0)
        unmap_body(body);
    return result;
}

/* So that whoever closes the terminal's other side last does not end it for us: others may open it again. */
static void hold_terminal(struct monitor *m)
{
    m->slave = (int)sys3(__NR_ioctl, m->terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    m->outputs[0] = (int)sys3(__NR_fcntl, m->terminal, F_DUPFD_CLOEXEC, 0);
    m->input = (int)sys3(__NR_fcntl, m->terminal, F_DUPFD_CLOEXEC, 0);
}

static void unblock(int fd)
{
    long flags = fd < 0 ? -1 : sys2(__NR_fcntl, fd, F_GETFL);
    if (flags >= 0)
        sys3(__NR_fcntl, fd, F_SETFL, flags | O_NONBLOCK);
}

/* Put the descriptors where they belong; each taken one is -1 in fds after that. */
static int place_descriptors(struct monitor *m, const struct ed_keep_body *head, int *fds, int count)
{
    int *const places[] = {&m->input, &m->outputs[0], &m->outputs[1], &m->terminal, &m->oom, &m->events};
    const uint32_t pipes = ED_KEPT_STDIN | ED_KEPT_STDOUT | ED_KEPT_STDERR;
    int next = 3;
    if (head->descriptors & ED_KEPT_TERMINAL && head->descriptors & pipes)
        return -EINVAL;
    for (int i = 0; i < 6; i++)
        next += head->descriptors >> i & 1;
    for (uint32_t i = 0; i < head->watch_count; i++)
        next += 1 + (head->watches[i].counted != 0);
    if (next != count)
        return -EBADF;
    m->keep_body = fds[0];
    m->first = fds[1];
    m->directory = m->log.directory = fds[2];
    next = 3;
    for (int i = 0; i < 6; i++)
        if (head->descriptors >> i & 1)
            *places[i] = fds[next++];
    for (uint32_t i = 0; i < head->watch_count; i++) {
        m->watches[i].fd = fds[next++];
        m->watches[i].events = head->watches[i].events;
        if (head->watches[i].counted)
            m->watches[i].count_fd = fds[next++];
    }
    for (int i = 0; i < count; i++)
        fds[i] = -1;
    return 0;
}

static int keep(struct monitor *m, int *fds, int count)
{
    struct ed_keep_body head;
    struct body body;
    if (m->keep_body >= 0 || count < 3) /* once only, even if it came to nothing */
        return count < 3 ? -EBADF : -EBUSY;
    int result = read_head(fds[0], &head, &body);
    if (result < 0)
        return result;
    unmap_body(&body);
    result = place_descriptors(m, &head, fds, count);
    if (result < 0)
        return result;
    m->kept = 1; /* what fails from here on ends us by the maker's hand, once it knows */
    m->watch_count = head.watch_count;
    m->first_pid = head.pid;
    m->log.max_size = head.log_size;
    m->log.max_files = head.log_files < 2 ? 2 : head.log_files > ED_MAX_FILES ? ED_MAX_FILES : head.log_files;
    if (m->terminal >= 0)
        hold_terminal(m);
    unblock(m->outputs[0]);
    unblock(m->outputs[1]);
    unblock(m->input);
    result = open_log(&m->log);
    if (result >= 0)
        result = prepare_exit(m);
    if (result >= 0)
        result = listen_for_clients(m);
    if (result < 0)
        m->kept = 0; /* goes with the maker's socket */
    return result;
}

int watch_prefix(struct monitor *m, uint32_t which, char *to, size_t size)
{
    struct ed_keep_body head;
    struct body body;
    const char *prefix = "";
    size_t length = 0;
    if (read_head(m->keep_body, &head, &body) < 0)
        return -EBADMSG;
    for (uint32_t i = 0; i <= which; i++)
        prefix = next_string(&body);
    while (prefix[length])
        length++;
    int result = body.bad || length >= size ? -EBADMSG : (int)length;
    if (result >= 0)
        memcpy(to, prefix, length);
    unmap_body(&body);
    return result;
}

int start_aftermath(struct monitor *m)
{
    struct ed_keep_body head;
    struct body body;
    struct lists lists = {0};
    int result = read_head(m->keep_body, &head, &body);
    if (result < 0 || !head.argument_count)
        return result;
    for (uint32_t i = 0; i < head.watch_count; i++)
        next_string(&body);
    result = map_lists(&body, &lists, head.argument_count, head.variable_count);
    static const int null[] = {0, 1, 2};
    struct ed_child child;
    struct ed_spawn how = {.descriptors = null, .descriptor_count = 3, .cgroup = -1};
    if (result == 0) {
        how.path = lists.argv[0];
        how.argv = (char *const *)lists.argv;
        how.envp = (char *const *)lists.envp;
        result = spawn_child(&how, &child);
    }
    return result; /* what is mapped goes with us */
}

static void take_channels(struct monitor *m, int *fds, int count)
{
    for (int i = 0, place = 0; i < count; i++) {
        while (place < CHANNELS && m->channels[place] >= 0)
            place++;
        if (place == CHANNELS)
            return;
        m->channels[place] = fds[i];
        fds[i] = -1;
    }
}

static void release(struct monitor *m)
{
    m->released = 1;
    reap_children(m);
}

/* Numbers that are whole: the last may be cut off where the buffer ends. */
static void kill_children(void)
{
    char text[4096];
    scoped_fd fd = (int)sys4(__NR_openat, AT_FDCWD, "/proc/thread-self/children", O_RDONLY | O_CLOEXEC, 0);
    long n = fd < 0 ? 0 : sys3(__NR_read, fd, text, sizeof text);
    for (long i = 0, pid = 0; i < n; i++)
        if (text[i] >= '0' && text[i] <= '9')
            pid = 10 * pid + text[i] - '0';
        else {
            if (pid > 1)
                sys2(__NR_kill, pid, SIGKILL);
            pid = 0;
        }
}

/* What those that we kill leave behind becomes our own, and is killed in its turn. */
void abandon(void)
{
    do
        kill_children();
    while (sys4(__NR_wait4, -1, NULL, __WALL, NULL) != -ECHILD);
    for (;;)
        sys1(__NR_exit_group, 0);
}

void answer(struct monitor *m, int result, struct ed_child *child)
{
    struct ed_reply reply = {.result = result, .pid = child->pid};
    struct {
        size_t length;
        int level, type, fd, padding;
    } rights = {RIGHTS_LENGTH(1), SOCKET_LEVEL, RIGHTS_TYPE, child->pidfd, 0};
    struct message_part part = {&reply, sizeof reply};
    struct message_header header = {.parts = &part, .part_count = 1};
    if (child->pidfd >= 0) {
        header.control = &rights;
        header.control_length = sizeof rights;
    }
    sys3(__NR_sendmsg, m->control, &header, 0x4000 /* MSG_NOSIGNAL */);
    close_fd(&child->pidfd);
}

/* Length of the request and its descriptors, of which some may be `lacking`; 0: the maker has let go. */
static long receive(struct monitor *m, struct ed_request *request, int *fds, int *count, int *lacking)
{
    struct {
        size_t length;
        int level, type, fds[DESCRIPTORS];
    } rights = {0};
    struct message_part part = {request, sizeof *request};
    struct message_header header = {
        .parts = &part, .part_count = 1, .control = &rights, .control_length = sizeof rights};
    long n = sys3(__NR_recvmsg, m->control, &header, 0x40000040 /* MSG_CMSG_CLOEXEC | MSG_DONTWAIT */);
    *count = 0;
    *lacking = n >= 0 && header.flags & 8; /* MSG_CTRUNC: we may have no more */
    if (n >= 0 && rights.length > RIGHTS_LENGTH(0) && rights.type == RIGHTS_TYPE) {
        *count = (int)((rights.length - RIGHTS_LENGTH(0)) / sizeof(int));
        memcpy(fds, rights.fds, (size_t)*count * sizeof(int));
    }
    return n;
}

void take_request(struct monitor *m)
{
    struct ed_request request = {0};
    struct ed_child child = {.pidfd = -1};
    int fds[DESCRIPTORS], count = 0, lacking = 0, result = -EBADMSG;
    long n = receive(m, &request, fds, &count, &lacking);
    if (n == -EAGAIN || n == -EINTR)
        return;
    if (n <= 0) {
        if (!m->kept)
            abandon();
        /* Nobody knows whether the command runs, and nobody was told that it does. */
        if (!m->started)
            sys4(__NR_pidfd_send_signal, m->first, SIGKILL, NULL, 0);
        close_fd(&m->control);
        return release(m);
    }
    if (lacking)
        result = -EMFILE;
    else if (n == sizeof request && request.kind == ED_SPAWN && count)
        result = spawn(fds[0], fds + 1, count - 1, &child);
    else if (n == sizeof request && request.kind == ED_KEEP)
        result = keep(m, fds, count);
    else if (n == sizeof request && request.kind == ED_CHANNELS && m->kept) {
        take_channels(m, fds, count);
        m->started = 1;
        release(m);
        result = 0;
    } else if (n == sizeof request && request.kind == ED_ABORT)
        abandon();
    answer(m, result, &child);
    for (int i = 0; i < count; i++)
        close_fd(&fds[i]);
}
