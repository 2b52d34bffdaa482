"""TCP's urgent data (telnet's and FTP's interrupt) stays in its place in the stream: no byte is lost, whichever leg it
comes from and however the bytes are moved."""

import random
import socket
import threading

import pytest

import proxy_headers
import sockets
from environment import proxy
from launches import numbered
from tls_cases import tls_client, tls_listener, tls_target
from tls_peers import VERSIONS
from tls_raw import Tls, client_context, server_context
from waiting import Stopwatch, scale, wait_for

# FTP's ABOR as clients send it: the data mark (F2) is urgent.
ABORT = [(b"RETR big\r\n", 0), (b"\xff\xf4\xff", 0), (b"\xf2", socket.MSG_OOB), (b"ABOR\r\n", 0)]
WHOLE = b"".join(part for part, _ in ABORT)


DIRECTIONS = pytest.mark.parametrize("source", ["from the client", "from the target"])


def sender_and_receiver(env, source):
    """The two far ends of a connection through a proxy."""
    target, address = env.listen(), env.address()
    env.start(proxy(address, target.address))
    client, connection = env.pair(address, target)
    return (client, connection) if source == "from the client" else (connection, client)


def interrupt(sender, receiver):
    """Sends the interrupt and asserts that all of it arrives, byte by byte as well as in one piece."""
    for part, flags in ABORT:
        sender.send(part, flags)
    assert sockets.receive_exactly(receiver, len(WHOLE)) == WHOLE
    for part, flags in ABORT:
        sender.send(part, flags)
        assert sockets.receive_exactly(receiver, len(part)) == part


def test_urgent_data_arrives_in_place_in_either_direction(env):
    client, connection = sender_and_receiver(env, "from the client")
    interrupt(client, connection)
    interrupt(connection, client)
    interrupt(client, connection)


@DIRECTIONS
@pytest.mark.parametrize("parts", [
    [(b"!", True)], [(b"!", True), (b"after", False)], [(b"before", False), (b"!", True)],
    [(b"one", True), (b"two", True), (b"three", True)], [(bytes([number]), True) for number in range(20)],
], ids=["alone", "first", "last", "longer", "many"])
def test_urgent_data_at_odd_places_arrives_in_place(env, parts, source):
    """Also at the end of the stream, where the FIN is there before the byte has been read."""
    sender, receiver = sender_and_receiver(env, source)
    for part, is_urgent in parts:
        sender.send(part, socket.MSG_OOB if is_urgent else 0)
        sockets.wait_acknowledged(sender)
    sender.shutdown(socket.SHUT_WR)
    assert sockets.receive_to_end(receiver) == b"".join(part for part, _ in parts)
    receiver.sendall(b"226\r\n")
    assert sockets.receive_exactly(sender, 5) == b"226\r\n"


def test_urgent_data_sent_while_the_target_is_dialled_arrives(env):
    target, address = env.listen(backlog=0), env.address()
    env.start(proxy(address, target.address))
    target.fill_queue()
    client = env.connect(address)
    for part, flags in ABORT:
        client.send(part, flags)
        sockets.wait_acknowledged(client)
    target.drain_queue()
    assert sockets.receive_exactly(target.accept(), len(WHOLE)) == WHOLE


