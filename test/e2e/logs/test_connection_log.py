"""The connection log: its records, whole lines, rotation, and disks that fail."""

import datetime
import json
import os
import shutil
import signal
import threading

import pytest

import hosts
import records_schema
import sockets
import socks_peers
import tls_raw
from environment import proxy
from tls_cases import tls_echo, tls_target
from waiting import pace, scale, wait_for


def use(env, address, message=b"hello bitflow\n"):
    """A connection that gets an echo and ends; returns the client's address."""
    client = sockets.connect(address)
    name = sockets.local_name(client)
    sockets.round_trip(client, message)
    client.close()
    return name


def moment(text):
    assert len(text) == len("2026-11-23T15:54:05.123Z") and text.endswith("Z"), text
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc)


def test_a_record_tells_names_addresses_times_and_bytes(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, {"name": "the echo", "address": echo.address}, name="my proxy"))
    before = datetime.datetime.now(datetime.timezone.utc)
    name = use(env, address, b"x" * 321)
    record = bitflow.wait_records(1)[0]
    after = datetime.datetime.now(datetime.timezone.utc)
    records_schema.check(record)
    slack = datetime.timedelta(milliseconds=2)
    assert before - slack <= moment(record["start"]) <= moment(record["end"]) <= after + slack
    assert record["event"] == "connection" and record["proxy"] == "my proxy"
    assert (record["client"], record["local"]) == (name, address)
    assert record["target"] == {"name": "the echo", "address": echo.address, "via": None}
    assert (record["attempts"], record["bytes_from_client"], record["bytes_from_target"]) == (1, 321, 321)
    assert (record["reason"], record["error"]) == ("completed", None)
    assert record["ended_by"] in ("client", "target")
    for key in ("resolve_ms", "connect_ms", "total_ms"):
        assert isinstance(record[key], (int, float)) and 0 <= record[key] <= 10_000


@pytest.mark.parametrize("kind", ["refused", "unanswered", "named", "unix"])
def test_the_record_of_a_failed_dial_names_the_address_tried_last(env, kind):
    """For a name, it is the address that the name stood for."""
    address, plan = env.address(), None
    if kind == "unanswered":
        listener = env.listen(backlog=0)
        listener.fill_queue()
        target = seen = listener.address
    elif kind == "unix":
        target = seen = env.unix("missing.sock")
    else:
        target = seen = env.refusing()
    if kind == "named":
        plan = hosts.plan(env, [("back.test", "127.0.0.1")])
        target = seen.replace("127.0.0.1", "back.test")
    entry = {"name": "back", "address": target, "connect_timeout": "200ms"}
    bitflow = env.start(proxy(address, entry), plan=plan)
    sockets.was_rejected(env.connect(address))
    assert bitflow.wait_records(1)[0]["target"] == {"name": "back", "address": seen, "via": None}


def test_nothing_of_a_failed_target_is_told_of_the_one_that_followed(env, pki):
    """Neither its SOCKS5 server nor its TLS; only the time that they took."""
    refusing = env.serve(socks_peers.answering(b"\x05\x00", b"\x05\x05" + socks_peers.YES[2:]))
    expired = env.serve(tls_echo(tls_raw.server_context(pki.bad_servers["expired"])))
    echo, address = env.echo(), env.address()
    through = {"address": "far.test:80", "proxy": refusing.address}
    targets = [through, tls_target(expired.address, pki.trusted), echo.address]
    bitflow = env.start(proxy(address, *targets, connection_load_balancer="failover"))
    use(env, address)
    record = bitflow.wait_records(1)[0]
    assert record["target"] == {"name": "target3", "address": echo.address, "via": None}
    assert (record["target_tls"], record["error"], record["step"]) == (None, None, None)
    assert (record["reason"], record["phase"], record["attempts"]) == ("completed", "relaying", 3)
    assert record["timings"]["socks_ms"] > 0 and record["timings"]["target_handshake_ms"] > 0


