# SPDX-License-Identifier: BSD-2-Clause
"""Start a virtual machine, read its console, type into it, see how it ends.

Used by the guest tests. The engine "qemu" starts QEMU's TCG instead of guise: it shows that a test asks only for what
any right machine gives.
"""
import difflib
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GUEST = pathlib.Path(os.environ.get("GUISE_GUEST", ROOT / "build" / "guest"))
# Lines of a kernel's log that must not be there.
BAD_LOG = re.compile(r"WARNING|\bBUG\b|Oops|unstable|unchecked MSR|Call Trace|rcu.*stall|soft lockup|general protection|"
                     r"tsc: Fast TSC calibration failed|unexpected|spurious|nobody cared|lost interrupt|invalid opcode|"
                     r"clocksource:.*skew|[Hh]ardware [Ee]rror|ACPI (BIOS )?(Error|Warning)|_OSC.*failed|can't claim|failed to")
# ... unless the machine is right and the kernel says so on every machine of its kind.
HARMLESS_LOG = re.compile(r"spectre|Spectre|MDS|TAA|MMIO Stale Data|RETBleed|x86/mm: Checked W\+X|Vulnerable|"
                          r"Warning: unprivileged eBPF|nmi_watchdog|failed to register.*debug|regulatory")


def engine_label(engine):
    """What to call an engine in results: "qemu=PATH" by its version."""
    name, _, path = engine.partition("=")
    if not path:
        return name
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return name + " " + re.search(r"version (\d+\.\d+)", version)[1]


def engines_shown(engines):
    """The option's value again, without places on this host."""
    return ",".join(re.sub("=.*", "=PATH", engine) for engine in engines)


class Failure(Exception):
    pass


class OutOfTime(Failure):
    pass


def skip(reason):
    """End this test as skipped, for meson; the last line is the reason."""
    print(f"skipped: {reason}")
    sys.exit(77)


def add_namespace(name):
    """A network namespace. Where there can be none, in containers and chroots, this test is skipped."""
    for command in (["ip", "netns", "add", name], ["ip", "netns", "exec", name, "true"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            skip(f"no network namespace: {done.stderr.strip()}")


def need_guest(flavour="cloud"):
    kernel = GUEST / f"vmlinuz-{flavour}"
    if not kernel.exists():
        skip(f"no guest kernel: run tools/guest {GUEST} {flavour}")
    return kernel


def make_initrd(out, files):
    """The plain initrd with more files: a second archive behind the first. `files` maps a path to a host file."""
    entries = {}
    for path, source in files.items():
        parts = path.strip("/").split("/")
        for i in range(1, len(parts)):
            entries["/".join(parts[:i])] = None
        entries["/".join(parts)] = pathlib.Path(source)
    with open(out, "wb") as archive:
        base = (GUEST / "initrd.cpio").read_bytes()
        archive.write(base + b"\0" * (-len(base) % 512))
        for number, (path, source) in enumerate(sorted(entries.items()) + [("TRAILER!!!", b"")]):
            mode, data = (0o40755, b"") if source is None else (0o100755, b"")
            if isinstance(source, pathlib.Path):
                data = source.read_bytes()
            name = path.encode() + b"\0"
            fields = [number + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
            header = b"070701" + b"".join(b"%08x" % field for field in fields) + name
            archive.write(header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4))
    return out


def module(name, flavour="cloud"):
    """A kernel module's file."""
    found = list((GUEST / f"modules-{flavour}").rglob(f"{name}.ko"))
    if not found:
        skip(f"the {flavour} kernel has no module {name}")
    return found[0]


def modules(names, flavour="cloud"):
    """Kernel modules with what they depend on, in the order to load them: for make_initrd(), and for mods= ."""
    order, files = [], {}

    def add(name):
        try_names = [name.replace("-", "_"), name.replace("_", "-")]
        found = [f for n in try_names for f in (GUEST / f"modules-{flavour}").rglob(f"{n}.ko")]
        if not found:
            skip(f"the {flavour} kernel has no module {name}")
        info = found[0].read_bytes().split(b"\0depends=", 1)
        needed = info[1].split(b"\0", 1)[0].decode() if len(info) > 1 else ""
        for other in filter(None, needed.split(",")):
            add(other)
        if found[0].stem not in order:
            order.append(found[0].stem)
            files[f"modules/{found[0].name}"] = found[0]

    for name in names:
        add(name)
    return files, ",".join(order)


def program(name):
    """A program of the host with its libraries, for make_initrd()."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        skip(f"no {name} on this host")
    return {f"usr/bin/{name}": pathlib.Path(path).resolve(), **libraries_of(path)}


def libraries_of(program):
    """The shared libraries that a program needs, the loader included, by the path at which it looks for them."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return {path: pathlib.Path(path).resolve() for path in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", listing, re.M)}


