"""Nobody who uses, or misuses, the control socket holds up the proxy, or others who ask."""

import json
import socket
import threading

import control_socket
import peers
import sockets
from environment import proxy
from waiting import Stopwatch, pace, scale, wait_for

CLIENTS_MAX = 64


def front(env):
    return proxy(env.address(), env.echo().address)


def dial(env, control):
    sock = env.keep(socket.socket(socket.AF_UNIX))
    sock.settimeout(20 * pace())
    sock.connect(control.path)
    return sock


def is_closed(sock):
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_idle_clients_make_room_for_those_who_ask(env):
    bitflow, control = control_socket.start(env, front(env))
    idle = [dial(env, control) for _ in range(200)]
    watch = Stopwatch()
    for _ in range(5):
        assert control.json("/health") == {"status": "healthy"}
    watch.between(0, 3, "five who ask among 200 idle ones")
    assert sum(not is_closed(sock) for sock in idle) <= CLIENTS_MAX
    assert bitflow.descriptors()["socket"] <= bitflow.resting["socket"] + CLIENTS_MAX


def test_a_client_that_sends_a_byte_now_and_then_holds_up_nobody(env):
    _, control = control_socket.start(env, front(env))
    slow = [dial(env, control) for _ in range(CLIENTS_MAX)]
    for turn in range(10):
        for sock in slow:
            try:
                sock.sendall(b"GET /health "[turn:turn + 1] or b"x")
            except (BrokenPipeError, ConnectionResetError):
                pass
        watch = Stopwatch()
        assert control.json("/ready") == {"status": "ready"}
        watch.between(0, 1, "one who asks among slow ones")


