/* What a monitor and its maker agree on: requests over a SEQPACKET socket, and what comes back.
 *
 * A request is struct ed_request with descriptors. The first of SPAWN and KEEP is a memfd, the body: one of the structs
 * below and then strings, each ended by a NUL; so that neither a long command nor a long environment meets the limit on
 * messages. Each request is answered by struct ed_reply. */
#ifndef EXECDRIVERS_MONITOR_H
#define EXECDRIVERS_MONITOR_H

#include <stdint.h>

enum ed_request_kind {
    ED_SPAWN = 1, /* body, the cgroup if there is one, then the child's 0, 1, 2 … -> its pid, a pidfd */
    ED_KEEP,      /* body, a pidfd of the first process, the container's directory, then those of `descriptors`, then
                     the watches': for each its descriptor and, where it is counted, that of the file with the count */
    ED_CHANNELS,  /* the command runs: sockets on which launchers tell how it ended, perhaps none */
    ED_ABORT,     /* kill all children and end; no answer but the end of the monitor */
};

struct ed_request {
    uint32_t kind;
};

struct ed_reply {
    int32_t result; /* 0, or -errno and nothing was done */
    int32_t pid;
};

/* The body of ED_SPAWN; then path and directory, where told of, args and env. The rest is as in struct ed_spawn. */
struct ed_spawn_body {
    uint64_t flags;
    uint32_t keep_capabilities, has_cgroup, has_path, has_directory;
    uint32_t argument_count, variable_count;
};

enum ed_kept {
    ED_KEPT_STDIN = 1,    /* write end */
    ED_KEPT_STDOUT = 2,   /* read end */
    ED_KEPT_STDERR = 4,   /* read end */
    ED_KEPT_TERMINAL = 8, /* master; instead of the three */
    ED_KEPT_OOM = 16,     /* file of the memory cgroup with a line oom_kill, read at the end */
    ED_KEPT_EVENTS = 32,  /* directory of the events' journal, for the watches */
};

enum { ED_MAX_WATCHES = 8, ED_MAX_FILES = 1000 };

struct ed_watch_body {
    uint32_t events;  /* of poll(2) */
    uint32_t counted; /* told of when the number behind oom_kill has grown */
};

/* The body of ED_KEEP; then one string for each watch, which begins its line in the journal, args and env of the
 * aftermath. */
struct ed_keep_body {
    uint64_t log_size;  /* of one file of the log, in bytes, at the most */
    uint32_t log_files; /* at the most, 2 at the least */
    int32_t pid;        /* of the first process */
    uint32_t descriptors;
    uint32_t watch_count;
    struct ed_watch_body watches[ED_MAX_WATCHES];
    uint32_t argument_count, variable_count; /* of the aftermath; no arguments: none */
};

/* Packets between the monitor and who is attached: a type byte, then at most so many bytes. */
enum { ED_PACKET_SIZE = 32768 };
enum ed_packet {
    ED_INPUT = 'i',     /* -> bytes for stdin */
    ED_INPUT_END = 'e', /* -> no more input: stdin is closed, or ^D typed */
    ED_RESIZE = 'r',    /* -> rows, columns: u16 each */
    ED_HELLO = 'h',     /* <- the first: u8 a terminal, u8 stdin is open. Output from here on follows */
    ED_FULL = 'f',      /* <- the first and last: too many are attached */
    ED_STDOUT = 'o',    /* <- bytes of stdout or of the terminal */
    ED_STDERR = 'E',    /* <- bytes of stderr */
    ED_SKIPPED = 's',   /* <- u64: so many bytes of output are left out here; this client was too slow */
    ED_EXIT = 'x',      /* <- the last: i32 wait status, or ED_UNKNOWN */
};
#define ED_UNKNOWN 0x7fffffff

#endif
