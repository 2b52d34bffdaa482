"""Configuration files: broken YAML, wrong keys, missing keys, huge and hostile files."""

import os
import random
import resource
import subprocess

import pytest

import bitflow_process
import configs
import needs
import sockets
from environment import proxy
from waiting import pace

GOOD = configs.with_line("top", "")


def test_the_smallest_configuration_is_accepted(env):
    configs.accepts(
        env,
        "server: {proxies: [{name: a, listener: {address: ':8080'}, "
        "targets: [{name: b, address: 'localhost:80'}]}]}\n",
    )
    configs.accepts(env, GOOD)


@pytest.mark.parametrize(
    "text, line",
    [
        ("server: [", None),
        ("server:\n  proxies: ]\n", 2),
        ("server:\n\tproxies: []\n", 2),
        ("a: b: c\n", 1),
        ("server: {proxies: [}\n", 1),
        ('server: "open\n', None),
        ("server:\n  proxies:\n - x\n", 3),
        ("%YAML 9.9\n---\n{}\n", 1),
        ("server: @x\n", 1),
        ("server: `x\n", 1),
        ("server: !!binary\n x: [\n", None),
        ("key: 'a' 'b'\n", 1),
        ("? [\n", None),
        ("server: *nowhere\n", 1),
        ("server: &a\n  &a &b x: y\n", None),
        ("- a\nserver: b\n", 2),
    ],
)
def test_broken_yaml_is_rejected(env, text, line):
    configs.rejects(env, text, line=line)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"server: \xc3\x28\n",
        b"server: \x00\n",
        b"\x00" * 100,
        b"\x7fELF\x02\x01\x01" + bytes(range(256)),
        b"\xef\xbb\xbfserver: [\n",
        b"server: \xed\xa0\x80\n",
        b"server: \x07bell\n",
        "server: [\n".encode("utf-16"),
    ],
)
def test_a_file_that_is_not_text_is_rejected(env, content):
    configs.rejects(env, content)


def test_byte_order_marks_and_line_ends_of_other_systems_are_accepted(env):
    configs.accepts(env, b"\xef\xbb\xbf" + GOOD.encode())
    configs.accepts(env, GOOD.replace("\n", "\r\n"))
    configs.accepts(env, GOOD.encode("utf-16"))


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# only a comment\n", "---\n", "---\n...\n", "{}\n", "null\n", "~\n"]
)
def test_a_file_with_nothing_in_it_is_rejected(env, text):
    configs.rejects(env, text)


@pytest.mark.parametrize("text", ["just text\n", "- a\n- list\n", "5\n", "[]\n", "server\n"])
def test_a_file_that_is_not_a_mapping_is_rejected_in_line_1(env, text):
    configs.rejects(env, text, line=1)


@pytest.mark.parametrize(
    "text, path",
    [
        ("server: {}\n", "server"),
        ("server: 5\n", "server"),
        ("server:\n", "server"),
        ("server: {proxies: 5}\n", "proxies"),
        ("server: {proxies: {}}\n", "proxies"),
        ("server: {proxies: []}\n", "proxies"),
        ("server: {proxies: }\n", "proxies"),
        ("server: {proxies: [5]}\n", "proxies[0]"),
        ("server: {proxies: [[]]}\n", "proxies[0]"),
        ("server: {proxies: [null]}\n", "proxies[0]"),
    ],
)
def test_a_value_of_the_wrong_shape_is_named(env, text, path):
    problems = configs.rejects(env, text, line=1)
    assert any(path in (problem["path"] or "") or path in problem["text"] for problem in problems), problems


REQUIRED = [
    ("    - name: front\n      listener", "    - listener", "server.proxies[0]", "name"),
    (
        "        address: 127.0.0.1:8080\n",
        "        write_timeout: 1s\n",
        "server.proxies[0].listener",
        "address",
    ),
    ("        - name: back\n          address", "        - address", "server.proxies[0].targets[0]", "name"),
    ("          address: 127.0.0.1:9090\n", "", "server.proxies[0].targets[0]", "address"),
]


