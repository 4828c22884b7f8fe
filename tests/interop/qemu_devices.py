#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's devices on softkvm: emulated and virtio cards and disks, the screen over VNC, a vhost-user card, live migration.

  qemu_devices.py GUISE ENGINE CASE
"""
import hashlib
import http.server
import os
import socket
import struct
import subprocess
import threading
import time

from qemu import GUISE, Qemu, initrd_with, linux, run_case, vm

DISK_SIZE = 8 << 20
PAGE_TEXT = b"the page of the host's web server\n" * 1000


def modules_of(names, flavour):
    """Modules with those that they depend on, each before its users."""
    order = []

    def add(name):
        path = vm.module(name, flavour)
        listing = subprocess.run(["/sbin/modinfo", "-F", "depends", path], capture_output=True, text=True, check=True)
        for needed in filter(None, listing.stdout.strip().split(",")):
            add(name_of(needed, flavour))
        if name not in order:
            order.append(name)

    for name in names:
        add(name)
    return order


def name_of(name, flavour):
    """Files are named with - or _, and modinfo does not say which."""
    for candidate in (name, name.replace("_", "-")):
        if list((vm.GUEST / f"modules-{flavour}").rglob(f"{candidate}.ko")):
            return candidate
    return vm.skip(f"the {flavour} kernel has no module {name}")


def full_linux(scratch, script, names):
    """The full kernel, with modules, running a script."""
    if not os.access("/sbin/modinfo", os.X_OK):
        vm.skip("kmod is not installed (tools/setup test)")
    kernel, order = vm.need_guest("full"), modules_of(names, "full")
    file = scratch / "script"
    file.write_text("#!/bin/sh\n" + script)
    files = {"bin/script": file} | {f"modules/{name}.ko": vm.module(name, "full") for name in order}
    return ("-kernel", kernel, "-initrd", vm.make_initrd(scratch / "initrd", files),
            "-append", f"console=ttyS0 reboot=t panic=-1 quiet mods={','.join(order)} run=/bin/script")


class WebServer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE_TEXT)

    def log_message(self, *args):
        pass


def serve_page():
    """A web server on the host's loopback, as long as this process lives; its port."""
    server = http.server.HTTPServer(("127.0.0.1", 0), WebServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def make_disk(path):
    path.write_bytes(os.urandom(DISK_SIZE))
    return hashlib.md5(path.read_bytes()).hexdigest()


DISK_SCRIPT = """
for i in $(seq 100); do [ -e /dev/{last} ] && break; sleep 0.2; done
for disk in {disks}; do
	echo "DISK $disk $(md5sum </dev/$disk | cut -d' ' -f1)"
	dd if=/dev/zero of=/dev/$disk bs=4096 count=16 2>/dev/null
done
sync
"""
NET_SCRIPT = """
for i in $(seq 100); do [ -e /sys/class/net/eth0 ] && break; sleep 0.2; done
ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
for i in $(seq 50); do wget -q -O /tmp/page http://10.0.2.2:{port}/ && break; sleep 0.2; done
echo "PAGE $(md5sum </tmp/page | cut -d' ' -f1)"
"""


def check_devices(scratch, board, names, disks, options, last):
    """Each disk is read in whole and written; a page comes over the card."""
    page, sums = hashlib.md5(PAGE_TEXT).hexdigest(), {}
    for disk, file in disks.items():
        sums[disk] = make_disk(scratch / file)
    script = DISK_SCRIPT.format(last=last, disks=" ".join(disks)) + NET_SCRIPT.format(port=serve_page())
    with Qemu(scratch, "-machine", board, *options, *full_linux(scratch, script, names), mem="512M") as guest:
        guest.wait_for("GUEST READY")
        guest.poweroff()
        text = guest.console
    for disk, expected in sums.items():
        vm.expect(f"{disk} is read right", f"DISK {disk} {expected}" in text, True)
        vm.expect(f"{disk} is written", (scratch / disks[disk]).read_bytes()[:65536], bytes(65536))
    vm.expect("the page came", f"PAGE {page}" in text, True)


def case_emulated(scratch):
    """e1000, AHCI, NVMe, a USB stick on xHCI."""
    options = ["-netdev", "user,id=n", "-device", "e1000,netdev=n", "-device", "qemu-xhci"]
    for name, device in (("ahci", "ide-hd,drive=ahci,bus=ide.0"), ("nvme", "nvme,drive=nvme,serial=1"), ("usb", "usb-storage,drive=usb")):
        options += ["-drive", f"file={scratch}/{name},format=raw,if=none,id={name}", "-device", device]
    check_devices(scratch, "q35", ["e1000", "ahci", "sd_mod", "nvme", "xhci-pci", "usb-storage"],
                  {"sda": "ahci", "nvme0n1": "nvme", "sdb": "usb"}, options, "sdb")


def case_old(scratch):
    """The PC of before: PIIX IDE by DMA, rtl8139, UHCI."""
    options = ["-netdev", "user,id=n", "-device", "rtl8139,netdev=n", "-device", "piix3-usb-uhci", "-device", "usb-tablet",
               "-drive", f"file={scratch}/ide,format=raw,if=ide"]
    check_devices(scratch, "pc", ["8139cp", "ata_piix", "sd_mod", "uhci-hcd"], {"sda": "ide"}, options, "sda")


def case_virtio(scratch):
    """virtio block, SCSI, network with vectors of their own, served by an I/O thread."""
    options = ["-object", "iothread,id=t", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n",
               "-device", "virtio-scsi-pci,iothread=t", "-device", "virtio-rng-pci", "-smp", "2"]
    for name, device in (("blk", "virtio-blk-pci,drive=blk,iothread=t"), ("scsi", "scsi-hd,drive=scsi")):
        options += ["-drive", f"file={scratch}/{name},format=raw,if=none,id={name}", "-device", device]
    check_devices(scratch, "q35", ["virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "sd_mod"],
                  {"vda": "blk", "sda": "scsi"}, options, "sda")


def case_vhost_user(scratch):
    """A card that our own back end serves from another process."""
    path = scratch / "net"
    backend = subprocess.Popen([GUISE, "vhost-net", "--socket-path", path, "--net", "user"])
    try:
        while not path.exists():
            vm.expect("guise vhost-net", backend.poll(), None)
            time.sleep(0.05)
        script = NET_SCRIPT.format(port=serve_page()).replace("ip addr add 10.0.2.15/24 dev eth0", "true")
        with Qemu(scratch, "-machine", "q35,memory-backend=ram", "-object", "memory-backend-memfd,id=ram,size=512M,share=on",
                  "-chardev", f"socket,id=c,path={path}", "-netdev", "vhost-user,id=n,chardev=c", "-device", "virtio-net-pci,netdev=n",
                  *linux(scratch, script, "quiet online"), mem="512M") as guest:
            guest.wait_for("GUEST READY")
            guest.poweroff()
            text = guest.console
        vm.expect("the page came", f"PAGE {hashlib.md5(PAGE_TEXT).hexdigest()}" in text, True)
    finally:
        backend.kill()
        backend.wait()


# --- the screen ---

def receive(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise vm.Failure("the VNC server hung up")
        data += more
    return data


def vnc_screen(path):
    """Width, height and raw pixels (32 bits each), by RFC 6143."""
    with socket.socket(socket.AF_UNIX) as c:
        c.settimeout(60)
        c.connect(str(path))
        vm.expect("RFB version", receive(c, 12)[:6], b"RFB 00")
        c.sendall(b"RFB 003.008\n")
        receive(c, receive(c, 1)[0])
        c.sendall(b"\1")  # no authentication
        vm.expect("security result", receive(c, 4), bytes(4))
        c.sendall(b"\1")
        width, height = struct.unpack(">HH", receive(c, 4))
        receive(c, 16)
        receive(c, struct.unpack(">I", receive(c, 4))[0])
        c.sendall(struct.pack(">BxHi", 2, 1, 0) + struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        pixels = bytearray(width * height * 4)
        got = 0
        while got < len(pixels):
            vm.expect("message", receive(c, 1), b"\0")
            for _ in range(struct.unpack(">xH", receive(c, 3))[0]):
                x, y, w, h, encoding = struct.unpack(">HHHHi", receive(c, 12))
                vm.expect("encoding", encoding, 0)
                for row in range(y, y + h):
                    at = (row * width + x) * 4
                    pixels[at:at + 4 * w] = receive(c, 4 * w)
                got += w * h * 4
        return width, height, bytes(pixels)


def case_vnc(scratch):
    """SeaBIOS and iPXE in the text mode of a VGA, seen over VNC and by a screenshot."""
    image = "/usr/lib/ipxe/ipxe.iso"
    if not os.path.exists(image):
        vm.skip(f"{image} is not installed (tools/setup test)")
    with Qemu(scratch, "-machine", "pc", "-vga", "std", "-cdrom", image, "-boot", "d", "-vnc", f"unix:{scratch}/vnc") as guest:
        guest.wait_for_screen("Open Source Network Boot Firmware")
        guest.qmp("stop")
        width, height, pixels = vnc_screen(scratch / "vnc")
        guest.qmp("screendump", filename=f"{scratch}/dump")
        picture = (scratch / "dump").read_bytes()
        guest.qmp("quit")
    vm.expect("size on VNC", (width, height), (720, 400))
    vm.expect("the screenshot's head", picture[:15], b"P6\n720 400\n255\n")
    shown = b"".join(pixels[k + 2:k + 3] + pixels[k + 1:k + 2] + pixels[k:k + 1] for k in range(0, len(pixels), 4))
    same = sum(shown[k:k + 3] == picture[15 + k:18 + k] for k in range(0, len(shown), 3))
    lit = sum(shown[k:k + 3] != b"\0\0\0" for k in range(0, len(shown), 3))
    if same < len(shown) // 3 * 99 // 100 or lit < 2000:  # a cursor may blink
        raise vm.Failure(f"VNC shows {same} of {len(shown) // 3} pixels as the screenshot, {lit} are lit")


# --- migration ---

def wait_migrated(guest):
    while (status := guest.qmp("query-migrate"))["status"] != "completed":
        if status["status"] == "failed" or time.monotonic() > guest.deadline:
            raise vm.Failure(f"migration: {status}")
        time.sleep(0.1)
    return status


MOVING = """
dd if=/dev/urandom of=/tmp/data bs=1M count=40 2>/dev/null
echo "SUM $(md5sum </tmp/data)"
while true; do
	cp /tmp/data /tmp/copy; cmp /tmp/data /tmp/copy || echo DIFFERS
	echo "UP $(cut -d' ' -f1 /proc/uptime) $(md5sum </tmp/copy)"
done
"""


def case_migrate(scratch):
    """From one QEMU to another through a socket, while both vCPUs write: the dirty log must miss nothing."""
    board = ("-machine", "q35", "-smp", "2", *linux(scratch, MOVING))
    (scratch / "to").mkdir()
    with Qemu(scratch, *board) as source, \
         Qemu(scratch / "to", *board, "-incoming", f"unix:{scratch}/stream") as target:
        source.wait_for("SUM ")
        total = source.wait_for("\n").strip()
        source.wait_for("UP ")
        target.qmp("query-status")
        source.qmp("migrate-set-parameters", **{"downtime-limit": 2000, "max-bandwidth": 1 << 30})
        source.qmp("migrate", uri=f"unix:{scratch}/stream")
        status = wait_migrated(source)
        source.qmp("quit")
        ups = []
        while len(ups) < 4:
            target.wait_for("UP ")
            ups.append(target.wait_for("\n").strip())
        target.qmp("quit")
        if "DIFFERS" in target.console or any(not line.endswith(total) for line in ups):
            raise vm.Failure(f"the memory is not what it was: {total}, then {ups}")
    print(f"{status['ram']['dirty-sync-count']} rounds")


vm.main(lambda: run_case(globals()))
