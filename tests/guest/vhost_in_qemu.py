#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's vhost under a guest of ours, inside a Debian kernel for which QEMU emulates SVM: there /dev/kvm and /dev/vhost-net are.

  vhost_in_qemu.py GUISE QUEUES VHOST_OUTSIDE

In there guise runs the same Debian kernel with --engine kvm and --net vhost=tap0: kicks and calls go between KVM and vhost by
eventfds, guise takes no part. The two kernels ping each other and pass a file both ways; then the driver is taken off and put on.
Beside it --vsock 7,vhost: a file each way through AF_VSOCK; and a second card with ACCESS_PLATFORM, so that the kernel finds every
address through its IOTLB: a file each way, again. Before that VHOST_OUTSIDE, a driver whose addresses are not all in its memory.
"""
import pathlib
import shutil
import sys
import tempfile

import vm

QEMU_CPU = "max,la57=off,smap=off,xsave=off"  # as in kvm_in_qemu.py, like the attempts
ATTEMPTS, TIME_LIMIT = 3, 360
GUEST_MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover", "net_failover",
                 "virtio_net", "vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"]
HOST_MODULES = ["irqbypass", "kvm", "kvm-amd", "tun", "tap", "vhost_iotlb", "vhost", "vhost_net", "vsock",
                "vmw_vsock_virtio_transport_common", "vhost_vsock"]

OUTER = """#!/bin/sh
export LD_LIBRARY_PATH=/lib
ls -l /dev/kvm /dev/vhost-net /dev/vhost-vsock
dd if=/dev/urandom of=/tmp/to-guest bs=1M count=4 2>/dev/null
echo "=host sent $(md5sum < /tmp/to-guest)="
/n/vhost_outside
echo "=outside $?="
mkfifo /tmp/open && exec 3<>/tmp/open # nc ends when its input does
(until ip link set tap0 up 2>/dev/null; do sleep 1; done
 ip addr add 10.8.0.1/24 dev tap0
 nc -l -p 5000 < /tmp/to-guest
 nc -l -p 5001 <&3 | md5sum > /tmp/from-guest
 ps | grep -c '[v]host-[0-9]' > /tmp/threads) &
(until ip link set tap1 up 2>/dev/null; do sleep 1; done
 ip addr add 10.8.1.1/24 dev tap1
 nc -l -p 5002 < /tmp/to-guest
 nc -l -p 5003 <&3 | md5sum > /tmp/translated-from-guest) &
(/n/socat -u VSOCK-LISTEN:3000 OPEN:/tmp/vsock-got,creat
 md5sum < /tmp/vsock-got > /tmp/vsock-from-guest
 until /n/socat -u OPEN:/tmp/to-guest VSOCK-CONNECT:7:3001; do sleep 1; done) &
echo =run=
/n/guise run --engine kvm --cpus {queues} --mem 256M --kernel /n/vmlinuz --initrd /n/initrd --net vhost=tap0,queues={queues},mtu=1400 --net vhost=tap1,access-platform --vsock 7,vhost \\
	--append "console=ttyS0 quiet panic=-1 mods={modules} run=/bin/inner" </dev/null