@pytest.mark.parametrize(
    "piece, instead, path, key",
    REQUIRED,
    ids=["a proxy's name", "a listener's address", "a target's name", "a target's address"],
)
def test_a_missing_required_key_is_named_with_its_place(env, piece, instead, path, key):
    assert piece in GOOD
    problems = configs.rejects(env, GOOD.replace(piece, instead), mentions=[], count=1)
    assert (problems[0]["path"] or "").startswith(path)
    assert key in problems[0][0]


@pytest.mark.parametrize(
    "piece",
    [
        "      listener:\n        address: 127.0.0.1:8080\n        \n",
        "      targets:\n        - name: back\n          address: 127.0.0.1:9090\n          \n",
    ],
    ids=["listener", "targets"],
)
def test_a_missing_listener_or_list_of_targets_is_named(env, piece):
    assert piece in GOOD
    problems = configs.rejects(env, GOOD.replace(piece, ""), count=1)
    assert piece.split(":")[0].strip() in problems[0][0]


def test_an_empty_list_of_targets_is_rejected(env):
    text = GOOD.replace("        - name: back\n          address: 127.0.0.1:9090\n", "").replace(
        "targets:", "targets: []"
    )
    problems = configs.rejects(env, text, count=1)
    assert "server.proxies[0].targets" in problems[0][0]


@pytest.mark.parametrize(
    "place, key, hint",
    [
        ("listener", "adress: x", "address"),
        ("listener", "read_timout: 5s", "read_timeout"),
        ("listener", "authorised_sources: []", "authorized_sources"),
        ("listener", "Read_Timeout: 5s", "read_timeout"),
        ("listener", "read-timeout: 5s", "read_timeout"),
        ("target", "conect_timeout: 5s", "connect_timeout"),
        ("target", "connect_attempt: 5", "connect_attempts"),
        ("options", "connection_limits: 5", "connection_limit"),
        ("options", "loadbalancer_of_some_kind: x", None),
        ("options", "zzz: 1", None),
        ("top", "aplication: {}", "application"),
        ("top", "servers: {}", "server"),
        ("listener", "'': x", None),
        ("listener", "5: x", None),
        ("listener", "connection_limit: 5", None),
        ("target", "authorized_sources: []", None),
    ],
)
def test_an_unknown_key_is_rejected_with_a_hint_at_the_likely_one(env, place, key, hint):
    _, line, column = configs.PLACES[place]
    problems = configs.rejects(
        env, configs.with_line(place, key), line=line, columns=(column, column), count=1
    )
    name = key.split(":")[0].strip("'")
    assert name in problems[0][0]
    if hint:
        assert "did you mean" in problems[0]["text"] and hint in problems[0]["text"]
    else:
        assert "did you mean" not in problems[0]["text"]


def test_an_unknown_key_is_one_problem_whatever_is_below_it(env):
    for line in ("unknown_thing:", "unknown_thing: {a: [1, {b: c}], d: e}", "? [a, b]\n        : c"):
        configs.rejects(env, configs.with_line("listener", line), line=6, count=1)


@pytest.mark.parametrize(
    "place, key",
    [
        ("listener", "address: 127.0.0.1:1"),
        ("target", "name: again"),
        ("options", "connection_load_balancer: failover"),
        ("top", "server: {}"),
    ],
)
def test_a_duplicate_key_is_rejected_at_its_place(env, place, key):
    _, line, column = configs.PLACES[place]
    configs.rejects(
        env, configs.with_line(place, key), line=line, columns=(column, column), mentions=["duplicate"]
    )


