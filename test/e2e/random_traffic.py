"""Many connections at once from one epoll loop: both ends of each, with a plan of its own, and every byte
compared."""

import contextlib
import random
import select
import socket
import struct
import time

import sockets
from waiting import pace

POOL_SIZE = 1 << 20
CHUNK = 32768
ORDERS = [
    "client first",
    "target first",
    "both at once",
    "client answers",
    "target answers",
    "client resets last",
    "target resets last",
]


class End:
    """One end of one connection: what it sends and expects, and when and how it ends."""

    def __init__(self, sock, side, plan):
        self.sock = sock
        order, mine, theirs = (
            plan["order"],
            ("up", "down")[side == "target"],
            ("down", "up")[side == "target"],
        )
        self.sends, self.expects = plan[mine], plan[theirs]  # (offset in the pool, length)
        self.sent = self.received = 0
        self.resets = order == f"{side} resets last"  # in place of an orderly end
        self.may_be_reset = order.endswith("resets last") and not self.resets
        self.answers = (
            self.resets or order == f"{side} answers"
        )  # sends nothing before it has received everything
        self.ends_last = order in ("client first", "target first") and not order.startswith(side)
        self.has_seen_end = self.is_shut = self.is_over = False

    @property
    def has_all(self):
        return self.received == self.expects[1]

    @property
    def may_write(self):
        if self.is_shut or (self.answers and not self.has_all):
            return False
        return self.sent < self.sends[1] or not self.ends_last or self.has_seen_end


class Crowd:
    """`count` connections through the proxy at `address` to `listener`."""

    def __init__(self, address, listener, count, seed=1, most=250_000):
        self.generator = random.Random(seed)
        noise = self.generator.randbytes(POOL_SIZE)
        self.pool = memoryview(noise + noise[:CHUNK])
        self.address, self.listener, self.count = address, listener, count
        self.epoll = select.epoll()
        self.ends = {}
        self.plans = []
        for number in range(count):
            order = ORDERS[number % len(ORDERS)]
            sizes = [
                self.generator.choice([0, 1, 1000, self.generator.randrange(most), 2 * most])
                for _ in range(2)
            ]
            offsets = [self.generator.randrange(POOL_SIZE) for _ in range(2)]
            self.plans.append(
                {"order": order, "up": (offsets[0], sizes[0]), "down": (offsets[1], sizes[1]), "client": None}
            )

    def open(self):
        """Connects all of them, so that all are open at once; each says its number first, to be known at the
        target."""
        clients = []
        for number, plan in enumerate(self.plans):
            client = sockets.connect(self.address)
            plan["client"] = sockets.local_name(client)
            client.sendall(struct.pack("!I", number))
            clients.append(client)
            if number % 64 == 63:
                self.take_targets()
        while len(self.ends) < self.count:
            self.take_targets(wait=True)
        for number, client in enumerate(clients):
            self.add(client, End(client, "client", self.plans[number]))
        assert len(self.ends) == 2 * self.count

    def take_targets(self, wait=False):
        while len(self.ends) < self.count and (wait or self.listener.has_pending()):
            target = self.listener.accept()
            (number,) = struct.unpack("!I", sockets.receive_exactly(target, 4))
            self.add(target, End(target, "target", self.plans[number]))
            wait = False

    def add(self, sock, end):
        sock.setblocking(False)
        self.ends[sock.fileno()] = end

    def run(self, timeout):
        """Moves all the data and ends all the connections in their own orders."""
        for descriptor in self.ends:
            self.epoll.register(descriptor, select.EPOLLIN | select.EPOLLOUT)
        deadline = time.monotonic() + timeout * pace()
        while self.ends:
            assert time.monotonic() < deadline, f"{len(self.ends)} ends are not over in time"
            events = self.epoll.poll(1)
            self.generator.shuffle(events)
            for descriptor, event in events:
                end = self.ends[descriptor]
                if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not end.has_seen_end:
                    self.read(end)
                if not end.is_over and event & select.EPOLLOUT and end.may_write:
                    self.write(end)
                if not end.is_over:
                    self.watch(descriptor, end)
                else:
                    del self.ends[descriptor]

    def watch(self, descriptor, end):
        events = (0 if end.has_seen_end else select.EPOLLIN) | (select.EPOLLOUT if end.may_write else 0)
        self.epoll.modify(descriptor, events)

    def read(self, end):
        try:
            data = end.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.take_reset(end)
            return
        if data:
            position = (end.expects[0] + end.received) % POOL_SIZE
            assert end.received + len(data) <= end.expects[1], "more bytes than were sent"
            assert (
                self.pool[position : position + len(data)] == data
            ), f"other bytes than were sent, after {end.received}"
            end.received += len(data)
            return
        assert end.has_all, f"the end after {end.received} of {end.expects[1]} bytes"
        end.has_seen_end = True
        if end.is_shut:
            self.finish(end)

    def write(self, end):
        left = end.sends[1] - end.sent
        if left:
            position = (end.sends[0] + end.sent) % POOL_SIZE
            with contextlib.suppress(BlockingIOError):
                end.sent += end.sock.send(self.pool[position : position + min(left, CHUNK)])
        elif end.resets:
            # What a reset finds in this end's own buffer is lost by design; what the proxy has taken must
            # arrive.
            if sockets.unacknowledged(end.sock) == 0:
                sockets.reset(end.sock)
                end.is_over = True
        else:
            try:
                end.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.take_reset(end)
                return
            end.is_shut = True
            if end.has_seen_end:
                self.finish(end)

    def take_reset(self, end):
        """Only the other end's plan brings a reset, and only when everything has been exchanged."""
        assert end.may_be_reset, "a reset that nobody planned"
        assert end.has_all and end.sent == end.sends[1], "a reset before all was exchanged"
        self.finish(end)

    def finish(self, end):
        end.sock.close()
        end.is_over = True

    def close(self):
        for end in self.ends.values():
            end.sock.close()
        self.epoll.close()
