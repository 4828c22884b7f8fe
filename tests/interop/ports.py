#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Ports made of virtqueues, with contents checked: ours with ours, and either side with DPDK's testpmd.

    ports.py GUISE CASE [PORT_QUEUES]    CASE: ours, tap, front, back, queues, reconnect-ours, reconnect-front, reconnect-back, unprivileged

PORT_QUEUES is the program of that name, for "queues".
"""
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import testpmd

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
import vm  # noqa: E402

GUISE = sys.argv[1]
DIRECTORY = tempfile.mkdtemp(prefix="guise-ports-")
SOCKET = os.path.join(DIRECTORY, "s")
RINGS = ("", ",packed")


def fail(message):
    print(f"FAILED: {message}")
    sys.exit(1)


class Port:
    """A guise port in the background; finish() gives its report."""

    def __init__(self, description, *options, user=None, space=None):
        command = [*(space.prefix if space else []), GUISE, "port", "--json", *options, description]
        if user:
            command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", *command]
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                        preexec_fn=testpmd.end_with_parent)

    def complaints(self):
        self.errors.seek(0)
        return self.errors.read()

    def wait_for(self, word):
        """Until it says so."""
        end = time.monotonic() + 60
        while word not in self.complaints():
            if time.monotonic() > end or self.process.poll() is not None:
                fail(f"{self.process.args} does not say '{word}': {self.complaints()}")
            time.sleep(0.02)

    def finish(self, seconds=120, stop=False):
        if stop:
            self.process.send_signal(signal.SIGTERM)
        try:
            text, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            fail(f"{self.process.args} did not end: {self.complaints()}")
        if self.process.returncode or not text:
            fail(f"{self.process.args}: status {self.process.returncode}, said {text!r}, {self.complaints()}")
        return json.loads(text)

    def kill(self):
        self.process.kill()
        self.process.wait()


def expect_traffic(name, report, sent, least=None):
    """All that came back is unharmed, and that is most of it (a full ring costs some, more on a busy machine)."""
    least = sent // 2 if least is None else least
    if report["sent"] < sent or report["checked"] < least or report["damaged"]:
        fail(f"{name}: {report}")
    print(f"{name}: {report['sent']} sent, {report['checked']} came back unharmed")


def exchange(description, size, count, *options):
    """Send and receive through whatever reflects; slowly enough that nobody's ring need overflow."""
    return Port(description, "--mode", "exchange", "--check", "--size", str(size), "--count", str(count), "--rate", "20000",
                "--seconds", "60", *options)


def case_ours():
    """Split and packed, both socket roles, sleeping and polling, one buffer and several per packet."""
    sizes = ((60, ""), (64, ""), (1514, ""), (9014, ",mtu=9000"), (3000, ""))
    for ring in RINGS:
        for front_listens in (False, True):
            for size, mtu in sizes if not front_listens else sizes[:2]:
                back = Port(f"vhost-user:{SOCKET},back{',client' if front_listens else ''}{mtu}", "--mode", "reflect")
                front = exchange(f"vhost-user:{SOCKET}{',server' if front_listens else ''}{ring}{mtu}", min(size, 2000 if not mtu else size), 3000)
                expect_traffic(f"ours{ring}{' server' if front_listens else ''} {size} B", front.finish(), 3000)
                back.finish(stop=True)
    for options in ("no-in-order", "no-mergeable", "no-event-index", "size=16", "queues=2"):
        back = Port(f"vhost-user:{SOCKET},back{',queues=2' if options == 'queues=2' else ''}", "--mode", "reflect")
        total = 4000 if options == "queues=2" else 2000
        expect_traffic(f"ours {options}", exchange(f"vhost-user:{SOCKET},{options}", 500, 2000).finish(), total)
        back.finish(stop=True)


def case_front():
    """Our front port, DPDK's vhost library behind it."""
    for ring in RINGS:
        for front_listens in (False, True):
            vdev = f"net_vhost0,iface={SOCKET},queues=1{',client=1' if front_listens else ''}"
            with testpmd.TestPmd("back", DIRECTORY, [vdev]) as peer:
                peer.forward("macswap")
                for size in (64, 1514) if not front_listens else (64,):
                    front = exchange(f"vhost-user:{SOCKET}{',server' if front_listens else ''}{ring}", size, 3000)
                    expect_traffic(f"front on net_vhost{ring}{' server' if front_listens else ''} {size} B", front.finish(), 3000)
            if os.path.exists(SOCKET):
                os.unlink(SOCKET)
    jumbo = ["--max-pkt-len=9018"]
    with testpmd.TestPmd("back", DIRECTORY, [f"net_vhost0,iface={SOCKET},queues=2"], options=["--rxq=2", "--txq=2"] + jumbo, mbuf=9216) as peer:
        peer.forward("macswap")
        for description in ("mtu=9000,queues=2", "mtu=9000,queues=2,packed", "no-mergeable,no-in-order,no-event-index"):
            size, queues = (9014, 2) if "mtu" in description else (1000, 1)
            front = exchange(f"vhost-user:{SOCKET},{description}", size, 2000)
            expect_traffic(f"front on net_vhost {description}", front.finish(), 2000 * queues)