class Vm:
    """One run of a machine. `console` collects all that it printed; `time_limit` is for the whole run, in seconds.

    With `serial`, a path, the serial port is a socket there, and the machine's standard input and output are `terminal`.
    """

    def __init__(self, guise, engine, kernel, initrd=None, append="", cpus=1, mem="512M", options=(), time_limit=300,
                 qemu_cpu="max,la57=off,smap=off", disks=(), serial=None, terminal=None, more=()):
        append = f"console=ttyS0 {append}".strip()
        if engine.split("=")[0] == "qemu":  # or qemu=PATH, another QEMU. 7.2 pushes a far call's return address with the kernel's rights: no SMAP
            command = [engine.partition("=")[2] or "qemu-system-x86_64", "-accel", "tcg", "-cpu", qemu_cpu, "-machine", "q35",
                       "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-m", mem, "-smp", str(cpus)]
            command += ["-kernel", str(kernel), "-append", append] + (["-initrd", str(initrd)] if initrd else [])
            for disk in disks:
                command += ["-drive", f"file={disk},format=raw,if=virtio"]
            command += list(more)
        else:
            command = [str(guise), "run", "--engine", engine, "--mem", mem, "--cpus", str(cpus)]
            command += ["--kernel", str(kernel), "--append", append]
            command += (["--initrd", str(initrd)] if initrd else []) + list(options)
            for disk in disks:
                command += ["--disk", str(disk)]
        self._start(command, time_limit, serial, terminal)

    def _start(self, command, time_limit, serial=None, terminal=None):
        self.command = command
        self.console = ""
        self.read_to = 0
        self.deadline = time.monotonic() + time_limit
        self.socket = None
        if serial:
            command += ["--console", f"unix:{serial}"]
            self.process = subprocess.Popen(command, stdin=terminal, stdout=terminal)
            self.socket = self._connect(serial)
            self.output = self.input = self.socket.fileno()
        else:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.output, self.input = self.process.stdout.fileno(), self.process.stdin.fileno()

    def _connect(self, path):
        client = socket.socket(socket.AF_UNIX)
        while client.connect_ex(str(path)):
            if self.process.poll() is not None or time.monotonic() > self.deadline:
                raise Failure(f"nobody listens at {path}")
            time.sleep(0.05)
        return client

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.socket:
            self.socket.close()
        else:
            self.process.stdout.close()
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass
        if kind is not None:
            print(" ".join(self.command))
            print(self.console[-20000:])

    def _read_some(self):
        """More of the console; False at its end."""
        left = self.deadline - time.monotonic()
        if left <= 0 or not select.select([self.output], [], [], left)[0]:
            raise OutOfTime(f"time is up; the last line is {self.console.splitlines()[-1:]}")
        try:
            data = os.read(self.output, 65536)
        except ConnectionResetError:
            data = b""
        self.console += data.decode(errors="replace").replace("\r", "")
        return bool(data)

    def wait_for(self, text):
        """Read on until `text` comes; returns what came before it."""
        while True:
            at = self.console.find(text, self.read_to)
            if at >= 0:
                before = self.console[self.read_to:at]
                self.read_to = at + len(text)
                return before
            if not self._read_some():
                raise Failure(f"the machine ended (status {self.process.wait()}) before '{text}' came")

    def type(self, text):
        os.write(self.input, text.encode())

    def shell(self, command):
        """Run a command in the guest's shell: its output and its exit status. After boot()."""
        self.type(f"{command}; echo =status $?=\n")
        output = self.wait_for("=status ")
        return output, int(self.wait_for("=\n"))

    def end(self):
        """Wait for the run's end: its exit status."""
        while self._read_some():
            pass
        return self.process.wait()

    def boot(self):
        """Read on until the guest's shell prompts, then make it a shell that neither echoes nor edits lines."""
        self.wait_for("GUEST READY")
        self.wait_for("# ")
        self.type("stty -echo; echo =quiet='shell'=; while read -r l; do eval \"$l\"; done\n")
        self.wait_for("=quiet=shell=\n")


def bad_lines(log):
    return [line for line in log.splitlines() if BAD_LOG.search(line) and not HARMLESS_LOG.search(line)]


def expect_same(what, ours, wanted):
    """Two lists of lines."""
    lines = list(difflib.unified_diff(wanted, ours, "wanted", "got", lineterm=""))
    if lines:
        raise Failure(f"{what} differ:\n" + "\n".join(lines))


def expect(what, got, wanted):
    if got != wanted:
        raise Failure(f"{what}: got {got!r}, wanted {wanted!r}")


def main(test):
    """Run test() as a program: its exceptions become a message and status 1. No machine survives it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    try:
        test()
    except Failure as failure:
        print(f"FAILED: {failure}")
        sys.exit(1)