def test_duplicate_names_of_proxies_or_of_a_proxys_targets_are_rejected(env):
    two = "server:\n  proxies:\n" + "".join(
        f"    - {{name: {name}, listener: {{address: ':{port}'}}, "
        f"targets: [{{name: {target}, address: 'h:1'}}, {{name: {other}, address: 'h:2'}}], "
        "options: {connection_load_balancer: none}}\n"
        for name, port, target, other in [("{0}", 80, "a", "{1}"), ("two", 81, "a", "b")]
    )
    configs.accepts(env, two.replace("{0}", "one").replace("{1}", "b"))
    problems = configs.rejects(env, two.replace("{0}", "two").replace("{1}", "b"), line=4, count=1)
    assert problems[0]["path"] == "server.proxies[1].name"
    problems = configs.rejects(env, two.replace("{0}", "one").replace("{1}", "a"), line=3, count=1)
    assert problems[0]["path"] == "server.proxies[0].targets[1].name"


def test_all_problems_are_reported_in_order(env):
    text = configs.BASE.format(
        listener="read_timeout: 5x",
        target="connect_attempts: 0",
        options="connection_limit: no",
        top="aplication: {}",
    ).replace("connection_load_balancer: none", "enable_dual_stack: 7")
    _, problems, stderr = configs.check(env, text)
    assert [int(problem["line"]) for problem in problems] == [6, 10, 12, 13, 14], stderr


# Behind each mark the path under which the line is wrong.
PROBLEMS = """\
application:
  sentry_dns: https://key@host/1 # application.sentry_dns
  metrics:
    address: nowhere # application.metrics.address
    prefix: [a] # application.metrics.prefix
  log:
    level: verbose # application.log.level
    level: info # application.log.level
server:
  drain_timeout: 5 parsecs # server.drain_timeout
  proxies:
    - name: one
      listener:
        address: tcp://127.0.0.1:99999 # server.proxies[0].listener.address
        read_timeout: -1s # server.proxies[0].listener.read_timeout
        authorized_sources:
          - 300.0.0.1 # server.proxies[0].listener.authorized_sources[0]
          - 10.0.0.0/8
          - ::/129 # server.proxies[0].listener.authorized_sources[2]
        tls_context:
          verify_mode: paranoid # server.proxies[0].listener.tls_context.verify_mode
          certificates:
            - {key: server.key, certificate: server.crt}
      targets:
        - name: a
          address: 127.0.0.1 # server.proxies[0].targets[0].address
          connect_attempts: 0 # server.proxies[0].targets[0].connect_attempts
        - name: a # server.proxies[0].targets[1].name
          address: 127.0.0.1:1
          conect_timeout: 1s # server.proxies[0].targets[1].conect_timeout
          proxy: http://127.0.0.1:1 # server.proxies[0].targets[1].proxy
          keepalive_interval: -2 # server.proxies[0].targets[1].keepalive_interval
      options:
        connection_limit: 99999999999999999999 # server.proxies[0].options.connection_limit
        connection_load_balancer: random # server.proxies[0].options.connection_load_balancer
        enable_proxy_header: maybe # server.proxies[0].options.enable_proxy_header
        enable_dual_stack: "true" # server.proxies[0].options.enable_dual_stack
    - name: one # server.proxies[1].name
      listener: {} # server.proxies[1].listener.address
      targets: [] # server.proxies[1].targets
    - 42 # server.proxies[2]
"""


def test_each_of_many_problems_is_told_at_its_place_in_one_run(env):
    status, problems, stderr = configs.check(env, PROBLEMS)
    lines = enumerate(PROBLEMS.splitlines(), 1)
    expected = [(number, line.partition(" # ")[2]) for number, line in lines if " # " in line]
    assert [(int(problem["line"]), problem["path"]) for problem in problems] == expected, stderr
    assert (status, len(stderr.splitlines())) == (2, len(expected)), stderr


