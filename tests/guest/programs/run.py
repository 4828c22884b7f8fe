#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Run real programs where this file lies, and say what they computed.

  run.py NAME...      names of PROGRAMS, or "all"

The same file runs in the Debian guest and, in the same root file system, on the host; a line a program:
  BENCH name 1 0 seconds 0 user_s system_s checksum
which is what bench/programs prints. START comes when a program's clock begins. The checksum is of all that the program
wrote to its standard output, and of its exit status: it depends on nothing but the program.
"""
import hashlib
import os
import resource
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SSL = "for d in md5 sha1 sha256 sha512 sha3-256 blake2b512 sm3; do openssl dgst -$d -r text; done; " \
      "for c in aes-256-gcm aes-128-ctr aes-256-cbc chacha20 camellia-128-cbc aria-128-ctr des-ede3-cbc; do " \
      "openssl enc -$c -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff -iv 000102030405060708090a0b0c0d0e0f " \
      "-in text 2>&1 | openssl dgst -sha256 -r; done; " \
      "openssl dgst -sha256 -sign key.pem text | openssl dgst -sha256 -r; " \
      "for n in 170141183460469231731687303715884105727 340282366920938463463374607431768211457; do openssl prime $n; done"

# What runs for the figures: plain programs, a second or so each on the host.
PROGRAMS = {
    "lua": "lua5.4 work.lua",
    "sqlite3": "sqlite3 :memory: <work.sql",
    "xz": "xz -6 -T1 -c text",
    "bzip2": "bzip2 -9 -c text",
    "gcc": "gcc -O2 -S -o - big.c",
    "python3": "python3 work.py",
    "openssl": SSL,
}
# Code made at run time, and a compiler's result run.
MORE = {
    "xz -d": "xz -0 -T1 -c text | xz -d -c",
    "luajit": "luajit work.lua",
    "luajit interpreter": "luajit -joff work.lua",
    "node": "node work.js",
    "node --jitless": "node --jitless work.js",
    "gcc -O0, run": "gcc -O0 -o /tmp/big big.c && /tmp/big",
    "gcc -O3 avx2, run": "gcc -O3 -mavx2 -mfma -ffast-math -o /tmp/big big.c && /tmp/big",
}


def run(name, command):
    print("START", flush=True)
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(["sh", "-c", command], cwd=HERE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    checksum = hashlib.sha256(done.stdout + b"%d" % done.returncode).hexdigest()[:16]
    print(f"BENCH {name.replace(' ', '_')} 1 0 {wall:.6f} 0 {after.ru_utime - before.ru_utime:.3f} "
          f"{after.ru_stime - before.ru_stime:.3f} {checksum}", flush=True)


def main():
    known = {**PROGRAMS, **MORE}
    for name in known if sys.argv[1:] == ["all"] else sys.argv[1:]:
        run(name, known[name])
    print("BENCH-END", flush=True)


if __name__ == "__main__":
    main()
