#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Every virtio device in a Debian guest, with Debian's drivers: data both ways and checked, features seen, drivers taken
away and brought back, and what was flushed is there after kill -9. One boot serves all.

  virtio.py GUISE ENGINE BUS CPUS     BUS: pci, mmio
"""
import fcntl
import hashlib
import http.server
import json
import os
import pathlib
import pty
import select
import socket
import struct
import sys
import tempfile
import termios
import threading
import time

import vm

MIB = 1 << 20
TRANSFER = 100 * MIB
DRIVERS = ["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng", "virtio_console", "virtio_balloon",
           "vmw_vsock_virtio_transport"]


def noise(size, seed):
    """Bytes that are different everywhere, quickly made."""
    block = hashlib.shake_256(str(seed).encode()).digest(MIB)
    return b"".join(struct.pack("<Q", k) + block[8:] for k in range((size + MIB - 1) // MIB))[:size]


def md5(data):
    return hashlib.md5(data).hexdigest()


class Host:
    """What the guest finds on the host: a web server that gives `data` and takes uploads, on a port of the loopback."""

    def __init__(self, data):
        host = self
        self.uploaded = None

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.web.serve_forever, daemon=True).start()
        self.sink = socket.create_server(("127.0.0.1", 0))
        self.arrived = threading.Event()

        def take():
            client = self.sink.accept()[0]
            digest, total = hashlib.md5(), 0
            while piece := client.recv(1 << 18):
                digest.update(piece)
                total += len(piece)
            host.uploaded = (total, digest.hexdigest())
            host.arrived.set()

        threading.Thread(target=take, daemon=True).start()


class Test:
    def __init__(self, guest, scratch, bus, cpus):
        self.guest, self.scratch, self.bus, self.cpus = guest, scratch, bus, cpus

    def run(self, command):
        output, status = self.guest.shell(command)
        if status:
            raise vm.Failure(f"'{command}' ended with status {status}: {output}")
        return output.strip()

    # --- disks ---

    def disks(self, data):
        image = self.scratch / "data.img"
        vm.expect("the disk's contents", self.run("md5sum </dev/vda").split()[0], md5(data))
        vm.expect("the serial number", self.run("cat /sys/block/vda/serial"), "GUISE-0001")
        vm.expect("the disk's queues", self.run("ls /sys/block/vda/mq | wc -l"), str(self.cpus))
        self.run("dd if=/dev/urandom of=/tmp/noise bs=1M count=8 2>/dev/null")
        wanted = self.run("md5sum </tmp/noise").split()[0]
        self.run("dd if=/tmp/noise of=/dev/vda bs=64k seek=16 conv=notrunc 2>/dev/null; sync")
        self.run("echo 3 >/proc/sys/vm/drop_caches")
        vm.expect("written and read again",
                  self.run("dd if=/dev/vda bs=1M skip=1 count=8 2>/dev/null | md5sum").split()[0], wanted)
        vm.expect("in the image", md5(image.read_bytes()[MIB:9 * MIB]), wanted)
        self.run("blkdiscard -o 2097152 -l 1048576 /dev/vda")
        vm.expect("after blkdiscard", image.read_bytes()[2 * MIB:3 * MIB], bytes(MIB))
        vm.expect("the read-only flag", self.run("cat /sys/block/vdb/ro"), "1")
        if self.guest.shell("dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync")[1] == 0:
            raise vm.Failure("a read-only disk was written")
        cache = "/sys/block/vda/cache_type" if self.guest.shell("test -e /sys/block/vda/cache_type")[1] == 0 else None
        if cache:
            vm.expect("the write cache", self.run(f"cat {cache}"), "write back")
            self.run(f"echo 'write through' >{cache}")
            self.run("dd if=/tmp/noise of=/dev/vda bs=1M count=1 conv=notrunc,fsync 2>/dev/null")
            self.run(f"echo 'write back' >{cache}")

    def rereading_after_kill(self):
        self.run("dd if=/tmp/noise of=/dev/vda bs=1M seek=20 count=8 conv=notrunc,fsync 2>/dev/null")
        wanted = self.run("md5sum </tmp/noise").split()[0]
        self.guest.process.kill()
        self.guest.process.wait()
        vm.expect("what was flushed before kill -9", md5((self.scratch / "data.img").read_bytes()[20 * MIB:28 * MIB]), wanted)

    # --- network ---

    def lease(self):
        """An address by DHCP. If none comes: what the guest knows of its card and its interrupts."""
        output, status = self.guest.shell("udhcpc -i eth0 -n -q -t 20 -s /tmp/udhcpc")
        if status:
            known = [self.guest.shell(command)[0] for command in (
                "dmesg | tail -n 20", "cat /proc/interrupts", "ip -s -s link show eth0", "cat /sys/class/net/eth0/carrier",
                "cat /proc/net/softnet_stat", "grep Udp /proc/net/snmp", "ping -c 2 -I eth0 10.0.2.2; ip -s link show eth0")]
            raise vm.Failure("no lease: " + "\n".join([output, *known]))

    def network(self, host, data, forwarded):
        self.run("ip link set eth0 up")
        script = ("#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr add $ip/$mask dev $interface\n"
                  "ip route add default via $router\necho nameserver $dns >/etc/resolv.conf\n")
        for number, line in enumerate(script.splitlines()):
            self.run(f"echo '{line}' {'>>' if number else '>'}/tmp/udhcpc; chmod 755 /tmp/udhcpc")
        self.lease()
        vm.expect("the MTU", self.run("cat /sys/class/net/eth0/mtu"), "1400")
        vm.expect("the MAC address", self.run("cat /sys/class/net/eth0/address"), "52:54:00:11:22:33")
        self.run("ping -c 3 -A 10.0.2.2")
        web = host.web.server_address[1]
        self.run(f"wget -q -O /tmp/data http://10.0.2.2:{web}/")
        vm.expect("downloaded", self.run("md5sum </tmp/data").split()[0], md5(data))
        self.run(f"nc 10.0.2.2 {host.sink.getsockname()[1]} </tmp/data")
        if not host.arrived.wait(120):
            raise vm.Failure("the upload did not end")
        vm.expect("uploaded", host.uploaded, (len(data), md5(data)))
        self.run("rm /tmp/data")
        # An nc whose input has ended closes its half at once, and libslirp 4.7 then loses what is on its way (under QEMU too).
        self.run("mkfifo /tmp/silence; exec 9<>/tmp/silence")
        self.run("nc -l -p 80 <&9 >/tmp/forwarded & until cat /proc/net/tcp* | grep -q ':0050 .* 0A '; do sleep 0.1; done")
        with socket.create_connection(("127.0.0.1", forwarded), timeout=60) as client:
            client.sendall(data[:MIB])
        self.run("wait")
        vm.expect("through the forwarded port", self.run("md5sum </tmp/forwarded").split()[0], md5(data[:MIB]))

    def random(self):
        first = self.run("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | md5sum")
        if first == self.run("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | md5sum"):
            raise vm.Failure("the random number device repeats itself")
        vm.expect("the random number source", self.run("cat /sys/class/misc/hw_random/rng_current")[:11], "virtio_rng.")

    # --- console ---

    def console(self, terminal, data):
        os.set_blocking(terminal, False)
        vm.expect("the terminal's size", self.run("stty size </dev/hvc0"), "30 100")
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 133, 0, 0))
        os.kill(self.guest.process.pid, 28)  # SIGWINCH: the terminal is not the machine's controlling one here
        for _ in range(600):
            size = self.run("stty size </dev/hvc0")
            if size == "41 133":
                break
            time.sleep(0.1)
        vm.expect("the size after a change", size, "41 133")
        self.run("echo hello from hvc0 >/dev/hvc0")
        self.read_until(terminal, b"hello from hvc0")
        self.run("echo '<1>a word from the kernel' >/dev/kmsg")  # console=hvc0
        self.read_until(terminal, b"a word from the kernel")
        self.guest.type("(echo it is open; read -r l; echo got $l) </dev/hvc0\n")
        self.guest.wait_for("it is open\n")
        os.write(terminal, b"typed\r")
        self.guest.wait_for("got typed\n")
        port = self.run("grep -l '^org.guise.test$' /sys/class/virtio-ports/*/name").split("/")[-2]
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(120)
        client.connect(str(self.scratch / "port"))
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        vm.expect("through the port", self.run(f"head -c {len(data)} /dev/{port} | md5sum").split()[0], md5(data))
        sender.join()
        wanted = self.run("md5sum </tmp/noise").split()[0]
        self.guest.type(f"cat /tmp/noise >/dev/{port}\n")
        digest, left = hashlib.md5(), 8 * MIB
        while left:
            piece = client.recv(min(left, 1 << 16))
            digest.update(piece)
            left -= len(piece)
        vm.expect("out of the port", digest.hexdigest(), wanted)
        client.close()
        self.run("true")

    def read_until(self, fd, wanted):
        got = b""
        while wanted not in got:
            if not select.select([fd], [], [], 60)[0]:
                raise vm.Failure(f"{wanted} did not come; there was {got}")
            got += os.read(fd, 4096)

    # --- balloon ---

    def ask_balloon(self, line):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(self.scratch / "balloon"))
            client.sendall(line.encode() + b"\n")
            return json.loads(client.makefile().readline())

    def resident_mib(self):
        for line in pathlib.Path(f"/proc/{self.guest.process.pid}/status").read_text().splitlines():
            if line.startswith("RssShmem"):
                return int(line.split()[1]) >> 10
        return 0

    def wait_for_balloon(self, condition, what):
        for _ in range(600):
            info = self.ask_balloon("info")
            if condition(info):
                return
            time.sleep(0.1)
        raise vm.Failure(f"{what}: {info}, {self.resident_mib()} MiB resident")

    def balloon(self):
        self.run("dd if=/dev/zero of=/tmp/fill bs=1M count=150 2>/dev/null")
        before = self.resident_mib()
        self.run("rm /tmp/fill")
        self.wait_for_balloon(lambda info: self.resident_mib() < before - 100, "free pages are not reported")
        total = int(self.run("awk '/MemFree/ {print $2}' /proc/meminfo")) >> 10
        self.ask_balloon("target 128")
        self.wait_for_balloon(lambda info: info["actual_mib"] == 128 and info["inflated_mib"] >= 128, "no inflation")
        free = int(self.run("awk '/MemFree/ {print $2}' /proc/meminfo")) >> 10
        if not total - 192 < free < total - 64: # other memory comes free and goes meanwhile
            raise vm.Failure(f"inflated by 128 MiB, free memory went from {total} to {free} MiB")
        stats = self.ask_balloon("stats")["stats"]
        if abs((stats["free"] >> 20) - free) > 64 or stats["total"] >> 20 > 512:
            raise vm.Failure(f"statistics {stats} with {free} MiB free")
        self.ask_balloon("target 0")
        self.wait_for_balloon(lambda info: info["actual_mib"] == 0, "no deflation")

    # --- vsock ---

    def connect_vsock(self, port):
        for _ in range(600):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(120)
            client.connect(str(self.scratch / "vsock"))
            client.sendall(f"CONNECT {port}\n".encode())
            answer = b""
            while not answer.endswith(b"\n") and (piece := client.recv(1)):
                answer += piece
            if answer.startswith(b"OK "):
                return client
            client.close()
            time.sleep(0.1)
        raise vm.Failure(f"no vsock connection to port {port} of the guest")

    def vsock(self, data):
        self.guest.type("socat VSOCK-LISTEN:1000 SYSTEM:md5sum &\n")
        with self.connect_vsock(1000) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            vm.expect("host to guest by vsock", client.makefile().read().split()[0], md5(data))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.scratch / "vsock_2000"))
        listener.listen(100)
        results = []

        def serve(count):
            for _ in range(count):
                with listener.accept()[0] as client:
                    digest = hashlib.md5()
                    while piece := client.recv(1 << 16):
                        digest.update(piece)
                    results.append(digest.hexdigest())
                    client.sendall(digest.hexdigest().encode() + b"\n")

        server = threading.Thread(target=serve, args=(31,), daemon=True)
        server.start()
        wanted = self.run("md5sum </tmp/noise").split()[0]
        vm.expect("guest to host by vsock", self.run("socat -t 60 FILE:/tmp/noise!!STDOUT VSOCK-CONNECT:2:2000"), wanted)
        self.run("for n in $(seq 30); do echo $n | socat -t 60 - VSOCK-CONNECT:2:2000 >/dev/null || exit 1 & done; wait")
        server.join(120)
        vm.expect("many connections", sorted(results[1:]), sorted(md5(f"{n}\n".encode()) for n in range(1, 31)))
        if self.guest.shell("socat - VSOCK-CONNECT:2:9999 </dev/null 2>/dev/null")[1] == 0:
            raise vm.Failure("a connection to a port that nobody has")
        self.run("socat -U OPEN:/tmp/many,creat,append VSOCK-LISTEN:1001,fork & true")
        clients = [self.connect_vsock(1001) for _ in range(50)]
        for number, client in enumerate(clients):
            client.sendall(f"{number}\n".encode())
            client.close()
        for _ in range(600):
            lines = self.run("sort -n /tmp/many").split()
            if len(lines) == 50:
                break
            time.sleep(0.1)
        vm.expect("fifty at once", lines, [str(n) for n in range(50)])
        self.run("killall socat")

    def connect_seqpacket(self, port):
        for _ in range(600):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            client.settimeout(120)
            client.connect(str(self.scratch / "vsock.seqpacket"))
            client.send(f"CONNECT {port}\n".encode())
            if client.recv(64).startswith(b"OK "):
                return client
            client.close()
            time.sleep(0.1)
        raise vm.Failure(f"no SEQPACKET connection to port {port} of the guest")

    def seqpacket(self):
        """Messages keep their lengths, both ways, whoever connects."""
        self.guest.type("/bin/seqpacket 1003 &\n")
        with self.connect_seqpacket(1003) as client:
            for length in (1, 3, 4096, 65537, 150000, 2):
                message = os.urandom(length)
                client.send(message)
                vm.expect(f"a message of {length} bytes comes back", client.recv(1 << 18) == message, True)
            for number in range(200):
                client.send(bytes([number]) * (number + 1))
            for number in range(200):
                vm.expect(f"message {number} of many", client.recv(1 << 18) == bytes([number]) * (number + 1), True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self.scratch / "vsock_2003"))
        listener.listen(1)

        def echo():
            with listener.accept()[0] as client:
                while message := client.recv(1 << 18):
                    client.send(message)

        threading.Thread(target=echo, daemon=True).start()
        vm.expect("the guest's messages", self.run("/bin/seqpacket 2003 2").split()[-2:], ["SEQPACKET", "OK"])
        if self.guest.shell("/bin/seqpacket 2000 2 2>/dev/null")[1] == 0:  # vsock()'s listener: of streams
            raise vm.Failure("a SEQPACKET connection to a listener of streams")

    # --- drivers go and come ---

    def rebind(self):
        self.run("ip link set eth0 down")
        for device in self.run("ls /sys/bus/virtio/devices").split():
            driver = os.path.basename(self.run(f"readlink /sys/bus/virtio/devices/{device}/driver"))
            if driver == "virtio_console":
                continue  # its terminal may be open: with the transport, below
            for _ in range(3):
                self.run(f"echo {device} >/sys/bus/virtio/drivers/{driver}/unbind")
                self.run(f"echo {device} >/sys/bus/virtio/drivers/{driver}/bind")
        driver = "/sys/bus/pci/drivers/virtio-pci" if self.bus == "pci" else "/sys/bus/platform/drivers/virtio-mmio"
        for device in self.run(f"cd {driver}; ls -d *:*").split():
            self.run(f"echo {device} >{driver}/unbind")
            self.run(f"echo {device} >{driver}/bind")
        self.run("for k in $(seq 600); do [ -e /dev/vda ] && [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done")
        self.run("dd if=/dev/vda of=/dev/null bs=1M count=4 2>/dev/null")
        self.run("ip link set eth0 up")
        self.lease()
        self.run("ping -c 2 -A 10.0.2.2")
        self.run("dd if=/dev/hwrng of=/dev/null bs=64 count=1 2>/dev/null")
        self.run("echo again >/dev/hvc0")
        self.ask_balloon("target 16")
        self.wait_for_balloon(lambda info: info["actual_mib"] == 16, "no inflation after a rebind")
        with self.connect_after_rebind() as client:
            vm.expect("vsock after a rebind", client.recv(16), b"again\n")

    def connect_after_rebind(self):
        self.guest.type("echo again | socat -u - VSOCK-LISTEN:1002 &\n")
        return self.connect_vsock(1002)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def without_acpi(guise, engine, kernel):
    """A kernel that ignores ACPI is told by its command line (Debian's does not look there: only that it is told)."""
    with vm.Vm(guise, engine, kernel, vm.GUEST / "initrd.cpio", append="quiet acpi=off",
               options=["--virtio", "mmio", "--net", "user,bus=pci"]) as guest:
        guest.boot()
        told = [word for word in guest.shell("cat /proc/cmdline")[0].split() if word.startswith("virtio_mmio.device=")]
        vm.expect("what the command line says", told, ["virtio_mmio.device=0x1000@0xf0000000:5:0"])


def test():
    guise, engine, bus, cpus, seqpacket = sys.argv[1:6]
    kernel = vm.need_guest("cloud")
    files, order = vm.modules(DRIVERS)
    files.update(vm.program("socat") | {"bin/seqpacket": seqpacket})
    data, forwarded = noise(TRANSFER, 1), free_port()
    host = Host(data)
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        (scratch / "data.img").write_bytes(data[:32 * MIB])
        (scratch / "ro.img").write_bytes(data[:MIB])
        initrd = vm.make_initrd(scratch / "initrd", files)
        options = ["--virtio", bus, "--disk", f"{scratch}/data.img,serial=GUISE-0001", "--disk", f"{scratch}/ro.img,ro",
                   "--net", f"user,mac=52:54:00:11:22:33,mtu=1400,fwd=tcp:{forwarded}:80", "--hvc", "stdio",
                   "--port", f"org.guise.test,unix:{scratch}/port", "--balloon", f"0,socket={scratch}/balloon",
                   "--vsock", f"42,{scratch}/vsock"]
        with vm.Vm(guise, engine, kernel, initrd, append=f"console=hvc0 console=ttyS0 quiet mods={order}",
                   cpus=int(cpus), options=options,
                   serial=scratch / "serial", terminal=slave, time_limit=900) as guest:
            guest.boot()
            t = Test(guest, scratch, bus, int(cpus))
            steps = [("disks", lambda: t.disks(data[:32 * MIB])), ("network", lambda: t.network(host, data, forwarded)),
                     ("rng", t.random), ("console", lambda: t.console(terminal, data[:4 * MIB])), ("balloon", t.balloon),
                     ("vsock", lambda: t.vsock(data[:16 * MIB])), ("seqpacket", t.seqpacket), ("rebind", t.rebind)]
            for step, function in steps:
                before = time.monotonic()
                function()
                print(f"{step}: as it should be ({time.monotonic() - before:.1f} s)", flush=True)
            bad = vm.bad_lines(guest.shell("dmesg")[0])
            t.rereading_after_kill()
        if bus == "mmio":
            without_acpi(guise, engine, kernel)
    if bad:
        raise vm.Failure("the kernel's log complains:\n" + "\n".join(bad))
    print("and what was flushed survived kill -9")


vm.main(test)
