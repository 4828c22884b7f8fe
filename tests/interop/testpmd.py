# SPDX-License-Identifier: BSD-2-Clause
"""A dpdk-testpmd process, driven by its prompt. Needs neither root nor huge pages."""
import ctypes
import os
import re
import shutil
import signal
import subprocess
import threading
import time


def end_with_parent():
    """For preexec_fn: a child is killed when its test is, however that dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class TestPmd:
    """vdevs: DPDK device strings. It runs on one processor and ends with the `with` block."""

    def __init__(self, name, directory, vdevs, cpu=0, options=(), user=None, mbuf=2048):
        run = os.path.join(directory, name + ".run")
        os.makedirs(run, exist_ok=True)
        self.name = name
        command = ["stdbuf", "-oL", "dpdk-testpmd", "--lcores", f"0@{cpu},1@{cpu}", "--no-pci", "-m", "160", "--no-huge",
                   "--file-prefix", f"{name}{os.getpid()}"]
        for vdev in vdevs:
            command += ["--vdev", vdev]
        command += ["--", "-i", "--total-num-mbufs=8192", f"--mbuf-size={mbuf + 128}", *options]
        if user:
            os.chmod(run, 0o777)
            command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", *command]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, bufsize=1, env=dict(os.environ, RUNTIME_DIRECTORY=run, XDG_RUNTIME_DIR=run),
                                        preexec_fn=end_with_parent)
        self.text = ""
        self.more = threading.Condition()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        if not self.wait(r"testpmd> ", 120):
            self.end()
            raise RuntimeError(f"{name} did not start:\n{self.text}")

    def read(self):
        while True:
            char = self.process.stdout.read(1)
            with self.more:
                self.text += char
                self.more.notify_all()
            if not char:
                return

    def wait(self, pattern, seconds=60, start=0):
        end = time.monotonic() + seconds
        with self.more:
            while True:
                match = re.search(pattern, self.text[start:])
                if match or self.process.poll() is not None or time.monotonic() > end:
                    return match
                self.more.wait(0.2)

    def do(self, command, seconds=60):
        start = len(self.text)
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        self.wait(r"testpmd> ", seconds, start)
        return self.text[start:]

    def forward(self, mode, size=None, start="start"):
        """Begin anew: a mode of testpmd's (io, macswap, txonly, rxonly, icmpecho)."""
        self.do("stop")
        self.do(f"set fwd {mode}")
        if size:
            self.do(f"set txpkts {size}")
        self.do(start)

    def stats(self, port=0):
        text = self.do(f"show port stats {port}")
        return {k: int(v) for k, v in re.findall(r"(RX-packets|TX-packets|RX-missed|RX-errors|TX-errors|RX-bytes|TX-bytes):\s*(\d+)", text)}

    def link_is_up(self, port=0):
        return "Link status: up" in self.do(f"show port info {port}")

    def wait_link(self, up, seconds=60, port=0):
        end = time.monotonic() + seconds
        while self.link_is_up(port) != up:
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name}: link is not {'up' if up else 'down'}")
            time.sleep(0.1)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        if self.process.poll() is None:
            try:
                self.process.stdin.write("stop\nquit\n")
                self.process.stdin.flush()
                self.process.wait(20)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
        self.process.wait()
        self.thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def missing():
    """Why testpmd cannot run here, or None."""
    return None if shutil.which("dpdk-testpmd") else "dpdk-testpmd is not installed (tools/setup test)"
