#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""guise probe against our own back ends, against those of others, and against one that is faulty on purpose.

probe.py GUISE CASE. Of the programs of others it is asserted that the report is whole and names the defects that they are known
to have; of the faulty back end, that each fault is found by the test that is there for it."""
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
import vm  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
GUISE, CASE = sys.argv[1], sys.argv[2]
FOLDER = tempfile.mkdtemp(prefix="guise-probe-")
SOCKET = os.path.join(FOLDER, "s")


def skip(why):
    print("skipped:", why)
    sys.exit(77)


def need(program):
    if not shutil.which(program):
        skip(f"{program} is not installed")


def probe(command, *options, timeout=10, side="front"):
    """The report and the exit status."""
    line = [GUISE, "probe", side, SOCKET, "--run", command, "--json", "--timeout", str(timeout), "--seconds", "1", *options]
    print("+", shlex.join(line), flush=True)
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=800)
    try:
        return json.loads(done.stdout), done.returncode
    except ValueError:
        sys.exit(f"no report: {done.stdout[-500:]!r} {done.stderr[-1000:]!r}")


def find(report, name):
    found = [t for t in report["tests"] if t["name"] == name]
    assert found, f"no test {name} in the report"
    return found


def show(tests):
    for t in tests:
        print(f"  {t['outcome']:15} {t['name']} {t['ring']}: {t['detail']}\n{t['evidence']}" if t["outcome"] == "fail"
              else f"  {t['outcome']:15} {t['name']} {t['ring']}: {t['detail']}")


def all_good(report, status, least):
    """Nothing failed or was left out, and no fewer tests passed than there were once."""
    bad = [t for t in report["tests"] if t["outcome"] in ("fail", "not run", "warning")]
    show(bad)
    assert not bad and status == 0, f"{len(bad)} tests failed, status {status}"
    assert report["summary"]["pass"] >= least, report["summary"]
    print(report["summary"])


def check_peer(report, status, fail, good):
    """A peer with known defects: those are found, the rest of what it does well is seen to be well."""
    counts = report["summary"]
    assert sum(counts.values()) == len(report["tests"]) and not counts["not run"], counts
    for name, text in fail.items():
        tests = [t for t in find(report, name) if t["outcome"] == "fail"]
        assert tests and any(text in t["detail"] for t in tests), (name, text, find(report, name))
        assert all(t["rule"] and t["what"] and t["evidence"] for t in tests), tests
    for name in good:
        bad = [t for t in find(report, name) if t["outcome"] not in ("pass", "warning")]
        show(bad)
        assert not bad, f"{name} did not pass"
    assert status == (1 if fail else 0), status
    print(counts)


def image():
    path = os.path.join(FOLDER, "disk")
    with open(path, "wb") as f:
        f.write(os.urandom(1 << 16))
        f.truncate(16 << 20)
    return path


def case_ours_blk():
    command = f"exec {shlex.quote(GUISE)} vhost-blk --socket-path {SOCKET} {image()},queues=2"
    all_good(*probe(command, "--type", "blk", "--write"), 300)


def case_ours_net():
    command = f"exec {shlex.quote(GUISE)} vhost-net --socket-path {SOCKET} --net user"
    all_good(*probe(command), 300)


def case_trace():
    """--trace has each message of a session, decoded, in both directions."""
    command = f"exec {shlex.quote(GUISE)} vhost-blk --socket-path {SOCKET} {image()}"
    done = subprocess.run([GUISE, "probe", "front", SOCKET, "--run", command, "--type", "blk", "--only", "stop-and-go", "--ring", "split",
                           "--trace", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == 0 and json.loads(done.stdout)["summary"]["pass"] == 1, done
    session = done.stderr[done.stderr.index("\nstop-and-go:\n"):]
    lines = re.findall(r"^ *\d+\.\d{6} ([<>-]) (\S+)(.*)$", session, re.M)
    assert all(word in [name for _, name, _ in lines] for word in ("SET_OWNER", "SET_FEATURES", "SET_VRING_CALL", "SET_VRING_BASE")), lines
    for name, sent, answer in (("GET_FEATURES", "", " 0x[0-9a-f]+"), ("GET_VRING_BASE", " ring 0, 0x0", " ring 0, 0x[1-9a-f]+"),
                               ("SET_MEM_TABLE", " [12] regions: guest 0x0 size .*, [12] descriptors?.*", " 0x0"),
                               ("SET_VRING_KICK", " ring 0, 1 descriptor.*", " 0x0")):
        at = next(k for k, line in enumerate(lines) if line[:2] == (">", name) and re.fullmatch(sent, line[2]))
        assert lines[at + 1][:2] == ("<", name) and re.fullmatch(answer, lines[at + 1][2]), lines[at:at + 2]
    print(f"{len(lines)} lines")


def our_port(rings, which, least):
    command = f"exec {shlex.quote(GUISE)} port --mode exchange --rate 2000 --wait 3600 vhost-user:{SOCKET}{rings}"
    all_good(*probe(command, "--server", "--test", which, side="back"), least)


def case_our_port():
    """Our virtio_user port as the front end."""
    our_port("", "all", 43)


def case_our_port_packed():
    our_port(",packed", "conformance", 15)


GOOD = ["features", "session", "without-protocol-features", "stop-and-go", "orders", "memory-plugged", "ring-of-64", "layout-100",
        "notifications", "one-reply-only", "call-when-due", "indirect", "address-nowhere", "indirect-nested", "loop-self"]


def case_storage_daemon():
    """QEMU's libvhost-user: it does not check ring indices, sizes and counts."""
    need("qemu-storage-daemon")
    command = (f"rm -f {SOCKET}; ulimit -c 0; exec qemu-storage-daemon --blockdev driver=file,node-name=f,filename={image()} "
               f"--export type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={SOCKET},num-queues=2,writable=on")
    fail = {"kick-without-fd": "", "unknown-message": "acknowledged with 0", "config": "", "num-index-huge": "Segmentation fault",
            "regions-huge": "Segmentation fault", "file-empty": "Bus error"}
    check_peer(*probe(command, "--type", "blk", "--ring", "split", timeout=4), fail, GOOD)