def virtio_user(options):
    return f"net_virtio_user0,path={SOCKET},mac=02:00:00:00:00:01{options}"


def circulate(peer, packets, name):
    """32 packets of testpmd's go round through our port until so many have come back; thrown in again if they got lost."""
    start = last = peer.stats().get("RX-packets", 0)
    for _ in range(30):
        peer.forward("io", 300, "start tx_first 1")
        for _ in range(10):
            time.sleep(0.2)
            now = peer.stats().get("RX-packets", 0)
            if now >= start + packets:
                return
            if now == last:
                break
            last = now
    fail(f"{name}: {now - start} packets came back: {peer.stats()}")


def case_back():
    """Our back port, DPDK's virtio_user in front: it makes packets, ours reflects or checks the counts."""
    for options in (",queues=1", ",queues=1,packed_vq=1", ",queues=1,mrg_rxbuf=0,in_order=0", ",queues=1,packed_vq=1,in_order=0", ",queues=1,server=1"):
        server = "server=1" in options
        description = f"vhost-user:{SOCKET},back{',client' if server else ''}"
        back = Port(description, "--mode", "reflect")
        while not server and not os.path.exists(SOCKET):
            time.sleep(0.05)
        time.sleep(0.2)  # a socket is there before somebody listens to it, and testpmd tries once
        with testpmd.TestPmd("front", DIRECTORY, [virtio_user(options)]) as peer:
            peer.wait_link(True)
            circulate(peer, 5000, options)
            peer.do("stop")
            stats = peer.stats()
        report = back.finish(stop=True)
        if stats.get("RX-packets", 0) < 5000 or report["received"] < 5000:
            fail(f"back with virtio_user{options}: {stats} {report}")
        print(f"back with virtio_user{options}: {stats['RX-packets']} round trips")


def try_queues(name, description, queues):
    """Packets come on the pairs that are in use and on no other, whatever their number is changed to."""
    result = subprocess.run([sys.argv[3], description, str(queues)], stdout=subprocess.PIPE, text=True, timeout=600)
    if result.returncode:
        fail(f"{name}: status {result.returncode}\n{result.stdout}")
    print(f"{name}:\n{result.stdout}", end="")


def case_queues():
    """Several queue pairs, fewer of them, and more again: on our back end and on DPDK's, which send on each pair that they may."""
    for ring in RINGS:
        back = Port(f"vhost-user:{SOCKET},back,queues=3", "--mode", "send", "--rate", "20000")
        try_queues(f"ours{ring}", f"vhost-user:{SOCKET},queues=3{ring}", 3)
        back.finish(stop=True)
        if testpmd.missing():
            continue
        with testpmd.TestPmd("back", DIRECTORY, [f"net_vhost0,iface={SOCKET},queues=2"], options=["--rxq=2", "--txq=2"]) as peer:
            peer.forward("txonly")
            try_queues(f"net_vhost{ring}", f"vhost-user:{SOCKET},queues=2{ring}", 2)
        if os.path.exists(SOCKET):
            os.unlink(SOCKET)


def case_reconnect_ours():
    """Either side killed and begun again, several times, under traffic."""
    for ring in RINGS:
        front = Port(f"vhost-user:{SOCKET}{ring}", "--mode", "exchange", "--check", "--size", "200", "--rate", "20000", "--seconds", "600")
        for _ in range(5):
            back = Port(f"vhost-user:{SOCKET},back", "--mode", "reflect")
            time.sleep(0.7)
            back.kill()
        back = Port(f"vhost-user:{SOCKET},back", "--mode", "reflect")
        time.sleep(1.5)
        report = back.finish(stop=True)
        if report["received"] < 1000:
            fail(f"the sixth back end saw too little: {report}")
        report = front.finish(stop=True)
        expect_traffic(f"five back ends killed{ring}", report, 5000, 2000)
        back = Port(f"vhost-user:{SOCKET},back", "--mode", "reflect")
        for _ in range(5):
            front = exchange(f"vhost-user:{SOCKET}{ring}", 200, 1000000)
            time.sleep(0.5)
            front.kill()
        expect_traffic(f"five front ends killed{ring}", exchange(f"vhost-user:{SOCKET}{ring}", 200, 2000).finish(), 2000)
        back.finish(stop=True)


