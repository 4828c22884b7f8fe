#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""DPDK's virtio-user as the front end of `guise vhost-net`: this host's kernel pings it through a TAP and our back end.

  dpdk_front.py GUISE CASE

Words in CASE: packed, server (DPDK listens, and our back end is killed and started again under traffic), queues (two pairs).
testpmd's icmpecho answers ARP and ping for every address. In a network namespace of this test's own.
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
import vm  # noqa: E402
from testpmd import TestPmd  # noqa: E402
from vhost_guest import BackEnd  # noqa: E402


def in_namespace():
    """Go on in a namespace; only the second time round does this return."""
    if os.environ.get("IN_NAMESPACE") == "1":
        return
    if subprocess.run(["which", "dpdk-testpmd"], capture_output=True).returncode:
        vm.skip("dpdk-testpmd is not installed (tools/setup test)")
    probe = subprocess.run(["unshare", "-rn", "ip", "tuntap", "add", "t0", "mode", "tap"], capture_output=True, text=True)
    if probe.returncode:
        vm.skip(f"no TAP in a network namespace of one's own: {probe.stderr.strip()}")
    os.environ["IN_NAMESPACE"] = "1"
    sys.exit(subprocess.run(["unshare", "-rn", sys.executable, *sys.argv]).returncode)


def ping(count, size, patience=60):
    """Until all of them come back, for a while: links take their time to come up."""
    deadline = time.monotonic() + patience
    while True:
        done = subprocess.run(["ping", "-q", "-c", str(count), "-i", "0.01", "-W", "2", "-s", str(size), "10.9.0.2"],
                              capture_output=True, text=True)
        if f"{count} received" in done.stdout:
            return
        if time.monotonic() > deadline:
            raise vm.Failure(f"ping: {done.stdout}{done.stderr}")


def wait_for_socket(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            raise vm.Failure(f"no {path} for 60 s")
        time.sleep(0.05)


def start_testpmd(scratch, socket, is_server, packed, queues):
    vdev = f"net_virtio_user0,path={socket},queues={queues},mac=02:00:00:00:00:02"
    vdev += (",server=1" if is_server else "") + (",packed_vq=1" if packed else "")
    pmd = TestPmd("front", str(scratch), [vdev], options=[f"--rxq={queues}", f"--txq={queues}"])
    pmd.do("set fwd icmpecho")
    pmd.do("start")
    return pmd


def test():
    in_namespace()
    guise, case = sys.argv[1:3]
    is_server, packed, queues = "server" in case, "packed" in case, 2 if "queues" in case else 1
    many = "multi_queue" if queues > 1 else ""
    subprocess.run(f"ip link set lo up && ip tuntap add t0 mode tap {many} vnet_hdr && ip addr add 10.9.0.1/24 dev t0 && "
                   "ip link set t0 up", shell=True, check=True)
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        socket = scratch / "net.sock"
        command = [guise, "vhost-net", "--socket-path", str(socket), "--net", f"tap=t0,queues={queues}"]
        with BackEnd(command + (["--client"] if is_server else []), scratch) as back_end:
            if not is_server:
                wait_for_socket(socket)
            pmd = start_testpmd(scratch, socket, is_server, packed, queues)
            try:
                ping(100, 56)
                ping(100, 1400)
                for _ in range(3 if is_server else 0):
                    back_end.kill()
                    time.sleep(0.3)
                    back_end.start()
                    ping(20, 1400)
            finally:
                pmd.end()
            if not is_server:  # a second front end after the first
                pmd = start_testpmd(scratch, socket, is_server, packed, queues)
                try:
                    ping(20, 1400)
                finally:
                    pmd.end()
    print(f"{case}: DPDK's virtio-user answers pings through our back end")


vm.main(test)
