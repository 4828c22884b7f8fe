#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Command lines, files and guests that cannot work: each ends with a message and a failing status, never with a crash.

  hostile.py GUISE ENGINE
"""
import pathlib
import struct
import subprocess
import sys
import tempfile

import vm

SPACE = "0123456789abcdef" * 64


def pvh_kernel(code):
    """The smallest ELF kernel that starts in 32-bit protected mode at 1 MiB (a PVH note names the entry)."""
    entry = 0x100000
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01" + bytes(9), 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, entry, entry, len(code), len(code), 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, 0x200, 0, 0, len(note), len(note), 4)
    image = bytearray(0x1000 + len(code))
    image[:64] = header
    image[64:64 + 112] = load + notes
    image[0x200:0x200 + len(note)] = note
    image[0x1000:] = code
    return bytes(image)


def files(scratch, kernel):
    """Bad files by name; what is wrong with each is its name."""
    whole = kernel.read_bytes()
    far_elf = bytearray(pvh_kernel(b"\xf4"))
    far_elf[64 + 24:64 + 32] = struct.pack("<Q", 1 << 62)
    overflow_elf = bytearray(pvh_kernel(b"\xf4"))
    overflow_elf[64 + 40:64 + 48] = struct.pack("<Q", (1 << 64) - 4096)
    damaged = bytearray(whole)
    damaged[len(whole) // 2:len(whole) // 2 + 4096] = b"\xa5" * 4096
    made = {
        "empty": b"",
        "one-byte": b"M",
        "text": b"#!/bin/sh\necho this is no kernel\n" * 100,
        "truncated-in-header": whole[:0x210],
        "truncated-in-setup": whole[:5000],
        "truncated-in-half": whole[:len(whole) // 2],
        "damaged": bytes(damaged),
        "elf-truncated": pvh_kernel(b"\xf4")[:100],
        "elf-beyond-memory": bytes(far_elf),
        "elf-size-overflows": bytes(overflow_elf),
    }
    for name, data in made.items():
        (scratch / name).write_bytes(data)
    for name, size in (("larger-than-memory", 600 << 20), ("huge", 8 << 30)):
        with open(scratch / name, "wb") as sparse:
            sparse.write(whole[:65536])
            sparse.truncate(size)
    return [*made, "larger-than-memory", "huge"]


def run(guise, *arguments, time_limit=60):
    try:
        done = subprocess.run([guise, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=time_limit)
    except subprocess.TimeoutExpired:
        raise vm.Failure(f"still running after {time_limit} s: {arguments}") from None
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def check_refused(guise, what, *arguments):
    status, text = run(guise, *arguments)
    if status <= 0 or status >= 128 or "Sanitizer" in text or "runtime error" in text:
        raise vm.Failure(f"{what}: status {status}\n{text}")
    if "guise" not in text or len(text) > 4000:
        raise vm.Failure(f"{what}: no clear message\n{text}")
    last = [line for line in text.splitlines() if line.startswith("guise")] or [text]
    print(f"{what}: {status}: {last[-1]}")


# devices that cannot be had
DEVICES = [
    ("--virtio", "isa"), ("--disk", "/does/not/exist"), ("--disk", "/dev/null,bus=isa"), ("--disk", "/dev/null,serial=" + "x" * 21),
    ("--disk", "/dev/null,queues=0"), ("--net", "carrier-pigeon"), ("--net", "user,mac=01:00:00:00:00:00"), ("--net", "user,mtu=10"),
    ("--net", "user,fwd=tcp:0:80"), ("--net", "user,fwd=icmp:8080:80"), ("--net", "tap=" + "x" * 40), ("--hvc", "unix:/does/not/exist/s"),
    ("--hvc", "teletype"), ("--port", "name"), ("--port", ",none"), ("--port", "name,unix:/does/not/exist/s"), ("--balloon", "x"),
    ("--balloon", "99999999"), ("--balloon", "0,socket=/does/not/exist/s"), ("--balloon", "0,colour=red"), ("--vsock", "2,/tmp/s"),
    ("--vsock", "3"), ("--vsock", "4294967295,/tmp/s"), ("--vsock", "3,/does/not/exist/s"), ("--rng", "/does/not/exist"),
    ("--rng", "/etc/passwd"), ("--rng", "random,rate=0"), ("--mem-path", "/does/not/exist"),
]

# guests that go nowhere, as 32-bit code
GUESTS = {
    "invalid instruction, no IDT": b"\x0f\x0b",
    "jump to where nothing is": b"\xea\x00\x00\x00\xd0\x08\x00",
    "near jump to where nothing is": b"\xb8\x00\x00\x00\xd0\xff\xe0",
    "stack where nothing is": b"\xbc\x00\x00\x00\xd0\x0f\x0b",
    "page tables where nothing is": b"\xb8\x00\x00\x00\xd0\x0f\x22\xd8\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0\xf4",
    "a GDT of nothing, then a far jump": b"\x0f\x01\x15\x00\x00\x00\xd0\xea\x00\x00\x10\x00\x08\x00",
}


def check_guest(guise, engine, scratch, what, code):
    """It ends by itself, with a status that is not that of a clean power-off."""
    image = scratch / "guest"
    image.write_bytes(pvh_kernel(code))
    check_refused(guise, what, "run", "--engine", engine, "--kernel", str(image), "--mem", "64M")


def test():
    guise, engine = sys.argv[1:3]
    kernel = vm.need_guest("cloud")
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        good = ["run", "--engine", engine, "--kernel", str(kernel)]
        for name in [*files(scratch, kernel), "does-not-exist", "."]:
            check_refused(guise, f"kernel {name}", "run", "--engine", engine, "--kernel", str(scratch / name))
        check_refused(guise, "kernel larger than memory", *good, "--mem", "32M")
        check_refused(guise, "initrd missing", *good, "--initrd", str(scratch / "nothing"))
        check_refused(guise, "initrd larger than memory", *good, "--initrd", str(scratch / "huge"))
        for mem in ("0", "1", "3M", "-5M", "12Q", "99999999T", "x", ""):
            check_refused(guise, f"memory '{mem}'", *good, "--mem", mem)
        for cpus in ("0", "-1", "two", "100000", "99999999999999999999", ""):
            check_refused(guise, f"cpus '{cpus}'", *good, "--cpus", cpus)
        check_refused(guise, "command line too long", *good, "--append", SPACE * 64)
        check_refused(guise, "unknown engine", "run", "--engine", "steam", "--kernel", str(kernel))
        check_refused(guise, "no kernel", "run")
        check_refused(guise, "unknown option", *good, "--frobnicate")
        check_refused(guise, "option without value", "run", "--kernel")
        check_refused(guise, "unknown command", "fly")
        check_refused(guise, "console nowhere", *good, "--console", "unix:/does/not/exist/socket")
        check_refused(guise, "two on one terminal", *good, "--console", "stdio", "--hvc", "stdio")
        for option, value in DEVICES:
            check_refused(guise, f"{option} {value}", *good, option, value)
        for what, code in GUESTS.items():
            check_guest(guise, engine, scratch, what, code)


vm.main(test)
