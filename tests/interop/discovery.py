#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The descriptions of our vhost-user back ends (vhost-user, "Backend program conventions"), as they are installed.

  discovery.py BUILD

Installs BUILD into a folder of its own, reads share/qemu/vhost-user/*.json there as QEMU's docs/interop/vhost-user.json has them, and
uses each binary as a program that knows nothing but the conventions: capabilities, then a session by --socket-path and by --fd.
"""
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import time

BUILD = sys.argv[1]
TYPES = {"9p", "balloon", "block", "caif", "console", "crypto", "gpu", "input", "net", "rng", "rpmsg", "rproc-serial", "scsi", "vsock", "fs"}
BLOCK_FEATURES = {"read-only", "blk-file"}
GET_FEATURES, BLK_F_RO, PATIENCE = 1, 5, 30
HEADER = struct.Struct("<III")


def get_features(connection):
    connection.settimeout(PATIENCE)
    connection.sendall(HEADER.pack(GET_FEATURES, 1, 0))
    answer = connection.recv(20, socket.MSG_WAITALL)
    request, flags, size = HEADER.unpack(answer[:12])
    assert (request, flags, size) == (GET_FEATURES, 5, 8), answer
    return int.from_bytes(answer[12:], "little")


def by_path(scratch, command):
    path = scratch / "s"
    with subprocess.Popen([*command, f"--socket-path={path}"]) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not path.exists():
                assert process.poll() is None and time.monotonic() < deadline, f"{command} does not listen"
                time.sleep(0.02)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                return get_features(connection)
        finally:
            process.terminate()


def by_fd(command):
    """It serves the one connection that it inherited, and ends with it."""
    ours, theirs = socket.socketpair()
    with subprocess.Popen([*command, f"--fd={theirs.fileno()}"], pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        with ours:
            features = get_features(ours)
        assert process.wait(PATIENCE) == 0, f"status {process.returncode}"
    return features


def check(root, scratch, file):
    description = json.loads(file.read_text())
    assert set(description) <= {"description", "type", "binary", "tags"} and description["type"] in TYPES, description
    assert description["description"] and all(isinstance(tag, str) for tag in description["tags"]), description
    assert os.path.isabs(description["binary"]), description
    installed = root / description["binary"].lstrip("/")
    target = root / os.readlink(installed).lstrip("/")
    binary = scratch / installed.name  # the link as it is once root is /
    binary.symlink_to(target)
    said = json.loads(subprocess.run([binary, "--print-capabilities"], capture_output=True, check=True).stdout)
    assert said["type"] == description["type"] and set(said) <= {"type", "features"}, said
    if said["type"] == "block":
        assert set(said["features"]) == BLOCK_FEATURES, said
        image = scratch / "image"
        image.write_bytes(bytes(1 << 20))
        command = [binary, f"--blk-file={image}"]
        assert by_path(scratch, [*command, "--read-only"]) >> BLK_F_RO & 1
        assert not by_fd(command) >> BLK_F_RO & 1
    else:
        assert by_path(scratch, [binary, "--net=user"]) and by_fd([binary, "--net=user"])
    print(f"{file.name}: {description['binary']}")
    return description["type"]


with tempfile.TemporaryDirectory() as name:
    top = pathlib.Path(name) / "root"
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", str(top)], check=True)
    found = sorted(top.rglob("share/qemu/vhost-user/*.json"))
    types = []
    for number, one in enumerate(found):
        folder = pathlib.Path(name) / str(number)
        folder.mkdir()
        types.append(check(top, folder, one))
    assert types == ["block", "net"], types
