/* Messages with descriptors, as the kernel reads them: uapi headers do not have struct msghdr. */
#ifndef EXECDRIVERS_MESSAGE_H
#define EXECDRIVERS_MESSAGE_H

#include <stddef.h>

struct message_part {
    void *base;
    size_t length;
};

struct message_header {
    void *name;
    int name_length;
    struct message_part *parts;
    size_t part_count;
    void *control;
    size_t control_length;
    unsigned int flags;
};

#define SOCKET_LEVEL 1          /* SOL_SOCKET */
#define RIGHTS_TYPE 1           /* SCM_RIGHTS */
#define RIGHTS_LENGTH(count) (16 + (count) * sizeof(int)) /* CMSG_LEN */

#endif
