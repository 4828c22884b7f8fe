#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The same calls on the kernel's KVM and on softkvm: every difference must be in the table of docs/softkvm.md.

  compare.py GUISE RECORD [ENGINE...]

RECORD prints what /dev/kvm answers, a line per fact. It runs inside a Debian kernel for which QEMU emulates SVM, and here
under `guise kvm` with each engine. The table's rows: a pattern of keys (as in file names), what the kernel says, what
softkvm says ("-" for no such line, "…" for anything), the reason. A row that explains nothing here is reported, not an error:
what the processor is, and what QEMU makes of it, differs between hosts.
"""
import fnmatch
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
import vm  # noqa: E402

QEMU_CPU = "max,la57=off,smap=off,xsave=off"  # as tests/guest/kvm_in_qemu.py, which says why
TABLE_HEAD = "| what | kernel | softkvm | because |"
SCRIPT = """#!/bin/sh
export LD_LIBRARY_PATH=/lib
echo =begin=
/n/record
echo "=end $?="
"""


def facts(text):
    found = {}
    for line in text.splitlines():
        line = re.sub(r"^\[ *\d+\.\d+\].*?(?=\n|$)", "", line)  # a line of the kernel's
        key, equals, value = line.partition(" = ")
        if equals:
            found[key.strip()] = value.strip()
    if "all recorded" not in text:
        raise vm.Failure("the record ends early:\n" + "\n".join(text.splitlines()[-5:]))
    return found


def on_kernel(record):
    kernel = vm.need_guest("cloud")
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        script = scratch / "script"
        script.write_text(SCRIPT)
        files = {"bin/nested": script, "n/record": record} | vm.libraries_of(record)
        files |= {f"modules/{name}.ko": vm.module(name) for name in ("irqbypass", "kvm", "kvm-amd")}
        initrd = vm.make_initrd(scratch / "initrd", files)
        with vm.Vm(None, "qemu", kernel, initrd, "quiet loglevel=1 mods=irqbypass,kvm,kvm-amd run=/bin/nested", mem="768M",
                   time_limit=600, qemu_cpu=QEMU_CPU) as outer:
            outer.wait_for("=begin=")
            text = outer.wait_for("=end ")
            vm.expect("the record's exit status", outer.wait_for("=\n"), "0")
            outer.end()
    return facts(text)


def on_softkvm(guise, record, engine):
    result = subprocess.run([guise, "kvm", "--engine", engine, "--", record], capture_output=True, text=True, timeout=600,
                            check=False)
    vm.expect(f"the record's exit status on {engine}", result.returncode, 0)
    return facts(result.stdout)


def table():
    text = (vm.ROOT / "docs" / "softkvm.md").read_text().splitlines()
    rows = []
    for line in text[text.index(TABLE_HEAD) + 2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def fits(cell, value):  # an empty value is an empty cell
    return cell == "…" or fnmatch.fnmatchcase(value, cell)


def unexplained(kernel, soft, rows, used):
    for key in list(kernel) + [key for key in soft if key not in kernel]:
        ours, theirs = soft.get(key, "-"), kernel.get(key, "-")
        if ours == theirs:
            continue
        row = next((i for i, (pattern, k, s, _) in enumerate(rows)
                    if fnmatch.fnmatchcase(key, pattern) and fits(k, theirs) and fits(s, ours)), None)
        if row is None:
            yield f"{key}: the kernel says {theirs}, softkvm {ours}"
        else:
            used.add(row)


def test():
    guise, record, *engines = sys.argv[1:]
    if not shutil.which("qemu-system-x86_64"):
        vm.skip("qemu-system-x86_64 is not installed (tools/setup test)")
    rows, used, kernel = table(), set(), on_kernel(record)
    for engine in engines:
        lines = list(unexplained(kernel, on_softkvm(guise, record, engine), rows, used))
        if lines:
            raise vm.Failure(f"{len(lines)} differences between the kernel's KVM and {engine} are not in docs/softkvm.md:\n" +
                             "\n".join(lines))
    for i, row in enumerate(rows):
        if i not in used:
            print(f"not met here: {row[0]}")
    print(f"{len(kernel)} facts compared")


if __name__ == "__main__":
    vm.main(test)
