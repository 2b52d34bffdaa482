"""The forms of addresses, many proxies in a process, the names of threads, starts that fail."""

import socket

import pytest

import bitflow_process
import needs
import sockets
from environment import proxy
from networks import Networks
from waiting import holds_for, pace, scale, wait_for


@pytest.mark.parametrize(
    "form, come_by",
    [
        ("127.0.0.1:{}", ["127.0.0.1"]),
        ("tcp://127.0.0.1:{}", ["127.0.0.1"]),
        ("tcp4://127.0.0.1:{}", ["127.0.0.1"]),
        ("[::1]:{}", ["::1"]),
        ("tcp://[::1]:{}", ["::1"]),
        ("tcp6://[::1]:{}", ["::1"]),
        (":{}", ["127.0.0.1", "::1"]),
        ("tcp://:{}", ["127.0.0.1", "::1"]),
        ("tcp4://:{}", ["127.0.0.1"]),
        ("tcp6://:{}", ["::1"]),
        ("0.0.0.0:{}", ["127.0.0.1"]),
        ("[::]:{}", ["::1"]),
    ],
)
def test_each_form_of_a_listeners_address_listens_on_its_families(env, form, come_by):
    if "::1" in come_by:
        needs.IPV6.need()
    echo, port = env.echo(), sockets.free_port()
    env.start(proxy(form.format(port), echo.address))
    for host in come_by:
        sockets.round_trip(env.connect(sockets.join(host, port)))
    if form in ("tcp4://:{}", "tcp6://:{}"):
        other = f"[::1]:{port}" if form.startswith("tcp4") else f"127.0.0.1:{port}"
        with pytest.raises(ConnectionRefusedError):
            sockets.connect(other)


@pytest.mark.parametrize(
    "form, host",
    [
        ("{}", "127.0.0.1"),
        ("tcp://{}", "127.0.0.1"),
        ("tcp4://{}", "127.0.0.1"),
        ("{}", "::1"),
        ("tcp://{}", "::1"),
        ("tcp6://{}", "::1"),
    ],
)
def test_each_form_of_a_targets_address_is_connected_to(env, form, host):
    echo, address = env.echo(sockets.join(host, 0)), env.address()
    env.start(proxy(address, form.format(echo.address)))
    sockets.round_trip(env.connect(address))


def test_a_hundred_proxies_serve_side_by_side(env):
    echo = env.echo()
    addresses = [env.address() for _ in range(100)]
    bitflow = env.start(
        *(proxy(address, echo.address, name=f"number-{index}") for index, address in enumerate(addresses))
    )
    for address in addresses:
        sockets.round_trip(env.connect(address))
    assert len(bitflow.thread_names()) >= 100
    env.stack.close()
    assert {record["proxy"] for record in bitflow.wait_records(100)} == {
        f"number-{index}" for index in range(100)
    }


@pytest.mark.parametrize("name", ["shop", "a-very-long-name-of-a-proxy", "ü"])
def test_thread_names_tell_proxy_connection_and_direction_in_15_bytes(env, name):
    """Proxy, connection id and role, cut to the kernel's 15 bytes at the proxy's name and nowhere else."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address, name=name))
    start = name.encode()[:4].decode(errors="ignore")
    wait_for(
        lambda: any(thread.startswith(start) for thread in bitflow.thread_names()),
        lambda: f"the acceptor has its name: {bitflow.thread_names()}",
    )
    client, target = env.pair(address, listener)
    for sender in (client, target):  # both directions stall, so both have their thread
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sockets.fill(sender, settle=0.1)
    names = bitflow.busy_threads()
    arrows = sorted(thread[-1] for thread in names)
    assert arrows == ["<", ">"], names
    assert all(len(thread.encode()) <= 15 for thread in names)
    ids = {thread[thread.rindex("#") + 1 : -1] for thread in names}
    assert len(ids) == 1 and all(
        name.startswith(thread[: thread.rindex("#")]) or len(name.encode()) > 9 for thread in names
    )
    sockets.reset(client)
    sockets.reset(target)
    record = bitflow.wait_records(1)[0]
    assert {str(record["id"])} == ids
    wait_for(
        lambda: not bitflow.busy_threads(), lambda: f"no thread keeps the name: {bitflow.thread_names()}"
    )


def test_threads_are_reused_and_bounded(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    counts = []
    for _ in range(3):
        for _ in range(scale(100)):
            client = sockets.connect(address)
            sockets.round_trip(client)
            client.close()
            bitflow.wait_parked()  # else the next client, if it is faster, takes another thread
        bitflow.assert_quiet()
        counts.append(len(bitflow.thread_names()))
    assert counts[2] <= counts[0] + 2 and counts[2] < 30, f"one connection at a time, and yet: {counts}"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_fails_the_start(env, host):
    taken = env.listen(sockets.join(host, 0))
    text = env.fails_to_start(env.config(proxy(taken.address, env.address())))
    assert taken.address in text and "ddress already in use" in text


def test_a_second_bitflow_cannot_share_the_port(env):
    """Two processes do not share a port unnoticed."""
    echo, address = env.echo(), env.address()
    env.start(proxy(address, echo.address))
    env.fails_to_start(env.config(proxy(address, echo.address), name="second.yaml"))
    for _ in range(5):
        sockets.round_trip(env.connect(address))


def test_an_address_of_another_machine_fails_the_start(env):
    config = env.config(proxy(f"198.51.100.7:{sockets.free_port()}", env.address()))
    assert "198.51.100.7" in env.fails_to_start(config)


def test_two_proxies_on_one_address_fail_the_start(env):
    address = env.address()
    bitflow = env.launch(
        env.config(proxy(address, env.address(), name="one"), proxy(address, env.address(), name="two"))
    )
    bitflow.expected_status = bitflow.wait_ended()
    assert bitflow.expected_status in (1, 2)
    assert address in bitflow.stderr() or "proxies[1].listener.address" in bitflow.stderr()


def test_a_privileged_port_fails_the_start_of_an_ordinary_user(env):
    """In a network of its own, where ports below 1024 are privileged, whatever the machine's setting."""
    needs.ANOTHER_USER.need()
    config = env.config(proxy("127.0.0.1:81", env.address(), connection_log=None))
    with Networks() as networks:
        text = env.fails_to_start(config, {"uid": 61000, "namespace": networks.near})
    assert "ermission denied" in text


def test_nothing_is_printed_on_standard_output(env):
    echo, address = env.echo(), env.address()
    path = env.directory / "stdout.txt"
    with open(path, "wb") as stdout:
        with bitflow_process.running(env.config(proxy(address, echo.address), level="debug"), stdout=stdout):
            wait_for(lambda: sockets.is_served(address), "it serves")
    assert path.read_bytes() == b""


def test_an_idle_process_uses_no_cpu(env):
    """No polling loops: neither with nor without connections."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address), proxy(env.unix(), echo.address, name="by-unix"))
    clients = [env.connect(address) for _ in range(100)]
    for client in clients:
        sockets.round_trip(client)
    before = bitflow.cpu_seconds()
    holds_for(2.0, bitflow.is_running, "it lives")
    assert bitflow.cpu_seconds() - before <= 0.05 * pace()
