"""Sockets and ONNX Runtime, nothing else: how much of its limit any server can have beside a load generator.

Each process runs the models and talks to its clients itself, one request at a time, so that no request makes a hop.
Connections are dealt out in turn, as many to each process. Only requests as the benchmark sends them are understood.
"""

import os
import re
import select
import socket

import numpy as np
import orjson
from common import CORES, NAMES, OUTPUTS, PORT, session

_READ_BYTES = 1 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD_LENGTH = re.compile(rb"\r\ninference-header-content-length: *(\d+)", re.IGNORECASE)
_KINDS = {"FP32": np.float32, "INT64": np.int64}


class Engine:
    """A process's models and connections."""

    def __init__(self, dealer: socket.socket) -> None:
        dealer.setblocking(False)
        self._dealer = dealer
        self._sessions = {name: session(name) for name in NAMES}
        self._waiting = select.epoll()
        self._connections: dict[int, socket.socket] = {}
        self._received: dict[int, bytearray] = {}

    def run(self) -> None:
        """Serve until nobody deals connections any more."""
        self._waiting.register(self._dealer, select.EPOLLIN)
        self._dealer.send(b"ready")
        while True:
            for number, _ in self._waiting.poll():
                if number == self._dealer.fileno():
                    if not self._take():
                        return
                elif not self._serve(number):
                    self._received.pop(number)
                    self._connections.pop(number).close()

    def _take(self) -> bool:
        """All connections that were dealt: if a turn of requests went between any two, the last would starve."""
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self._dealer, 1, 1)
            except BlockingIOError:
                return True
            if not message:
                return False
            connection = socket.socket(fileno=descriptors[0])
            number = connection.fileno()
            self._connections[number], self._received[number] = connection, bytearray()
            self._waiting.register(number, select.EPOLLIN)

    def _serve(self, number: int) -> bool:
        """Read what has come, and answer if that is a whole request. False: the client has left."""
        connection, received = self._connections[number], self._received[number]
        try:
            data = connection.recv(_READ_BYTES)
            received += data
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return bool(data)
            head, start = bytes(received[:end]), end + 4
            length = int(_LENGTH.search(head)[1])
            if len(received) < start + length:
                return bool(data)
            connection.sendall(self._answer(head, bytes(received[start : start + length])))
            del received[: start + length]
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _answer(self, head: bytes, body: bytes) -> bytes:
        name = head.split(b"/", 5)[3].decode()
        if binary := _HEAD_LENGTH.search(head):
            at = int(binary[1])
            values = {}
            for tensor in orjson.loads(body[:at])["inputs"]:
                array = np.frombuffer(body, _KINDS[tensor["datatype"]], int(np.prod(tensor["shape"])), at)
                values[tensor["name"]] = array.reshape(tensor["shape"])
                at += array.nbytes
        else:
            tensors = orjson.loads(body)["inputs"]
            values = {
                tensor["name"]: np.array(tensor["data"], _KINDS[tensor["datatype"]]).reshape(tensor["shape"])
                for tensor in tensors
            }
        array = np.ascontiguousarray(self._sessions[name].run(OUTPUTS[name], values)[0])
        output = {"name": "output", "datatype": "FP32", "shape": array.shape}
        if binary:
            output["parameters"] = {"binary_data_size": array.nbytes}
            described = orjson.dumps({"model_name": name, "outputs": [output]})
            more = b"inference-header-content-length: %d\r\n" % len(described)
            answer = described + array.tobytes()
        else:
            output["data"] = array.ravel()
            more = b""
            answer = orjson.dumps({"model_name": name, "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n%b" % (more, len(answer), answer)


def main() -> None:
    dealers = []
    for core in sorted(os.sched_getaffinity(0)):
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            mine.close()
            for other in dealers:
                other.close()
            os.sched_setaffinity(0, {core})
            Engine(its).run()
            return
        its.close()
        dealers.append(mine)
    for dealer in dealers:
        dealer.recv(16)
    listener = socket.create_server(("127.0.0.1", PORT), backlog=256)
    turn = 0
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socket.send_fds(dealers[turn % CORES], [b"c"], [connection.fileno()])
        connection.close()
        turn += 1


if __name__ == "__main__":
    main()
