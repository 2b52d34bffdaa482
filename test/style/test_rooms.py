"""What documents say of the tree: docs/architecture.md's table of rooms has each source file in its floor's row, and
nothing else; no line numbers."""

import os
import re

import sources


def rooms_told(text):
    """{folder: the names in its row}"""
    rows = re.findall(r"^\| `(src[\w/]*)` \| (.*) \|$", text, re.MULTILINE)
    return {folder: set(re.findall(r"`(\w+)`", row)) for folder, row in rows}


def rooms_built():
    found = {}
    for path in sources.files(["src"], ".c"):
        found.setdefault(os.path.dirname(path), set()).add(os.path.basename(path).removesuffix(".c"))
    return found


def test_each_source_has_its_place_in_the_table():
    told, built = rooms_told(sources.read("docs/architecture.md")), rooms_built()
    wrong = {folder: sorted(told.get(folder, set()) ^ built.get(folder, set())) for folder in told | built}
    assert len(built) > 5
    assert not any(wrong.values()), {folder: names for folder, names in wrong.items() if names}


def test_documents_name_no_lines_of_sources():
    found = [f"{path}: {match}" for path in [*sources.files(["docs"], ".md"), "README.md"]
             for match in re.findall(r"\b\w+\.[ch]:\d+", sources.read(path))]
    assert not found, "they go stale with the next change: " + ", ".join(found)


def test_the_check_sees_what_it_is_for():
    assert rooms_told("| `src/wire` | `socks5` (a codec), `foreign` |\n") == {"src/wire": {"socks5", "foreign"}}
