"""Bulk data through real programs (curl and nginx over each pair of address kinds, redis-benchmark and Redis, socat,
nc), and how the relay moves it."""

import contextlib
import hashlib
import random
import re
import socket
import subprocess
import threading

import pytest

import needs
import peers
import programs
import sockets
from environment import proxy
from waiting import Stopwatch, pace, scale, wait_for

SIZE = 200_000_000
PAIRS = ["tcp-tcp", "tcp-unix", "unix-tcp", "fd-tcp", "ipv6-ipv4", "ipv4-ipv6", "unix-unix", "abstract-tcp"]


def digest(path):
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    """A file of random bytes and its checksum."""
    path = tmp_path_factory.mktemp("payload") / "payload.bin"
    generator = random.Random(11)
    left = scale(SIZE)
    with open(path, "wb") as stream:
        while left:
            left -= stream.write(generator.randbytes(min(left, 1 << 24)))
    return path, digest(path)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory, payload):
    with programs.Nginx() as server:
        server.publish(payload[0])
        yield server


def curl(front, *arguments):
    """Runs curl through the proxy's address; returns what it printed."""
    where = ["http://bitflow.test/"]
    if front.startswith("unix://@"):
        where = ["--abstract-unix-socket", front[len("unix://@") :], *where]
    elif front.startswith("unix://"):
        where = ["--unix-socket", front[len("unix://") :], *where]
    else:
        where = [f"http://{front}/"]
    where[-1] += arguments[-1]
    command = [
        programs.find("curl"),
        "--silent",
        "--show-error",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        "120",
        *arguments[:-1],
        *where,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150 * pace())
    assert done.returncode == 0, f"curl: {done.returncode} {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("pair", PAIRS)
def test_downloads_and_uploads_arrive_whole_over_each_pair_of_address_kinds(env, nginx, payload, pair):
    source, checksum = payload
    size = source.stat().st_size
    kind, target_kind = pair.split("-")
    target = {"tcp": nginx.tcp, "ipv4": nginx.tcp, "ipv6": nginx.tcp6, "unix": nginx.unix}[target_kind]
    if "ipv6" in (kind, target_kind):
        needs.IPV6.need()
    plan = None
    front = listen = {
        "tcp": env.address,
        "ipv4": env.address,
        "ipv6": lambda: env.address("::1"),
        "unix": env.unix,
        "abstract": env.abstract,
        "fd": lambda: "fd://3",
    }[kind]()
    if kind == "fd":
        inherited = env.listen()
        front, plan = inherited.address, {"descriptors": [[inherited.socket.fileno(), 3]]}
    bitflow = env.start(proxy(listen, target), plan=plan)

    downloaded = env.directory / "downloaded.bin"
    curl(front, "--output", str(downloaded), "payload.bin")
    assert downloaded.stat().st_size == size
    assert digest(downloaded) == checksum
    downloaded.unlink()

    curl(front, "--upload-file", str(source), "upload/" + pair)
    uploaded = nginx.uploaded(pair)
    assert uploaded.stat().st_size == size
    assert digest(uploaded) == checksum
    uploaded.unlink()

    down, up = bitflow.wait_records(2)
    assert size < down["bytes_from_target"] < size + 2000 and down["bytes_from_client"] < 2000
    assert size < up["bytes_from_client"] < size + 2000 and up["bytes_from_target"] < 2000
    assert {down["reason"], up["reason"]} == {"completed"}


def test_eight_transfers_both_ways_at_once_arrive_whole(env, nginx, payload):
    source, checksum = payload
    address = env.address()
    bitflow = env.start(proxy(address, nginx.tcp))
    commands = []
    for number in range(4):
        commands.append(["--output", str(env.directory / f"down{number}"), f"http://{address}/payload.bin"])
        commands.append(["--upload-file", str(source), f"http://{address}/upload/parallel{number}"])
    running = [
        subprocess.Popen([programs.find("curl"), "-sSf", "--noproxy", "*", "--max-time", "120", *arguments])
        for arguments in commands
    ]
    for each in running:
        assert each.wait(150 * pace()) == 0
    for number in range(4):
        assert digest(env.directory / f"down{number}") == checksum
        uploaded = nginx.uploaded(f"parallel{number}")
        assert digest(uploaded) == checksum
        uploaded.unlink()
    assert len(bitflow.wait_records(8)) == 8


def test_redis_benchmark_runs_without_errors(env):
    with programs.Redis() as redis:
        front, unix_front = env.address(), env.address()
        bitflow = env.start(proxy(front, redis.address), proxy(unix_front, redis.unix, name="by-unix"))
        for address in (front, unix_front):
            host, _, port = address.rpartition(":")
            for extra in ([], ["-P", "16", "-d", "2000"]):
                done = subprocess.run(
                    [
                        programs.find("redis-benchmark"),
                        "-h",
                        host,
                        "-p",
                        port,
                        "-n",
                        str(scale(20_000)),
                        "-c",
                        "50",
                        "-t",
                        "ping,set,get,lpush",
                        "--csv",
                        *extra,
                    ],
                    capture_output=True,
                    text=True,
                    timeout=100 * pace(),
                )
                assert done.returncode == 0, done.stderr
                assert "rror" not in done.stdout + done.stderr, done.stdout + done.stderr
                rates = re.findall(r'^"(?!test)[^"]+","([\d.]+)"', done.stdout, re.MULTILINE)
                assert len(rates) >= 5 and all(float(rate) > 0 for rate in rates), done.stdout
        assert programs.run(["redis-cli", "-h", host, "-p", port, "ping"]).stdout == "PONG\n"
        wait_for(lambda: not bitflow.busy_threads(), "the benchmark's connections are over")
        assert {record["reason"] for record in bitflow.records()} <= {"completed", "client_reset"}


