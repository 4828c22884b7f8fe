#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A guest of ours on vhost-user back ends: DPDK's vhost library moves its packets, QEMU's storage daemon keeps its disk, and our own.

  vhost_guest.py GUISE CASE [DISK_STORM]

CASE begins with net, disk (others' back ends), ours-net, ours-tap or ours-disk; words in it choose the rest: packed rings, server (guise
listens), queues (two), mmio (virtio-mmio: calls come through guise), intx (no MSI-X: they, too), platform (ACCESS_PLATFORM: the back end
asks for every translation). In every case the back end is killed (SIGKILL) and started again under the running guest; our disk back
end again and again under load, with every byte known.
"""
import hashlib
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
import vm  # noqa: E402

MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover", "net_failover",
           "virtio_net", "virtio_blk", "virtio_mmio"]
NAMESPACE = f"guise-vhost-{os.getpid()}"
PATIENCE = 120  # seconds, for one thing to happen


class BackEnd:
    """A program that serves a socket, and can be killed and started again."""

    def __init__(self, command, scratch, ready=None):
        self.command, self.scratch, self.ready, self.process = command, scratch, ready, None
        self.start()

    def start(self):
        environment = dict(os.environ, XDG_RUNTIME_DIR=str(self.scratch), RUNTIME_DIRECTORY=str(self.scratch))
        self.log = open(self.scratch / "back_end.log", "ab")
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=self.log, stderr=subprocess.STDOUT, env=environment)
        if self.ready:
            self.ready(self)

    def say(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.log.close()
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.kill()
        if kind is not None:
            print((self.scratch / "back_end.log").read_text(errors="replace")[-6000:])


def wait_until(what, check):
    deadline = time.monotonic() + PATIENCE
    while not check():
        if time.monotonic() > deadline:
            raise vm.Failure(f"{PATIENCE} s without {what}")
        time.sleep(0.1)


def testpmd(scratch, socket, is_server, queues, iommu=False):
    """DPDK's vhost library with its icmpecho engine, which answers ARP and ping for every address."""
    def ready(back_end):
        back_end.say("set fwd icmpecho\nstart\n")

    def fresh(back_end):
        socket.unlink(missing_ok=True)  # a killed server leaves it, and would not start
        ready(back_end)

    role = (",client=1" if is_server else "") + (",iommu-support=1" if iommu else "")
    command = ["stdbuf", "-oL", "dpdk-testpmd", "--lcores", "0@0,1@0", "--no-pci", "-m", "128", "--no-huge", "--file-prefix",
               f"guise{os.getpid()}", "--vdev", f"net_vhost0,iface={socket},queues={queues}{role}", "--", "-i",
               "--total-num-mbufs=8192", f"--rxq={queues}", f"--txq={queues}"]
    back_end = BackEnd(command, scratch, ready)
    if not is_server:
        back_end.ready = fresh
    return back_end


def storage_daemon(scratch, socket, image):
    command = ["qemu-storage-daemon", "--blockdev", f"driver=file,filename={image},node-name=file", "--export",
               f"type=vhost-user-blk,id=export,node-name=file,addr.type=unix,addr.path={socket},writable=on,num-queues=2"]
    return BackEnd(command, scratch)


def check_platform(guest, case):
    """Was ACCESS_PLATFORM (bit 33) negotiated if the case says so, and only then?"""
    output, _ = guest.shell("cut -c34 /sys/bus/virtio/devices/virtio0/features")
    vm.expect("ACCESS_PLATFORM", output.strip(), "1" if "platform" in case else "0")


def md5_in(text):
    found = re.findall(r"^([0-9a-f]{32})  -", text, re.M)
    if not found:
        raise vm.Failure(f"no checksum in:\n{text}")
    return found[-1]


def check_ping(guest, count=3, address="10.9.0.1"):
    output, status = guest.shell(f"ping -c {count} -W 20 -s 1300 {address}")
    if status:
        raise vm.Failure(f"ping failed:\n{output}")


