"""Records that come together: written many at a time, none of them lost, doubled or out of place."""

import contextlib
import json
import os
import re
import signal
import threading

import pytest

import bitflow_process
import sockets
import waiting
from environment import proxy
from waiting import scale, wait_for

CLIENTS = 4


def use(address):
    """A connection that is over when this returns; its client's address."""
    with sockets.connect(address) as client:
        name = sockets.local_name(client)
        sockets.round_trip(client, b"x")
        client.shutdown(1)
        assert client.recv(1) == b""
    return name


def burst(address, count):
    """`count` connections by several clients; returns the clients' addresses."""
    names = []

    def work():
        for _ in range(count // CLIENTS):
            names.append(use(address))

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return names


def clients(bitflow, path=None):
    return [record["client"] for record in bitflow.records(path)]


def test_each_of_many_short_connections_has_one_record_though_another_process_writes_too(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    env.records_are_checked = False  # the other process's lines are no records
    is_over, others = threading.Event(), []

    def write_others():
        with open(env.records_path, "ab", buffering=0) as file:
            while not is_over.is_set():
                others.append(f"other {len(others)}")
                file.write(json.dumps({"client": others[-1], "fill": "f" * 3000}).encode() + b"\n")

    writer = threading.Thread(target=write_others)
    writer.start()
    names = burst(address, scale(2000, 200))
    is_over.set()
    writer.join()
    wanted = sorted(names + others)
    wait_for(lambda: len(clients(bitflow)) >= len(wanted), "all the records")
    assert sorted(clients(bitflow)) == wanted
    assert [client for client in clients(bitflow) if client.startswith("other")] == others


def test_the_records_of_one_client_are_in_the_order_of_its_connections(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, connection_log_connect=True))
    for _ in range(scale(300, 40)):
        use(address)
        bitflow.wait_resting()  # its record is made
    assert "flusher" in bitflow.thread_names(), "there was no burst"
    bitflow.stop()
    told = [(record["id"], record["event"]) for record in bitflow.records()]
    ids = [number for number, event in told if event == "connected"]
    assert ids == sorted(ids) and len(ids) == scale(300, 40)
    assert told == [(number, event) for number in ids for event in ("connected", "connection")]


def test_an_end_in_a_burst_loses_no_record(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    names = burst(address, scale(400, 100))
    bitflow.stop()
    assert sorted(clients(bitflow)) == sorted(names)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT], ids=lambda number: number.name)
def test_a_crash_in_a_burst_loses_no_record_that_was_made(env, number):
    bitflow_process.note_sanitizer()
    if waiting.SANITIZED:
        pytest.skip("a sanitizer's own handlers are in place")
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), plan={"limits": {"CORE": 0}})
    names = burst(address, scale(400, 100))
    bitflow.wait_parked()
    wait_for(lambda: len(clients(bitflow)) == len(names), "the burst is over")
    with bitflow.held_thread("flusher"):  # it would write what is in memory while the crash is being reported
        names += burst(address, 100)
        bitflow.wait_resting()
        assert len(clients(bitflow)) < len(names), "nothing is in memory that could be lost"
        bitflow.signal_thread(bitflow.pid, number)
        bitflow.expected_status = -number
        wait_for(lambda: bitflow.state() == "Z", "it has crashed")
    assert bitflow.wait_ended(10) == -number
    assert sorted(clients(bitflow)) == sorted(names)


def test_a_rotation_in_a_burst_splits_no_record_and_loses_none(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    names, files = [], []
    for number in range(5):
        names += burst(address, scale(200, 40))
        files.append(env.directory / f"moved.{number}")
        env.records_path.rename(files[-1])
        bitflow.signal(signal.SIGUSR1)
        wait_for(env.records_path.exists, "the new file is there")
    bitflow.stop()
    told = [client for path in [*files, env.records_path] for client in clients(bitflow, path)]
    assert sorted(told) == sorted(names)


def test_of_a_pipe_that_nobody_reads_whole_records_come_and_the_others_are_counted(env):
    echo, address = env.echo(), env.address()
    path = env.directory / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    bitflow = env.start(proxy(address, echo.address, connection_log=str(path)))
    bitflow.quiet_check = False  # it says that it loses records
    names = burst(address, 200)  # three times what the pipe takes
    bitflow.wait_parked()
    wait_for(lambda: "records are being lost" in bitflow.stderr(), "it says so")
    told = os.read(reader, 1 << 20)
    names.append(use(address))

    def is_read():
        nonlocal told
        with contextlib.suppress(BlockingIOError):
            told += os.read(reader, 1 << 20)
        return f'"{names[-1]}"'.encode() in told

    def lost():  # a record that is shorter than those before may still find room
        return sum(int(count) for count in re.findall(r"lost=(\d+)", bitflow.stderr()))

    wait_for(is_read, "the pipe takes records again")
    os.close(reader)
    records = [json.loads(line)["client"] for line in told.splitlines()]
    wait_for(lambda: len(records) + lost() == len(names), lambda: f"{len(records)} came, {lost()} were told as lost")
    assert set(records) <= set(names) and len(set(records)) == len(records) > 30