def test_a_request_that_is_too_large_is_refused(env):
    bitflow, control = control_socket.start(env, front(env))
    before = bitflow.memory_kib("VmRSS")
    status = control.curl("/health", "--header", "X-Large: " + "x" * 100_000)
    assert status.returncode == 0 and "HTTP/1.1 431" in status.stdout, status
    sock = dial(env, control)
    sock.sendall(b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n")
    assert sock.recv(100).startswith(b"HTTP/1.1 413")
    chunked = dial(env, control)
    chunked.sendall(b"POST /reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for _ in range(1000):
            chunked.sendall(b"4000\r\n" + bytes(0x4000) + b"\r\n")
        was_cut = False
    except (BrokenPipeError, ConnectionResetError):
        was_cut = True
    assert was_cut
    endless = dial(env, control)
    try:
        for _ in range(1000):
            endless.sendall(b"G" * 16384)
        was_cut = False
    except (BrokenPipeError, ConnectionResetError):
        was_cut = True
    assert was_cut and control.json("/ready") == {"status": "ready"}
    assert bitflow.memory_kib("VmRSS") < before + 8192 * pace()
    assert not [line for line in bitflow.log_lines() if line["msg"].startswith("ordered")]


def test_nonsense_is_answered_or_cut_and_nothing_else(env):
    bitflow, control = control_socket.start(env, front(env))
    dial(env, control).sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")  # of TLS; the rest may be to come
    for bytes_sent in (b"GET\r\n\r\n", b"GET /health HTTP/9.9\r\n\r\n",
                       b"\r\n" * 1000, b"POST /drain HTTP/1.1\r\n\r\n", b"GET /%00%2e%2e HTTP/1.0\r\n\r\n",
                       b"GET /connections/%31 HTTP/1.0\r\n\r\n", bytes(range(256)) * 8):
        sock = dial(env, control)
        sock.sendall(bytes_sent)
        sock.shutdown(socket.SHUT_WR)
        sockets.receive_until_broken(sock)
        assert control.json("/ready") == {"status": "ready"}, bytes_sent
    assert not [line for line in bitflow.log_lines() if line["msg"].startswith("ordered")]


def test_whoever_leaves_before_the_answer_leaves_nothing(env):
    bitflow, control = control_socket.start(env, front(env))
    with bitflow.held_thread("bitflow"):
        asking = [dial(env, control) for _ in range(30)]
        for number, sock in enumerate(asking):
            path = (b"POST /reload", b"POST /reopen-logs", b"GET /health")[number % 3]
            sock.sendall(path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: sum(line["msg"].startswith("ordered") for line in bitflow.log_lines(partial=True)) == 20,
                 "the orders are given")
        for sock in asking:
            sock.close()
    wait_for(lambda: sum(line["msg"] == "reloaded" for line in bitflow.log_lines(partial=True)) == 10,
             "the orders are done all the same")
    assert control.json("/health") == {"status": "healthy"}
    bitflow.assert_quiet()


def test_who_waits_for_orders_leaves_room_for_who_asks(env):
    """Probes are answered, whoever orders more is told to come again, and all is done that was not refused."""
    bitflow, control = control_socket.start(env, front(env))
    with bitflow.held_thread("bitflow"):
        asking = [dial(env, control) for _ in range(CLIENTS_MAX)]
        for sock in asking:
            sock.sendall(b"POST /reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for path in ("/ready", "/metrics", "/process"):
            assert control.ask(path)[0] == 200
        status, headers, body = control.ask("/reopen-logs", method="POST")
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body) == {"error": f"{CLIENTS_MAX // 2} clients wait for their orders already"}
        probe = dial(env, control)
        probe.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'"healthy"' in sockets.receive_to_end(probe)
    answers = [sockets.receive_to_end(sock) for sock in asking]
    assert sum(answer.startswith(b"HTTP/1.1 200 ") for answer in answers) == CLIENTS_MAX // 2
    assert sum(answer.startswith(b"HTTP/1.1 503 ") for answer in answers) == CLIENTS_MAX // 2
    assert control.json("/reload", method="POST")["status"] == "reloaded"


def test_without_descriptors_health_is_answered(env):
    bitflow, control = control_socket.start(env, front(env))
    before = bitflow.limit("NOFILE", bitflow.lowest_free_descriptor())
    try:
        for _ in range(20):
            assert control.json("/health") == {"status": "healthy"}
    finally:
        bitflow.limit("NOFILE", before)


class PingPong:
    """One connection whose round trips are timed, less what the machine is late, in a thread."""

    def __init__(self, client):
        self.client = client
        self.times = []
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.is_over.is_set():
            watch = Stopwatch()
            sockets.round_trip(self.client, b"ping\n")
            self.times.append(watch.seconds_on_time)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join()


def test_thousands_of_connections_are_listed_and_disturb_nobody(env):
    count = scale(2000)
    entry = front(env)
    address = entry["listener"]["address"]
    bitflow, control = control_socket.start(env, entry)
    clients = [env.connect(address) for _ in range(count)]
    wait_for(lambda: control.json("/proxies")["proxies"][0]["live"] == count, "all are there", timeout=60)
    for client in clients[:50]:
        sockets.round_trip(client)
    with PingPong(env.connect(address)) as game:
        wait_for(lambda: len(game.times) > 200, "it plays")
        undisturbed = sorted(game.times)
        game.times = []
        watch = Stopwatch()
        done = control.command("--json", "connections")
        took = watch.seconds_on_time
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        ids = [one["id"] for one in told["connections"]]
        assert told["live"] == told["count"] == len(set(ids)) == count + 1 and told["next"] is None
        assert ids == sorted(ids)
        for _ in range(20):
            control.json("/connections?limit=1000")
        wait_for(lambda: len(game.times) > 200, "it plays on")
        disturbed = sorted(game.times)
    print(f"{count} connections listed in {took * 1000:.0f} ms; a round trip of the median "
          f"{undisturbed[len(undisturbed) // 2] * 1e6:.0f} us before, {disturbed[len(disturbed) // 2] * 1e6:.0f} us "
          f"meanwhile, the 99th percentile {undisturbed[len(undisturbed) * 99 // 100] * 1e6:.0f} and "
          f"{disturbed[len(disturbed) * 99 // 100] * 1e6:.0f}")
    watch.between(0, 60, "all of it")
    assert took < 3 * pace()
    assert disturbed[-1] < 0.5 * pace(), "a round trip was held up"