def test_of_targets_that_all_failed_the_last_is_told(env, pki):
    expired = env.serve(tls_echo(tls_raw.server_context(pki.bad_servers["expired"])))
    address, refusing = env.address(), env.refusing()
    targets = [tls_target(expired.address, pki.trusted), refusing]
    bitflow = env.start(proxy(address, *targets, connection_load_balancer="failover"))
    sockets.was_rejected(env.connect(address))
    record = bitflow.wait_records(1)[0]
    assert (record["reason"], record["phase"], record["step"]) == ("connect_refused", "dialling", "connect")
    assert record["target"] == {"name": "target2", "address": refusing, "via": None}
    assert (record["target_tls"], record["attempts"]) == (None, 2)
    assert "all 2 targets failed" in record["error"]
    assert record["timings"]["target_handshake_ms"] > 0 and record["timings"]["relay_ms"] is None


def test_a_records_durations_and_times_agree(env):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address, connection_lifetime="700ms"))
    env.pair(address, listener)
    record = bitflow.wait_records(1)[0]
    span = (moment(record["end"]) - moment(record["start"])).total_seconds() * 1000
    assert abs(span - record["total_ms"]) <= 5 and 650 <= record["total_ms"] <= 2000 * pace()


def test_the_record_of_a_rejected_client_has_no_target(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, listener={"authorized_sources": ["10.0.0.0/8"]}))
    client = env.connect(address)
    sockets.was_rejected(client)
    record = bitflow.wait_records(1)[0]
    records_schema.check(record)
    assert (record["event"], record["target"], record["ended_by"]) == ("rejected", None, "proxy")
    assert (record["client"], record["local"]) == (sockets.local_name(client), address)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_record_has_the_clients_address_in_either_family(env, host):
    echo, address = env.echo(), env.address(host)
    bitflow = env.start(proxy(address, echo.address))
    name = use(env, address)
    record = bitflow.wait_records(1)[0]
    assert (record["client"], record["local"]) == (name, address)


def test_a_record_has_the_addresses_of_unix_sockets(env):
    echo = env.echo(env.unix("back.sock"))
    bitflow = env.start(
        proxy(env.unix(), echo.address, name="path"), proxy(env.abstract(), echo.address, name="abstract")
    )
    use(env, env.unix())
    use(env, env.abstract())
    client = env.connect(env.unix(), source=str(env.directory / "bound-client.sock"))
    sockets.round_trip(client)
    client.close()
    records = sorted(bitflow.wait_records(3), key=lambda record: record["id"])
    assert [record["client"] for record in records] == ["unix:", "unix:", env.unix("bound-client.sock")]
    assert [record["local"] for record in records] == [env.unix(), env.abstract(), env.unix()]
    assert records[0]["target"]["address"] == echo.address


def test_ids_are_unique_across_proxies(env):
    echo, one, two = env.echo(), env.address(), env.address()
    bitflow = env.start(proxy(one, echo.address, name="one"), proxy(two, echo.address, name="two"))
    for _ in range(20):
        use(env, one)
        use(env, two)
    assert len({record["id"] for record in bitflow.wait_records(40)}) == 40


def test_names_are_escaped_in_both_logs(env):
    """Quotes, backslashes and letters beyond ASCII break neither of them."""
    echo, address = env.echo(), env.address()
    name, target = 'a "quoted" \\ näme', "a=b, 'more' {☃}"
    bitflow = env.start(proxy(address, {"name": target, "address": echo.address}, name=name), level="debug")
    use(env, address)
    record = bitflow.wait_records(1)[0]
    assert (record["proxy"], record["target"]["name"]) == (name, target)
    bitflow.log_lines()
    assert all(line.startswith("ts=") for line in bitflow.stderr().splitlines()), bitflow.stderr()