def case_testpmd():
    """DPDK's vhost library, with testpmd answering ARP behind it."""
    need("dpdk-testpmd")
    environment = f"export RUNTIME_DIRECTORY={FOLDER} XDG_RUNTIME_DIR={FOLDER}"
    command = (f"rm -f {SOCKET} {FOLDER}/in; mkfifo {FOLDER}/in; ulimit -c 0; {environment}; "
               f"(echo set fwd icmpecho; echo start; exec sleep 3600) > {FOLDER}/in & "
               f"exec dpdk-testpmd --lcores 0@0,1@0 --no-pci -m 128 --no-huge --file-prefix probe{os.getpid()} "
               f"--vdev net_vhost0,iface={SOCKET},queues=2 -- -i --total-num-mbufs=8192 --nb-cores=1 --rxq=2 --txq=2 "
               f"< {FOLDER}/in > {FOLDER}/log 2>&1")
    fail = {"disabled-ring": "not taken", "dirty-log-offset": "", "restart-without-num": "", "file-empty": "Bus error"}
    check_peer(*probe(command, timeout=5), fail, [name for name in GOOD if name != "notifications"])


def virtio_user(which, good):
    """DPDK's virtio_user as the front end, which listens."""
    need("dpdk-testpmd")
    command = (f"rm -f {SOCKET} {FOLDER}/in; mkfifo {FOLDER}/in; ulimit -c 0; "
               f"export RUNTIME_DIRECTORY={FOLDER} XDG_RUNTIME_DIR={FOLDER}; "
               f"(echo set fwd io; echo start tx_first; exec sleep 3600) > {FOLDER}/in & "
               f"exec dpdk-testpmd --lcores 0@0,1@0 --no-pci -m 128 --no-huge --file-prefix probe{os.getpid()} "
               f"--vdev net_virtio_user0,path={SOCKET},queues=1,mac=02:00:00:00:00:01,server=1,packed_vq=1 "
               f"-- -i --total-num-mbufs=8192 < {FOLDER}/in > {FOLDER}/log 2>&1")
    report, _ = probe(command, "--test", which, timeout=5, side="back")
    show([t for t in report["tests"] if t["outcome"] not in ("pass", "not applicable")])
    assert not report["summary"]["not run"] and report["target"]["rings"] == "packed", report["target"]
    for name in good:
        assert find(report, name)[0]["outcome"] in ("pass", "warning"), find(report, name)
    print(report["summary"])


