"""Root file systems and bundles as other tools make them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from execdrivers import ContainerSpec, Engine

pytestmark = pytest.mark.needs("root", "busybox")


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)


@pytest.mark.needs("runc", "umoci")
def test_bundle_of_umoci_and_runc_spec(engine: Engine, rootfs: Path, tmp_path: Path) -> None:
    image = f"{tmp_path}/image:latest"
    _run("umoci", "init", "--layout", tmp_path / "image")
    _run("umoci", "new", "--image", image)
    _run("umoci", "unpack", "--image", image, tmp_path / "empty")
    shutil.copytree(rootfs, tmp_path / "empty/rootfs", symlinks=True, dirs_exist_ok=True)
    _run("umoci", "repack", "--image", image, tmp_path / "empty")
    bundle = tmp_path / "bundle"
    _run("umoci", "unpack", "--image", image, bundle)
    # umoci writes what the image does not say as empty, the stop signal among it.
    as_umoci = ContainerSpec.from_bundle(bundle)
    (bundle / "config.json").unlink()
    _run("runc", "spec", cwd=bundle)
    as_runc = ContainerSpec.from_bundle(bundle)
    for spec in (as_umoci, as_runc):
        command = ["sh", "-c", "echo $$; id -u; ls /dev/null; grep NoNew /proc/self/status"]
        done = engine.run(
            spec.replace(args=command, tty=False), driver="native", capture_output=True, text=True, timeout=30
        )
        assert done.stderr == ""
        assert done.stdout.split() == ["1", "0", "/dev/null", "NoNewPrivs:", "1"]
    assert as_runc.readonly


@pytest.mark.needs("runc")
def test_a_bundle_shows_its_own_cgroups_only(engine: Engine, own_rootfs: Path, tmp_path: Path) -> None:
    """``runc spec`` on cgroup v1 mounts cgroups but asks for no cgroup namespace."""
    _run("runc", "spec", cwd=tmp_path)
    spec = ContainerSpec.from_bundle(tmp_path)
    assert any(mount.type == "cgroup" for mount in spec.mounts)
    command = ["sh", "-c", "find /sys/fs/cgroup -name execdrivers; find /sys/fs/cgroup -name cgroup.procs | head -1"]
    done = engine.run(spec.replace(args=command, tty=False), driver="native", capture_output=True, text=True)
    assert done.stdout.split()[0].startswith("/sys/fs/cgroup")


def test_mounts_of_a_bundle_are_made_where_the_rootfs_lacks_them(engine: Engine, own_rootfs: Path) -> None:
    (own_rootfs / "sys").rmdir()
    config = ContainerSpec.build(["ls", "/"], rootfs=own_rootfs).to_oci()
    (own_rootfs.parent / "config.json").write_text(json.dumps(config))
    done = engine.run(ContainerSpec.from_bundle(own_rootfs.parent), driver="native", capture_output=True, text=True)
    assert "sys" in done.stdout.split()


@pytest.mark.needs("mmdebstrap")
def test_debian(engine: Engine, tmp_path: Path) -> None:
    debian = tmp_path / "debian"
    made = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=essential", "bookworm", debian], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"needs a Debian mirror: {made.stderr.strip().splitlines()[-1:]}")
    script = "perl -e 'print 6*7'; echo; id -un; su - nobody -s /bin/sh -c 'id -u'"
    done = engine.run(["sh", "-c", script], rootfs=debian, driver="native", capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["42", "root", "65534"]
