#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's guest (TCG) on our vhost-user back ends.

  qemu_vhost.py GUISE CASE [DISK_STORM]

CASE begins with net, tap or disk; words in it choose the rest: packed rings, server (QEMU listens), queues (two). Back ends
are killed (SIGKILL) and started again under the running guest, disks again and again under load, with every byte known. With
the word iommu the device is behind QEMU's Intel IOMMU instead, in strict mode: every buffer is mapped for its request alone.
"""
import hashlib
import http.server
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
import vm  # noqa: E402
from relay import Relay  # noqa: E402
from vhost_guest import MODULES, BackEnd, check_ping, wait_for_carrier  # noqa: E402

MEBIBYTES = 8


def start_qemu(kernel, initrd, where, is_server, device, cpus=1, iommu=False):
    """`device` are QEMU's options that stand on chardev c0. vectors=0: QEMU 7.2's MSI-X crashes with vhost-user on TCG."""
    role = "server=on,wait=off" if is_server else "reconnect=1"
    options = ["-object", "memory-backend-memfd,id=mem,size=256M,share=on", "-numa", "node,memdev=mem",
               *(["-device", "intel-iommu,device-iotlb=on"] if iommu else []), "-chardev", f"socket,id=c0,path={where},{role}", *device]
    append = "quiet net.ifnames=0 mods=" + ",".join(MODULES) + (" intel_iommu=on iommu.strict=1" if iommu else "")
    return vm.Vm(None, "qemu", kernel, initrd, append, cpus=cpus, mem="256M", time_limit=800, more=options)


def wait_for_socket(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            raise vm.Failure(f"no {path} for 60 s")
        time.sleep(0.05)


def serve_http(data):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def receive_all(listener, result):
    connection = listener.accept()[0]
    digest = hashlib.md5()
    while True:
        data = connection.recv(65536)
        if not data:
            break
        digest.update(data)
    result.append(digest.hexdigest())


def check_transfers(guest, host, mebibytes=MEBIBYTES):
    """Megabytes both ways over TCP, by checksum."""
    data = random.Random(1).randbytes(mebibytes << 20)
    wanted = hashlib.md5(data).hexdigest()
    output, _ = guest.shell(f"wget -q -O /tmp/data http://{host}:{serve_http(data)}/ && md5sum < /tmp/data")
    if wanted not in output:
        raise vm.Failure(f"host to guest: not what was sent: {output}")
    listener = socket.create_server(("", 0))
    result = []
    thread = threading.Thread(target=receive_all, args=(listener, result), daemon=True)
    thread.start()
    guest.shell(f"nc {host} {listener.getsockname()[1]} < /tmp/data")
    thread.join(120)
    vm.expect("guest to host", result, [wanted])


def check_restarts(guest, back_end, host, times):
    for _ in range(times):
        guest.type(f"ping -c 1000 -i 0.01 {host} >/dev/null &\n")
        back_end.kill()
        wait_for_carrier(guest, "0")
        back_end.start()
        wait_for_carrier(guest, "1")
        guest.shell("killall ping")
        check_ping(guest, 2, host)


def network(guise, kernel, initrd, scratch, case, backing, address, host):
    is_server, queues = "server" in case, 2 if "queues" in case else 1
    where = scratch / "net.sock"
    command = [guise, "vhost-net", "--socket-path", str(where), "--net", backing] + (["--client"] if is_server else [])
    device = ["-netdev", f"vhost-user,id=n0,chardev=c0,queues={queues}", "-device",
              "virtio-net-pci,netdev=n0,vectors=0" + (",mq=on" if queues > 1 else "") + (",packed=on" if "packed" in case else "")]
    with BackEnd(command, scratch) as back_end:
        if not is_server:
            wait_for_socket(where)
        with start_qemu(kernel, initrd, where, is_server, device, queues) as guest:
            guest.boot()
            guest.shell(f"ip link set eth0 up && ip addr add {address} dev eth0")
            wait_for_carrier(guest, "1")
            check_ping(guest, 3, host)
            check_transfers(guest, host)
            check_restarts(guest, back_end, host, 2)
            check_transfers(guest, host)
            guest.type("poweroff -f\n")
            guest.end()
    print(f"{case}: ping and TCP both ways in QEMU's guest, through our back end, killed twice")


def check_iommu(guest, relay, least):
    """The device has an IOMMU's translations, and `least` of them came and went while it was used."""
    output, _ = guest.shell("cat /sys/bus/virtio/devices/virtio0/../iommu_group/type")
    vm.expect("the kind of its IOMMU group", output.split(), ["DMA"])
    for kind in ("UPDATE", "INVALIDATE"):
        if relay.iotlb[kind] < least:
            raise vm.Failure(f"only {relay.iotlb[kind]} IOTLB messages were {kind}")
    return f"{relay.iotlb['UPDATE']} translations made, {relay.iotlb['INVALIDATE']} taken away"


def behind_iommu(case):
    """Options of a virtio PCI device; QEMU 7.2 wants no MSI-X here, either."""
    return ",vectors=0,disable-legacy=on,iommu_platform=on,ats=on" + (",packed=on" if "packed" in case else "")


