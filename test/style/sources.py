"""The tree's files, and C text without what is not code."""

import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_NOT_CODE = re.compile(
    r"""//(?:\\\n|[^\n])* | /\*.*?\*/ | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'""", re.DOTALL | re.VERBOSE)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def files(folders, endings):
    """Paths relative to the root, sorted. A folder that is not there yet has none."""
    found = []
    for folder in folders:
        for place, folders_below, names in os.walk(os.path.join(ROOT, folder)):
            folders_below[:] = [name for name in folders_below if not name.startswith((".", "__"))]
            found += [os.path.relpath(os.path.join(place, name), ROOT) for name in names if name.endswith(endings)]
    return sorted(found)


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def _blank(match):
    text = match.group(0)
    if text[0] in "\"'":
        return text[0] + " " * (len(text) - 2) + text[0]
    return re.sub(r"[^\n]", " ", text)


def code(text):
    """The text with comments and the contents of literals blanked; every character keeps its place."""
    return _NOT_CODE.sub(_blank, text)


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def includes(text):
    """(line, what is between the quotes or angle brackets) of every #include."""
    return [(line_of(text, match.start()), match.group(2)) for match in _INCLUDE.finditer(text)]


def functions(text):
    """(line, name, number of lines from the opening brace's to the closing one's, both left out) of every function."""
    text = _DIRECTIVE.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), code(text))
    found, depth, start, head_from = [], 0, 0, 0
    for match in re.finditer(r"[{};]", text):
        position = match.start()
        if match.group() == "{":
            if depth == 0:
                start = position
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                head = text[head_from:start]
                name = re.search(r"(\w+)[ \t\n]*\(", head)
                if name and "=" not in head:
                    first = line_of(text, start)
                    found.append((first, name.group(1), line_of(text, position) - first - 1))
                    head_from = position + 1
        elif depth == 0:
            head_from = position + 1
    return found


def run(command):
    """Exit status and output of a program run in the root."""
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout
