#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A small vhost-user network back end that takes every frame, and has one fault if it is told to: what guise probe must find.

faulty_backend.py SOCKET FAULT. Split rings, one queue pair. FAULT "none": a correct back end."""
import array
import mmap
import os
import select
import socket
import struct
import sys
import time

(GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE, SET_LOG_FD, SET_VRING_NUM, SET_VRING_ADDR,
 SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES,
 GET_QUEUE_NUM, SET_VRING_ENABLE) = range(1, 19)
REPLY, NEED_REPLY = 4, 8
F_PROTOCOL, F_VERSION_1 = 1 << 30, 1 << 32
P_MQ, P_REPLY_ACK = 1, 8
FAULT = sys.argv[2]


class Drop(Exception):
    """The front end did what cannot be: the connection ends."""


class Ring:
    def __init__(self):
        self.size = 0
        self.base = 0
        self.addr = None
        self.kick = self.call = self.err = None
        self.started = self.enabled = self.polled = False


class Session:
    def __init__(self, sock):
        self.sock = sock
        self.regions = []
        self.rings = [Ring(), Ring()]
        self.features = self.protocol = 0
        self.served = 0
        self.buffer = b""
        self.fds = []

    def close(self):
        for ring in self.rings:
            for fd in (ring.kick, ring.call, ring.err):
                if fd is not None:
                    os.close(fd)
        for fd in self.fds:
            os.close(fd)
        self.sock.close()

    # --- memory ---

    def at(self, address, size, user):
        for guest, length, front, memory, offset in self.regions:
            start = front if user else guest
            if start <= address and address + size <= start + length:
                return memory, offset + address - start
        raise Drop

    def set_memory(self, payload, fds):
        if len(payload) < 8:
            return False
        n = struct.unpack_from("<I", payload)[0]
        if n > 8 or len(payload) != 8 + 32 * n or len(fds) != n:
            return False
        regions = []
        for k in range(n):
            guest, size, user, offset = struct.unpack_from("<4Q", payload, 8 + 32 * k)
            try:
                if not size or max(guest, user, offset) + size >= 1 << 63 or os.fstat(fds[k]).st_size < offset + size:
                    return False
                regions.append((guest, size, user, mmap.mmap(fds[k], offset + size), offset))
            except (OSError, ValueError, OverflowError):
                return False
        self.regions = regions
        return True

    # --- the ring ---

    def u16(self, address):
        memory, at = self.at(address, 2, True)
        return struct.unpack_from("<H", memory, at)[0]

    def put(self, address, form, *values):
        memory, at = self.at(address, struct.calcsize(form), True)
        struct.pack_into(form, memory, at, *values)

    def serve(self, index):
        """Take everything that is available. Sent frames are counted, receive buffers left alone."""
        ring = self.rings[index]
        desc, used, avail = ring.addr
        done = 0
        while self.u16(avail + 2) != ring.base and index == 1:
            head = self.u16(avail + 4 + 2 * (ring.base % ring.size))
            if head >= ring.size:
                raise Drop
            at = head
            for _ in range(ring.size):
                memory, place = self.at(desc + 16 * at, 16, True)
                address, length, flags, at = struct.unpack_from("<QIHH", memory, place)
                if flags & 6 or not length:
                    raise Drop
                memory, place = self.at(address, length, False)
                if FAULT == "write-readable":
                    memory[place + length - 1] ^= 1
                if not flags & 1:
                    break
                if at >= ring.size:
                    raise Drop
            self.served += 1
            if FAULT == "write-outside":
                memory[place + length + 3] ^= 1
            entry = used + 4 + 8 * (ring.base % ring.size)
            wrong = self.served > 20
            self.put(entry, "<II", (head + 1) % ring.size if FAULT == "used-id" and wrong else head,
                     60 if FAULT == "used-length" and wrong else 0)
            ring.base = (ring.base + 1) & 0xffff
            self.put(used + 2, "<H", (ring.base + 3) & 0xffff if FAULT == "used-index" and wrong else ring.base)
            done += 1
        if done and ring.call is not None and not (FAULT == "lost-call" and self.served % 7 == 6):
            if not self.u16(avail) & 1 or FAULT == "calls-always":
                os.eventfd_write(ring.call, 1)

    def serve_all(self):
        for index, ring in enumerate(self.rings):
            if ring.started and ring.addr and ring.size and (ring.polled or self.is_kicked(ring) or not ring.enabled):
                self.serve(index)

    @staticmethod
    def is_kicked(ring):
        try:
            return ring.kick is not None and os.read(ring.kick, 8) != b""
        except BlockingIOError:
            return False

    # --- messages ---

    def take_fd(self, name, payload, fds):
        value = struct.unpack("<Q", payload)[0]
        index = value & 0xff
        if index > 1 or len(fds) != (0 if value & 256 else 1):
            return None
        old = getattr(self.rings[index], name)
        if old is not None:
            os.close(old)
        if fds:
            try:
                os.set_blocking(fds[0], False)
            except OSError:
                return None
        setattr(self.rings[index], name, fds.pop(0) if fds else None)
        return self.rings[index]

    def handle(self, request, payload, fds):
        """True, False: an acknowledgement's worth; bytes: a reply."""
        if FAULT == "accept-anything" and request in (SET_VRING_NUM, SET_VRING_ENABLE) and struct.unpack("<II", payload)[0] > 1:
            return True
        if request == GET_FEATURES:
            return struct.pack("<Q", F_PROTOCOL | F_VERSION_1)
        if request == GET_PROTOCOL_FEATURES:
            return struct.pack("<Q", P_MQ | P_REPLY_ACK)
        if request == GET_QUEUE_NUM:
            return struct.pack("<Q", 1)
        if request in (SET_FEATURES, SET_PROTOCOL_FEATURES):
            if len(payload) != 8:
                return False
            if request == SET_FEATURES:
                self.features = struct.unpack("<Q", payload)[0]
                if not self.features & F_PROTOCOL:
                    for ring in self.rings:
                        ring.enabled = True
            else:
                self.protocol = struct.unpack("<Q", payload)[0]
            return True
        if request in (SET_OWNER, RESET_OWNER):
            return True
        if request == SET_MEM_TABLE:
            return self.set_memory(payload, fds)
        if request in (SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR):
            if len(payload) != 8:
                return False
            ring = self.take_fd({SET_VRING_KICK: "kick", SET_VRING_CALL: "call", SET_VRING_ERR: "err"}[request], payload, fds)
            if ring and request == SET_VRING_KICK:
                ring.started = True
                ring.polled = ring.kick is None
            return bool(ring)
        if request == SET_VRING_ADDR:
            if len(payload) != 40:
                return False
            index, _, desc, used, avail, _ = struct.unpack("<IIQQQQ", payload)
            if index > 1:
                return False
            self.rings[index].addr = (desc, used, avail)
            return True
        if request not in (SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE) or len(payload) != 8:
            return False
        index, num = struct.unpack("<II", payload)
        if request == SET_VRING_NUM and FAULT == "hang" and not num:
            time.sleep(3600)
        if index > 1:
            if FAULT == "crash":
                os.abort()
            return False
        ring = self.rings[index]
        if request == SET_VRING_NUM:
            if not num or num > 32768 or num & (num - 1):
                return False
            ring.size = num
        elif request == SET_VRING_BASE:
            ring.base = num & 0xffff
        elif request == SET_VRING_ENABLE:
            ring.enabled = bool(num)
        else:
            if FAULT != "never-stops":
                ring.started = False
            return struct.pack("<II", index, (ring.base + (FAULT == "base-off")) & 0xffff)[:4 if FAULT == "short-reply" else 8]
        return True

    def answer(self, request, payload):
        if FAULT == "wrong-reply" and request == GET_PROTOCOL_FEATURES:
            request = GET_FEATURES
        self.sock.sendall(struct.pack("<III", request, 1 | (0 if FAULT == "no-reply-flag" else REPLY), len(payload)) + payload)

    def message(self, request, flags, payload, fds):
        result = self.handle(request, payload, fds)
        if isinstance(result, bytes):
            self.answer(request, result)
            if FAULT == "two-replies" and flags & NEED_REPLY:
                self.answer(request, struct.pack("<Q", 0))
        elif (flags & NEED_REPLY and self.protocol & P_REPLY_ACK) or FAULT == "acks-unasked":
            if not (FAULT == "no-ack" and request == SET_VRING_ADDR):
                self.answer(request, struct.pack("<Q", 0 if result else 1))
        elif not result:
            raise Drop

    def receive(self):
        """One step of reading: never past a message's end, so that descriptors stay with theirs."""
        size = struct.unpack_from("<I", self.buffer, 8)[0] if len(self.buffer) >= 12 else 0
        if size > 4096:
            raise Drop
        data, ancillary, _, _ = self.sock.recvmsg(12 + size - len(self.buffer), socket.CMSG_SPACE(64))
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[:len(content) // 4 * 4])
                self.fds += fds
        if not data:
            raise Drop
        self.buffer += data
        if len(self.buffer) < 12 or len(self.buffer) < 12 + struct.unpack_from("<I", self.buffer, 8)[0]:
            return
        request, flags = struct.unpack_from("<II", self.buffer)
        payload, self.buffer = self.buffer[12:], b""
        fds, self.fds = self.fds, []
        if flags & 3 != 1 or flags & REPLY:
            raise Drop
        try:
            self.message(request, flags, payload, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def run(self):
        while True:
            kicks = [r.kick for r in self.rings if r.kick is not None and r.started]
            polled = any(r.polled and r.started for r in self.rings)
            ready = select.select([self.sock] + kicks, [], [], 0.001 if polled else None)[0]
            if self.sock in ready:
                self.receive()
            self.serve_all()


def main():
    path = sys.argv[1]
    if os.path.exists(path):
        os.unlink(path)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(4)
    while True:
        session = Session(server.accept()[0])
        try:
            session.run()
        except (Drop, OSError, struct.error):
            pass
        session.close()


main()
