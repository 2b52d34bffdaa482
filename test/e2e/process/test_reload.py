"""SIGHUP: the configuration is read again; what did not change is not disturbed, what is wrong changes
nothing."""

import signal
import threading

import peers
import sockets
from environment import proxy
from waiting import holds_for, scale, wait_for


def greeting(env, address):
    client = env.connect(address)
    data = b""
    while not data.endswith(b"\n"):
        part = client.recv(100)
        if not part:
            return None
        data += part
    client.close()
    return data.decode().strip()


def greeter(env, name):
    return env.serve(peers.greeter(name)).address


def port(address):
    return int(address.rpartition(":")[2])


def reload(env, bitflow, *proxies, **settings):
    env.config(*proxies, **settings)
    bitflow.signal(signal.SIGHUP)


def test_a_new_proxy_starts(env):
    one, two = env.address(), env.address()
    first = proxy(one, greeter(env, "one"), name="one")
    bitflow = env.start(first)
    reload(env, bitflow, first, proxy(two, greeter(env, "two"), name="two"))
    bitflow.wait_listening(["one", "two"])
    assert (greeting(env, one), greeting(env, two)) == ("one", "two")


def test_a_removed_proxy_stops_listening_and_drains(env):
    one, two, echo = env.address(), env.address(), env.echo()
    keep, drop = proxy(one, echo.address, name="keep"), proxy(two, echo.address, name="drop")
    bitflow = env.start(keep, drop)
    kept, dropped = env.connect(one), env.connect(two)
    sockets.round_trip(kept)
    sockets.round_trip(dropped)
    reload(env, bitflow, keep)
    wait_for(lambda: sockets.refuses(two), "the removed proxy no longer listens")
    for _ in range(5):
        sockets.round_trip(kept)
        sockets.round_trip(dropped)
    sockets.round_trip(env.connect(one))


def test_a_removed_unix_listener_takes_its_file_along(env):
    echo, address = env.echo(), env.address()
    keep = proxy(address, echo.address, name="keep")
    bitflow = env.start(keep, proxy(env.unix(), echo.address, name="drop"))
    reload(env, bitflow, keep)
    wait_for(lambda: not (env.directory / "front.sock").exists(), "the socket file is removed")
    sockets.round_trip(env.connect(address))


def test_an_unchanged_listener_is_never_closed(env):
    """The same socket, not another one on the same port; and the same Unix socket file."""
    address = env.address()
    old, new = greeter(env, "old"), greeter(env, "new")
    bitflow = env.start(proxy(address, old), proxy(env.unix(), old, name="by-unix"))
    inodes = bitflow.listening_inodes(port(address))
    file = (env.directory / "front.sock").stat().st_ino
    assert len(inodes) == 1
    reload(env, bitflow, proxy(address, new), proxy(env.unix(), new, name="by-unix"))
    wait_for(lambda: greeting(env, address) == "new", "the new target")
    wait_for(lambda: greeting(env, env.unix()) == "new", "the new target by the Unix socket")
    assert bitflow.listening_inodes(port(address)) == inodes
    assert (env.directory / "front.sock").stat().st_ino == file
    reload(env, bitflow, proxy(address, old, name="renamed"), proxy(env.unix(), new, name="by-unix"))
    wait_for(lambda: greeting(env, address) == "old", "the renamed proxy")
    assert bitflow.listening_inodes(port(address)) == inodes, "a renamed proxy lost its socket"


def test_live_connections_keep_their_generation(env):
    address = env.address()
    bitflow = env.start(proxy(address, greeter(env, "old")))
    live = env.connect(address)
    assert sockets.receive_exactly(live, 4) == b"old\n"
    reload(env, bitflow, proxy(address, greeter(env, "new"), listener={"read_timeout": "200ms"}))
    wait_for(lambda: greeting(env, address) == "new", "the new target")
    holds_for(0.6, lambda: sockets.is_open(live), "the old connection has no read timeout")
    sockets.round_trip(live)


