"""Passes the frames of two network devices to each other after a delay: `delay_relay.py DEVICE DEVICE SECONDS`.

It stands in for `tc qdisc add … netem delay`, which many kernels of virtual machines do not have.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from collections import deque

ALL_PROTOCOLS = 3
"""`ETH_P_ALL` of Linux's if_ether.h."""
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE = 263, 15, 23, 33
"""Of Linux's if_packet.h and socket.h. With the header, frames without a checksum, or too long, stay valid."""
FRAME_BYTES = 1 << 17
BUFFER_BYTES = 1 << 24


def open_device(name: str) -> socket.socket:
    """Open a device for frames that others have sent to it."""
    device = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    device.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    device.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    device.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    device.bind((name, 0))
    return device


def relay(left: socket.socket, right: socket.socket, seconds: float) -> None:
    """Pass frames in both directions, for ever."""
    waiting: deque[tuple[float, socket.socket, bytes]] = deque()
    with selectors.DefaultSelector() as selector:
        for source, target in ((left, right), (right, left)):
            selector.register(source, selectors.EVENT_READ, target)
        while True:
            timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            for key, _ in selector.select(timeout):
                assert isinstance(key.fileobj, socket.socket)
                waiting.append((time.monotonic() + seconds, key.data, key.fileobj.recv(FRAME_BYTES)))
            while waiting and waiting[0][0] <= time.monotonic():
                _, target, frame = waiting.popleft()
                try:
                    target.send(frame)
                except OSError:  # the cable is out, or the queue is full: as on a wire, the frame is lost
                    continue


if __name__ == "__main__":
    relay(open_device(sys.argv[1]), open_device(sys.argv[2]), float(sys.argv[3]))
