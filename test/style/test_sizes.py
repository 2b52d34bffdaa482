"""Limits on files, functions and lines: what outgrows them is two things."""

import sources

MAX_FILE_LINES = 550
MAX_FUNCTION_LINES = 70
MAX_LINE_LENGTH = 120

CODE = (".c", ".h", ".py", ".sh", ".cmake", "CMakeLists.txt")


def test_files_are_short():
    paths = sources.files(["include", "src", "test", "cmake"], CODE)
    assert paths
    found = [f"{path}: {count} lines" for path in paths
             if (count := sources.read(path).count("\n")) > MAX_FILE_LINES]
    assert not found, "\n".join(found)


def test_lines_are_short():
    found = [f"{path}:{number}: {len(line)} characters"
             for path in sources.files(["include", "src", "test", "cmake"], CODE)
             for number, line in enumerate(sources.read(path).split("\n"), 1) if len(line) > MAX_LINE_LENGTH]
    assert not found, "\n".join(found)


def test_functions_are_short():
    paths = sources.files(["include", "src", "test"], (".c", ".h"))
    functions = [(path, *function) for path in paths for function in sources.functions(sources.read(path))]
    assert functions
    found = [f"{path}:{line}: {name}() has {count} lines" for path, line, name, count in functions
             if count > MAX_FUNCTION_LINES]
    assert not found, "\n".join(found)


def test_the_check_sees_functions():
    text = 'struct x { int y; };\nint a[] = {(1)};\n\nstatic int\nf(const char *p) ATTRIBUTE\n{\n    if (p) {\n' \
           '        /* } */ g("}");\n    }\n}\nint h(void) {\n    return 1;\n}\n'
    assert sources.functions(text) == [(6, "f", 3), (11, "h", 1)]