def test_a_changed_address_moves_the_listener(env):
    one, two = env.address(), env.address()
    target = greeter(env, "here")
    bitflow = env.start(proxy(one, target))
    reload(env, bitflow, proxy(two, target))
    wait_for(lambda: not sockets.refuses(two), "the new address")
    wait_for(lambda: sockets.refuses(one), "the old address is closed")
    assert greeting(env, two) == "here"


def test_two_proxies_swap_their_addresses(env):
    """Both listeners stay as they are; a proxy's count of connections goes with its name."""
    one, two = env.address(), env.address()
    ada, bob = greeter(env, "ada"), greeter(env, "bob")
    bitflow = env.start(proxy(one, ada, name="ada", connection_limit=1), proxy(two, bob, name="bob"))
    live = env.connect(one)
    assert sockets.receive_exactly(live, 4) == b"ada\n"
    before = [bitflow.listening_inodes(port(address)) for address in (one, two)]
    reload(env, bitflow, proxy(two, ada, name="ada", connection_limit=1), proxy(one, bob, name="bob"))
    wait_for(lambda: [line for line in bitflow.log_lines(partial=True) if line["msg"] == "reloaded"], "the reload")
    wait_for(lambda: greeting(env, one) == "bob", "bob is where ada was")
    sockets.was_rejected(env.connect(two))  # ada's only place is taken
    assert [bitflow.listening_inodes(port(address)) for address in (one, two)] == before
    sockets.round_trip(live)
    name = sockets.local_name(live)
    live.close()
    assert bitflow.record_of(name)["proxy"] == "ada"
    assert greeting(env, two) == "ada"


