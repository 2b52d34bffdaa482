"""Connections that are full because a side reads slowly or not at all: what ends them then, and what does not."""

import contextlib
import threading
import time

import sockets
from environment import proxy
from waiting import Stopwatch, pace


def test_a_reset_behind_a_full_path_is_noticed(env):
    """No timeout is set: bitflow's write waits for one side while the other one resets. Once each way round."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address))
    stuck, senders = {}, {}
    for side in ("client", "target"):
        client, target = env.pair(address, listener)
        name = sockets.local_name(client)
        senders[name], stuck[name] = (client, target) if side == "client" else (target, client)
        sockets.fill(senders[name])
    watch = Stopwatch()
    for sender in senders.values():
        sockets.reset(sender)
    records = {record["client"]: record for record in bitflow.wait_records(2)}
    watch.between(0, 8, "both resets are noticed")
    for name, side in zip(senders, ("client", "target")):
        assert (records[name]["reason"], records[name]["ended_by"]) == (f"{side}_reset", side)
        assert sockets.receive_until_broken(stuck[name])[1] == "reset"


def test_write_timeout_ends_who_reads_nothing_and_spares_who_reads_slowly(env):
    """A reader of 20 KB/s survives a write timeout of 1 s, one that reads nothing does not. The slow one's buffer is
    small, since the kernel reports progress in steps of about half of it."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address, listener={"write_timeout": f"{pace():.0f}s"}))
    slow, slow_target = env.pair(address, listener, receive_buffer=4096)
    slow_name = sockets.local_name(slow)
    stuck, stuck_target = env.pair(address, listener)
    stuck_name = sockets.local_name(stuck)

    def flood(target):
        with contextlib.suppress(OSError):
            while True:
                target.sendall(bytes(65536))

    watch = Stopwatch()
    for target in (slow_target, stuck_target):
        threading.Thread(target=flood, args=(target,), daemon=True).start()
    cut_after = None
    while watch.seconds < 5 * pace():
        assert slow.recv(1000), "the slow reader was cut off"
        time.sleep(0.05)
        records = bitflow.records()
        assert slow_name not in [record["client"] for record in records], "the slow reader was cut off"
        if records and cut_after is None:
            cut_after = watch.seconds
    assert cut_after and 0.9 <= cut_after <= 2.5 * pace(), f"the stuck reader was cut after {cut_after} s"
    assert bitflow.record_of(stuck_name)["reason"] == "client_write_timeout"