def wait_for_carrier(guest, value):
    wait_until(f"carrier {value}", lambda: re.search(f"^{value}$", guest.shell("cat /sys/class/net/eth0/carrier")[0], re.M))


def words(case):
    """What a case's words add to the device's options and to the kernel's command line."""
    options = "".join(f",{word}" for word in ("server", "packed") if word in case) + (",bus=mmio" if "mmio" in case else "") + (
        ",access-platform" if "platform" in case else "")
    return options, "quiet " + ("pci=nomsi " if "intx" in case else "") + "mods=" + ",".join(MODULES)


def check_network(guest, back_end, socket, is_server):
    _, status = guest.shell("ip link set eth0 up && ip addr add 10.9.0.2/24 dev eth0")
    vm.expect("setting eth0 up", status, 0)
    wait_for_carrier(guest, "1")
    check_ping(guest)
    for _ in range(2):
        back_end.kill()
        wait_for_carrier(guest, "0")
        if not is_server:
            socket.unlink(missing_ok=True)
        back_end.start()
        wait_for_carrier(guest, "1")
        check_ping(guest)
    output, status = guest.shell("echo 0000:00:01.0 > /sys/bus/pci/drivers/virtio-pci/unbind && "
                                 "echo 0000:00:01.0 > /sys/bus/pci/drivers/virtio-pci/bind && "
                                 "ip link set eth0 up && ip addr add 10.9.0.2/24 dev eth0")
    vm.expect(f"the driver taken off and put on ({output})", status, 0)
    check_ping(guest)


def check_queues(guest):
    output, _ = guest.shell("ls /sys/class/net/eth0/queues; grep -c 'virtio0-input' /proc/interrupts")
    if "rx-1" not in output:
        raise vm.Failure(f"there is one queue pair only:\n{output}")


def our_network(guise, scratch, socket, is_server):
    return BackEnd([guise, "vhost-net", "--socket-path", str(socket), "--net", "user"] + (["--client"] if is_server else []), scratch)


def our_network_case(guise, kernel, initrd, scratch, case):
    """Through our back end to the user-mode network, whose gateway answers pings; a name server and DHCP are there, too."""
    socket = scratch / "net.sock"
    is_server = "server" in case
    options, append = words(case)
    with our_network(guise, scratch, socket, is_server) as back_end:
        with vm.Vm(guise, "translate", kernel, initrd, append, cpus=1, mem="256M",
                   options=["--net", f"vhost-user={socket}{options}"], time_limit=600) as guest:
            guest.boot()
            check_platform(guest, case)
            _, status = guest.shell("ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0")
            vm.expect("setting eth0 up", status, 0)
            for _ in range(8):
                wait_for_carrier(guest, "1")
                check_ping(guest, 1, "10.0.2.2")
                guest.type("ping -c 1000 -i 0.01 10.0.2.2 >/dev/null &\n")
                back_end.kill()
                wait_for_carrier(guest, "0")
                back_end.start()
                guest.shell("killall ping")
            wait_for_carrier(guest, "1")
            check_ping(guest, 3, "10.0.2.2")
            guest.type("poweroff -f\n")
            vm.expect("guise's exit status", guest.end(), 0)
    print(f"{case}: ping through our back end, killed 8 times under traffic")


