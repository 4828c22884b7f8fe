#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Debian with systemd from a disk: no unit fails, and real programs compute in it what they compute on the host.

  debian.py GUISE ENGINE CPUS [PART...]     PART: programs, python, openssl, stress; all when none is named

The engine "qemu" runs it on QEMU's TCG.
"""
import sys
import tempfile

import debian_guest
import vm

PYTHON_TESTS = "test_int test_float test_long test_math test_cmath test_complex test_decimal test_fractions test_json test_re " \
               "test_zlib test_bz2 test_lzma test_struct test_array test_bytes test_unicode test_hashlib test_random " \
               "test_statistics test_dict test_set test_sort test_generators test_exceptions test_coroutines test_threading " \
               "test_queue test_signal test_mmap test_pickle test_sqlite3 test_ctypes test_strtod test_fork1 test_subprocess"
STRESS = [f"stress-ng --verify --no-rand-seed --temp-path /tmp --{name} -t {seconds}s" for seconds, name in (
    (20, "cpu 2 --cpu-method all"), (5, "matrix 2"), (5, "vecmath 1"), (5, "vecfp 1"), (5, "qsort 1"), (5, "memcpy 2"), (5, "atomic 2"),
    (5, "futex 2"), (5, "fault 2"), (5, "sigfpe 1"), (5, "sigsegv 1"), (5, "sigrt 1"), (5, "switch 2"), (5, "fork 2"),
    (5, "vm 2 --vm-bytes 64M"), (5, "mmap 1 --mmap-bytes 32M"), (5, "mprotect 2"), (5, "tlb-shootdown 2"),
    (5, "fp 1"), (5, "str 1"), (5, "tree 1"), (5, "stream 1 --stream-l3-size 4M"), (5, "cacheline 2"), (5, "x86cpuid 1"),
    (5, "timer 1"), (5, "pipe 1"), (5, "mremap 1 --mremap-bytes 8M"), (5, "regs 1"))]


def show(guest, command):
    """Run a command in the guest; its output goes to the test's log."""
    output, status = guest.shell(command)
    print(f"$ {command}\n{output.rstrip()}\n[{status}]", flush=True)
    return output, status


def sums(output):
    """name -> checksum of run.py's lines."""
    return {words[1]: words[8] for words in (line.split() for line in output.splitlines()) if words[:1] == ["BENCH"]}


def check_programs(guest, host):
    wanted = sums(host.run("python3 run.py all")[0])
    if not wanted:
        raise vm.Failure("the programs do not run on the host")
    got = sums(show(guest, "python3 run.py all")[0])
    wrong = [f"{name}: {got.get(name)}, on the host {value}" for name, value in wanted.items() if got.get(name) != value]
    if wrong:
        raise vm.Failure("programs computed something else:\n" + "\n".join(wrong))
    print(f"{len(wanted)} programs compute what they compute on the host")


def check_python(guest, host):
    """Python's regression tests, but for those that count seconds; one that fails on the host as well is none of ours."""
    test = "python3 -m test -q -i '*timeout*'"
    failed = [name for name in PYTHON_TESTS.split() if show(guest, f"{test} {name} 2>&1 | tail -n 25; (exit ${{PIPESTATUS[0]}})")[1]]
    ours = [name for name in failed if host.run(f"{test} {name}")[1] == 0]
    if ours:
        raise vm.Failure(f"python's tests fail in the guest only: {' '.join(ours)}")
    print(f"{len(PYTHON_TESTS.split()) - len(failed)} of python's test modules pass; not on the host either: {failed}")


def check_openssl(guest, host):
    for what in ("-evp sha256", "-evp aes-128-gcm", "-evp chacha20-poly1305", "-evp sha512", "md5", "rsa2048", "ecdsap256", "ecdhx25519"):
        vm.expect(f"openssl speed {what}", show(guest, f"openssl speed -seconds 1 {what} 2>&1 | tail -n 3; (exit ${{PIPESTATUS[0]}})")[1], 0)
    sign = "openssl pkeyutl -sign -inkey key.pem -rawin -in text -digest sha256 | openssl dgst -sha256 -r; openssl rsa -in key.pem -check -noout"
    vm.expect("signature", show(guest, sign)[0].split(), host.run(sign)[0].split())


def check_stress(guest, host):
    failed = [command for command in STRESS if show(guest, f"{command} 2>&1 | tail -n 6; (exit ${{PIPESTATUS[0]}})")[1] not in (0, 4)]
    if failed:  # status 4: this stressor is not for this machine
        raise vm.Failure("stress-ng found fault:\n" + "\n".join(failed))


def check_system(guest, cpus):
    vm.expect("processors", guest.shell("nproc")[0].strip(), cpus)
    state = show(guest, "systemctl is-system-running --wait")[0].strip()
    failed = show(guest, "systemctl --failed --plain --no-legend")[0].strip()
    if state != "running" or failed:
        raise vm.Failure(f"the system is {state}; failed units: {failed}")


PARTS = {"programs": check_programs, "python": check_python, "openssl": check_openssl, "stress": check_stress}


def test():
    guise, engine, cpus = sys.argv[1:4]
    parts = sys.argv[4:] or list(PARTS)
    debian_guest.need_image()
    with tempfile.TemporaryDirectory() as scratch:
        files = debian_guest.work_files()
        host = debian_guest.Host(scratch, files)
        work, image = debian_guest.make_tar(f"{scratch}/work.tar", files), debian_guest.copy_image(scratch, "debian")
        with debian_guest.start(guise, engine, image, work, cpus=int(cpus), time_limit=7200) as guest:
            debian_guest.log_in(guest)
            check_system(guest, cpus)
            for part in parts:
                PARTS[part](guest, host)
            log = guest.shell("dmesg")[0]
            guest.type("poweroff\n")
            vm.expect("exit status after poweroff", guest.end(), 0)
    bad = vm.bad_lines(log)
    if bad:
        raise vm.Failure("the kernel's log complains:\n" + "\n".join(bad))
    print(f"Debian on {cpus} vCPUs: booted, used ({', '.join(parts)}), powered off")


vm.main(test)
