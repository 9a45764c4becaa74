/* Inside the monitor: its state, and who does what with it. No heap: all is one struct, and small. */
#ifndef EXECDRIVERS_MONITOR_STATE_H
#define EXECDRIVERS_MONITOR_STATE_H

#include <linux/time_types.h>

#include "monitor.h"
#include "plan.h"
#include "spawn.h"
#include "sys.h"

void *memset(void *to, int byte, size_t n);
void *memcpy(void *restrict to, const void *restrict from, size_t n);

enum { OUTPUTS = 2, CLIENTS = 16, CHANNELS = 4, DESCRIPTORS = ED_MAX_DESCRIPTORS + 2, LOG_BUFFER = 65536 };

struct log {
    int directory, fd; /* fd: the file log; -1 where it could not be made anew */
    uint64_t max_size; /* of a file, less the room for a word about losses */
    uint32_t max_files;
    uint64_t base, size; /* how much of the log is in the files before, and in this one */
    uint64_t older[ED_MAX_FILES]; /* a ring: the bases of the files before, which are their names */
    uint32_t oldest, older_count;
    uint64_t lost, lost_in_all; /* bytes of output; the first: not told of yet */
    int error;                  /* why */
    uint32_t used;
    int64_t second; /* that `date` is of */
    char date[20];
    char buffer[LOG_BUFFER];
};

struct client {
    int fd;
    int waits;        /* with input, for which there is no room yet */
    int ends;         /* it has asked for the end of the input, and more of it would come after that */
    int deaf;         /* it reads no more */
    uint64_t skipped; /* bytes of output, which it is to be told of */
};

struct watch {
    int fd, count_fd;
    uint32_t events;
    uint64_t told;      /* of those counted */
    int64_t look_again; /* when, in ms; 0: never */
    int64_t pause;      /* before that, in ms */
    int64_t written;    /* when its last line was, in ms; for those not counted */
};

struct monitor {
    int control, children; /* the maker's socket, or -1; a signalfd */
    int kept, released;    /* KEEP came; and the command runs, or the maker is gone */
    int started;           /* the maker has said that the command runs */
    int first, first_pid;  /* first process: its pidfd */
    int ended, known, status;
    struct __kernel_timespec end; /* when that was seen */
    int directory, exit_file, keep_body;
    int outputs[OUTPUTS], terminal, slave;
    int input, input_ends;
    unsigned char input_last; /* byte, which tells the end of a line */
    uint32_t pending_at, pending_size;
    int listener, refuses;
    struct client clients[CLIENTS];
    unsigned int turn; /* of the client who is heard first among those who wait */
    int channels[CHANNELS];
    int oom, events;
    struct watch watches[ED_MAX_WATCHES];
    uint32_t watch_count;
    struct log log;
    unsigned char packet[1 + ED_PACKET_SIZE];
    unsigned char pending[ED_PACKET_SIZE];
};

/* monitor.c */
void set_absent(struct monitor *m);
int move_output(struct monitor *m, int which);
/* monitor_requests.c */
void take_request(struct monitor *m);
int start_aftermath(struct monitor *m);
void answer(struct monitor *m, int result, struct ed_child *child);
int watch_prefix(struct monitor *m, uint32_t which, char *to, size_t size);
__attribute__((noreturn)) void abandon(void);
/* monitor_log.c */
int open_log(struct log *log);
void write_log(struct log *log, int stream, const unsigned char *data, size_t size);
void close_log(struct log *log);
/* monitor_clients.c */
int listen_for_clients(struct monitor *m);
void accept_client(struct monitor *m);
void hear_client(struct monitor *m, struct client *client, short events);
void hear_waiting(struct monitor *m);
short client_events(const struct client *client);
void tell_clients(struct monitor *m, unsigned char type, size_t size);
void write_input(struct monitor *m);
void end_clients(struct monitor *m);
/* monitor_watches.c */
void hear_watch(struct monitor *m, uint32_t which, short events);
int watches_timeout(struct monitor *m);
int64_t count_oom_kills(int fd);
void end_watches(struct monitor *m);
/* monitor_end.c */
void reap_children(struct monitor *m);
int hear_channels(struct monitor *m);
int prepare_exit(struct monitor *m);
__attribute__((noreturn)) void conclude(struct monitor *m);

#endif