def is_connecting(address):
    """Whether some socket has sent a SYN to the address and waits for the answer."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    with open("/proc/net/tcp") as stream:
        return any(line.split()[2].endswith(port) and line.split()[3] == "02" for line in stream)


def test_urgent_data_that_a_target_sends_at_once_arrives(env):
    """It comes before the proxy has seen that the connection is made. If SO_OOBINLINE were set only then, all bytes but
    the last would be lost."""
    target, address = env.listen(backlog=0), env.address()
    bitflow = env.start(proxy(address, target.address))
    target.fill_queue()
    client = env.connect(address)
    wait_for(lambda: is_connecting(target.address), "the target is dialled")
    with bitflow.stopped():
        target.drain_queue()
        connection = target.accept()
        for byte in b"12345":
            connection.send(bytes([byte]), socket.MSG_OOB)
            sockets.wait_acknowledged(connection)
    assert sockets.receive_exactly(client, 5) == b"12345"


def test_urgent_data_from_clients_of_an_inherited_listener_arrives(env):
    """From those in its queue before the start (a service manager starts the proxy for them), and from later ones."""
    target, inherited = env.listen(), env.listen()
    early = [env.connect(inherited.address) for _ in range(3)]
    env.start(proxy("fd://3", target.address), plan=numbered((inherited.socket, 3)))
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_OOBINLINE)]
    clients = [*early, env.connect(inherited.address)]
    for number, client in enumerate(clients):
        client.sendall(bytes([number]))
    for connection in [target.accept() for _ in clients]:
        interrupt(clients[sockets.receive_exactly(connection, 1)[0]], connection)
    accepted = [sock for sock in map(env.keep, env.bitflows[0].borrow_sockets())
                if sock.family == socket.AF_INET and sock.getsockname() == inherited.socket.getsockname()]
    assert len(accepted) == 5  # the listening one among them
    for sock in accepted:
        assert all(sock.getsockopt(*option) for option in options), sock


@pytest.mark.parametrize("role", ["listener", "target"])
def test_urgent_data_on_an_inherited_connection_arrives_both_ways(env, role):
    listener, address = env.listen(), env.address()
    near = env.connect(listener.address)
    far = listener.accept()
    if role == "listener":
        target = env.listen()
        env.start(proxy("fd://3", target.address), plan=numbered((far, 3)), wait=False)
        ends = near, target.accept()
    else:
        env.start(proxy(address, "fd://3"), plan=numbered((far, 3)))
        ends = near, env.connect(address)
    far.close()
    interrupt(*ends)
    interrupt(*reversed(ends))


def test_urgent_data_reaches_a_unix_socket_as_ordinary_data(env):
    """Urgent data of Unix sockets (MSG_OOB on AF_UNIX) is not supported."""
    target, address = env.listen(env.unix("target.sock")), env.address()
    env.start(proxy(address, target.address))
    client, connection = env.pair(address, target)
    interrupt(client, connection)
    connection.sendall(b"answer")
    assert sockets.receive_exactly(client, 6) == b"answer"


@DIRECTIONS
def test_urgent_data_in_the_middle_of_bulk_arrives_in_place(env, source):
    """splice() stops at urgent data."""
    sender, receiver = sender_and_receiver(env, source)
    generator = random.Random(4)
    blocks = [generator.randbytes(300_000) for _ in range(scale(60, least=20))]

    def send_all():
        for number, block in enumerate(blocks):
            sender.sendall(block, socket.MSG_OOB if number % 10 == 5 else 0)

    thread = threading.Thread(target=send_all, daemon=True)
    thread.start()
    for block in blocks:
        assert sockets.receive_exactly(receiver, len(block)) == block
    thread.join()


def test_urgent_data_within_a_tls_record_breaks_nothing(env, pki):
    """A reader that takes the byte out of line would find the record broken."""
    target, address = env.listen(), env.address()
    env.start(proxy(address, target.address, listener=tls_listener(pki.servers["p256"])))
    client = tls_client(env, address)
    connection = target.accept()
    client.send = lambda data: client.socket.send(data, socket.MSG_OOB)
    for size in (1, 1000, 16384):
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        client.write(data)
        assert sockets.receive_exactly(connection, size) == data


def with_one_urgent(sock):
    """A way to send in which the byte in the middle is urgent."""

    def send(data):
        middle = len(data) // 2
        for part, flags in ((data[:middle], 0), (data[middle : middle + 1], socket.MSG_OOB), (data[middle + 1 :], 0)):
            sock.send(part, flags)
            sockets.wait_acknowledged(sock)

    return send


@pytest.mark.parametrize("version", VERSIONS)
def test_urgent_data_within_every_flight_of_a_handshake_breaks_nothing(env, pki, version):
    """Nor does it in the records after it, from either side."""
    listener, address = env.listen(), env.address()
    env.start(proxy(address, tls_target(listener.address, pki.trusted), listener=tls_listener(pki.server)))
    client = Tls(env.connect(address), client_context(version=version), server_name="server.test")
    client.send = with_one_urgent(client.socket)
    client.handshake()
    target = Tls(listener.accept(), server_context(pki.server, version=version), server_side=True)
    target.send = with_one_urgent(target.socket)
    target.handshake()
    for sender, receiver in ((client, target), (target, client)):
        sender.write(b"x" * 1000)
        assert receiver.read_exactly(1000) == b"x" * 1000
    client.end()
    assert target.read_until_end() == (b"", "close_notify")
    target.end()
    assert client.read_until_end() == (b"", "close_notify")


def test_urgent_data_within_a_proxy_header_breaks_nothing(env):
    target, address = env.listen(), env.address()
    env.start(proxy(address, target.address, listener={"proxy_protocol": True}))
    client = env.connect(address)
    client.send(proxy_headers.EXAMPLE[:20], socket.MSG_OOB)
    client.send(proxy_headers.EXAMPLE[20:] + b"hello")
    assert sockets.receive_exactly(target.accept(), 5) == b"hello"


def test_a_hello_with_urgent_data_ends_by_the_hello_timeout(env):
    """MSG_PEEK cannot see past urgent data that has not been read. Such a client gets the usual time, and the proxy
    does not spin."""
    address, target = env.address(), env.listen()
    bitflow = env.start(
        proxy(
            address,
            {"name": "*", "address": target.address},
            listener={"client_hello_timeout": "1s"},
            connection_load_balancer="sni",
        )
    )
    client = env.connect(address)
    before, watch = bitflow.cpu_seconds(), Stopwatch()
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", socket.MSG_OOB)
    client.send(bytes(0x200 - 6))
    sockets.was_rejected(client)
    watch.between(0.9, 3.0, "the end of a client whose hello cannot be looked at")
    assert bitflow.cpu_seconds() - before < 0.5, "it spins"
    assert bitflow.wait_records(1)[0]["reason"] == "client_handshake_timeout"
