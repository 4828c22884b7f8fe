#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Ports on the kernel's vhost and on its TAPs, inside a Debian kernel in a machine: there /dev/vhost-net is.

  port_in_guest.py GUISE ENGINE PORT_QUEUES TEST_TAP

What is missing or cannot be is refused with a sentence. The kernel's ping is answered through one pair of queues and through two;
frames with checked contents come back through the kernel's bridge; TCP passes with offloads and without; packets come on the pairs in
use and on no other. And TEST_TAP, the tests of TAP ports, on a kernel in which only writes go by io_uring.
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import vm

TIME_LIMIT = 300
VHOST = "vhost-kernel:/dev/vhost-net,iface=k0"

SCRIPT = """#!/bin/sh
ip() {{ /usr/bin/ip "$@"; }} # the host's, not BusyBox's
mkdir -p /run
refused() {{ name=$1; shift; /n/guise port --seconds 1 "$@" >/dev/null 2>/tmp/said; echo "=$name $? $(tail -n 1 /tmp/said)="; }}
# NAME ADDRESS: when it is there
up() {{
	until ip link set "$1" up 2>/dev/null; do sleep 0.1; done
	[ -z "$2" ] || ip addr add "$2" dev "$1"
}}
# a port in the background, whose report is then asked for
begin() {{ /n/guise port --json "$@" >/tmp/report 2>/tmp/complaint & until [ -n "$(pidof guise)" ]; do sleep 0.1; done; }}
end() {{ kill -TERM $(pidof guise); wait; echo "=$1 $(cat /tmp/report)="; }}

refused no-tun {vhost}
insmod /modules/tun.ko
refused no-vhost {vhost}
for module in {modules}; do [ -d /sys/module/$module ] || insmod /modules/$module.ko; done
refused packed {vhost},packed
refused no-tap vhost-kernel:/dev/vhost-net,iface=lo
refused other-device vhost-kernel:/dev/null,iface=k0
ip tuntap add dev s0 mode tap
refused queues vhost-kernel:/dev/vhost-net,iface=s0,queues=2
ip link del s0
sysctl -qw net.ipv6.conf.default.disable_ipv6=1

for queues in 1 2; do
	begin --mode echo {vhost},queues=$queues
	up k0 10.9.0.1/24
	refused busy {vhost}
	for k in $(seq 2 17); do ping -q -c 1 -W 30 -s 1000 10.9.0.$k; done | grep -c '1 packets received' >/tmp/answers
	echo "=pings $(cat /tmp/answers)="
	end echo
done

for option in --offloads --mode=forward; do
	begin $option {vhost} tap:t1
	up k0 10.9.0.1/24
	ip netns add other
	until ip link set t1 netns other 2>/dev/null; do sleep 0.1; done
	ip netns exec other sh -c '/usr/bin/ip link set t1 up; /usr/bin/ip addr add 10.9.0.2/24 dev t1'
	dd if=/dev/urandom of=/tmp/sent bs=1M count=8 2>/dev/null
	rm -f /tmp/here /tmp/there
	/n/socat -u OPEN:/tmp/sent TCP-LISTEN:5000,reuseaddr & first=$!
	/n/socat -u TCP-LISTEN:5001,reuseaddr CREATE:/tmp/there & second=$!
	ip netns exec other /n/socat -u TCP:10.9.0.1:5000,retry=50,interval=0.2 CREATE:/tmp/here
	ip netns exec other /n/socat -u OPEN:/tmp/sent TCP:10.9.0.1:5001,retry=50,interval=0.2
	wait $first $second
	echo "=streams $(cat /tmp/sent | md5sum) $(cat /tmp/here | md5sum) $(cat /tmp/there | md5sum)="
	end stream
	ip netns del other
done

ip link add b0 type bridge mcast_snooping 0
ip link set b0 up
(until ip link set t1 master b0 2>/dev/null; do sleep 0.1; done; until ip link set k0 master b0 2>/dev/null; do sleep 0.1; done; up t1; up k0) &
begin --mode reflect {vhost}
/n/guise port --json --mode exchange --check --size 1400 --count 4000 --rate 2000 --seconds 60 tap:t1 >/tmp/exchanged
echo "=exchanged $(cat /tmp/exchanged)="
end reflect

(until ip link set t1 master b0 2>/dev/null; do sleep 0.1; done; until ip link set k0 master b0 2>/dev/null; do sleep 0.1; done; up t1; up k0) &
/n/queues {vhost},queues=2 2 tap:t1
echo "=port_queues $?="
begin --mode reflect --poll {vhost}
up k0 10.9.0.1/24
ip link del k0
wait
echo "=deleted $(tail -n 1 /tmp/complaint)="
/n/test_tap
echo "=test_tap $?="
"""