def test_each_of_a_hundred_proxies_problems_is_reported(env):
    text = "server:\n  proxies:\n" + "".join(
        f"    - {{name: n{number}, listener: {{address: 'nowhere'}}, "
        f"targets: [{{name: a, address: 'h:{number + 1}'}}]}}\n"
        for number in range(100)
    )
    _, problems, _ = configs.check(env, text)
    assert [problem["path"] for problem in problems] == [
        f"server.proxies[{n}].listener.address" for n in range(100)
    ]


def test_a_problem_behind_an_alias_is_reported_at_its_anchor(env):
    """Anchors and aliases are plain YAML, and accepted."""
    text = GOOD.replace(
        "listener:\n        address: 127.0.0.1:8080\n        \n",
        "listener: &one\n        address: &a ':80'\n",
    )
    text = text.replace("      targets:\n", "      targets: &two\n").replace(
        "      options:\n", "      options: &three\n"
    )
    configs.accepts(
        env, text + "    - {name: second, listener: {address: ':81'}, targets: *two, options: *three}\n"
    )
    configs.rejects(
        env,
        text.replace("load_balancer: none", "load_balancer: nono")
        + "    - {name: second, listener: {address: ':81'}, targets: *two, options: *three}\n",
        line=11,
    )


def test_an_alias_that_contains_itself_is_rejected(env):
    configs.rejects(env, "server: &x\n  proxies: *x\n")
    configs.rejects(env, "server:\n  proxies: &x\n    - *x\n")
    configs.rejects(env, "&x [*x, *x]\n")


def test_a_proxy_whose_targets_are_an_alias_serves(env):
    echo, one, two = env.echo(), env.address(), env.address()
    path = env.write(
        f"application: {{log: {{level: info}}}}\nserver:\n  proxies:\n"
        f"    - {{name: one, listener: {{address: '{one}'}}, "
        f"targets: &t [{{name: t, address: '{echo.address}'}}]}}\n"
        f"    - {{name: two, listener: {{address: '{two}'}}, targets: *t}}\n"
    )
    bitflow = env.launch(path)
    bitflow.wait_listening(["one", "two"])
    for address in (one, two):
        sockets.round_trip(env.connect(address))


def bounded(env, text, seconds=20):
    """--check within a bound of time: (exit status, stderr, the most memory of any child so far in KiB)."""
    path = env.write(text)
    command = [str(bitflow_process.binary()), "--check", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, timeout=seconds * pace(), text=True, errors="replace")
    for report in bitflow_process.SANITIZER_REPORTS:
        assert report not in done.stderr, done.stderr[:5000]
    assert done.returncode in (0, 2), f"status {done.returncode}: {done.stderr[-2000:]}"
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return done.returncode, done.stderr, peak