def our_disk_case(guise, kernel, initrd, scratch, case):
    """Killed over and over while six threads read and write: what was in flight is taken up by the next back end."""
    socket, image, kills, seconds = scratch / "disk.sock", scratch / "disk.img", 0, 10
    is_server = "server" in case
    options, append = words(case)
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    command = [guise, "vhost-blk", "--socket-path", str(socket)] + (["--client"] if is_server else []) + [f"{image},queues=2"]
    with BackEnd(command, scratch) as back_end:
        with vm.Vm(guise, "translate", kernel, initrd, append, cpus=2, mem="256M",
                   options=["--net", "none", "--disk", f"vhost-user={socket}{options}"], time_limit=600) as guest:
            guest.boot()
            check_platform(guest, case)
            guest.type(f"/bin/storm /dev/vda 8 {seconds}; echo storm over\n")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(random.uniform(0.05, 0.4))
                back_end.kill()
                back_end.start()
                kills += 1
            said = guest.wait_for("storm over")
            if "STORM OK" not in said:
                raise vm.Failure(f"after {kills} kills: {said}")
            guest.type("poweroff -f\n")
            vm.expect("guise's exit status", guest.end(), 0)
    print(f"{case}: {kills} kills, {said[said.find('STORM'):].strip()}")


def network_case(guise, kernel, initrd, scratch, case):
    is_server, queues = "server" in case, 2 if "queues" in case else 1
    socket = scratch / "net.sock"
    options, append = words(case)
    with testpmd(scratch, socket, is_server, queues, "platform" in case) as back_end:
        with vm.Vm(guise, "translate", kernel, initrd, append, cpus=queues, mem="256M",
                   options=["--net", f"vhost-user={socket}{options},queues={queues}"], time_limit=600) as guest:
            guest.boot()
            check_platform(guest, case)
            check_network(guest, back_end, socket, is_server)
            if queues > 1:
                check_queues(guest)
            guest.type("poweroff -f\n")
            vm.expect("guise's exit status", guest.end(), 0)
    print(f"{case}: ping through DPDK's vhost library, killed and started again twice")


def disk_case(guise, kernel, initrd, scratch, case):
    socket, image = scratch / "disk.sock", scratch / "disk.img"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    with storage_daemon(scratch, socket, image) as back_end:
        options, append = words(case)
        with vm.Vm(guise, "translate", kernel, initrd, append, cpus=2, mem="256M",
                   options=["--net", "none", "--disk", f"vhost-user={socket}{options}"], time_limit=600) as guest:
            guest.boot()
            check_platform(guest, case)
            output, status = guest.shell("dd if=/dev/urandom of=/tmp/r bs=1M count=24 2>/dev/null && md5sum < /tmp/r && "
                                         "dd if=/tmp/r of=/dev/vda bs=64k conv=fsync 2>/dev/null")
            vm.expect(f"writing ({output})", status, 0)
            written = md5_in(output)
            back_end.kill()
            guest.type("(echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count=24 2>/dev/null | md5sum > /tmp/sum) &\n")
            time.sleep(1)  # the reader waits for a back end now
            back_end.start()
            output, _ = guest.shell("wait; cat /tmp/sum")
            vm.expect("what was read after the back end came back", md5_in(output), written)
            guest.type("poweroff -f\n")
            vm.expect("guise's exit status", guest.end(), 0)
    md5 = subprocess.run(["sh", "-c", f"head -c {24 << 20} {image} | md5sum"], capture_output=True, text=True, check=True)
    vm.expect("the image's content", md5_in(md5.stdout), written)
    print(f"{case}: 24 MiB written and read through qemu-storage-daemon, killed and started again")


def refused_case(guise, kernel, initrd, scratch, case):
    """A back end without ACCESS_PLATFORM, and a machine that was asked to offer it."""
    socket, image = scratch / "disk.sock", scratch / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with storage_daemon(scratch, socket, image):
        run = subprocess.run([guise, "run", "--kernel", kernel, "--mem", "64M", "--net", "none", "--disk",
                              f"vhost-user={socket},access-platform"], capture_output=True, text=True, timeout=PATIENCE)
    vm.expect("guise's exit status", run.returncode, 1)
    if "the back end does not offer VIRTIO_F_ACCESS_PLATFORM" not in run.stderr:
        raise vm.Failure(run.stderr)


def in_namespace(*command):
    return ["ip", "netns", "exec", NAMESPACE, *map(str, command)]


