"""server.scheduling: which threads are SCHED_BATCH, when that changes, and that an operator's choice stays."""

import os
import re
import signal

import pytest

import configs
import needs
import programs
import sockets
import waiting
from environment import proxy
from sentry_peers import HANG, Scripted
from tls_cases import tls_listener
from waiting import wait_for

BATCH, NORMAL = os.SCHED_BATCH, os.SCHED_OTHER
SERVES = re.compile(r"#\d+[<>]$")


def policies(bitflow):
    """{a thread's name: its policy} of all threads."""
    found = {}
    for thread, name in bitflow.tasks().items():
        try:
            found[name] = os.sched_getscheduler(thread)
        except ProcessLookupError:
            continue
    return found


def wait_policies(bitflow, expected):
    """Waits for the threads that serve connections, and asserts their policies."""
    wait_for(lambda: set(expected) <= set(bitflow.thread_names()), lambda: f"{bitflow.thread_names()}")
    seen = {name: policy for name, policy in policies(bitflow).items() if name in expected}
    assert seen == expected


def assert_others_are(bitflow, policy, names):
    """Every thread that serves no connection and is not parked has that policy, these among them."""
    seen = {name: own for name, own in policies(bitflow).items() if not SERVES.search(name) and name != "parked"}
    assert set(names) <= set(seen), seen
    assert set(seen.values()) == {policy}, seen


def pump(env, bitflow, address, listener, number):
    """A connection with two threads, since a write had to wait."""
    client, target = env.pair(address, listener)
    sockets.fill(target)
    wait_for(lambda: f"front#{number}<" in bitflow.thread_names(), "the second thread")
    return client, target


@pytest.mark.parametrize(
    "scheduling, expected",
    [(None, BATCH), ("batch", BATCH), ("normal", NORMAL)],
    ids=["default", "batch", "normal"],
)
def test_scheduling_is_set_for_threads_that_serve_connections_only(env, scheduling, expected):
    """Not for the acceptor, the timers, look-ups or telemetry."""
    listener, address = env.listen("127.0.0.1:0"), env.address()
    entry = {"address": "localhost:" + listener.address.rpartition(":")[2]}
    with Scripted(lambda number: HANG) as sentry:
        bitflow = env.start(
            proxy(address, entry, connection_lifetime="1h", connection_log_interval="1h"),
            server={"scheduling": scheduling} if scheduling else None,
            application={"metrics": {"address": "127.0.0.1:9"}, "sentry_dsn": sentry.dsn},
        )
        bitflow.quiet_check = False
        solo = env.pair(address, listener)
        pump(env, bitflow, address, listener, 2)
        wait_policies(bitflow, {"front#1>": expected, "front#2>": expected, "front#2<": expected})
        assert solo[0].fileno() >= 0 and "front#1<" not in bitflow.thread_names()
        # The look-up's thread was started by one that serves a connection.
        wait_for(lambda: "resolver" in bitflow.thread_names(), "the look-up's thread is parked")
        others = {"bitflow", "front:accept", "lifetimes", "reports", "statsd", "resolver"}
        assert_others_are(bitflow, NORMAL, others)


def test_the_thread_of_a_handshake_is_batch_too(env, pki):
    address = env.address()
    bitflow = env.start(proxy(address, env.refusing(), listener=tls_listener(pki.server)))
    env.connect(address)
    wait_policies(bitflow, {"front#1>": BATCH})


