"""What is told and ordered through the control socket: live connections, their end, reloads with positions, the drain,
and whether the main thread answers."""

import json
import threading

import pytest

import bitflow_process
import control_socket
import peers
import records_schema
import sockets
import tls_raw
from environment import proxy
from waiting import Stopwatch, wait_for

SHARED = ("id", "proxy", "start", "client", "sni", "client_tls", "target", "target_tls")  # with the connection log


def front(env, **options):
    return proxy(env.address(), env.echo().address, **options)


def address_of(entry):
    return entry["listener"]["address"]


def wait_relaying(control, count):
    return wait_for(lambda: (seen := control.connections()) and len(seen) == count
                    and all(one["phase"] == "relaying" for one in seen) and seen, "all relay")


def test_a_live_connection_is_told_as_its_record_tells_it(env):
    entry = front(env)
    bitflow, control = control_socket.start(env, entry)
    client = env.connect(address_of(entry))
    sockets.round_trip(client, b"0123456789")
    (seen,) = wait_relaying(control, 1)
    assert (seen["bytes_from_client"], seen["bytes_from_target"]) == (10, 10)
    assert seen["client"] == sockets.local_name(client) and seen["reason"] is None and seen["step"] is None
    assert seen["total_ms"] >= seen["phase_ms"] >= 0
    one = control.json(f"/connections/{seen['id']}")
    assert {key: one[key] for key in SHARED} == {key: seen[key] for key in SHARED}
    assert (one["local"], one["attempts"], one["proxy_header"]) == (address_of(entry), 1, None)
    assert one["client_tcp"]["bytes_received"] == 10
    (proxy_seen,) = control.json("/proxies")["proxies"]
    assert (proxy_seen["live"], proxy_seen["accepted"], proxy_seen["targets"][0]["connections"]) == (1, 1, 1)
    client.close()
    (record,) = bitflow.wait_records(1)
    assert {key: record[key] for key in SHARED} == {key: seen[key] for key in SHARED}
    assert control.connections() == []
    assert control.json(f"/connections/{seen['id']}", status=404)["error"] == f"no connection {seen['id']} is live"


def test_the_tls_of_each_side_is_told(env, pki):
    tls = {"certificates": [{"key": str(pki.server.key), "certificate": str(pki.server.certificate)}]}
    entry = proxy(env.address(), env.echo().address, listener={"tls_context": tls})
    _, control = control_socket.start(env, entry)
    client = tls_raw.Tls(env.connect(address_of(entry)), tls_raw.client_context(), server_name="server.test")
    client.handshake()
    (seen,) = wait_relaying(control, 1)
    assert seen["client_tls"]["version"] == "TLSv1.3" and seen["client_tls"]["server_name"] == "server.test"
    table = control.command("connections").stdout
    assert "TLSv1.3 / plain" in table


def test_a_connection_that_dials_or_shakes_hands_is_told_with_its_step(env, pki):
    tls = {"certificates": [{"key": str(pki.server.key), "certificate": str(pki.server.certificate)}]}
    quiet, refusing = env.address(), env.address()
    waits = {"address": env.refusing(), "connect_attempts": 1000, "connect_backoff": "10m"}
    _, control = control_socket.start(
        env, proxy(quiet, env.echo().address, name="tls", listener={"tls_context": tls}),
        proxy(refusing, waits, name="dials"))
    env.connect(quiet)
    env.connect(refusing)

    def seen():
        return {one["proxy"]: (one["phase"], one["step"], (one["target"] or {}).get("name"))
                for one in control.connections()}

    both = {"tls": ("admitting", "tls_handshake", None), "dials": ("dialling", "connect", "target1")}
    wait_for(lambda: seen() == both, lambda: f"both are told: {seen()}")
    assert [one["proxy"] for one in control.connections("?proxy=dials")] == ["dials"]
    assert control.connections("?proxy=nobody") == []


def test_a_long_list_comes_in_pages_each_connection_once(env):
    entry = front(env)
    _, control = control_socket.start(env, entry)
    clients = [env.connect(address_of(entry)) for _ in range(25)]
    for client in clients:
        sockets.round_trip(client)
    ids, after, pages = [], 0, 0
    while after is not None:
        page = control.json(f"/connections?limit=10&after={after}")
        assert page["live"] == 25 and page["count"] == len(page["connections"]) <= 10
        ids += [one["id"] for one in page["connections"]]
        after, pages = page["next"], pages + 1
    assert ids == sorted(set(ids)) and (len(ids), pages) == (25, 3)


@pytest.mark.parametrize("how", ["DELETE", "POST", "command"])
def test_an_operator_ends_one_connection_and_no_other(env, how):
    entry = front(env)
    bitflow, control = control_socket.start(env, entry)
    kept, ended = env.connect(address_of(entry)), env.connect(address_of(entry))
    sockets.round_trip(kept)
    sockets.round_trip(ended)
    number = next(one["id"] for one in wait_relaying(control, 2) if one["client"] == sockets.local_name(ended))
    if how == "command":
        assert (done := control.command("end", str(number))).returncode == 0, done
    else:
        path = f"/connections/{number}" + ("/end" if how == "POST" else "")
        assert control.json(path, method=how) == {"status": "ended", "id": number}
    assert sockets.receive_to_end(ended) == b""
    sockets.round_trip(kept)
    (record,) = bitflow.wait_records(1)
    assert (record["id"], record["reason"], record["ended_by"]) == (number, "ended_by_operator", "proxy")
    assert control.json(f"/connections/{number}", method="DELETE", status=404)
    (order,) = [line for line in bitflow.log_lines() if line["msg"].startswith("ordered through")]
    assert (order["order"], order["conn"]) == ("end", str(number)) and int(order["pid"]) > 0


def test_a_reload_is_answered_with_what_is_wrong_and_where(env):
    entry = front(env)
    _, control = control_socket.start(env, entry)
    path = env.directory / "config.yaml"
    good = path.read_text()
    assert control.json("/reload", method="POST") == {"status": "reloaded", "problems": [], "left_out": 0}
    path.write_text(good.replace("targets:", "targetz:"))
    answer = control.json("/reload", method="POST", status=422)
    line = path.read_text().split("\n").index("    targetz:") + 1
    assert answer["status"] == "refused" and "old one stays in force" in answer["error"]
    unknown = next(problem for problem in answer["problems"] if problem["path"].endswith("targetz"))
    assert (unknown["file"], unknown["line"], unknown["column"], unknown["severity"]) == (str(path), line, 5, "error")
    assert unknown["text"] == "unknown key; did you mean targets?"
    done = control.command("reload")
    start = bitflow_process.run("--check", "--config", path)
    assert done.returncode == 1 and start.returncode == 2
    assert done.stderr.splitlines()[:-1] == start.stderr.splitlines()  # as the start would say it
    assert "old one stays in force" in done.stderr.splitlines()[-1]
    path.write_text(good)
    done = control.command("reload")
    assert (done.returncode, done.stdout, done.stderr) == (0, "reloaded\n", "")
    sockets.round_trip(env.connect(address_of(entry)))


def test_reloads_at_the_same_time_are_all_answered(env):
    _, control = control_socket.start(env, front(env))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(control.json("/reload", method="POST")["status"]))
               for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["reloaded"] * 10


def test_logs_are_opened_again_or_the_answer_says_that_they_are_not(env):
    entry = front(env)
    bitflow, control = control_socket.start(env, entry)
    moved = env.directory / "moved.jsonl"
    env.records_path.rename(moved)
    assert control.json("/reopen-logs", method="POST") == {"status": "reopened"}
    assert env.records_path.exists()
    env.records_path.unlink()
    env.records_path.mkdir()
    assert "application log" in control.json("/reopen-logs", method="POST", status=500)["error"]
    assert control.command("reopen-logs").returncode == 1
    env.records_path.rmdir()
    assert control.command("reopen-logs").returncode == 0
    assert bitflow.is_running()


def test_a_drain_is_ordered_and_told_at_once(env):
    entry = front(env)
    bitflow, control = control_socket.start(env, entry, server={"drain_timeout": "30s"})
    client = env.connect(address_of(entry))
    sockets.round_trip(client)
    assert control.json("/drain", method="POST", status=202) == {"status": "draining", "live": 1}
    assert "drains" in control.json("/ready", status=503)["error"]
    assert control.command("ready").returncode == 1
    assert control.command("health").stdout == "draining\n"
    wait_for(lambda: sockets.refuses(address_of(entry)), "nobody is let in")
    for path in ("/drain", "/reload"):
        assert control.json(path, method="POST", status=503)["error"] == "the process ends"
    sockets.round_trip(client)
    (seen,) = control.connections()
    assert control.command("end", str(seen["id"])).returncode == 0
    assert bitflow.wait_ended() == 0
    assert bitflow.records()[0]["reason"] == "ended_by_operator"


