/* The caller's side: mounts that it takes hold of and hands to a launcher that could not. See spawn.h. */
#include <linux/mount.h>

int ed_open_tree(const char *path, int recursive)
{
    return (int)sys3(__NR_open_tree, AT_FDCWD, path,
                     OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0));
}

int ed_set_attributes(int tree, int recursive, uint64_t set, uint64_t clear, uint64_t propagation, int user_namespace)
{
    struct mount_attr attr = {.attr_set = set, .attr_clr = clear, .propagation = propagation};
    if (user_namespace >= 0) {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = (uint64_t)user_namespace;
    }
    return (int)sys5(__NR_mount_setattr, tree, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof attr);
}
