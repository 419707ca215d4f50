"""A line that is slow and loses some of what it carries: a network device whose far end is this process.

The kernel's own way to the same end, netem, is missing from many a kernel; this device is not.
"""

import fcntl
import os
import random
import select
import struct
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

DEVICE = "/dev/net/tun"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PACKET_BYTES = 65536
LOOK_SECONDS = 0.05


class SlowLine:
    """Whatever is routed to the device ``name`` comes back out of it later, in order, or not at all.

    ``delay`` and ``jitter`` in seconds, ``loss`` a share of 1. Made in the network that it is to be in.
    """

    name = "slow"

    def __init__(self, delay: float, jitter: float, loss: float) -> None:
        self.seed = random.randrange(2**32)
        print(f"slow line seed {self.seed}")
        self._random = random.Random(self.seed)
        self._delay, self._jitter, self._loss = delay, jitter, loss
        self.carried = self.lost = 0
        """Packets."""
        try:
            self._device = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise RuntimeError(f"A slow line needs {DEVICE}: {error.strerror}.") from error
        wanted = struct.pack("16sH22x", self.name.encode(), IFF_TUN | IFF_NO_PI)
        fcntl.ioctl(self._device, TUNSETIFF, wanted)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._device)

    def _carry(self) -> None:
        on_the_way: deque[tuple[float, bytes]] = deque()
        last = 0.0
        while not self._stop.is_set():
            wait = on_the_way[0][0] - time.monotonic() if on_the_way else LOOK_SECONDS
            ready, _, _ = select.select([self._device], [], [], min(max(wait, 0), LOOK_SECONDS))
            if ready:
                packet = os.read(self._device, PACKET_BYTES)
                if self._random.random() < self._loss:
                    self.lost += 1
                else:
                    late = self._delay + self._random.uniform(-self._jitter, self._jitter)
                    last = max(last, time.monotonic() + late)
                    on_the_way.append((last, packet))
            while on_the_way and on_the_way[0][0] <= time.monotonic():
                os.write(self._device, on_the_way.popleft()[1])
                self.carried += 1
