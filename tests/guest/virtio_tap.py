#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""virtio-net on a TAP in a network namespace of its own: two pairs of queues, every offload on and off, VLANs, jumbo
frames, filters; TCP both ways with checksums.

  virtio_tap.py GUISE ENGINE BUS
"""
import hashlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading

import vm

MIB = 1 << 20
HOST, GUEST, VLAN_HOST, VLAN_GUEST = "192.168.77.1", "192.168.77.2", "192.168.78.1", "192.168.78.2"


def enter_namespace():
    """Run this test again in a network namespace, where nothing of it is seen outside."""
    if os.environ.get("GUISE_IN_NAMESPACE"):
        return
    if not os.path.exists("/dev/net/tun"):
        vm.skip("no /dev/net/tun")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        vm.skip("no right to make a network namespace")
    os.environ["GUISE_IN_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Echo:
    """Takes a stream of `size` bytes, answers with one of its own; says what came."""

    def __init__(self, data):
        self.data = data
        self.server = socket.create_server(("0.0.0.0", 7000))
        self.came = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            client = self.server.accept()[0]
            threading.Thread(target=self.talk, args=(client,), daemon=True).start()

    def talk(self, client):
        with client:
            kind = client.recv(1)
            if kind == b"G":
                client.sendall(self.data)
                return
            digest, total = hashlib.md5(), 0
            while piece := client.recv(1 << 18):
                digest.update(piece)
                total += len(piece)
            self.came.append((total, digest.hexdigest()))
            client.sendall(b"done\n")


class Test:
    def __init__(self, guest, echo):
        self.guest, self.echo = guest, echo

    def run(self, command):
        output, status = self.guest.shell(command)
        if status:
            raise vm.Failure(f"'{command}' ended with status {status}: {output}")
        return output.strip()

    def both_ways(self, what, mib):
        """`mib` from the host, the same back. The guest keeps them in memory."""
        size = mib * MIB
        wanted = hashlib.md5(self.echo.data[:size]).hexdigest()
        got = self.run(f"echo -n G | nc {HOST} 7000 | head -c {size} | tee /tmp/data | md5sum").split()[0]
        vm.expect(f"{what}: to the guest", got, wanted)
        self.echo.came.clear()
        self.run(f"(echo -n P; cat /tmp/data) | nc {HOST} 7000")
        vm.expect(f"{what}: from the guest", self.echo.came, [(size, wanted)])
        self.run("rm /tmp/data")

    def queues(self):
        self.run("ethtool -L eth0 combined 2")
        vm.expect("queues in use", self.run("ethtool -l eth0 | grep Combined").split(), ["Combined:", "2", "Combined:", "2"])
        for cpu in (1, 2):
            self.run(f"taskset {cpu} ping -c 3 -A {HOST}")
        self.run("ethtool -L eth0 combined 1")
        self.run(f"ping -c 3 -A {HOST}")
        self.run("ethtool -L eth0 combined 2")

    def offloads(self):
        self.both_ways("all offloads", 100)
        features = self.run("ethtool -k eth0")
        for name in ("tx-checksumming", "tcp-segmentation-offload", "generic-receive-offload"):
            if f"{name}: on" not in features:
                raise vm.Failure(f"{name} is not on: {features}")
        for change in ("tso off", "gso off", "tx off sg off", "gro off", "rx-gro-hw off", "rx-gro-hw on gro on",
                       "tx on sg on", "gso on tso on"):
            if self.guest.shell(f"ethtool -K eth0 {change}")[1] == 0:
                self.both_ways(change, 8)
            elif "rx-gro-hw" not in change:
                raise vm.Failure(f"ethtool -K eth0 {change} failed")
        self.both_ways("all offloads again", 8)

    def addresses(self):
        self.run("modprobe 8021q 2>/dev/null; ip link add link eth0 name eth0.5 type vlan id 5")
        self.run(f"ip addr add {VLAN_GUEST}/24 dev eth0.5; ip link set eth0.5 up")
        if subprocess.run(["ip", "link", "add", "link", "guise0", "name", "vlan5", "type", "vlan", "id", "5"],
                          capture_output=True).returncode:
            print("the host's kernel has no VLANs: that part is left out")
        else:
            ip("addr", "add", f"{VLAN_HOST}/24", "dev", "vlan5")
            ip("link", "set", "vlan5", "up")
            self.run(f"ping -c 3 -A {VLAN_HOST}")
        self.run("ip link del eth0.5")
        self.run("ip link set eth0 promisc on; ip link set eth0 promisc off")
        self.run("ip link set eth0 allmulti on 2>/dev/null || ifconfig eth0 allmulti; ifconfig eth0 -allmulti")
        self.run("ip link set eth0 address 52:54:00:99:88:77")
        self.run(f"ping -c 3 -A {HOST}")
        self.run(f"ping -c 3 -A -s 8000 {HOST}")

    def both_at_once(self):
        """Streams of both vCPUs in both directions."""
        size = 20 * MIB
        wanted = hashlib.md5(self.echo.data[:size]).hexdigest()
        self.run(f"for k in 1 2; do (echo -n G | taskset $k nc {HOST} 7000 | head -c {size} | md5sum >/tmp/sum$k) & done; wait")
        for k in (1, 2):
            vm.expect(f"stream {k}", self.run(f"cat /tmp/sum{k}").split()[0], wanted)


def test():
    guise, engine, bus = sys.argv[1:4]
    kernel = vm.need_guest("cloud")
    files, order = vm.modules(["virtio_pci", "virtio_mmio", "virtio_net", "8021q"])
    files.update(vm.program("ethtool"))
    enter_namespace()
    ip("link", "set", "lo", "up")
    block = hashlib.shake_256(b"tap").digest(MIB)
    echo = Echo(b"".join(k.to_bytes(8, "little") + block[8:] for k in range(100)))
    with tempfile.TemporaryDirectory() as name:
        initrd = vm.make_initrd(pathlib.Path(name) / "initrd", files)
        options = ["--virtio", bus, "--net", "tap=guise0,queues=2,mtu=9000"]
        with vm.Vm(guise, engine, kernel, initrd, append=f"quiet mods={order}", cpus=2, options=options,
                   time_limit=900) as guest:
            guest.boot()
            ip("link", "set", "guise0", "mtu", "9000", "up")
            ip("addr", "add", f"{HOST}/24", "dev", "guise0")
            t = Test(guest, echo)
            t.run(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up; sleep 1")
            vm.expect("the MTU", t.run("cat /sys/class/net/eth0/mtu"), "9000")
            t.queues()
            t.offloads()
            t.addresses()
            t.both_at_once()
            bad = vm.bad_lines(guest.shell("dmesg")[0])
            guest.type("poweroff\n")
            vm.expect("exit status", guest.end(), 0)
    if bad:
        raise vm.Failure("the kernel's log complains:\n" + "\n".join(bad))
    print("queues, offloads, VLANs and filters as they should be; every stream was whole")


vm.main(test)
