# SPDX-License-Identifier: BSD-2-Clause
"""A disk with a boot sector, GRUB behind it and an ext2 file system with a kernel, made without root's rights."""
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
import vm  # noqa: E402


def make(scratch, kernel, initrd, script="/bin/script"):
    """The disk's path. The kernel's console is the serial port, and it runs this script of the initrd."""
    for tool in ("grub-mkimage", "mke2fs", "sfdisk"):
        if not shutil.which(tool) and not os.access(f"/usr/sbin/{tool}", os.X_OK):
            vm.skip(f"{tool} is not installed (tools/setup test)")
    modules = pathlib.Path("/usr/lib/grub/i386-pc")
    if not modules.exists():
        vm.skip("grub-pc-bin is not installed (tools/setup test)")
    tree = scratch / "tree"
    (tree / "boot" / "grub").mkdir(parents=True)
    shutil.copy(kernel, tree / "boot" / "vmlinuz")
    shutil.copy(initrd, tree / "boot" / "initrd")
    (tree / "boot" / "grub" / "grub.cfg").write_text(
        "serial --unit=0\nterminal_output serial\necho GRUB HERE\n"
        f"linux /boot/vmlinuz console=ttyS0 reboot=t panic=-1 quiet run={script}\ninitrd /boot/initrd\nboot\n")
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