def comments(megabytes):
    comment = "# a long line of comment that says nothing at all\n"
    return GOOD + comment * ((megabytes * 1_000_000 - len(GOOD)) // len(comment))


def targets(count):
    return "server:\n  proxies:\n    - name: a\n      listener: {address: ':80'}\n      targets:\n" + "".join(
        f"        - {{name: target-number-{n}, address: 'host-{n}.example:{n % 65000 + 1}'}}\n"
        for n in range(count)
    )


def proxies(count):
    return "server:\n  proxies:\n" + "".join(
        f"    - {{name: proxy-{n}, listener: {{address: '127.{n >> 16}.{n >> 8 & 255}.{n & 255}:8080'}}, "
        f"targets: [{{name: t, address: 'h.example:80'}}]}}\n"
        for n in range(count)
    )


@pytest.mark.parametrize(
    "made, size",
    [(comments, 1), (comments, 10), (targets, 13_000), (targets, 150_000), (proxies, 6_000), (proxies, 100_000)],
    ids=lambda value: value if isinstance(value, int) else value.__name__,
)
def test_megabytes_are_accepted_or_too_large_and_never_slow(env, made, size):
    text = made(size)
    status, stderr, _ = bounded(env, text)
    # One megabyte is accepted; more may be refused for its size, and then the message says so.
    assert status == 0 or (len(text) > 1_000_000 and "too large" in stderr), stderr[-2000:]


@pytest.mark.parametrize("size", [1_000_000, 10_000_000])
def test_megabytes_in_one_value_are_refused_without_repeating_them(env, size):
    status, stderr, _ = bounded(env, GOOD.replace("name: front", "name: " + "x" * size))
    assert status == 2
    assert len(stderr) < 10_000, "the message repeats the value"


@pytest.mark.parametrize("count", [50_000, 600_000])
def test_megabytes_of_unknown_keys_are_refused(env, count):
    text = "server:\n  proxies: []\n" + "".join(f"key{n}: {{a: b}}\n" for n in range(count))
    status, stderr, _ = bounded(env, text)
    assert status == 2 and stderr


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_a_hundred_thousand_levels_are_an_error(env, opening):
    """Not the end of the stack."""
    assert bounded(env, "server: " + ("\n" if opening in "- ? " else "") + opening * 100_000 + "\n")[0] == 2


def test_a_billion_laughs_are_refused_within_bounded_memory(env):
    text = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        text += f"b{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    status, _, peak = bounded(env, text + "server: {proxies: *a11}\n")
    assert status == 2
    assert peak < 4_000_000, f"{peak} KiB"
    text = text.replace("[x, x, x, x, x, x, x, x, x, x]", "{name: n, listener: {address: ':1'}, targets: []}")
    assert bounded(env, text + "server: {proxies: *a11}\n")[0] == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_mutated_configuration_is_answered_without_a_crash(env, seed):
    """Bytes flipped, cut out and doubled."""
    generator = random.Random(seed)
    source = configs.BASE.format(
        listener="authorized_sources: [10.0.0.0/8, '::1']",
        target="connect_timeout: 1m30s",
        options="connection_log: /tmp/x",
        top="application: {log: {level: info}}",
    ).encode()
    for _ in range(20):
        text = bytearray(source)
        for _ in range(generator.randrange(1, 6)):
            place = generator.randrange(len(text))
            action = generator.randrange(4)
            if action == 0:
                text[place] = generator.randrange(256)
            elif action == 1:
                del text[place : place + generator.randrange(1, 20)]
            elif action == 2:
                text[place:place] = text[place : place + generator.randrange(1, 40)]
            else:
                text[place:place] = generator.choice(
                    [b"[", b"]", b"{", b"}", b":", b"\n", b"&a ", b"*a", b"- ", b"'", b"!!"]
                )
        bounded(env, bytes(text))


@pytest.mark.parametrize("name", ["nowhere.yaml", ""], ids=["missing", "a directory"])
def test_a_file_that_cannot_be_read_is_named(env, name):
    path = env.directory / name
    done = bitflow_process.run("--config", path)
    assert done.returncode == 2 and str(path) in done.stderr


def test_a_file_without_permission_is_named(env):
    """Who may read everything (CAP_DAC_OVERRIDE) becomes somebody else."""
    path = env.write(GOOD)
    path.chmod(0)
    reads_all = os.access(path, os.R_OK)
    if reads_all:
        needs.ANOTHER_USER.need()
    bitflow = env.launch(path, {"uid": 61001} if reads_all else None)
    bitflow.expected_status = 2
    assert bitflow.wait_ended() == 2
    assert str(path) in bitflow.stderr() and "ermission denied" in bitflow.stderr()


def test_a_configuration_can_come_through_standard_input(env):
    address, echo = env.address(), env.echo()
    path = env.config(proxy(address, echo.address))
    done = subprocess.run(
        ["/bin/sh", "-c", f"cat {path} | {bitflow_process.binary()} --check --config /dev/stdin"],
        capture_output=True,
        text=True,
        timeout=20 * pace(),
    )
    assert done.returncode == 0, done.stderr


def test_a_second_document_is_an_error(env):
    """Otherwise it would be ignored in silence."""
    configs.rejects(env, GOOD + "---\nserver: {}\n")
