#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's own tests of KVM (tools/testing/selftests/kvm), as Debian's linux-source package has them, on softkvm.

  kvm_selftests.py GUISE ENGINE DIR

DIR keeps the package, the part of the source that is needed, and the programs built of it. Every program has an expected
outcome here: PASS, or the reason why it cannot. A test that says itself that something is not offered is skipped by its
own doing, and fine; what fails without a reason here is an error, and so is what passes against expectation.
"""
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
import vm  # noqa: E402

GUISE, ENGINE, DIR = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2], pathlib.Path(sys.argv[3])
PACKAGE = "linux-source-6.1"
PASSED, SKIPPED = 0, 4
LEFT_OUT = ("drivers", "sound", "fs", "net", "Documentation", "arch/[a-wyz]*")
TIME_LIMIT = 300

# What has to pass: the others either say themselves that what they need is not offered, or are in FAILS.
PASSES = """demand_paging_test dirty_log_perf_test kvm_create_max_vcpus kvm_page_table_test memslot_modification_stress_test
set_memory_region_test system_counter_offset_test cr4_cpuid_sync_test debug_regs get_msr_index_features kvm_clock_test
kvm_binary_stats_test kvm_pv_test max_vcpuid_cap_test platform_info_test set_boot_cpu_id set_sregs_test state_test sync_regs_test tsc_msrs_test
userspace_io_test userspace_msr_exit_test xapic_ipi_test xapic_state_test xss_msr_test""".split()

# They do not ask for what they need, and end in a failed assertion.
FAILS = {
    "cpuid_test": "wants CPUID 40000000h to end at 40000001h; the leaf with the TSC's frequency is offered, as later kernels and VMMs do",
    "smm_test": "system management mode is not offered",
    "hyperv_clock": "Hyper-V's interface is not offered",
    "hyperv_features": "Hyper-V's interface is not offered",
}
# Left out: measurements and races that run for minutes by design.
LEFT_ALONE = {
    "hardware_disable_test": "512 rounds of processes that die at any moment",
    "max_guest_memory_test": "touches memory of the size of the host's",
    "memslot_perf_test": "a measurement of slot changes",
    "rseq_test": "a race of the host's scheduler, 100000 rounds",
}


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, **options)


def fetch_source():
    """The package, unpacked as far as the tests need it."""
    tree = DIR / "tree"
    if (tree / "Makefile").exists():
        return tree
    DIR.mkdir(parents=True, exist_ok=True)
    for tool in ("apt-get", "dpkg-deb", "make", "gcc"):
        if not shutil.which(tool):
            vm.skip(f"{tool} is not installed")
    if not list(DIR.glob("*.deb")):
        fetched = subprocess.run(["apt-get", "download", PACKAGE], cwd=DIR, capture_output=True, text=True, check=False)
        if fetched.returncode:
            vm.skip(f"{PACKAGE} cannot be fetched: {fetched.stderr.strip().splitlines()[-1:]}")
    run("dpkg-deb", "-x", str(next(DIR.glob("*.deb"))), str(DIR / "package"))
    part = DIR / "tree.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    archive = next((DIR / "package" / "usr" / "src").glob("*.tar.xz"))
    run("tar", "-C", part, "--strip-components=1", "-xf", archive, *(f"--exclude=*/{name}/*" for name in LEFT_OUT))
    shutil.rmtree(DIR / "package")
    part.rename(tree)
    return tree


def build(tree):
    """What can be built; Debian's source has a test that does not link."""
    tests = tree / "tools" / "testing" / "selftests" / "kvm"
    if not (DIR / "built").exists():
        run("make", "-s", "-C", tree, "ARCH=x86_64", "headers", stdout=subprocess.DEVNULL)
        with open(DIR / "build.log", "w") as log:
            subprocess.run(["make", "-k", "-C", tests], stdout=log, stderr=subprocess.STDOUT, check=False)
        (DIR / "built").touch()
    return tests


def programs(tests):
    for name in re.findall(r"^TEST_GEN_PROGS_x86_64 \+?= (\S+)", (tests / "Makefile").read_text(), re.M):
        if (tests / name).exists():
            yield name


def outcome(tests, program):
    try:
        result = subprocess.run([GUISE, "kvm", "--engine", ENGINE, "--", f"./{program}"], cwd=tests, capture_output=True, text=True,
                                timeout=TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return "is not over", ""
    said = (result.stdout + result.stderr).strip()
    if result.returncode == PASSED:
        return "passes", said
    return ("is skipped" if result.returncode == SKIPPED else "fails"), said


def test():
    tests = build(fetch_source())
    wrong, counts = [], {"passes": 0, "is skipped": 0, "fails": 0}
    for program in programs(tests):
        name = program.rpartition("/")[2]
        if name in LEFT_ALONE:
            continue
        what, said = outcome(tests, program)
        wanted = "passes" if name in PASSES else "fails" if name in FAILS else "is skipped"
        counts[what] = counts.get(what, 0) + 1
        print(f"{name} {what}" + (f": {FAILS[name]}" if name in FAILS else ""), flush=True)
        if what != wanted and not (what == "passes" and name not in FAILS):
            wrong.append(f"{name} {what}, and should not:\n{said}")
    if wrong:
        raise vm.Failure("\n".join(wrong))
    if counts["passes"] < len(PASSES):
        raise vm.Failure(f"only {counts['passes']} programs ran and passed: see {DIR}/build.log")
    print(f"{counts['passes']} pass, {counts['is skipped']} need what is not offered, {counts['fails']} fail for the reasons given")


vm.main(test)