def test_the_nice_value_stays(env):
    """A call that sets the policy may set that too (sched_setattr(2))."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address))
    for thread in bitflow.tasks():
        os.setpriority(os.PRIO_PROCESS, thread, 7)
    pump(env, bitflow, address, listener, 1)
    wait_policies(bitflow, {"front#1>": BATCH, "front#1<": BATCH})
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in bitflow.tasks()} == {7}


def close(*ends):
    for end in ends:
        end.close()


def reload(env, bitflow, entry, scheduling):
    env.config(entry, server={"scheduling": scheduling})
    bitflow.reload()


def test_a_reload_changes_scheduling_for_later_connections(env):
    listener, address = env.listen(), env.address()
    entry = proxy(address, listener.address)
    bitflow = env.start(entry, server={"scheduling": "normal"})
    first = env.pair(address, listener)
    wait_policies(bitflow, {"front#1>": NORMAL})
    serving = next(thread for thread, name in bitflow.tasks().items() if name == "front#1>")
    reload(env, bitflow, entry, "batch")
    pump(env, bitflow, address, listener, 2)
    wait_policies(bitflow, {"front#1>": NORMAL, "front#2>": BATCH, "front#2<": BATCH})
    close(*first)
    wait_for(lambda: bitflow.tasks().get(serving) == "parked", "the first connection's thread is parked")
    third = env.pair(address, listener)  # the thread that was parked is told
    wait_for(lambda: bitflow.tasks().get(serving) == "front#3>", "it serves again")
    assert os.sched_getscheduler(serving) == BATCH
    reload(env, bitflow, entry, "normal")
    pump(env, bitflow, address, listener, 4)
    wait_policies(
        bitflow, {"front#3>": BATCH, "front#2<": BATCH, "front#4>": NORMAL, "front#4<": NORMAL, "front:accept": NORMAL}
    )
    close(*third)
    wait_for(lambda: bitflow.tasks().get(serving) == "parked", "its thread is parked again")
    env.pair(address, listener)
    wait_for(lambda: bitflow.tasks().get(serving) == "front#5>", "it serves again")
    assert os.sched_getscheduler(serving) == NORMAL


def test_a_reload_that_fails_keeps_scheduling(env):
    listener, address = env.listen(), env.address()
    entry = proxy(address, listener.address)
    bitflow = env.start(entry, server={"scheduling": "normal"})
    env.config(entry, server={"scheduling": "realtime"})
    bitflow.signal(signal.SIGHUP)
    wait_for(lambda: "server.scheduling: " in bitflow.stderr(), lambda: bitflow.stderr())
    env.pair(address, listener)
    wait_policies(bitflow, {"front#1>": NORMAL})


@pytest.mark.parametrize(
    "value, hint",
    [("fifo", None), ("Batch", "batch"), ("0", None), ("true", None), ("[batch]", None), ('""', None)],
    ids=["unknown", "another case", "number", "boolean", "list", "empty"],
)
def test_other_values_are_errors_with_their_place(env, value, hint):
    text = configs.with_line("top", "").replace("server:\n", f"server:\n  scheduling: {value}\n", 1)
    configs.rejects(env, text, line=2, path="server.scheduling", mentions=[hint] if hint else [], count=1)


@pytest.mark.parametrize(
    "policy, priority", [("RR", 1), ("FIFO", 1), ("IDLE", 0), ("BATCH", 0)], ids=["RR", "FIFO", "IDLE", "BATCH"]
)
@pytest.mark.parametrize("scheduling", ["batch", "normal"])
def test_a_policy_that_the_operator_chose_stays(env, policy, priority, scheduling):
    chosen = getattr(os, f"SCHED_{policy}")
    needs.scheduling(policy, priority).need()
    listener, address = env.listen(), env.address()
    bitflow = env.start(
        proxy(address, listener.address), plan={"scheduling": [chosen, priority]}, server={"scheduling": scheduling}
    )
    pump(env, bitflow, address, listener, 1)
    wait_policies(
        bitflow, {"front#1>": chosen, "front#1<": chosen, "front:accept": chosen, "bitflow": chosen}
    )


@pytest.mark.parametrize("level", ["info", "debug"])
def test_connections_are_served_where_scheduling_is_refused(env, level):
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address), plan={"refuse_scheduling": True}, level=level)
    pump(env, bitflow, address, listener, 1)
    wait_policies(bitflow, {"front#1>": NORMAL, "front#1<": NORMAL})
    client, target = env.pair(address, listener)
    client.sendall(b"as ever")
    assert sockets.receive_exactly(target, 7) == b"as ever"
    said = [line for line in bitflow.log_lines() if "scheduling" in line["msg"]]
    assert len(said) == (1 if level == "debug" else 0)
    assert not said or said[0]["error"] == "Operation not permitted"


def count_calls(bitflow, use):
    """How often `use()` made the process ask for a policy."""
    command = ["strace", "-f", "-e", "trace=sched_setscheduler,sched_getscheduler", "-p", str(bitflow.pid)]
    with programs.Program(command) as strace:
        wait_for(lambda: "attached" in strace.log.read_text(), lambda: strace.log.read_text())
        use()
        strace.process.terminate()
        strace.process.wait(10)
        return strace.log.read_text().count("scheduler(")


def test_a_connection_on_a_parked_thread_takes_no_scheduling_call(env):
    """It knows its policy."""
    listener, address = env.listen(), env.address()
    bitflow = env.start(proxy(address, listener.address))

    def serve(count):
        for _ in range(count):
            client, target = env.pair(address, listener)
            target.close()
            assert sockets.receive_to_end(client) == b""
            client.close()
            wait_for(lambda: "parked" in bitflow.thread_names() and not bitflow.busy_threads(), "it is parked")

    serve(1)
    assert count_calls(bitflow, lambda: serve(20)) == 0


def test_the_crash_reporter_is_normal(env):
    """It is started by the thread that crashed, which is one of a connection."""
    if waiting.SANITIZED:
        pytest.skip("a sanitizer's own handlers are in place")
    listener, address = env.listen(), env.address()
    with Scripted(lambda number: HANG) as sentry:
        bitflow = env.start(
            proxy(address, listener.address), application={"sentry_dsn": sentry.dsn}, plan={"limits": {"CORE": 0}}
        )
        env.pair(address, listener)
        wait_policies(bitflow, {"front#1>": BATCH})
        thread = next(thread for thread, name in bitflow.tasks().items() if name == "front#1>")
        bitflow.signal_thread(thread, signal.SIGSEGV)
        assert os.sched_getscheduler(bitflow.wait_crash_reporter(thread)) == NORMAL
        bitflow.expected_status = -signal.SIGSEGV
        assert bitflow.wait_ended() == -signal.SIGSEGV
