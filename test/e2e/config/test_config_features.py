"""Each feature's keys: what is wrong with a value is reported, with its place."""

import pytest

import configs

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


@pytest.mark.parametrize("place, text, path", WRONG, ids=[f"{place} {text}" for place, text, _ in WRONG])
def test_a_wrong_value_is_reported_with_its_place(env, place, text, path):
    _, line, _ = configs.PLACES[place]
    _, problems, stderr = configs.check(env, configs.with_line(place, text))
    assert any(int(problem["line"]) == line and problem["path"].startswith(path) for problem in problems), stderr
