#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The console on a real terminal: raw mode, Ctrl-A keys, and the terminal as it was afterwards.

  console.py GUISE ENGINE
"""
import os
import pty
import select
import subprocess
import sys
import termios
import time

import vm


def read_until(terminal, wanted, seconds):
    text = ""
    end = time.monotonic() + seconds
    while wanted not in text:
        if time.monotonic() > end or not select.select([terminal], [], [], end - time.monotonic())[0]:
            raise vm.Failure(f"'{wanted}' did not come; there was: {text[-2000:]}")
        text += os.read(terminal, 4096).decode(errors="replace")
    return text


def test():
    guise, engine = sys.argv[1:3]
    kernel = vm.need_guest("cloud")
    terminal, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    command = [guise, "run", "--engine", engine, "--kernel", str(kernel), "--initrd", str(vm.GUEST / "initrd.cpio"),
               "--append", "console=ttyS0 quiet"]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave) as process:
        try:
            read_until(terminal, "# ", 300)
            os.write(terminal, b"echo $((6*7))fine\r")
            read_until(terminal, "42fine", 60)
            os.write(terminal, b"sleep 1000\r")
            time.sleep(1)
            os.write(terminal, b"\x03echo after-$((1+1))\r")  # Ctrl-C goes to the guest
            read_until(terminal, "after-2", 60)
            os.write(terminal, b"\x01?")
            read_until(terminal, "Ctrl-A", 60)
            os.write(terminal, b"\x01x")
            status = process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
    if status == 0 or status > 127 or status < 0:
        raise vm.Failure(f"Ctrl-A X ended the run with status {status}")
    if termios.tcgetattr(slave) != before:
        raise vm.Failure("the terminal's modes are not what they were")
    print(f"the shell answered, Ctrl-C reached the guest, Ctrl-A X ended the run with status {status}")


vm.main(test)
