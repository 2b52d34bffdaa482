"""Name servers that drop questions for one family, answer late, or lose packets: the time to connect is bounded, with
and without dual stack. The C library's resolver has its usual bounds here, twice 5 s."""

import pytest

import hosts
import peers
import sockets
from environment import proxy
from hosts import AAAA, A
from sockets import join
from waiting import Stopwatch, pace, scale, wait_for

SERVER, DNSMASQ = hosts.own_address(7), hosts.own_address(8)
OPTIONS = "timeout:5 attempts:2"

each_dual = pytest.mark.parametrize("dual", [False, True], ids=["plain", "dual stack"])
BOTH = {A: ["127.0.0.1"], AAAA: ["::1"]}


@pytest.fixture
def serve(env):
    """Starts a faulty name server, and with `through` a dnsmasq that asks it; returns it and a launch plan."""

    def begin(answers, through=False, names=(), **faults):
        server = env.enter(hosts.FaultyNameServer(answers, address=SERVER, **faults))
        if through:
            env.enter(hosts.Dnsmasq([], DNSMASQ, SERVER))
        return server, hosts.plan(env, names, DNSMASQ if through else SERVER, OPTIONS)

    return begin


def listen(env, addresses):
    """Listeners on one port of these addresses, by address, and the port."""
    for _ in range(50):
        port = sockets.free_port()
        try:
            return {host: env.enter(peers.Listener(join(host, port))) for host in addresses}, port
        except OSError:
            continue
    raise AssertionError("no port is free on all of them")


def start(env, plan, name, port, dual, front="127.0.0.1"):
    address = env.address(front)
    target = {"address": f"{name}:{port}", "connect_timeout": "9s"}
    bitflow = env.start(proxy(address, target, enable_dual_stack=dual), plan=plan)
    bitflow.quiet_check = False  # look-ups are still under way at the end
    return bitflow, address


def timed(env, address, listener):
    watch = Stopwatch()
    client, connection = env.pair(address, listener)
    seconds = watch.seconds
    client.close()
    connection.close()
    return seconds


def connects(env, address, listener, least, most):
    watch = Stopwatch()
    timed(env, address, listener)
    watch.between(least, most, "the connect")


def connects_to_any(env, address, targets, least, most):
    watch = Stopwatch()
    env.connect(address)
    wait_for(lambda: any(target.has_pending() for target in targets.values()), "a target is connected")
    watch.between(least, most, "the connect")


