"""Keys whose features come later: validated in full, then refused as not supported yet, never ignored."""

import pytest

import configs

LATER = [
    # place, lines, the path of what is refused
]

WRONG = [
    ("listener", "tls_context: {verify_mode: lax}", "server.proxies[0].listener.tls_context.verify_mode"),
    ("listener", "tls_context: {verfy_mode: none}", "server.proxies[0].listener.tls_context"),
    ("listener", "tls_context: []", "server.proxies[0].listener.tls_context"),
    ("listener", "tls_context: {certificates: {}}", "server.proxies[0].listener.tls_context.certificates"),
    (
        "listener",
        "tls_context: {certificates: [{keys: k}]}",
        "server.proxies[0].listener.tls_context.certificates[0]",
    ),
    (
        "listener",
        "tls_context: {application_protocols: h2}",
        "server.proxies[0].listener.tls_context.application_protocols",
    ),
    ("target", "tls_context: {verify_mode: 5}", "server.proxies[0].targets[0].tls_context.verify_mode"),
    ("target", "proxy: http://127.0.0.1:1080", "server.proxies[0].targets[0].proxy"),
    ("target", "proxy: socks5://127.0.0.1", "server.proxies[0].targets[0].proxy"),
    ("target", "proxy: unix://run/socks.sock", "server.proxies[0].targets[0].proxy"),
    ("target", "resolve_timeout: soon", "server.proxies[0].targets[0].resolve_timeout"),
    ("options", "enable_proxy_header: perhaps", "server.proxies[0].options.enable_proxy_header"),
    ("top", "application: {metrics: {address: 'tcp://127.0.0.1:8125'}}", "application.metrics.address"),
    ("top", "application: {metrics: {address: 'nowhere'}}", "application.metrics.address"),
    ("top", "application: {metrics: {prefx: a}}", "application.metrics"),
    ("top", "application: {sentry_dsn: 'not a url'}", "application.sentry_dsn"),
    ("top", "application: {sentry_dsn: 5}", "application.sentry_dsn"),
]


@pytest.mark.parametrize("place, text, path", LATER)
def test_refused_for_now(env, place, text, path):
    _, line, column = configs.PLACES[place]
    problems = configs.rejects(
        env,
        configs.with_line(place, text),
        line=line,
        columns=(column, column + len(text)),
        mentions=["not supported yet"],
    )
    assert problems[0]["path"].startswith(path), problems[0][0]
    assert "secret" not in problems[0][0]


@pytest.mark.parametrize("place, text, path", WRONG)
def test_validated_now(env, place, text, path):
    """What is wrong with it is told now, whatever is supported."""
    _, line, _ = configs.PLACES[place]
    _, problems, stderr = configs.check(env, configs.with_line(place, text))
    wrong = [problem for problem in problems if "not supported yet" not in problem["text"]]
    assert wrong, stderr
    assert any(int(problem["line"]) == line and problem["path"].startswith(path) for problem in wrong), stderr


def test_refused_at_the_start_too(env):
    text = configs.with_line("top", "application: {metrics: {address: '127.0.0.1:8125'}}")
    path = env.write(text.replace("127.0.0.1:8080", env.unix()))
    bitflow = env.launch(path)
    bitflow.expected_status = 2
    assert bitflow.wait_ended() == 2
    assert "not supported yet" in bitflow.stderr() and f"{path}:14:" in bitflow.stderr()
