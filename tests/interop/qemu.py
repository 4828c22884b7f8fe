# SPDX-License-Identifier: BSD-2-Clause
"""Debian's QEMU under `guise kvm`, as a machine of tests/guest/vm.py: for programs called with GUISE ENGINE CASE."""
import json
import pathlib
import shutil
import socket
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


def run_case(cases):
    """main() of a test program: the function case_CASE of its own, with a directory to work in."""
    if not shutil.which("qemu-system-x86_64"):
        vm.skip("qemu-system-x86_64 is not installed (tools/setup test)")
    with tempfile.TemporaryDirectory() as directory:
        cases[f"case_{sys.argv[3]}"](pathlib.Path(directory))
    print(f"QEMU on softkvm, {sys.argv[3]}")
