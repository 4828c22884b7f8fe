#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Boot a Debian kernel to a shell, use it, power off.

  boot.py GUISE ENGINE KERNEL CPUS [WORK]     KERNEL: cloud, full. WORK: the program work.c, run here and in the guest.
"""
import subprocess
import sys
import tempfile

import vm


def check_machine(guest, cpus):
    """What the guest sees is what was asked for, and its kernel has nothing to complain about."""
    vm.expect("processors", guest.shell("nproc")[0].strip(), str(cpus))
    vm.expect("arithmetic", guest.shell("echo $((6 * 7))")[0].strip(), "42")
    memory = int(guest.shell("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")[0])
    if not 400_000 < memory < 524_288:
        raise vm.Failure(f"the guest sees {memory} kB of 512 MiB")
    clock = guest.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")[0].strip()
    if clock not in ("kvm-clock", "tsc") and "qemu" not in guest.command[0]:
        raise vm.Failure(f"the guest's clock source is {clock}")
    vm.expect("sleep", guest.shell("sleep 1")[1], 0)
    log, status = guest.shell("dmesg")
    vm.expect("dmesg", status, 0)
    return log


def check_work(guest, work):
    """The same program, the same results as on the host."""
    host = subprocess.run([work], capture_output=True, text=True, timeout=300, check=True).stdout
    ours, status = guest.shell("/bin/work")
    vm.expect("work's status", status, 0)
    if "qemu" in guest.command[0]:  # TCG has no alignment checks
        ours = ours.replace("unaligned with AC nothing", "unaligned with AC SIGBUS")
    vm.expect_same("results", ours.splitlines(), host.splitlines())
    print(f"{len(host.splitlines())} lines of results as on the host")


def test():
    guise, engine, flavour, cpus = sys.argv[1:5]
    work = sys.argv[5] if len(sys.argv) > 5 else None
    kernel = vm.need_guest(flavour)
    with tempfile.TemporaryDirectory() as scratch:
        initrd = vm.make_initrd(f"{scratch}/initrd", {"bin/work": work} if work else {})
        with vm.Vm(guise, engine, kernel, initrd, cpus=int(cpus), time_limit=900 if engine != "verify" else 7200) as guest:
            guest.boot()
            log = check_machine(guest, int(cpus))
            if work:
                check_work(guest, work)
                log += guest.shell("dmesg")[0]
            guest.type("poweroff\n")
            vm.expect("exit status after poweroff", guest.end(), 0)
    bad = vm.bad_lines(log)
    if bad:
        raise vm.Failure("the kernel's log complains:\n" + "\n".join(bad))
    print(f"{flavour} kernel on {cpus} vCPUs: booted, used, powered off")


vm.main(test)