# Machines as front ends: a driver reads and writes all the time, or sends.
DISK_WORK = """#!/bin/sh
while true; do
	dd if=/dev/vda of=/tmp/part bs=4k count=32 iflag=direct 2>/dev/null
	dd if=/tmp/part of=/dev/vda bs=4k count=32 oflag=direct 2>/dev/null || sleep 0.2
done
"""
NET_WORK = """#!/bin/sh
ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0
arp -s 10.0.2.2 02:67:75:69:73:65
ping -i 0.01 10.0.2.2 >/dev/null
"""


def guest(work):
    """Kernel, initrd and command line of a guest that does this work."""
    kernel, script = vm.need_guest("cloud"), pathlib.Path(FOLDER, "work")
    script.write_text(work)
    files, order = vm.modules(["virtio_pci", "virtio_net", "virtio_blk"])
    initrd = vm.make_initrd(pathlib.Path(FOLDER, "initrd"), files | {"bin/work": script})
    return kernel, initrd, f"console=ttyS0 quiet net.ifnames=0 mods={order} run=/bin/work"


def our_machine(work, device):
    kernel, initrd, append = guest(work)
    return (f"exec {shlex.quote(GUISE)} run --kernel {kernel} --initrd {initrd} --mem 128M {device} --append '{append}' "
            f"> {FOLDER}/log 2>&1")


def qemu(work, device):
    """qboot instead of SeaBIOS, which drives a disk before the kernel does; no MSI-X, with which QEMU 7.2 crashes here."""
    need("qemu-system-x86_64")
    if not os.path.exists("/usr/share/qemu/qboot.rom"):
        skip("no qboot.rom of QEMU")
    kernel, initrd, append = guest(work)
    return (f"ulimit -c 0; exec qemu-system-x86_64 -accel tcg -cpu max,la57=off,smap=off -machine q35 -bios qboot.rom -nographic "
            f"-no-reboot -nodefaults -serial stdio -m 128M -kernel {kernel} -initrd {initrd} -append '{append}' "
            f"-object memory-backend-memfd,id=mem,size=128M,share=on -numa node,memdev=mem "
            f"-chardev socket,id=c0,path={SOCKET},reconnect=1 {device} > {FOLDER}/log 2>&1")


OUR_DISK = ("--net none --disk vhost-user=" + SOCKET, "--type", "blk")
QEMU_DISK = "-device vhost-user-blk-pci,chardev=c0,vectors=0,num-queues=1"
QEMU_NET = "-netdev vhost-user,id=n0,chardev=c0 -device virtio-net-pci,netdev=n0,vectors=0"


def case_our_disk():
    """Our machine's vhost-user disk; with wrong used entries its driver gives up, so each has a new machine."""
    device, *options = OUR_DISK
    all_good(*probe(our_machine(DISK_WORK, device), "--server", "--test", "conformance", *options, side="back"), 15)
    report, status = probe(our_machine(DISK_WORK, device), "--server", "--only", "used", *options, side="back")
    show(report["tests"])
    assert status == 0 and report["summary"]["pass"] == 4, report["summary"]