def net_iommu_case(guise, kernel, initrd, scratch, case):
    where, between = scratch / "net.sock", scratch / "relay.sock"
    device = ["-netdev", "vhost-user,id=n0,chardev=c0", "-device", "virtio-net-pci,netdev=n0" + behind_iommu(case)]
    with BackEnd([guise, "vhost-net", "--socket-path", str(where), "--net", "user"], scratch):
        wait_for_socket(where)
        relay = Relay(between, where)
        with start_qemu(kernel, initrd, between, False, device, iommu=True) as guest:
            guest.boot()
            guest.shell("ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0")
            wait_for_carrier(guest, "1")
            check_ping(guest, 3, "10.0.2.2")
            check_transfers(guest, "10.0.2.2", 2)
            said = check_iommu(guest, relay, 1000)
            guest.type("poweroff -f\n")
            guest.end()
    print(f"{case}: ping and TCP both ways; {said}")


def disk_iommu_case(guise, kernel, initrd, scratch, case):
    where, between, image = scratch / "disk.sock", scratch / "relay.sock", scratch / "disk.img"
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    device = ["-device", "vhost-user-blk-pci,chardev=c0,num-queues=2" + behind_iommu(case)]
    with BackEnd([guise, "vhost-blk", "--socket-path", str(where), str(image)], scratch):
        wait_for_socket(where)
        relay = Relay(between, where)
        with start_qemu(kernel, initrd, between, False, device, 2, iommu=True) as guest:
            guest.boot()
            output, _ = guest.shell("/bin/storm /dev/vda 1 4")
            if "STORM OK" not in output:
                raise vm.Failure(output)
            said = check_iommu(guest, relay, 1000)
            guest.type("poweroff -f\n")
            guest.end()
    print(f"{case}: {output[output.find('STORM'):].strip()}; {said}")


def net_case(guise, kernel, initrd, scratch, case):
    network(guise, kernel, initrd, scratch, case, "user", "10.0.2.15/24", "10.0.2.2")


def tap_case(guise, kernel, initrd, scratch, case):
    """On a TAP, in a network namespace of this test's own."""
    if os.environ.get("IN_NAMESPACE") != "1":
        probe = subprocess.run(["unshare", "-rn", "ip", "tuntap", "add", "t0", "mode", "tap"], capture_output=True, text=True)
        if probe.returncode:
            vm.skip(f"no TAP in a network namespace of one's own: {probe.stderr.strip()}")
        os.environ["IN_NAMESPACE"] = "1"
        status = subprocess.run(["unshare", "-rn", sys.executable, *sys.argv]).returncode
        sys.exit(status)
    queues = 2 if "queues" in case else 1
    subprocess.run("ip link set lo up && ip tuntap add t0 mode tap multi_queue vnet_hdr && ip addr add 10.9.0.1/24 dev t0 && "
                   "ip link set t0 up", shell=True, check=True)
    network(guise, kernel, initrd, scratch, case, f"tap=t0,queues={queues}", "10.9.0.2/24", "10.9.0.1")


def disk_case(guise, kernel, initrd, scratch, case):
    where, image, kills, seconds = scratch / "disk.sock", scratch / "disk.img", 0, 12
    is_server = "server" in case
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    command = [guise, "vhost-blk", "--socket-path", str(where), f"{image},serial=of-guise"] + (["--client"] if is_server else [])
    device = ["-device", "vhost-user-blk-pci,chardev=c0,vectors=0,num-queues=2" + (",packed=on" if "packed" in case else "")]
    with BackEnd(command, scratch) as back_end:
        if not is_server:
            wait_for_socket(where)
        with start_qemu(kernel, initrd, where, is_server, device, 2) as guest:
            guest.boot()
            output, _ = guest.shell("cat /sys/block/vda/serial /sys/block/vda/size; ls /sys/block/vda/mq")
            if not re.search(r"of-guise\s*65536\s.*1", output, re.S):
                raise vm.Failure(f"serial number, size and queues: {output}")
            guest.type(f"/bin/storm /dev/vda 8 {seconds}; echo storm over\n")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(random.uniform(1.5, 2.5))  # QEMU tries again after a second
                back_end.kill()
                back_end.start()
                kills += 1
            said = guest.wait_for("storm over")
            if "STORM OK" not in said:
                raise vm.Failure(f"after {kills} kills: {said}")
            guest.type("poweroff -f\n")
            guest.end()
    print(f"{case}: {kills} kills, {said[said.find('STORM'):].strip()}")


CASES = {"net-iommu": net_iommu_case, "disk-iommu": disk_iommu_case, "net": net_case, "tap": tap_case, "disk": disk_case}


def test():
    guise, case = sys.argv[1:3]
    kind = max((name for name in CASES if case.startswith(name)), key=len)
    if subprocess.run(["which", "qemu-system-x86_64"], capture_output=True).returncode:
        vm.skip("qemu-system-x86_64 is not installed (tools/setup test)")
    kernel = vm.need_guest("cloud")
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        files = {f"modules/{name}.ko": vm.module(name) for name in MODULES}
        if len(sys.argv) > 3:
            files["bin/storm"] = sys.argv[3]
        CASES[kind](guise, kernel, vm.make_initrd(scratch / "initrd", files), scratch, case)


vm.main(test)
