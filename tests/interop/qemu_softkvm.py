#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Debian's QEMU, unchanged, with softkvm in the place of /dev/kvm.

  qemu_softkvm.py GUISE ENGINE CASE

The cases are the functions named case_* below: a kernel on three of QEMU's boards and with its interrupt controllers in three
places, SeaBIOS and GRUB from a disk, two CD-ROM images, UEFI firmware, snapshots on two vCPUs, the gdb stub.
"""
import pathlib
import re
import shutil
import subprocess

import grub_disk
from qemu import Qemu, initrd_with, linux, run_case, vm


def boot_linux(scratch, *board):
    with Qemu(scratch, *board, *linux(scratch, "cat /proc/cpuinfo\n", "")) as guest:
        guest.wait_for("GUEST READY")
        guest.poweroff()
        cpus = guest.console.count("\nprocessor")
        # QEMU hides the invariant TSC from guests that may migrate; Linux then calls several TSCs unsynchronized.
        bad = [line for line in vm.bad_lines(guest.console) if "TSCs unsynchronized" not in line]
    vm.expect("CPUs in the guest", cpus, 2 if "2" in board else 1)
    if bad:
        raise vm.Failure("the kernel's log complains:\n" + "\n".join(bad))


def case_q35(scratch):
    boot_linux(scratch, "-machine", "q35", "-smp", "2")


def case_pc(scratch):
    boot_linux(scratch, "-machine", "pc")


def case_microvm(scratch):
    boot_linux(scratch, "-machine", "microvm,rtc=on")


def case_split_irqchip(scratch):
    boot_linux(scratch, "-machine", "q35,kernel-irqchip=split")


def case_irqchip_off(scratch):
    """All controllers in QEMU. With two vCPUs Debian's QEMU stops for good on any KVM: it forgets to take back a SIPI."""
    boot_linux(scratch, "-machine", "q35,kernel-irqchip=off")


def case_grub(scratch):
    disk = grub_disk.make(scratch, vm.need_guest("cloud"), initrd_with(scratch, "uname -r\n"))
    with Qemu(scratch, "-machine", "pc", "-drive", f"file={disk},format=raw,if=ide") as guest:
        guest.wait_for("GRUB HERE")
        guest.wait_for("GUEST READY")
        guest.poweroff()


def cdrom(scratch, image, board, text):
    if not pathlib.Path(image).exists():
        vm.skip(f"{image} is not installed (tools/setup test)")
    with Qemu(scratch, "-machine", board, "-vga", "std", "-cdrom", image, "-boot", "d") as guest:
        guest.wait_for_screen(text)
        guest.qmp("quit")


def case_memtest(scratch):
    cdrom(scratch, "/usr/lib/memtest86+/memtest86+x64.iso", "q35", "Status: Testing")


def case_ipxe(scratch):
    cdrom(scratch, "/usr/lib/ipxe/ipxe.iso", "pc", "Open Source Network Boot Firmware")


def case_ovmf(scratch):
    firmware = pathlib.Path("/usr/share/OVMF/OVMF_CODE.fd")
    if not firmware.exists():
        vm.skip("OVMF is not installed (tools/setup test)")
    with Qemu(scratch, "-machine", "q35", "-drive", f"if=pflash,format=raw,readonly=on,file={firmware}") as guest:
        guest.wait_for("UEFI Interactive Shell")
        guest.wait_for("Shell> ")
        guest.qmp("quit")


def uptimes(text):
    """Whole ones only: what was read may end anywhere, and a loaded machine goes on where its line was, not the reader's."""
    return [float(t) for t in re.findall(r"<up ([0-9]+\.[0-9]+)>", text)]


def case_snapshot(scratch):
    disk = scratch / "snapshots"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    loop = linux(scratch, "while read -r up idle </proc/uptime; do echo \"<up $up>\"; sleep 1; done\n")
    with Qemu(scratch, "-machine", "q35", "-smp", "2", "-drive", f"file={disk},if=virtio", *loop) as guest:
        guest.wait_for("GUEST READY")
        while len(uptimes(guest.console)) < 2:
            guest._read_some()
        guest.monitor("savevm here")
        saved = uptimes(guest.console)[-1]
        for _ in range(2):
            while uptimes(guest.console)[-1] < saved + 2:
                guest._read_some()
            guest.console = ""
            guest.monitor("loadvm here")
            while len(uptimes(guest.console)) < 3:
                guest._read_some()
            first = uptimes(guest.console)[:3]
            if not any(saved <= t < saved + 2 for t in first):
                raise vm.Failure(f"saved at {saved} s, went on at {first}")
        guest.qmp("quit")


def case_gdb(scratch):
    """The stub's breakpoints and single steps are KVM_SET_GUEST_DEBUG."""
    if not shutil.which("gdb"):
        vm.skip("gdb is not installed (tools/setup test)")
    script = scratch / "commands"
    script.write_text(f"set confirm off\nset architecture i386:x86-64\ntarget remote {scratch}/gdb\n"
                      "hbreak *0x1000000\ncontinue\nprintf \"at %lx\\n\", $rip\nstepi\nstepi\nprintf \"then %lx\\n\", $rip\n"
                      "delete\ndetach\n")
    with Qemu(scratch, "-machine", "q35", "-S", "-chardev", f"socket,path={scratch}/gdb,server=on,wait=off,id=gdb",
              "-gdb", "chardev:gdb", *linux(scratch, "", "quiet nokaslr")) as guest:
        guest.qmp("query-status")
        said = subprocess.run(["gdb", "-batch", "-nx", "-x", script], capture_output=True, text=True, timeout=120)
        if "at 1000000" not in said.stdout or "then 1000" not in said.stdout:
            raise vm.Failure(f"gdb said:\n{said.stdout}{said.stderr}")
        guest.wait_for("GUEST READY")
        guest.qmp("quit")


vm.main(lambda: run_case(globals()))