@pytest.mark.parametrize("through", [False, True], ids=["asked directly", "by dnsmasq"])
@each_dual
@pytest.mark.parametrize("client", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", [A, AAAA], ids=["A", "AAAA"])
def test_dropped_questions_for_one_family_do_not_delay_the_connect(env, serve, kind, client, dual, through):
    """The target has one address, of the family that is answered."""
    answers = {other: BOTH[other] for other in BOTH if other != kind}
    host = "::1" if kind == A else "127.0.0.1"
    _, plan = serve(answers, through)
    targets, port = listen(env, [host])
    fronts = [env.address(client) for _ in range(3)]
    proxies = [
        proxy(front, f"x{number}.far.test:{port}", name=f"p{number}", enable_dual_stack=dual)
        for number, front in enumerate(fronts)
    ]
    env.start(*proxies, plan=plan).quiet_check = False
    # A busy machine has its pauses, so of three connects one counts. First each is the first to ask for its
    # name, then each finds questions that are under way.
    for _ in range(2):
        took = [timed(env, front, targets[host]) for front in fronts]
        assert min(took) < 0.6 * pace() and max(took) < 2.5 * pace(), took


@each_dual
def test_a_crowd_shares_few_look_ups_where_aaaa_is_dropped(env, serve, dual):
    """None of the clients waits for long."""
    _, plan = serve({A: BOTH[A]})
    targets, port = listen(env, ["127.0.0.1"])
    bitflow, address = start(env, plan, "crowd.far.test", port, dual)
    watch = Stopwatch()
    clients = [env.connect(address) for _ in range(scale(100))]
    for _ in clients:
        env.keep(targets["127.0.0.1"].accept())
    watch.between(0, 2.5, "all the connects")
    # One of both families, one of each; on a busy machine one may be repeated.
    assert len([name for name in bitflow.thread_names() if name == "resolve"]) <= 4


@each_dual
def test_two_late_answers_delay_the_connect_no_longer_than_they_take(env, serve, dual):
    _, plan = serve(BOTH, delays={A: 0.3, AAAA: 0.3})
    targets, port = listen(env, BOTH[A] + BOTH[AAAA])
    _, address = start(env, plan, "late.far.test", port, dual)
    connects_to_any(env, address, targets, 0.3, 1.2)


@each_dual
@pytest.mark.parametrize("late", [0.3, 1.5], ids=["0.3 s", "1.5 s"])
def test_an_attempt_waits_for_the_late_family_if_the_other_refuses(env, serve, late, dual):
    """127.0.0.1 refuses long before the question for AAAA is answered."""
    _, plan = serve(BOTH, delays={AAAA: late})
    targets, port = listen(env, ["::1"])
    bitflow, address = start(env, plan, "late.far.test", port, dual)
    connects(env, address, targets["::1"], late - 0.05, late + 1)
    assert bitflow.wait_records(1)[0]["attempts"] == 1


def test_the_late_family_joins_a_race_that_hangs(env, serve):
    _, plan = serve(BOTH, delays={AAAA: 0.5})
    targets, port = listen(env, ["127.0.0.1", "::1"])
    hole = targets["127.0.0.1"]
    hole.close()
    env.keep(peers.Listener(join("127.0.0.1", port), backlog=0)).fill_queue()
    _, address = start(env, plan, "hole.far.test", port, False)
    connects(env, address, targets["::1"], 0.4, 2)


@each_dual
def test_the_loss_of_the_first_packets_costs_no_seconds(env, serve, dual):
    """A look-up of each family follows, long before the C library asks again after 5 s."""
    _, plan = serve(BOTH, lost={A: 1, AAAA: 1})
    targets, port = listen(env, ["127.0.0.1", "::1"])
    _, address = start(env, plan, "lost.far.test", port, dual)
    connects_to_any(env, address, targets, 0, 1.5)


@pytest.mark.parametrize("lost, most", [(1, 2.4), (2, 3.6)], ids=["once", "twice"])
def test_a_lost_question_is_asked_again_after_a_second(env, serve, lost, most):
    """Once for all who wait; a second loss takes another second."""
    _, plan = serve(BOTH, lost={A: lost})
    targets, port = listen(env, ["127.0.0.1"])
    _, address = start(env, plan, "tcp4://lost.far.test", port, False)
    watch = Stopwatch()
    clients = [env.connect(address) for _ in range(scale(50))]
    for _ in clients:
        env.keep(targets["127.0.0.1"].accept())
    watch.between(lost - 0.1, most, "all the connects")


@each_dual
@pytest.mark.parametrize("client", ["127.0.0.1", "::1"])
def test_what_the_hosts_file_says_is_not_asked_for(env, serve, client, dual):
    """A name that it has in one family is not looked for in DNS in the other."""
    server, plan = serve(BOTH, names=[("mine.far.test", "127.0.0.1")])
    targets, port = listen(env, ["127.0.0.1", "::1"])
    _, address = start(env, plan, "mine.far.test", port, dual, client)
    for _ in range(20):
        connects(env, address, targets["127.0.0.1"], 0, 2)
    # On a busy machine a look-up may, now and then, take so long that it looks like one of DNS.
    assert len(server.asked) <= 4, server.asked


def test_a_refusal_stays_the_reason_where_aaaa_is_dropped(env, serve):
    """The other family's addresses are waited for, but no longer than connect_timeout."""
    _, plan = serve({A: BOTH[A]})
    refusing = env.enter(peers.Refusing())
    address = env.address()
    port = refusing.address.rpartition(":")[2]
    bitflow = env.start(proxy(address, {"address": f"x.far.test:{port}", "connect_timeout": "1s"}), plan=plan)
    bitflow.quiet_check = False
    watch = Stopwatch()
    sockets.was_rejected(env.connect(address))
    watch.between(0.9, 2, "connect_timeout")
    record = bitflow.wait_records(1)[0]
    assert record["reason"] == "connect_refused"
    assert "no answer in time about its other IP family" in record["error"]