def test_it_is_not_healthy_while_the_main_thread_takes_no_order(env):
    entry = front(env)
    bitflow, control = control_socket.start(env, entry)
    assert control.command("health").stdout == "healthy\n"
    with bitflow.held_thread("bitflow"):
        watch = Stopwatch()
        done = control.command("health", "--timeout", "60")
        assert done.returncode == 1 and "has taken no order for" in done.stderr, done
        watch.between(4.5, 8, "the bound of health")
        watch = Stopwatch()
        assert "has taken no order for" in control.json("/health", status=503)["error"]
        watch.between(0, 1, "the second one who asks")
        assert control.json("/ready") == {"status": "ready"}  # which it is
        assert "no answer at" in control.command("--timeout", "1", "reload").stderr
        sockets.round_trip(env.connect(address_of(entry)))
    wait_for(lambda: control.ask("/health")[0] == 200, "it is healthy again")


def test_a_listener_that_failed_is_told_and_makes_it_unready(env):
    one, two = front(env), proxy(env.address(), env.echo().address, name="other")
    bitflow, control = control_socket.start(env, one, two)
    for sock in bitflow.borrow_sockets():
        with sock:
            is_it = sock.family == sockets.socket.AF_INET and sockets.join(*sock.getsockname()) == address_of(two)
            if is_it:
                sock.shutdown(sockets.socket.SHUT_RDWR)  # accept() fails from now on
    wait_for(lambda: control.ask("/ready")[0] == 503, "it is not ready")
    assert control.json("/ready", status=503)["error"] == "the listener of proxy other has failed"
    states = {entry["name"]: entry["listener"]["state"] for entry in control.json("/proxies")["proxies"]}
    assert states == {"front": "open", "other": "failed"}
    sockets.round_trip(env.connect(address_of(one)))
    bitflow.expected_status = 0


def test_the_health_of_targets_is_told(env):
    entry = proxy(env.address(), {"address": env.refusing(), "max_fails": 1, "fail_timeout": "10m"},
                  env.echo().address, connection_load_balancer="failover")
    _, control = control_socket.start(env, entry)
    def health():
        return [target["health"] for target in control.json("/proxies")["proxies"][0]["targets"]]
    assert health() == ["up", None]
    sockets.round_trip(env.connect(address_of(entry)))
    assert health() == ["out", None]


def test_the_configuration_is_told_without_its_secrets_and_can_be_used_again(env):
    secret = "socks5://somebody:much-secret@127.0.0.1:1080"
    entry = proxy(env.address(), {"address": env.echo().address, "connect_timeout": "1m30s"},
                  listener={"authorized_sources": ["127.0.0.0/8", "::1"], "keepalive_interval": -1},
                  connection_limit=77)
    hidden = proxy(env.address(), {"address": "127.0.0.1:9", "proxy": secret}, name="hidden")
    _, control = control_socket.start(env, entry, hidden,
                                      application={"sentry_dsn": "http://somekey@127.0.0.1:9/1"})
    text = control.ask("/config")[2]
    assert "much-secret" not in text and "somekey" not in text and "somebody" not in text
    told = json.loads(text)
    assert told["application"]["sentry_dsn"] == "(secret)"
    shown = told["server"]["proxies"][0]
    assert shown["listener"]["authorized_sources"] == ["127.0.0.0/8", "::1/128"]
    assert (shown["listener"]["keepalive_interval"], shown["options"]["connection_limit"]) == (-1, 77)
    assert shown["targets"][0]["connect_timeout"] == "1m30s"
    done = control.command("config")
    assert done.returncode == 0 and "much-secret" not in done.stdout
    kept = done.stdout.replace('"(secret)"', '"http://somekey@127.0.0.1:9/1"', 1).replace('"(secret)"', f'"{secret}"')
    checked = bitflow_process.run("--check", "--config", env.write(kept, "told.yaml"))
    assert checked.returncode == 0, checked.stderr
