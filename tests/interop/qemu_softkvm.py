#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Debian's QEMU, unchanged, with softkvm in the place of /dev/kvm.

  qemu_softkvm.py GUISE ENGINE CASE

The cases are the functions named case_* below: a kernel on three of QEMU's boards, SeaBIOS and GRUB from a disk, two CD-ROM
images, UEFI firmware, snapshots on two vCPUs, the gdb stub.
"""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
import vm  # noqa: E402

GUISE, ENGINE = sys.argv[1:3]
SCREEN_BYTES = 80 * 25 * 2


class Qemu(vm.Vm):
    """QEMU under `guise kvm`; its serial port is the console, QMP its control."""

    def __init__(self, scratch, *options, mem="256M", time_limit=300):
        self.scratch = pathlib.Path(scratch)
        self.control = None
        self._start([GUISE, "kvm", "--engine", ENGINE, "--", "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host",
                     "-m", mem, "-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio",
                     "-qmp", f"unix:{self.scratch}/qmp,server=on,wait=off", *map(str, options)], time_limit)

    def qmp(self, command, **arguments):
        if not self.control:
            connection = socket.socket(socket.AF_UNIX)
            while True:
                try:
                    connection.connect(f"{self.scratch}/qmp")
                    break
                except OSError:
                    if self.process.poll() is not None or time.monotonic() > self.deadline:
                        raise vm.Failure("QEMU opened no control socket") from None
                    time.sleep(0.1)
            connection.settimeout(60)
            self.control = connection.makefile("rw")
            self.control.readline()
            self.qmp("qmp_capabilities")
        self.control.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.control.flush()
        while True:
            answer = json.loads(self.control.readline())
            if "error" in answer:
                raise vm.Failure(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def monitor(self, line):
        answer = self.qmp("human-monitor-command", **{"command-line": line})
        if answer.strip():
            raise vm.Failure(f"{line}: {answer.strip()}")

    def screen(self):
        """The text on the VGA screen."""
        dump = self.scratch / "screen"
        self.qmp("pmemsave", val=0xB8000, size=SCREEN_BYTES, filename=str(dump))
        text = dump.read_bytes()[::2].decode("cp437").replace("\0", " ")
        return "\n".join(text[at:at + 80].rstrip() for at in range(0, len(text), 80))

    def wait_for_screen(self, text):
        while text not in (screen := self.screen()):
            if time.monotonic() > self.deadline or self.process.poll() is not None:
                raise vm.Failure(f"'{text}' did not come on the screen, which shows:\n{screen}")
            time.sleep(0.5)

    def poweroff(self):
        """The guest is about to power off: wait for QEMU's end."""
        while self._read_some():
            pass
        vm.expect("QEMU's exit status", self.process.wait(60), 0)


def initrd_with(scratch, script):
    """An initrd whose kernel parameter run=/bin/script runs this."""
    file = scratch / "script"
    file.write_text("#!/bin/sh\n" + script)
    return vm.make_initrd(scratch / "initrd", {"bin/script": file})


def linux(scratch, script, append="quiet"):
    return ("-kernel", vm.need_guest("cloud"), "-initrd", initrd_with(scratch, script),
            "-append", f"console=ttyS0 reboot=t panic=-1 run=/bin/script {append}")


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


def make_grub_disk(scratch):
    """A disk with a boot sector, GRUB behind it and an ext2 file system, without root's rights."""
    for tool in ("grub-mkimage", "mke2fs", "sfdisk"):
        if not shutil.which(tool) and not os.access(f"/usr/sbin/{tool}", os.X_OK):
            vm.skip(f"{tool} is not installed (tools/setup test)")
    modules = pathlib.Path("/usr/lib/grub/i386-pc")
    if not modules.exists():
        vm.skip("grub-pc-bin is not installed (tools/setup test)")
    tree = scratch / "tree"
    (tree / "boot" / "grub").mkdir(parents=True)
    shutil.copy(vm.need_guest("cloud"), tree / "boot" / "vmlinuz")
    shutil.copy(initrd_with(scratch, "uname -r\n"), tree / "boot" / "initrd")
    (tree / "boot" / "grub" / "grub.cfg").write_text(
        "serial --unit=0\nterminal_output serial\necho GRUB HERE\n"
        "linux /boot/vmlinuz console=ttyS0 reboot=t panic=-1 quiet run=/bin/script\ninitrd /boot/initrd\nboot\n")
    environment = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    disk, files = scratch / "disk", scratch / "files"
    subprocess.run(["mke2fs", "-q", "-t", "ext2", "-d", tree, files, "64M"], check=True, env=environment)
    core = scratch / "core"
    subprocess.run(["grub-mkimage", "-O", "i386-pc", "-o", core, "-p", "(hd0,msdos1)/boot/grub", "biosdisk", "part_msdos",
                    "ext2", "normal", "linux", "echo", "serial", "boot"], check=True)
    with open(disk, "wb") as image:
        image.truncate((1 << 20) + files.stat().st_size)
    subprocess.run(["sfdisk", "-q", disk], input="2048,,L\n", text=True, check=True, env=environment)
    with open(disk, "r+b") as image:
        image.write((modules / "boot.img").read_bytes()[:440])
        image.seek(512)
        image.write(core.read_bytes())
        image.seek(1 << 20)
        with open(files, "rb") as source:
            shutil.copyfileobj(source, image)
    return disk


def case_grub(scratch):
    disk = make_grub_disk(scratch)
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
    return [float(line.split()[0]) for line in text.splitlines() if line.count(".") == 2 and line[0].isdigit()]


def case_snapshot(scratch):
    disk = scratch / "snapshots"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    loop = linux(scratch, "while true; do cat /proc/uptime; sleep 1; done\n")
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


def test():
    if not shutil.which("qemu-system-x86_64"):
        vm.skip("qemu-system-x86_64 is not installed (tools/setup test)")
    with tempfile.TemporaryDirectory() as directory:
        globals()[f"case_{sys.argv[3]}"](pathlib.Path(directory))
    print(f"QEMU on softkvm, {sys.argv[3]}")


vm.main(test)
