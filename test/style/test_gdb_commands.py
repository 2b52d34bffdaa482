"""gdb's commands (src/gdb) name what the program has: a name that a change of the program took away would only be
missed by whoever debugs."""

import ast
import re

import sources

LIST_MEMBERS = {"tqh_first", "tqe_next"}  # of <sys/queue.h>
ENUMERATOR = re.compile(r"[A-Z0-9]+(_[A-Z0-9]+)+")


class Program:
    """The names in the program's sources."""

    def __init__(self, text):
        code = sources.code(text)
        self.words = set(re.findall(r"\w+", code))
        self.members = set(re.findall(r"(?:->|\.)(\w+)", code)) | LIST_MEMBERS
        self.types = {" ".join(match) for match in re.findall(r"\b(struct|enum) (\w+)\s*\{", code)}
        self.functions = {name for _, name, _ in sources.functions(text)}

    def has_constant(self, name):
        return bool(ENUMERATOR.fullmatch(name)) and name in self.words


def strings(nodes):
    return [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value]


def violations(path, text, program):
    found = []

    def expect(node, is_there, what):
        if not is_there:
            found.append(f"{path}:{node.lineno}: the program has no {what} {node.value}")

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Dict):
            for key in strings(node.keys):
                expect(key, program.has_constant(key.value) or key.value in program.functions, "enumerator or function")
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            for word in strings(node.comparators):
                expect(word, program.has_constant(word.value) or word.value in program.functions,
                       "enumerator or function")
        elif isinstance(node, ast.Subscript):
            for member in strings([node.slice]):
                expect(member, member.value in program.members, "member")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "variable":
            for name in strings(node.args):
                expect(name, name.value in program.words, "variable")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"(struct|enum) \w+", node.value):
                expect(node, node.value in program.types, "type")
            elif ENUMERATOR.fullmatch(node.value):
                expect(node, program.has_constant(node.value), "enumerator")
    return found


def test_what_gdbs_commands_name_is_in_the_program():
    program = Program("\n".join(sources.read(path) for path in sources.files(["include", "src"], (".c", ".h"))))
    paths = sources.files(["src/gdb"], ".py")
    assert len(paths) == 2
    found = [violation for path in paths for violation in violations(path, sources.read(path), program)]
    assert not found, "\n".join(found)


def test_the_check_sees_what_it_is_for():
    program = Program("enum phase { PHASE_ACCEPTING };\nstatic int known;\n"
                      "void run(struct a *a)\n{\n    a->accepted++;\n}\n")
    for text in ('x = {"accepted": 1}', 'x = {"PHASE_OLD": 1}', 'y == "accepted"', 'v["lost"]', 'variable("lost")',
                 'f("struct lost")', 'y in ("PHASE_OLD",)'):
        assert violations("a.py", text, program), text
    for text in ('x = {"PHASE_ACCEPTING": 1, "run": 2}', 'v["accepted"]["tqh_first"]', 'variable("known")',
                 'y == "PHASE_ACCEPTING"', 'f("enum phase")'):
        assert not violations("a.py", text, program), text