def make_namespace():
    """A network namespace with a TAP of its own, which outlives the back ends."""
    vm.add_namespace(NAMESPACE)
    for command in (in_namespace("ip", "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr"),
                    in_namespace("ip", "addr", "add", "10.9.0.1/24", "dev", "tap0"), in_namespace("ip", "link", "set", "tap0", "up")):
        subprocess.run(command, check=True)


def our_tap_case(guise, kernel, initrd, scratch, case):
    """TCP both ways while the back end is killed over and over: what arrives is what was sent."""
    if os.geteuid():
        vm.skip("a TAP in a network namespace needs root")
    socket, kills = scratch / "net.sock", 0
    options, append = words(case)
    (scratch / "down").write_bytes(os.urandom(60 << 20))
    make_namespace()
    sender = receiver = None
    try:
        command = in_namespace(guise, "vhost-net", "--socket-path", socket, "--net", "tap=tap0")
        sender = subprocess.Popen(in_namespace("socat", "-u", f"OPEN:{scratch}/down", "TCP-LISTEN:5001"))
        receiver = subprocess.Popen(in_namespace("socat", "-u", "TCP-LISTEN:5000", f"CREATE:{scratch}/up"))
        with BackEnd(command, scratch) as back_end:
            with vm.Vm(guise, "translate", kernel, initrd, append, cpus=2, mem="512M",
                       options=["--net", f"vhost-user={socket}{options}"], time_limit=600) as guest:
                guest.boot()
                guest.shell("ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0; mkfifo /tmp/open; exec 3<>/tmp/open")
                guest.shell("dd if=/dev/urandom of=/tmp/sent bs=1M count=60 2>/dev/null; ping -c 1 -W 60 10.9.0.1")
                guest.type("(nc 10.9.0.1 5000 < /tmp/sent & nc 10.9.0.1 5001 <&3 > /tmp/got; wait; md5sum < /tmp/got; "
                           "md5sum < /tmp/sent; echo all passed) &\n")
                while "all passed\n" not in guest.console and kills < 12:
                    time.sleep(random.uniform(0.1, 0.4))
                    back_end.kill()
                    back_end.start()
                    kills += 1
                    guest.shell("true")
                if "all passed\n" not in guest.console:
                    guest.wait_for("all passed\n")
                got, sent = re.findall(r"^([0-9a-f]{32})  -", guest.console, re.M)[-2:]
                guest.type("poweroff -f\n")
                vm.expect("guise's exit status", guest.end(), 0)
        receiver.wait(60)
        vm.expect("what the host got", hashlib.md5((scratch / "up").read_bytes()).hexdigest(), sent)
        vm.expect("what the guest got", got, hashlib.md5((scratch / "down").read_bytes()).hexdigest())
    finally:
        for process in (sender, receiver):
            if process and process.poll() is None:
                process.kill()
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=True)
    print(f"{case}: 60 MiB each way by TCP, the back end killed {kills} times meanwhile")


CASES = {"ours-tap": our_tap_case, "net": network_case, "disk": disk_case, "ours-net": our_network_case, "ours-disk": our_disk_case,
         "refused": refused_case}
PROGRAMS = {"net": "dpdk-testpmd", "disk": "qemu-storage-daemon", "refused": "qemu-storage-daemon"}


def test():
    guise, case = sys.argv[1:3]
    kind = max((name for name in CASES if case.startswith(name)), key=len)
    if kind in PROGRAMS and not shutil.which(PROGRAMS[kind]):
        vm.skip(f"{PROGRAMS[kind]} is not installed (tools/setup test)")
    kernel = vm.need_guest("cloud")
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        files = {f"modules/{name}.ko": vm.module(name) for name in MODULES}
        if len(sys.argv) > 3:
            files["bin/storm"] = sys.argv[3]
        CASES[kind](guise, kernel, vm.make_initrd(scratch / "initrd", files), scratch, case)


if __name__ == "__main__":
    vm.main(test)
