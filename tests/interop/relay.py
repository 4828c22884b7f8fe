# SPDX-License-Identifier: BSD-2-Clause
"""Between a vhost-user front end and its back end: passes every message on, with its descriptors, and counts what goes by."""
import array
import collections
import socket
import struct
import threading

HEADER, IOTLB = struct.Struct("<III"), struct.Struct("<QQQBB6x")
IOTLB_MSG, IOTLB_KINDS = 22, {2: "UPDATE", 3: "INVALIDATE"}
MAX_FDS = 64


class Relay:
    """Listens at `path`; each connection there becomes one to `back_end`, a path. iotlb: how many IOTLB messages of each
    kind went to the back end."""

    def __init__(self, path, back_end):
        self.back_end, self.iotlb = str(back_end), collections.Counter()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            front = self.listener.accept()[0]
            back = socket.socket(socket.AF_UNIX)
            back.connect(self.back_end)
            threading.Thread(target=self._pass_on, args=(front, back, self._count), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(back, front, lambda request, payload: None), daemon=True).start()

    def _count(self, request, payload):
        if request == IOTLB_MSG and len(payload) == IOTLB.size:
            kind = IOTLB.unpack(payload)[4]
            self.iotlb[IOTLB_KINDS.get(kind, f"type {kind}")] += 1

    @staticmethod
    def _pass_on(source, sink, look):
        try:
            while True:
                header, fds = receive(source, HEADER.size)
                request, _, size = HEADER.unpack(header)
                payload, more = receive(source, size)
                look(request, payload)  # before anybody can act on it
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds + more))] if fds + more else []
                sent = sink.sendmsg([header + payload], rights)
                sink.sendall((header + payload)[sent:])
                for fd in fds + more:
                    socket.close(fd)
        except OSError:
            pass  # one side is gone: the other hears of it
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def receive(source, size):
    """So many bytes, and not one more: descriptors come with the first byte of their message."""
    data, fds = b"", array.array("i")
    while len(data) < size:
        part, ancillary, _, _ = source.recvmsg(size - len(data), socket.CMSG_SPACE(MAX_FDS * fds.itemsize))
        if not part:
            raise ConnectionResetError
        data += part
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[:len(content) - len(content) % fds.itemsize])
    return data, list(fds)