def case_reconnect_front():
    """DPDK's vhost killed and begun again behind our front port."""
    for ring in RINGS:
        front = Port(f"vhost-user:{SOCKET},server{ring}", "--mode", "exchange", "--check", "--size", "200", "--rate", "20000", "--seconds", "600")
        vdev = [f"net_vhost0,iface={SOCKET},queues=1,client=1"]
        for _ in range(2):
            with testpmd.TestPmd("back", DIRECTORY, vdev) as peer:
                peer.forward("macswap")
                peer.wait_link(True)
                end = time.monotonic() + 60
                while peer.stats().get("RX-packets", 0) < 3000 and time.monotonic() < end:
                    time.sleep(0.2)
                if peer.stats().get("RX-packets", 0) < 3000:
                    fail("no traffic after reconnection")
                peer.kill()
        expect_traffic(f"net_vhost killed twice{ring}", front.finish(stop=True), 5000, 4000)


def case_reconnect_back():
    """Our back port killed and begun again behind DPDK's virtio_user, which must listen to survive that."""
    for ring in ("", ",packed_vq=1"):
        back = Port(f"vhost-user:{SOCKET},back,client", "--mode", "reflect", "--wait", "600")  # testpmd starts only with a peer
        with testpmd.TestPmd("front", DIRECTORY, [virtio_user(f",queues=1,server=1{ring}")]) as peer:
            for _ in range(2):
                back = back or Port(f"vhost-user:{SOCKET},back,client", "--mode", "reflect")
                peer.wait_link(True)
                circulate(peer, 1000, f"reconnection{ring}")
                back.kill()
                back = None
                peer.wait_link(False)
        print(f"back end killed twice{ring}: traffic went on")


def case_unprivileged():
    """As nobody, with no huge pages reserved for it."""
    if os.geteuid():
        user = None
    else:
        user = pwd.getpwnam("nobody").pw_uid
        os.chmod(DIRECTORY, 0o777)
    back = Port(f"vhost-user:{SOCKET},back", "--mode", "reflect", user=user)
    expect_traffic("as nobody", exchange(f"vhost-user:{SOCKET}", 800, 3000).finish() if not user else
                   Port(f"vhost-user:{SOCKET}", "--mode", "exchange", "--check", "--size", "800", "--count", "3000", "--rate", "20000",
                        "--seconds", "60", user=user).finish(), 3000)
    back.finish(stop=True)


class Space:
    """A network namespace, for the `with` block."""

    def __init__(self, name):
        self.name = f"guise-{name}-{os.getpid()}"
        self.prefix = ["ip", "netns", "exec", self.name]

    def run(self, *words, **options):
        return subprocess.run([*self.prefix, *words], check=True, **options)

    def guise(self, *words):
        """A guise port in the background, which is to say what it did on JSON."""
        return Port(*words, space=self)

    def add_tap(self, name, address=None):
        self.run("ip", "tuntap", "add", "dev", name, "mode", "tap")
        if address:
            self.run("ip", "addr", "add", address, "dev", name)
        self.run("ip", "link", "set", name, "up")

    def __enter__(self):
        vm.add_namespace(self.name)
        self.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "netns", "del", self.name], check=False)


def ping_tap(space, calls):
    """The kernel's own ping: answered by a port, and by a port behind two others."""
    ping = ["ping", "-q", "-c", "20", "-i", "0.02", "-w", "60", "-s", "1000", "10.9.0.2"]
    port = space.guise(f"tap:t0{calls}", "--mode", "echo")
    space.run(*ping)
    port.finish(stop=True)
    path = f"vhost-user:{SOCKET}"
    relay = space.guise(f"tap:t0{calls}", path + ",back")
    echo = Port(path + ",packed", "--mode", "echo")
    space.run(*ping)
    echo.finish(stop=True)
    relay.finish(stop=True)
    print(f"a TAP port{calls}, and a virtio_user port behind one, answer pings")


def bridge_taps(space, calls):
    """Bursts both ways, contents checked: one port to another by way of a bridge of the kernel's."""
    reflect = space.guise(f"tap:t2{calls}", "--mode", "reflect")
    for size in (60, 1514):
        front = space.guise(f"tap:t1{calls}", "--mode", "exchange", "--check", "--size", str(size), "--count", "20000", "--rate", "40000",
                            "--seconds", "60")
        expect_traffic(f"bridged TAPs{calls} {size} B", front.finish(), 20000)
    reflect.finish(stop=True)