def case_our_machine_all():
    device, *options = OUR_DISK
    all_good(*probe(our_machine(DISK_WORK, device), "--server", *options, side="back"), 48)
    all_good(*probe(our_machine(NET_WORK, "--net vhost-user=" + SOCKET), "--server", side="back"), 46)


def qemu_front(work, device, *options):
    """Nothing is wrong with what it says. When its back end leaves while it hands the rings over it may crash, now and then."""
    report, _ = probe(qemu(work, device), "--server", "--test", "conformance", *options, timeout=15, side="back")
    show([t for t in report["tests"] if t["outcome"] not in ("pass", "not applicable")])
    assert not report["summary"]["not run"], report["summary"]
    for t in report["tests"]:
        crash = t["name"] == "comes-back" and "Segmentation fault" in t["detail"]
        assert t["outcome"] in ("pass", "warning", "not applicable") or crash, t
    for name in ("session", "messages", "negotiated-only", "offered-only", "memory", "rings", "chains", "kicks"):
        assert find(report, name)[0]["outcome"] == "pass", find(report, name)
    print(report["summary"])


def case_qemu_disk():
    qemu_front(DISK_WORK, QEMU_DISK, "--type", "blk", "--skip", "features")


def case_qemu_net():
    qemu_front(NET_WORK, QEMU_NET, "--skip", "features")


def case_virtio_user():
    virtio_user("conformance", ["session", "messages", "offered-only", "memory", "rings", "chains", "slow-answers"])


def case_virtio_user_all():
    virtio_user("all", ["session", "chains", "reply-short", "used-id", "used-twice"])


FAULTS = {  # fault: the test that is to find it, and words of its finding
    "wrong-reply": ("first-contact", "was answered by"),
    "no-reply-flag": ("first-contact", "no reply"),
    "no-ack": ("session", "no acknowledgement came"),
    "acks-unasked": ("ack-not-asked", "was answered by"),
    "two-replies": ("one-reply-only", "was answered by"),
    "short-reply": ("stop-and-go", "size 4"),
    "base-off": ("stop-and-go", "the ring stands at"),
    "never-stops": ("stopped-ring", "after GET_VRING_BASE"),
    "write-outside": ("layout-100", "wrote to guest memory"),
    "write-readable": ("ring-of-64", "wrote to guest memory"),
    "used-id": ("ring-of-64", "used ring is wrong"),
    "used-length": ("ring-of-64", "used ring is wrong"),
    "used-index": ("ring-of-64", "used ring is wrong"),
    "lost-call": ("notifications", "no notification came"),
    "calls-always": ("calls-suppressed", "wanted none"),
    "accept-anything": ("num-index-huge", "acknowledges as done"),
    "crash": ("num-index-huge", "killed by signal 6"),
    "hang": ("num-zero", "gone or hangs"),
}


def faulty(fault):
    return f"exec {shlex.quote(sys.executable)} {HERE}/faulty_backend.py {SOCKET} {fault}"


def case_correct_stand_in():
    """The faulty back end without a fault passes: what is found below is the fault."""
    names = sorted({test for test, _ in FAULTS.values()} - {"first-contact"})
    for name in names:
        report, status = probe(faulty("none"), "--only", name, "--ring", "split")
        bad = [t for t in report["tests"] if t["outcome"] in ("fail", "not run", "warning")]
        show(bad)
        assert not bad and status == 0, name


def case_faults():
    for fault, (name, text) in FAULTS.items():
        report, status = probe(faulty(fault), "--only", name, "--ring", "split", "--strict", timeout=2)
        tests = [t for t in find(report, name) if t["outcome"] in ("fail", "warning")]
        show(report["tests"])
        assert tests and any(text in t["detail"] for t in tests), f"fault {fault}: {name} did not say '{text}'"
        assert status == 1, status


try:
    globals()["case_" + CASE]()
finally:
    shutil.rmtree(FOLDER, ignore_errors=True)