def test_lines_never_mix(env):
    """Two proxies write to one file from many threads; every line is a whole record."""
    echo, addresses = env.echo(), [env.address(), env.address()]
    bitflow = env.start(
        *(
            proxy(address, {"name": "t" * 64, "address": echo.address}, name=f"proxy{number}")
            for number, address in enumerate(addresses)
        )
    )
    count = scale(50)

    def work(address):
        for _ in range(count):
            use(env, address)

    threads = [threading.Thread(target=work, args=(addresses[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = wait_for(
        lambda: len(lines(bitflow.log_path)) >= 8 * count and lines(bitflow.log_path), "all the records"
    )
    parsed = [json.loads(line) for line in records]
    assert len(parsed) == 8 * count and all(record["target"]["name"] == "t" * 64 for record in parsed)


def lines(path):
    return path.read_text().splitlines()


def test_records_are_appended_to_what_is_there(env):
    echo, address = env.echo(), env.address()
    env.records_are_checked = False  # another program's line is not a record
    env.records_path.write_text('{"client": "from before"}\n')
    bitflow = env.start(proxy(address, echo.address))
    use(env, address)
    records = bitflow.wait_records(2)
    assert records[0] == {"client": "from before"}


def test_without_a_connection_log_no_file_is_made(env):
    echo, address = env.echo(), env.address()
    env.start(proxy(address, echo.address, connection_log=None))
    use(env, address)
    assert not env.records_path.exists()


def test_the_log_is_reopened_on_sighup(env):
    """As logrotate does it: move, then SIGHUP."""
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    use(env, address)
    bitflow.wait_records(1)
    moved = env.directory / "connections.jsonl.1"
    for round_number in range(3):
        env.records_path.rename(moved)
        bitflow.signal(signal.SIGHUP)
        wait_for(env.records_path.exists, "the new file is there")
        name = use(env, address)
        assert [record["client"] for record in bitflow.wait_records(1)] == [name]
        assert len(lines(moved)) == 1, f"round {round_number}"
    bitflow.assert_quiet()


def test_no_record_is_lost_when_the_log_is_reopened(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address))
    names, stop = [], threading.Event()

    def work():
        while not stop.is_set():
            names.append(use(env, address))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    moved = []
    for number in range(8):
        wait_for(lambda: len(names) > 15 * (number + 1), "connections meanwhile")
        moved.append(env.directory / f"moved.{number}")
        env.records_path.rename(moved[-1])
        bitflow.signal(signal.SIGHUP)
        wait_for(env.records_path.exists, "the new file is there")
    stop.set()
    for thread in threads:
        thread.join()

    def all_records():
        files = [*moved, env.records_path]
        return [record["client"] for path in files for record in bitflow.records(path)]

    wait_for(
        lambda: len(all_records()) >= len(names),
        lambda: f"{len(names)} records, {len(all_records())} are there",
    )
    assert sorted(all_records()) == sorted(names)


def test_a_full_disk_is_reported_without_a_line_for_each_record(env):
    echo, address = env.echo(), env.address()
    bitflow = env.start(proxy(address, echo.address, connection_log="/dev/full"))
    count = scale(60, 20)
    for _ in range(count):
        use(env, address)
    wait_for(
        lambda: [line for line in bitflow.log_lines(True) if line["level"] in ("warn", "error")],
        "the application log says so",
    )
    bitflow.assert_quiet()
    complaints = [line for line in bitflow.log_lines(True) if line["level"] in ("warn", "error")]
    assert len(complaints) < count, "a complaint for each record fills the other disk too"


def test_sighup_reopens_a_log_whose_directory_is_there_again(env):
    echo, address = env.echo(), env.address()
    directory = env.directory / "logs"
    directory.mkdir()
    bitflow = env.start(proxy(address, echo.address, connection_log=str(directory / "log.jsonl")))
    use(env, address)
    bitflow.wait_records(1, directory / "log.jsonl")
    shutil.rmtree(directory)
    use(env, address)
    bitflow.signal(signal.SIGHUP)
    wait_for(
        lambda: [line for line in bitflow.log_lines(True) if line["level"] in ("warn", "error")],
        "the application log says that the file cannot be opened",
    )
    for _ in range(10):
        use(env, address)
    directory.mkdir()
    bitflow.signal(signal.SIGHUP)
    wait_for((directory / "log.jsonl").exists, "the log is there again")
    name = use(env, address)
    wait_for(lambda: name in [r["client"] for r in bitflow.records(directory / "log.jsonl")], "its record")


@pytest.mark.parametrize("kind", ["no directory", "a directory"])
def test_a_log_that_cannot_be_opened_ends_the_start(env, kind):
    """It says why, and leaves no socket file behind."""
    path = env.directory / "none" / "log.jsonl" if kind == "no directory" else env.directory
    entry = proxy(env.unix(), env.address(), connection_log=str(path))
    bitflow = env.launch(env.config(entry))
    bitflow.expected_status = 1
    assert bitflow.wait_ended() == 1
    assert str(path) in bitflow.stderr()
    assert not os.path.exists(env.directory / "front.sock")


def test_a_fifo_without_a_reader_ends_the_start(env):
    path = env.directory / "fifo"
    os.mkfifo(path)
    told = env.fails_to_start(env.config(proxy(env.address(), env.refusing(), connection_log=str(path))))
    assert f"cannot open the connection log {path}: " in told, told
