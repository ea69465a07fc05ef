"""On which file system a path lies, and whether a database file is safe there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

NETWORK = frozenset({
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs",
    "lustre", "mfs", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "vboxsf",
    "wekafs",
})  # fmt: skip
"""File systems that other machines see too: their locks are no fence, or their syncs no promise."""
NETWORK_FUSE = frozenset({
    "afs", "alluxio-fuse", "beegfs", "blobfuse", "blobfuse2", "ceph-fuse", "cephfs", "davfs2", "gcsfuse", "geesefs",
    "glusterfs", "goofys", "hdfs", "juicefs", "mfs", "moosefs", "mountpoint-s3", "rclone", "s3fs", "seaweedfs",
    "sshfs",
})  # fmt: skip
"""The same in user space, where the mount's type is `fuse.` and one of these, or `fuse` and one of these its source."""
_MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system in its place."""

    point: PurePosixPath
    kind: str
    source: str

    @property
    def is_network(self) -> bool:
        """Whether other machines see it too."""
        kind, _, subtype = self.kind.partition(".")
        return kind in NETWORK or (kind == "fuse" and (subtype or self.source) in NETWORK_FUSE)


def mount_of(path: Path) -> Mount | None:
    """Return the file system on which a path lies, or will lie; None where this system does not tell."""
    try:
        mountinfo = _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    return mount_in(mountinfo, PurePosixPath(path.resolve()))


def mount_in(mountinfo: str, path: PurePosixPath) -> Mount | None:
    """Return the mount that a path is under, by the text of Linux's mountinfo: the deepest, the latest of those.

    Source: proc_pid_mountinfo(5). A line's fifth field is where it is mounted, and its type follows a lone hyphen.
    """
    found: Mount | None = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:  # noqa: PLR2004
            continue
        kind, source, *_ = [*after.split(" "), ""]
        mount = Mount(PurePosixPath(_unescaped(fields[4])), kind, source)
        if path.is_relative_to(mount.point) and (found is None or len(mount.point.parts) >= len(found.point.parts)):
            found = mount
    return found


def _unescaped(field: str) -> str:
    """Return a path as it is: spaces, tabs, line feeds and backslashes are written as three octal digits."""
    first, *rest = field.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
