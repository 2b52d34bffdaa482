"""Configuration texts for the tests of bad input, and the reading of what bitflow says about them."""

import re

import bitflow_process

LINE = re.compile(
    r"^(?P<file>.+?):(?P<line>\d+):(?P<column>\d+): (?:(?P<path>[A-Za-z_][\w.\[\]\-]*): )?(?P<text>.+)$"
)

# The smallest whole configuration; tests put their keys in place of the marks.
BASE = """\
server:
  proxies:
    - name: front
      listener:
        address: 127.0.0.1:8080
        {listener}
      targets:
        - name: back
          address: 127.0.0.1:9090
          {target}
      options:
        connection_load_balancer: none
        {options}
{top}
"""
PLACES = {
    "listener": ("server.proxies[0].listener", 6, 9),
    "target": ("server.proxies[0].targets[0]", 10, 11),
    "options": ("server.proxies[0].options", 13, 9),
    "top": ("", 14, 1),
}


def with_line(place, line):
    """The base with one more line at a place."""
    return BASE.format(**{name: line if name == place else "" for name in PLACES})


def check(env, text, timeout=30.0, name="config.yaml"):
    """bitflow --check on the text: (exit status, problems as matches, the whole stderr)."""
    path = env.write(text, name)
    done = bitflow_process.run("--check", "--config", path, timeout=timeout)
    problems = [match for match in map(LINE.match, done.stderr.splitlines()) if match]
    for match in problems:
        assert match["file"] == str(path), f"not the file as it was named: {match[0]}"
    return done.returncode, problems, done.stderr


def accepts(env, text, **settings):
    status, _, stderr = check(env, text, **settings)
    assert status == 0, stderr
    assert stderr == "", f"accepted, and yet: {stderr}"


def rejects(env, text, line=None, columns=None, path=None, mentions=(), count=None, **settings):
    """Asserts exit status 2 and a problem at the line (and within the columns), under the path, with these
    words."""
    status, problems, stderr = check(env, text, **settings)
    assert status == 2, f"status {status}: {stderr}"
    assert problems, f"no problem with a position: {stderr!r}"
    assert len(problems) == len(stderr.strip().splitlines()), f"lines that are no problems: {stderr}"
    if count is not None:
        assert len(problems) == count, stderr

    def fits(problem):
        return (
            (line is None or int(problem["line"]) == line)
            and (columns is None or columns[0] <= int(problem["column"]) <= columns[1])
            and (path is None or problem["path"] == path)
            and all(word.lower() in problem["text"].lower() for word in mentions)
        )

    assert any(map(fits, problems)), f"no problem at {line}:{columns} {path} with {mentions}, but: {stderr}"
    return problems