def fields(console, name):
    return re.findall(rf"^={name} (.*)=$", console, re.M)


def expect_refusals(console):
    refusals = {"no-tun": "cannot open /dev/net/tun", "no-vhost": "/dev/vhost-net: cannot open it .is its module loaded",
                "packed": "vhost-net: it lacks features without which it is of no use", "no-tap": "tap lo: cannot attach to the interface", "other-device": "vhost-kernel:/dev/vhost-net,iface=TAP, please",
                "queues": "tap s0: cannot attach to the interface", "busy": "tap k0: cannot attach to the interface"}
    for name, sentence in refusals.items():
        for answer in fields(console, name) or ["nothing"]:
            if not re.match(f"1 guise: error: port: .*{sentence}", answer):
                raise vm.Failure(f"{name}: got {answer!r}, not status 1 and '{sentence}'")


def expect_streams(console):
    """With offloads whole segments come from the kernel, and go to it; without none does."""
    for line in fields(console, "streams"):
        sums = re.findall("[0-9a-f]{32}", line)
        if len(sums) != 3 or len(set(sums)) != 1:
            raise vm.Failure(f"TCP streams came damaged: {line}")
    offloads, plain = (json.loads(report) for report in fields(console, "stream"))
    if not offloads["unsegmented"] or not offloads["unfinished_checksums"] or plain["unsegmented"] or plain["unfinished_checksums"]:
        raise vm.Failure(f"offloads: {offloads}\nno offloads: {plain}")
    print(f"8 MiB of TCP each way: {offloads['received']} packets with offloads, {offloads['unsegmented']} of them unsegmented; {plain['received']} without")


def test():
    guise, engine, queues, test_tap = sys.argv[1:]
    if not shutil.which("socat"):
        vm.skip("socat is not installed (tools/setup test)")
    kernel = vm.need_guest("cloud")
    files, order = vm.modules(["tun", "vhost_net", "bridge"])
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        (scratch / "script").write_text(SCRIPT.format(vhost=VHOST, modules=order.replace(",", " ")))
        files |= vm.program("ip") | {"bin/script": scratch / "script"}
        for name, program in (("guise", guise), ("queues", queues), ("test_tap", test_tap), ("socat", shutil.which("socat"))):
            subprocess.run(["strip", "-o", scratch / name, program], check=True)
            files |= vm.libraries_of(program) | {f"n/{name}": scratch / name}
        initrd = vm.make_initrd(scratch / "initrd.cpio", files)
        with vm.Vm(guise, engine, kernel, initrd, "quiet no_timer_check panic=-1 run=/bin/script", cpus=2, mem="1G", time_limit=TIME_LIMIT) as machine:
            machine.end()
            console = machine.console
            expect_refusals(console)
            vm.expect("pings answered", fields(console, "pings"), ["16", "16"])
            for report in map(json.loads, fields(console, "echo")):
                if report["ports"][0]["tx_packets"] < 16 or report["ports"][0]["tx_dropped"]:
                    raise vm.Failure(f"echo: {report}")
            expect_streams(console)
            exchanged = json.loads(fields(console, "exchanged")[0])
            if exchanged["checked"] < 1000 or exchanged["damaged"]:
                raise vm.Failure(f"exchanged: {exchanged}")
            vm.expect("port_queues' status", fields(console, "port_queues"), ["0"])
            vm.expect("a deleted interface", fields(console, "deleted"),
                      ["guise: error: port: vhost-net: the interface was deleted: nothing passes any more"])
            vm.expect("test_tap's status", fields(console, "test_tap"), ["0"])
    print(f"pings through one and two queue pairs of the kernel's vhost; {exchanged['checked']} of {exchanged['sent']} frames came back unharmed; "
          "packets on the pairs in use only; TAP ports' tests")


vm.main(test)
