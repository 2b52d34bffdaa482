"""docs/threads.md names fields, functions and files that exist, and what it calls shared without a lock is atomic."""

import os
import re

import sources

DOCUMENT = "docs/threads.md"
QUOTED = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"(?:\w+/)*\w+\.[ch]")
# Names with something that only code has: a member of something, a call, an underscore. Threads' names are without.
CODE = re.compile(r"(?=.*(?:_|\.|->|\(\)|struct ))(?:struct )?[a-z_]\w*(?:(?:\.|->)[a-z_]\w*)*(?:\(\))?")
ATOMIC = re.compile(
    r"^[ \t]*(?:static )?(?:_Atomic|atomic_\w+)\b[^;={,]*?(\w+)(?:\[[^;=,]*\])*\)?(?:\([^;=,]*\))?[ \t]*[;=]",
    re.MULTILINE)


class Tree:
    def __init__(self, files):
        """`files`: {path: text} of the program's sources."""
        code = "\n".join(sources.code(text) for text in files.values())
        self.words = set(re.findall(r"\w+", code))
        self.words |= {word for text in files.values() for word in re.findall(r'"(\w+)"', text)}  # the configuration's
        self.atomics = set(ATOMIC.findall(code))
        self.files = {os.path.basename(path) for path in files} | {"/".join(path.split("/")[-2:]) for path in files}

    def missing(self, quoted):
        if FILE.fullmatch(quoted):
            return [] if quoted in self.files else [quoted]
        return [word for word in re.findall(r"\w+", quoted) if word not in self.words] if CODE.fullmatch(quoted) else []


def violations(document, tree):
    found, section = [], ""
    for number, line in enumerate(document.split("\n"), 1):
        section = line[3:] if line.startswith("## ") else section
        found += [f"{DOCUMENT}:{number}: `{quoted}`: the sources have no {word}"
                  for quoted in QUOTED.findall(line) for word in tree.missing(quoted)]
        if section == "Shared without a lock" and line.startswith("| "):
            found += [f"{DOCUMENT}:{number}: `{quoted}` is not atomic"
                      for quoted in QUOTED.findall(line.split(" | ")[0])
                      if not FILE.fullmatch(quoted) and re.findall(r"\w+", quoted)[-1] not in tree.atomics]
    return found


def rows_of_atomics(document):
    """The first cells of the table of what is shared without a lock."""
    table = document.partition("\n## Shared without a lock\n")[2].partition("\n|")[2].partition("\n\n")[0]
    return [line.split(" | ")[0] for line in table.split("\n")[2:]]


def test_what_the_document_names_is_in_the_sources():
    tree = Tree({path: sources.read(path) for path in sources.files(["include", "src"], (".c", ".h"))})
    found = violations(sources.read(DOCUMENT), tree)
    assert not found, "\n".join(found)


def test_each_atomic_has_one_row():
    rows = rows_of_atomics(sources.read(DOCUMENT))
    assert len(rows) > 20
    assert len(set(rows)) == len(rows), rows


def test_the_check_sees_what_it_is_for():
    tree = Tree({"src/base/a.c": 'struct a {\n    _Atomic(enum b) state;\n    int plain;\n'
                                 '    atomic_bool is_due;\n    _Atomic uint64_t kept[2][N];\n'
                                 '    _Atomic(void (*)(void *)) task; // old_name\n};\nf("some_key");\n'
                                 'bool g(_Atomic(enum b) *at,\n       const _Atomic int *plain);\n'})
    assert tree.atomics == {"state", "kept", "task", "is_due"}
    for text in ("`a.lost`", "`a->lost`", "`lost()`", "`old_name`", "`b.c`", "`base/b.c`", "`struct lost`",
                 "## Shared without a lock\n| a's `plain` | x |"):
        assert violations(text, tree), text
    for text in ("`a.plain`", "`f()`", "`some_key`", "`a.c`", "`base/a.c`", "`struct a`", "`web#1>`", "`parked`",
                 "## Shared without a lock\n| a's `state` (`a.c`) | `plain` |"):
        assert not violations(text, tree), text
