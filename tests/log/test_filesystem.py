from pathlib import PurePosixPath

import pytest

from ftactors.core.errors import LogRefusedError
from ftactors.log import filesystem
from ftactors.log.filesystem import Mount, mount_in, mount_of
from ftactors.log.sqlite import SqliteStorage

MOUNTINFO = r"""
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
25 27 0:23 / /run/lock rw - tmpfs tmpfs rw
30 27 0:40 / /mnt/team rw,relatime shared:5 master:1 propagate_from:2 - nfs4 filer:/team rw,vers=4.2
31 30 254:1 / /mnt/team/local rw - xfs /dev/vdb rw
32 27 0:41 / /mnt/with\040space\134and\011more rw - cifs //filer/share rw
33 27 0:42 / /data rw - ext4 /dev/vdc rw
34 33 0:43 / /data rw - fuse.sshfs ada@filer:/data rw
35 27 0:44 / /models rw - fuse mountpoint-s3 rw
36 27 0:45 / /photos rw - fuse.mergerfs a:b rw
a line that is none of these
"""


@pytest.mark.parametrize(
    ("path", "point", "kind", "is_network"),
    [
        ("/home/ada/.ftactors/events.db", "/", "ext4", False),
        ("/run/lock/events.db", "/run/lock", "tmpfs", False),
        ("/mnt/team/ada/events.db", "/mnt/team", "nfs4", True),
        ("/mnt/team", "/mnt/team", "nfs4", True),
        ("/mnt/teamwork/events.db", "/", "ext4", False),
        ("/mnt/team/local/events.db", "/mnt/team/local", "xfs", False),
        ("/mnt/with space\\and\tmore/events.db", "/mnt/with space\\and\tmore", "cifs", True),
        ("/data/events.db", "/data", "fuse.sshfs", True),
        ("/models/events.db", "/models", "fuse", True),
        ("/photos/events.db", "/photos", "fuse.mergerfs", False),
    ],
)
def test_a_path_lies_on_the_deepest_mount_above_it_and_of_those_on_the_latest(path, point, kind, is_network):
    mount = mount_in(MOUNTINFO, PurePosixPath(path))

    assert mount is not None
    assert (str(mount.point), mount.kind, mount.is_network) == (point, kind, is_network)


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "beegfs", "gpfs", "afs"),
        *("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone"),
    ],
)
def test_what_other_machines_see_too_is_a_network_file_system(kind):
    assert Mount(PurePosixPath("/x"), kind, "filer").is_network


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fuse.mergerfs", "fuse"]
)
def test_what_only_this_machine_sees_is_none(kind):
    assert not Mount(PurePosixPath("/x"), kind, "/dev/sda1").is_network


def test_where_the_system_does_not_tell_nothing_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr(filesystem, "_MOUNTINFO", tmp_path / "no such file")

    assert mount_of(tmp_path) is None
    assert mount_in("", PurePosixPath("/")) is None


def test_a_log_on_a_network_file_system_is_refused_by_name_before_anything_is_made(monkeypatch, tmp_path):
    team = tmp_path / "of the team"
    escaped = str(team).replace(" ", r"\040")
    (tmp_path / "mountinfo").write_text(f"1 0 0:1 / {escaped} rw - nfs4 filer:/team rw\n")
    monkeypatch.setattr(filesystem, "_MOUNTINFO", tmp_path / "mountinfo")
    path = team / "state" / "events.db"

    with pytest.raises(LogRefusedError) as caught:
        SqliteStorage(path).open()

    assert str(caught.value) == (
        f"the log {path} lies on nfs4 (mounted at {team}); SQLite needs a local disk: set state_dir to one, or log_url "
        f"to a PostgreSQL database"
    )
    assert not team.exists()
    local = SqliteStorage(tmp_path / "events.db")  # beside it there is nothing wrong
    assert local.open().epoch == 1
    local.close()


def test_a_copy_of_a_log_on_a_network_file_system_can_be_looked_at(monkeypatch, tmp_path):
    storage = SqliteStorage(tmp_path / "events.db")
    storage.open()
    storage.close()
    (tmp_path / "mountinfo").write_text(f"1 0 0:1 / {tmp_path} rw - nfs4 filer:/team rw\n")
    monkeypatch.setattr(filesystem, "_MOUNTINFO", tmp_path / "mountinfo")

    looking = SqliteStorage(tmp_path / "events.db")

    assert looking.look() is not None
    looking.close()
