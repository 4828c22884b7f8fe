# SPDX-License-Identifier: BSD-2-Clause
"""The Debian of tools/guest-debian: start it, log in, hand it programs; run the same programs on the host.

The programs travel as a tar file that is the guest's second disk. On the host they run in the very same root file system
(tools/guest-debian leaves it beside the image), so that both sides use the same libraries and compilers.
"""
import io
import os
import pathlib
import random
import shutil
import subprocess
import tarfile

import vm

PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"


def need_image():
    for name in ("debian.img", "debian-vmlinuz", "debian-initrd", "debian-root"):
        if not (vm.GUEST / name).exists():
            vm.skip(f"no Debian guest: run tools/guest-debian {vm.GUEST}")
    return vm.GUEST / "debian.img"


def make_text():
    """A megabyte that look like prose to a compressor."""
    rng = random.Random(1)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, range(26, 0, -1), k=rng.randint(2, 10))) for _ in range(8000)]
    lines = (" ".join(words[int(rng.paretovariate(0.7)) % 8000] for _ in range(14)) for _ in range(12500))
    return "\n".join(lines).encode()


def make_c():
    """A C program with something of everything that a compiler has to look at; what it prints is defined by the standard
    (the floating point is sums of small integers, exact in any order)."""
    rng = random.Random(2)
    out = ["#include <stdint.h>", "#include <stdio.h>", "#include <string.h>", "struct node { uint32_t key; struct node *next; };"]
    for k in range(40):
        a, b, c = rng.randint(3, 99), rng.randint(1, 31), rng.randint(2, 9)
        out.append(f"""
static uint32_t hash{k}(const uint8_t *p, unsigned n)
{{
	uint32_t h = {rng.getrandbits(32)}u;
	for (unsigned i = 0; i < n; i++)
		h = (h ^ p[i]) * {rng.getrandbits(31) | 1}u + (h >> {b});
	switch (h % {c + 3}) {{
	case 0: return h ^ {a}; case 1: return h / {a}; case 2: return h % {a * 77}; case 3: return h << {b % 7};
	default: return ~h;
	}}
}}
static double dot{k}(const float *x, const float *y, int n)
{{
	double s = 0;
	for (int i = 0; i < n; i++)
		s += (double)(x[i] * y[i]);
	return s + {a};
}}
static uint32_t list{k}(struct node *pool, unsigned n)
{{
	struct node *head = 0, *sorted = 0;
	uint32_t s = 0;
	for (unsigned i = 0; i < n; i++) {{ pool[i].key = i * {rng.getrandbits(20) | 1}u % 1009; pool[i].next = head; head = &pool[i]; }}
	while (head) {{
		struct node *e = head, **at = &sorted;
		head = head->next;
		while (*at && (*at)->key < e->key) at = &(*at)->next;
		e->next = *at; *at = e;
	}}
	for (; sorted; sorted = sorted->next) s = s * {c} + sorted->key;
	return s;
}}""")
    calls = "\n".join(f'\tprintf("%d %u %.0f %u\\n", {k}, hash{k}(text, 500 + {k}), dot{k}(x, y, 256), list{k}(pool, 100 + {k}));'
                      for k in range(40))
    out.append(f"""
static uint8_t text[1024];
static float x[256], y[256];
static struct node pool[300];
int main(void)
{{
	for (int i = 0; i < 1024; i++) text[i] = (uint8_t)(i * 37 + i / 5);
	for (int i = 0; i < 256; i++) {{ x[i] = (float)(i % 17); y[i] = (float)(i % 23 - 11); }}
{calls}
	return 0;
}}
""")
    return "\n".join(out).encode()


def work_files():
    """The files of programs/, made ones too."""
    files = {path.name: path.read_bytes() for path in PROGRAMS.iterdir() if path.is_file()}
    key = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, check=True).stdout
    return {**files, "text": make_text(), "big.c": make_c(), "key.pem": key}


def make_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
    return path


def copy_image(scratch, name):
    """An image for one machine to write to; holes stay holes."""
    copy = pathlib.Path(scratch) / f"{name}.img"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(need_image()), str(copy)], check=True)
    return copy


def start(guise, engine, image, work, cpus=1, mem="2G", time_limit=3600, **more):
    return vm.Vm(guise, engine, vm.GUEST / "debian-vmlinuz", vm.GUEST / "debian-initrd", append="root=/dev/vda rw", cpus=cpus,
                 mem=mem, disks=[image, work], time_limit=time_limit, **more)


def log_in(guest):
    """Wait for the login prompt; afterwards guest.shell() works, and the programs are in /root/work."""
    guest.wait_for(" login: ")
    guest.type("root\n")
    guest.wait_for("root@debian")
    guest.wait_for("# ")
    guest.type("stty -echo; PS1= PS2=; bind 'set enable-bracketed-paste off'; dmesg -n 1; echo =quiet='shell'=\n")
    guest.wait_for("=quiet=shell=\n")
    guest.shell("mkdir work; cd work; tar xf /dev/vdb")


class Host:
    """The host, in the guest's root file system; for root, as it takes chroot."""

    def __init__(self, scratch, files):
        self.here = pathlib.Path(scratch) / "host-work"
        self.here.mkdir()
        for name, data in files.items():
            (self.here / name).write_bytes(data)
        if os.geteuid() or not shutil.which("unshare"):
            vm.skip("comparing with the host needs root, for chroot")

    def run(self, command):
        root = vm.GUEST / "debian-root"
        script = f"mount -t tmpfs tmp {root}/tmp && mkdir {root}/tmp/work && mount --bind {self.here} {root}/tmp/work && " \
                 f"mount -t proc proc {root}/proc && mount --bind /dev {root}/dev && exec chroot {root} sh -c \"$1\""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C"}
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", f"cd /tmp/work; {command}"], env=environment,
                              capture_output=True, text=True, check=False)
        return done.stdout + done.stderr, done.returncode
