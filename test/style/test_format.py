"""The C files are as clang-format leaves them, the shell scripts as a POSIX shell reads them."""

import pathlib
import shutil
import sys

import sources

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import needs  # noqa: E402  (the path comes first)

# One release for everybody: what is well formatted changes with each.
CLANG_FORMAT = "clang-format-19"


def test_c_files_are_formatted():
    if not shutil.which(CLANG_FORMAT):
        needs.missing(CLANG_FORMAT)
    paths = sources.files(["include", "src", "test"], (".c", ".h"))
    assert paths
    status, output = sources.run([CLANG_FORMAT, "--dry-run", "-Werror", "--ferror-limit=3", *paths])
    assert status == 0, f"{output}\nto mend it: {CLANG_FORMAT} -i FILE"


def test_scripts_parse():
    paths = [*sources.files(["cmake"], ".sh"), ".ci/run"]
    found = [output for path in paths for status, output in [sources.run(["sh", "-n", path])] if status != 0]
    assert not found, "\n".join(found)


def test_text_has_no_tabs_or_trailing_blanks():
    found = []
    for path in sources.files(["include", "src", "test", "cmake", "docs"],
                              (".c", ".h", ".py", ".sh", ".cmake", ".txt", ".md", ".yaml")):
        for number, line in enumerate(sources.read(path).split("\n"), 1):
            if "\t" in line or line != line.rstrip():
                found.append(f"{path}:{number}")
    assert not found, "\n".join(found)