def test_changed_settings_take_effect(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    assert served(env, address)
    reload(env, bitflow, proxy(address, echo.address, listener={"authorized_sources": ["10.0.0.0/8"]}))
    wait_for(
        lambda: "source_not_authorized" in [record["reason"] for record in probe(env, bitflow, address)],
        "strangers are rejected",
    )
    reload(env, bitflow, proxy(address, echo.address, connection_limit=1))
    wait_for(lambda: served(env, address), "they are let in again")


def probe(env, bitflow, address):
    sockets.connect(address).close()
    return bitflow.records()


def served(env, address):
    client = env.connect(address)
    try:
        client.sendall(b"?")
        return client.recv(1) == b"?"
    except OSError:
        return False
    finally:
        client.close()


def test_a_bad_configuration_changes_nothing(env):
    echo, address = env.echo(), env.address()
    good = proxy(address, echo.address)
    bitflow = env.start(good)
    live = env.connect(address)
    inodes = bitflow.listening_inodes(port(address))
    for count, bad in enumerate(
        ["server: [", "", "server:\n  proxies:\n    - name: x\n      listner: {}\n", None], 1
    ):
        if bad is None:
            (env.directory / "config.yaml").unlink()
        else:
            env.write(bad)
        bitflow.signal(signal.SIGHUP)
        wait_for(
            lambda: len([line for line in bitflow.log_lines(True) if line["level"] == "error"]) >= count,
            lambda: f"error {count} is logged: {bitflow.stderr()}",
        )
        sockets.round_trip(live)
        sockets.round_trip(env.connect(address))
    assert bitflow.listening_inodes(port(address)) == inodes
    errors = [line for line in bitflow.log_lines(True) if line["level"] == "error"]
    assert any("listner" in str(line) and "config.yaml:4:" in str(line) for line in errors), errors
    other = env.address()
    reload(env, bitflow, good, proxy(other, echo.address, name="other"))
    bitflow.wait_listening(["front", "other"])
    sockets.round_trip(env.connect(other))


def test_an_address_that_cannot_be_bound_changes_nothing(env):
    echo, address, taken = env.echo(), env.address(), env.listen()
    old = proxy(address, greeter(env, "old"))
    bitflow = env.start(old)
    reload(
        env, bitflow, proxy(address, greeter(env, "new")), proxy(taken.address, echo.address, name="taken")
    )
    wait_for(
        lambda: [line for line in bitflow.log_lines(True) if line["level"] == "error"], "an error is logged"
    )
    assert greeting(env, address) == "old"
    bitflow.assert_quiet()


def test_a_changed_log_level_takes_effect(env):
    """From error to info and back: what is logged follows."""
    one, two = env.address(), env.address()
    bitflow = env.start(proxy(one, env.refusing()), level="error", wait=False)
    bitflow.wait_bound(port(one))
    reload(env, bitflow, proxy(one, env.refusing()), proxy(two, env.refusing(), name="two"), level="info")
    bitflow.wait_bound(port(two))
    wait_for(lambda: "info" in {line["level"] for line in bitflow.log_lines(True)}, "lines of the new level")
    reload(env, bitflow, proxy(one, env.refusing()), level="error")
    wait_for(lambda: sockets.refuses(two), "the removed proxy no longer listens")
    before = len(bitflow.log_lines(True))
    sockets.was_rejected(env.connect(one))
    wait_for(bitflow.records, "the record")
    assert {line["level"] for line in bitflow.log_lines(True)[before:]} <= {"error"}


def test_an_inherited_listener_outlives_reloads(env):
    inherited = env.listen()
    old, new = greeter(env, "old"), greeter(env, "new")
    bitflow = env.start(proxy("fd://3", old), plan={"descriptors": [[inherited.socket.fileno(), 3]]})
    assert greeting(env, inherited.address) == "old"
    for _ in range(3):
        reload(env, bitflow, proxy("fd://3", new))
        wait_for(lambda: greeting(env, inherited.address) == "new", "the new target")
        reload(env, bitflow, proxy("fd://3", old))
        wait_for(lambda: greeting(env, inherited.address) == "old", "the old target again")


def test_no_connection_is_lost_over_reloads(env):
    """Clients rush in while the configuration changes to and fro; none is refused or cut off."""
    address = env.address()
    targets = [greeter(env, "one"), greeter(env, "two")]
    bitflow = env.start(proxy(address, targets[0]))
    failures, counts, stop = [], {"one": 0, "two": 0}, threading.Event()

    def come():
        while not stop.is_set():
            try:
                client = sockets.connect(address)
                name = sockets.receive_exactly(client, 4).decode().strip()
                sockets.round_trip(client)
                client.close()
                counts[name] += 1
            except (OSError, AssertionError) as error:
                failures.append(repr(error))

    crowd = [threading.Thread(target=come, daemon=True) for _ in range(4)]
    for each in crowd:
        each.start()
    for number in range(scale(24, 6)):
        name = ["one", "two"][(number + 1) % 2]
        before = counts[name]
        reload(env, bitflow, proxy(address, targets[(number + 1) % 2]))
        wait_for(lambda: failures or counts[name] > before + 3, lambda: f"connections to {name}")
    stop.set()
    for each in crowd:
        each.join(20)
    assert failures == []


def test_hangups_in_a_row_leave_no_threads_and_no_memory_behind(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    threads = len(bitflow.thread_names())
    memory = bitflow.memory_kib("VmRSS")
    for number in range(scale(200, 50)):
        bitflow.signal(signal.SIGHUP)
        if number % 10 == 0:
            assert served(env, address)
    wait_for(lambda: served(env, address), "it serves")
    bitflow.assert_quiet()
    wait_for(lambda: len(bitflow.thread_names()) <= threads + 4, lambda: f"threads: {bitflow.thread_names()}")
    assert bitflow.memory_kib("VmRSS") - memory < 20_000


def test_a_hangup_during_the_drain_opens_no_listener(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    client = env.connect(address)
    sockets.round_trip(client)
    bitflow.signal(signal.SIGTERM)
    wait_for(lambda: sockets.refuses(address), "the drain began")
    bitflow.signal(signal.SIGHUP)
    holds_for(0.3, lambda: sockets.refuses(address), "nothing listens again")
    sockets.round_trip(client)
    client.close()
    assert bitflow.wait_ended() == 0
