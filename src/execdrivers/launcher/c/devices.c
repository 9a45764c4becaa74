/* Device rules of cgroup v2: see devices.h, and bpf(2). */
#include "devices.h"

#include <linux/bpf.h>
#include <string.h>

#include "sys.h"

static int bpf(int command, union bpf_attr *attributes)
{
    return (int)sys3(__NR_bpf, command, attributes, sizeof *attributes);
}

int ed_device_program_load(const void *instructions, uint32_t count)
{
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attributes.insns = (uintptr_t)instructions;
    attributes.insn_cnt = count;
    attributes.license = (uintptr_t) "Apache-2.0"; /* it calls nothing that asks for another */
    return bpf(BPF_PROG_LOAD, &attributes);
}

/* The program attached to the cgroup itself: its descriptor; -ENOENT: none; or -errno. */
static int attached_program(int cgroup)
{
    uint32_t ids[8];
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.query.target_fd = (uint32_t)cgroup;
    attributes.query.attach_type = BPF_CGROUP_DEVICE;
    attributes.query.prog_ids = (uintptr_t)ids;
    attributes.query.prog_cnt = sizeof ids / sizeof *ids;
    int result = bpf(BPF_PROG_QUERY, &attributes);
    if (result < 0)
        return result;
    if (attributes.query.prog_cnt == 0)
        return -ENOENT;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_id = ids[0];
    return bpf(BPF_PROG_GET_FD_BY_ID, &attributes);
}

int ed_device_program_attach(int cgroup, int program)
{
    scoped_fd old = attached_program(cgroup);
    if (old < 0 && old != -ENOENT)
        return old;
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.target_fd = (uint32_t)cgroup;
    attributes.attach_bpf_fd = (uint32_t)program;
    attributes.attach_type = BPF_CGROUP_DEVICE;
    attributes.attach_flags = BPF_F_ALLOW_MULTI; /* those of the cgroups above must allow as well */
    if (old >= 0) {
        attributes.attach_flags |= BPF_F_REPLACE;
        attributes.replace_bpf_fd = (uint32_t)old;
    }
    return bpf(BPF_PROG_ATTACH, &attributes);
}
