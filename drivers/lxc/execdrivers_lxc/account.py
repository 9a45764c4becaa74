"""What a container has used in all. LXC removes its cgroups as it ends, so a hook copies their files before that."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from execdrivers.cgroups import CgroupDir, Layout
from execdrivers.cgroups.stats import FILES_V1, FILES_V2

__all__ = ["noted", "script"]

_V2 = "unified"


def script(cgroup: str, layout: Layout, directory: str) -> str:
    """A shell's words that copy the files that a sample is made of, a directory for each controller."""
    places = {name: (f"{layout.v1[name]}/{cgroup}", files) for name, files in FILES_V1.items() if name in layout.v1}
    if layout.v2:
        places[_V2] = f"{layout.v2}/{cgroup}", FILES_V2
    commands = [f"mkdir -p {' '.join(shlex.quote(f'{directory}/{name}') for name in places)}"]
    for name, (place, files) in places.items():
        commands.append(f"cd {shlex.quote(place)} && cp {' '.join(files)} {shlex.quote(f'{directory}/{name}')}")
    # What this kernel lacks is no failure of the hook.
    return f"exec 2>/dev/null; {'; '.join(commands)}; true"


def noted(directory: str) -> Sequence[CgroupDir]:
    """The copies, as if they were cgroups."""
    try:
        names = os.listdir(directory)
    except OSError:
        return ()
    return [CgroupDir(directory, name, (name,), 2 if name == _V2 else 1) for name in names]
