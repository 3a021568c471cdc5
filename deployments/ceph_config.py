"""The configuration of the test cluster, each setting with the trap that it avoids."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ceph_conf"]

_CONF = """
[global]
fsid = {fsid}
mon initial members = a
# the v1 protocol alone: with a v2 address beside it the clients wait for a port that nobody opened
mon host = [v1:127.0.0.1:{monitor}]
public network = 127.0.0.0/8
ms bind ipv6 = false

# Ceph's own authentication stays on: without it a client may send a command before it has learnt the cluster's fsid,
# and the monitor refuses that as EPERM (one command in forty, seen in its log)
keyring = {folder}/keyring

# one copy on one OSD is all there is
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0

# a start within seconds: few placement groups, map changes proposed at once
osd pool default pg num = 1
osd pool default pg autoscale mode = off
rgw rados pool pg num min = 1
paxos propose interval = 0.05
paxos min wait = 0.01

# the machine's disk may be nearly full; the monitor stops itself at 95 % otherwise
mon data avail warn = 1
mon data avail crit = 0

mon data = {folder}/mon
osd data = {folder}/osd
log file = {folder}/log/$name.log
run dir = {folder}
# no sockets: their paths may be too long for the kernel, and nobody asks them
admin socket =
pid file =

# a killed gateway still counts as a listener to metadata changes, and each change waits for it: seconds, not 30
osd client watch timeout = 5
osd default notify timeout = 5
objecter tick interval = 1

# a sparse file
osd objectstore = bluestore
bluestore block size = 8589934592
bluestore block create = true
osd memory target = 939524096

[client.rgw]
# without tcp_nodelay a small answer waits for the client's delayed acknowledgement: 44 ms a read, not 2
rgw frontends = beast endpoint={host}:{gateway} tcp_nodelay=1
rgw dns name =
rgw thread pool size = 64
# deleted multipart data stays for two hours otherwise, and a full OSD blocks without a word
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw gc processor max time = 5
"""


def ceph_conf(
    folder: Path, *, fsid: str, monitor: int, gateway: int, host: str = "127.0.0.1"
) -> str:
    """The text of `ceph.conf` for a cluster that lives in `folder`: two ports, the gateway's on the address `host`."""
    return _CONF.format(folder=folder, fsid=fsid, monitor=monitor, gateway=gateway, host=host)