def test_many_requests_of_one_client_pass_through_haproxy_behind_bitflow(env, nginx):
    """A second proxy is the target; the connection is kept alive."""
    address, behind = env.address(), env.address()
    with programs.Haproxy(behind, nginx.tcp):
        env.start(proxy(address, behind))
        urls = [f"http://{address}/small.txt"] * 200
        done = programs.run(["curl", "-sSf", "--noproxy", "*", *urls])
        assert done.stdout == nginx.small * 200


def test_socat_is_answered_after_its_half_close(env):
    """The other socat answers only after it has seen the end of its input."""
    address, target = env.address(), env.address()
    port = target.rpartition(":")[2]
    with programs.Program(
        ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", "EXEC:sha256sum"]
    ) as peer:
        wait_for(lambda: peer.listens(int(port)), "socat listens")
        env.start(proxy(address, target))
        data = random.Random(3).randbytes(scale(20_000_000))
        done = subprocess.run(
            [programs.find("socat"), "-t30", "-", f"TCP:{address}"],
            input=data,
            capture_output=True,
            timeout=60 * pace(),
        )
        assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_nc_is_answered_through_a_unix_listener(env):
    echo = env.echo()
    env.start(proxy(env.unix(), echo.address))
    done = subprocess.run(
        [programs.find("nc"), "-N", "-U", str(env.directory / "front.sock")],
        input=b"over nc\n" * 999,
        capture_output=True,
        timeout=30 * pace(),
    )
    assert done.stdout == b"over nc\n" * 999


def pump_check(client, target, generator, rounds):
    """Moves data both ways in bursts of all sizes, so that the proxy changes its way of copying back and forth."""
    for _ in range(rounds):
        size = generator.choice([1, 100, 4096, 16384, 16385, 65536, 1_000_000])
        data = generator.randbytes(size)
        sender, receiver = (client, target) if generator.random() < 0.5 else (target, client)
        sent = 0
        while sent < size:
            part = data[sent : sent + 60_000]
            sender.sendall(part)
            assert sockets.receive_exactly(receiver, len(part)) == part
            sent += len(part)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_small_and_bulk_data_by_turns_arrives_whole(env, kind):
    listener = env.listen() if kind == "tcp" else env.listen(env.unix("back.sock"))
    address = env.address() if kind == "tcp" else env.unix()
    env.start(proxy(address, listener.address))
    client, target = env.pair(address, listener)
    pump_check(client, target, random.Random(5), scale(200))


def test_only_bulk_data_takes_pipes(env):
    """An idle or chatty connection holds no pipe; bulk data is spliced through one."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address))
    client, target = env.pair(address, listener)
    for _ in range(100):
        client.sendall(b"ping")
        assert sockets.receive_exactly(target, 4) == b"ping"
    assert bitflow.descriptors()["pipe"] == bitflow.resting["pipe"], "small traffic took a pipe"
    stop = False

    def flood():
        with contextlib.suppress(OSError):
            while not stop:
                target.sendall(bytes(1 << 20))
            target.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()

    def spliced():
        client.recv(1 << 20)
        return bitflow.descriptors()["pipe"] > bitflow.resting["pipe"]

    wait_for(spliced, "a bulk flow is spliced")
    stop = True
    while client.recv(1 << 20):
        pass
    thread.join(10 * pace())


def test_idle_pipes_are_few(env):
    """Of the pipes that a crowd of bulk flows needed, only a few are kept for the next ones."""
    kept, count, size = 2 * 8, scale(200, 60), 1_000_000
    source = env.serve(peers.source(bytes(size)), env.unix("back.sock"))
    bitflow = env.start(proxy(env.unix(), source.address))
    clients = [env.connect(env.unix()) for _ in range(count)]

    def pipes():
        return bitflow.descriptors()["pipe"] - bitflow.resting["pipe"]

    wait_for(lambda: pipes() > kept, lambda: f"flows that wait for their clients hold pipes: {pipes()}")
    for client in clients:
        assert len(sockets.receive_to_end(client)) == size
        client.close()
    bitflow.wait_records(count)
    bitflow.assert_quiet()
    assert pipes() <= kept, "pipes without a flow pile up"


def test_bulk_data_passes_without_descriptors_for_pipes(env):
    """Without a pipe the data is copied."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    client = env.connect(address)
    sockets.round_trip(client)
    bitflow.limit("NOFILE", bitflow.lowest_free_descriptor())
    data = random.Random(4).randbytes(scale(20_000_000))
    thread = threading.Thread(
        target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)), daemon=True
    )
    thread.start()
    assert hashlib.sha256(sockets.receive_to_end(client)).digest() == hashlib.sha256(data).digest()
    thread.join()
    assert bitflow.wait_records(1)[0]["reason"] == "completed"


def test_small_writes_are_not_delayed(env):
    """With TCP_NODELAY on both legs, write-write-read exchanges do not wait for delayed ACKs (40 ms each)."""
    echo, address = env.echo(), env.address()
    env.start(proxy(address, echo.address))
    client = env.connect(address)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    watch = Stopwatch()
    for _ in range(100):
        client.sendall(b"a")
        client.sendall(b"b")
        assert sockets.receive_exactly(client, 2) == b"ab"
    watch.between(0, 2, "100 exchanges")