def delete_tap(space, calls):
    """Deleted under traffic: an error that names it, and an end."""
    for mode in ("sink", "send", "reflect"):
        space.add_tap("t9")
        port = space.guise(f"tap:t9{calls}", "--mode", mode)
        port.wait_for("up")
        space.run("ip", "link", "del", "t9")
        if port.process.wait(60) != 1 or "tap t9: the interface was deleted" not in port.complaints():
            fail(f"{mode} on a deleted TAP: status {port.process.returncode}, {port.complaints()}")
    print(f"a deleted TAP{calls} ends a port with an error")


def stream(space, other, megabytes):
    """TCP from one namespace to the other, checked."""
    code = """
import hashlib, socket, sys
data = b"".join(k.to_bytes(4, "little") for k in range(1 << 18)) * int(sys.argv[3])
if sys.argv[1] == "listen":
    server = socket.create_server((sys.argv[2], 5000))
    print("listening", flush=True)
    peer, got = server.accept()[0], hashlib.md5()
    while part := peer.recv(1 << 16):
        got.update(part)
    sys.exit(got.digest() != hashlib.md5(data).digest())
socket.create_connection((sys.argv[2], 5000)).sendall(data)
"""
    command = lambda where, what: [*where.prefix, sys.executable, "-c", code, what, "10.9.0.1", str(megabytes)]
    listener = subprocess.Popen(command(space, "listen"), stdout=subprocess.PIPE, preexec_fn=testpmd.end_with_parent)
    listener.stdout.readline()
    subprocess.run(command(other, "connect"), check=True, timeout=120)
    if listener.wait(120):
        fail("a TCP stream came damaged")


def offload_taps(space, other, calls):
    """TCP between two kernels' worth of network, through two ports: whole segments of 64 KiB if both are to have them."""
    for option in (["--offloads"], []):
        port = space.guise(f"tap:o0{calls}", *option, f"tap:o1{calls}")
        port.wait_for("up")
        space.run("ip", "link", "set", "o1", "netns", other.name)
        for where, name, address in ((space, "o0", "10.9.0.1/24"), (other, "o1", "10.9.0.2/24")):
            where.run("ip", "addr", "add", address, "dev", name)
            where.run("ip", "link", "set", name, "up")
        stream(space, other, 20)
        report = port.finish(stop=True)
        if bool(report["unsegmented"]) != bool(option) or bool(report["unfinished_checksums"]) != bool(option):
            fail(f"offloads {option}: {report}")
        print(f"20 MB of TCP between TAPs{calls} {option}: {report['received']} packets, {report['unsegmented']} of them unsegmented")


def case_tap():
    with Space("ports") as space, Space("other") as other:
        for calls in ("", ",no-io-uring"):
            offload_taps(space, other, calls)
        space.add_tap("t0", "10.9.0.1/24")
        for calls in ("", ",no-io-uring"):
            ping_tap(space, calls)
            delete_tap(space, calls)
        space.run("ip", "link", "add", "b0", "type", "bridge", "mcast_snooping", "0")  # it says nothing itself
        space.run("ip", "link", "set", "b0", "up")
        for name in ("t1", "t2"):
            space.add_tap(name)
            space.run("ip", "link", "set", name, "master", "b0")
        for calls in ("", ",no-io-uring"):
            bridge_taps(space, calls)


def cannot_use_tap():
    if os.geteuid() or not os.path.exists("/dev/net/tun"):
        return "needs root and /dev/net/tun"
    for tool in ("ip", "ping"):
        if not shutil.which(tool):
            return f"{tool} is not installed (tools/setup test)"
    return None


CASES = {"tap": case_tap, "ours": case_ours, "front": case_front, "back": case_back, "queues": case_queues, "reconnect-ours": case_reconnect_ours,
         "reconnect-front": case_reconnect_front, "reconnect-back": case_reconnect_back, "unprivileged": case_unprivileged}

if __name__ == "__main__":
    name = sys.argv[2]
    if name in ("front", "back", "reconnect-front", "reconnect-back") and testpmd.missing():
        print(f"SKIPPED: {testpmd.missing()}")
        sys.exit(77)
    if name == "tap" and cannot_use_tap():
        print(f"SKIPPED: {cannot_use_tap()}")
        sys.exit(77)
    CASES[name]()
