#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's own KVM on a machine that has none: inside a Debian kernel for which QEMU emulates SVM.

  kvm_in_qemu.py GUISE WORK CPUS [TEST PROGRAM...]

In there guise boots the same Debian kernel with --engine kvm, which runs the program WORK and powers off; then the test
programs run against /dev/kvm (GUISE_TEST_ENGINE=kvm). QEMU stands in for a processor here: it says nothing about speed.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import vm

# SMAP: QEMU 7.2 pushes a far call's return address with the kernel's rights. XSAVE: its SVM does not intercept XSETBV, so
# that the kernel in the inner guest finds CPUID and XCR0 at odds.
QEMU_CPU = "max,la57=off,smap=off,xsave=off"

# With two processors a nested guest has stopped for good a few times, for a reason not found; the same run takes
# about a minute otherwise. Only running out of time is tried again, not a test that fails.
ATTEMPTS, TIME_LIMIT = 3, 360

SCRIPT = """#!/bin/sh
export LD_LIBRARY_PATH=/lib GUISE_TEST_ENGINE=kvm
ls -l /dev/kvm
echo =run=
/n/guise run --engine kvm --cpus {cpus} --mem 256M --kernel /n/vmlinuz --initrd /n/initrd \\
	--append "console=ttyS0 panic=-1 run=/bin/work" </dev/null
echo "=ran $?="
for program in {programs}; do
	/n/$program
	echo "=test $program $?="
done
"""


def inner_results(console):
    """What the inner guest's program printed, without the kernel's lines."""
    start, end = console.find("WORK integers"), console.find("WORK DONE")
    if start < 0 or end < 0:
        raise vm.Failure("the program did not run to its end in the inner guest")
    return [line for line in console[start:end].splitlines() if not re.match(r"\[ *\d+\.\d+\]", line)]


def run_nested(guise, kernel, initrd, cpus, programs):
    """What the inner guest printed."""
    with vm.Vm(guise, "qemu", kernel, initrd, "quiet mods=irqbypass,kvm,kvm-amd run=/bin/nested", cpus=cpus,
               mem="1536M", time_limit=TIME_LIMIT, qemu_cpu=QEMU_CPU) as outer:
        outer.wait_for("=run=")
        inner = outer.wait_for("=ran ")
        vm.expect("guise's exit status", outer.wait_for("=\n"), "0")
        for program in programs:
            outer.wait_for(f"=test {program.name} ")
            status = outer.wait_for("=\n")
            if status not in ("0", "77"):
                raise vm.Failure(f"{program.name} ended with status {status}")
        outer.end()
    return inner


def test():
    guise, work, cpus = sys.argv[1:4]
    programs = [pathlib.Path(path) for path in sys.argv[4:]]
    if not shutil.which("qemu-system-x86_64"):
        vm.skip("qemu-system-x86_64 is not installed (tools/setup test)")
    kernel = vm.need_guest("cloud")
    host = subprocess.run([work], capture_output=True, text=True, timeout=300, check=True).stdout
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        script = scratch / "script"
        script.write_text(SCRIPT.format(cpus=cpus, programs=" ".join(path.name for path in programs)))
        files = {"bin/nested": script, "n/guise": guise, "n/vmlinuz": kernel}
        files["n/initrd"] = vm.make_initrd(scratch / "inner", {"bin/work": work})
        files |= {f"modules/{name}.ko": vm.module(name) for name in ("irqbypass", "kvm", "kvm-amd")}
        for program in [guise, *programs]:
            files |= vm.libraries_of(program)
        files |= {f"n/{path.name}": path for path in programs}
        initrd = vm.make_initrd(scratch / "outer", files)
        for attempts_left in range(ATTEMPTS - 1, -1, -1):
            try:
                inner = run_nested(guise, kernel, initrd, int(cpus), programs)
                break
            except vm.OutOfTime as late:
                if not attempts_left:
                    raise
                print(f"tried again: {late}")
    # TCG, which plays the processor, has no alignment checks
    got = [line.replace("unaligned with AC nothing", "unaligned with AC SIGBUS") for line in inner_results(inner)]
    vm.expect_same("results", got, host[:host.find("WORK DONE")].splitlines())
    # nor does it keep the TSCs of its processors together
    bad = [line for line in vm.bad_lines(inner) if "TSCs unsynchronized" not in line]
    if bad:
        raise vm.Failure("the inner kernel's log complains:\n" + "\n".join(bad))
    print(f"a guest on the kernel's KVM with {cpus} vCPUs, and {len(programs)} test programs")


vm.main(test)