echo "=ran $?="
echo "=host got $(cat /tmp/from-guest)="
echo "=host translated $(cat /tmp/translated-from-guest)="
echo "=threads $(cat /tmp/threads)="
echo "=host vsock $(cat /tmp/vsock-from-guest)="
"""

INNER = """#!/bin/sh
up() {
	ip link set eth0 up && ip addr add 10.8.0.2/24 dev eth0
	until ping -c 3 -W 10 10.8.0.1; do sleep 1; done
	echo "=ping works="
}
up
mkfifo /tmp/open && exec 3<>/tmp/open
until nc 10.8.0.1 5000 <&3 > /tmp/got && [ -s /tmp/got ]; do sleep 1; done
echo "=guest got $(md5sum < /tmp/got)="
dd if=/dev/urandom of=/tmp/sent bs=1M count=4 2>/dev/null
echo "=guest sent $(md5sum < /tmp/sent)="
until nc 10.8.0.1 5001 < /tmp/sent; do sleep 1; done
echo "=mtu $(cat /sys/class/net/eth0/mtu)="
grep virtio /proc/interrupts
until /bin/socat -u OPEN:/tmp/sent VSOCK-CONNECT:2:3000; do sleep 1; done
/bin/socat -u VSOCK-LISTEN:3001 OPEN:/tmp/vsock-got,creat
echo "=guest vsock $(md5sum < /tmp/vsock-got)="
ip link set eth1 up && ip addr add 10.8.1.2/24 dev eth1
echo "=platform $(cut -c34 /sys/class/net/eth0/device/features /sys/class/net/eth1/device/features | tr -d '\\n')="
until nc 10.8.1.1 5002 <&3 > /tmp/got && [ -s /tmp/got ]; do sleep 1; done
echo "=guest translated $(md5sum < /tmp/got)="
until nc 10.8.1.1 5003 < /tmp/sent; do sleep 1; done
echo 0000:00:01.0 > /sys/bus/pci/drivers/virtio-pci/unbind
echo 0000:00:01.0 > /sys/bus/pci/drivers/virtio-pci/bind
up
"""


def field(console, name):
    start = console.find(f"={name} ")
    if start < 0:
        raise vm.Failure(f"'{name}' is missing")
    return console[start:].split("=")[1][len(name):].split()[0]


def run_nested(guise, kernel, initrd, queues):
    mods = ",".join(HOST_MODULES)
    with vm.Vm(guise, "qemu", kernel, initrd, f"quiet mods={mods} run=/bin/outer", cpus=1, mem="1536M", time_limit=TIME_LIMIT,
               qemu_cpu=QEMU_CPU) as outer:
        outer.wait_for("=run=")
        outer.wait_for("=ran ")
        vm.expect("guise's exit status", outer.wait_for("=\n"), "0")
        outer.end()
        return outer.console


def test():
    guise, queues, vhost_outside = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    for program in ("qemu-system-x86_64", "socat"):
        if not shutil.which(program):
            vm.skip(f"{program} is not installed (tools/setup test)")
    kernel = vm.need_guest("cloud")
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        (scratch / "inner").write_text(INNER)
        (scratch / "outer").write_text(OUTER.format(queues=queues, modules=",".join(GUEST_MODULES)))
        inner = {f"modules/{name}.ko": vm.module(name) for name in GUEST_MODULES} | {"bin/inner": scratch / "inner"}
        inner |= vm.libraries_of(shutil.which("socat")) | {"bin/socat": shutil.which("socat")}
        files = {"bin/outer": scratch / "outer", "n/guise": guise, "n/vmlinuz": kernel, "n/vhost_outside": vhost_outside}
        files["n/initrd"] = vm.make_initrd(scratch / "inner.cpio", inner)
        files |= {f"modules/{name}.ko": vm.module(name) for name in HOST_MODULES} | vm.libraries_of(guise) | vm.libraries_of(vhost_outside)
        files |= vm.libraries_of(shutil.which("socat")) | {"n/socat": shutil.which("socat")}
        initrd = vm.make_initrd(scratch / "outer.cpio", files)
        for attempts_left in range(ATTEMPTS - 1, -1, -1):
            try:
                console = run_nested(guise, kernel, initrd, queues)
                break
            except vm.OutOfTime as late:
                if not attempts_left:
                    raise
                print(f"tried again: {late}")
    vm.expect("status of vhost_outside", field(console, "outside"), "0")
    vm.expect("complaints of an address", console.count("asks for address 0x10000000000, which is outside"), 1)
    vm.expect("pings", console.count("=ping works="), 2)
    vm.expect("what the guest got", field(console, "guest got"), field(console, "host sent"))
    vm.expect("what the host got", field(console, "host got"), field(console, "guest sent"))
    vm.expect("by vsock to the guest", field(console, "guest vsock"), field(console, "host sent"))
    vm.expect("by vsock to the host", field(console, "host vsock"), field(console, "guest sent"))
    vm.expect("ACCESS_PLATFORM of the cards", field(console, "platform"), "01")
    vm.expect("what the guest got through translations", field(console, "guest translated"), field(console, "host sent"))
    vm.expect("what the host got through translations", field(console, "host translated"), field(console, "guest sent"))
    vm.expect("the guest's MTU", field(console, "mtu"), "1400")
    vm.expect("the kernel's vhost threads", field(console, "threads"), str(queues + 2))
    print(f"vhost-net with {queues} queue pairs: ping, 4 MiB each way, driver taken off and put on; 4 MiB each way by vhost-vsock, "
          "and by a card with ACCESS_PLATFORM")


vm.main(test)
