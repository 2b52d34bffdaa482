"""Functions that are not to be called, and calls that need a flag."""

import re

import sources

FORBIDDEN = {
    "unbounded or silently cutting copies: use snprintf or memcpy with a checked length":
        "strcpy strncpy stpcpy strcat strncat sprintf vsprintf gets alloca strdupa strndupa",
    "no error for bad input: use strtol and its like with full checks":
        "atoi atol atoll atof scanf sscanf fscanf vscanf vsscanf vfscanf",
    "hidden state that threads share: use the _r function, or another":
        "strtok asctime ctime localtime gmtime inet_ntoa gethostbyname gethostbyaddr getservbyname readdir64 rand srand"
        " strerror_l basename dirname setlocale putenv",
    "race or shell: not in this program":
        "mktemp tmpnam tempnam system popen",
    "flow control that cannot be reasoned about":
        "setjmp longjmp sigsetjmp siglongjmp pthread_cancel pthread_kill signal vfork",
    "a sleep stands for a condition that should be waited for":
        "sleep usleep nanosleep clock_nanosleep",
    "cannot set close-on-exec at once: use accept4, pipe2, dup3, F_DUPFD_CLOEXEC, epoll_create1":
        "accept pipe dup dup2 creat epoll_create",
    "limited to 1024 descriptors: use poll":
        "select pselect FD_SET",
}

# A call that must have one of these in its arguments.
NEEDED = {
    "socket": "SOCK_CLOEXEC", "socketpair": "SOCK_CLOEXEC", "accept4": "SOCK_CLOEXEC", "open": "O_CLOEXEC",
    "openat": "O_CLOEXEC", "pipe2": "O_CLOEXEC", "dup3": "O_CLOEXEC", "eventfd": "EFD_CLOEXEC",
    "timerfd_create": "TFD_CLOEXEC", "signalfd": "SFD_CLOEXEC", "epoll_create1": "EPOLL_CLOEXEC",
    "memfd_create": "MFD_CLOEXEC",
}

# No library module prints: only the program's main does, the commands that talk to a running one (the log writes with
# write()), and a mutex's last words before it aborts.
PRINTERS = {"src/main.c", "src/base/mutex.c", "src/cli/control_command.c", "src/cli/control_tables.c"}
PRINTING = "printf fprintf vprintf vfprintf puts fputs putchar fputc perror dprintf vdprintf warn warnx err errx"

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def calls(text, name):
    """Positions of calls of a function: its name, not a member's or a longer one's, before a parenthesis."""
    return [match.start() for match in re.finditer(rf"(?<![\w.])(?<!->){name}[ \t\n]*\(", text)]


def arguments(text, position):
    start = text.index("(", position)
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return text[start:]


def violations(path, text):
    text = sources.code(text)
    found = []
    for reason, names in FORBIDDEN.items():
        for name in names.split():
            found += [f"{path}:{sources.line_of(text, at)}: {name}(): {reason}" for at in calls(text, name)]
    for name, flag in NEEDED.items():
        found += [f"{path}:{sources.line_of(text, at)}: {name}() without {flag}" for at in calls(text, name)
                  if flag not in arguments(text, at)]
    if path not in PRINTERS:
        for name in PRINTING.split():
            found += [f"{path}:{sources.line_of(text, at)}: {name}(): a library does not print"
                      for at in calls(text, name)]
    return found


def test_forbidden_functions_are_not_called():
    found = [violation for path in sources.files(["include", "src"], (".c", ".h"))
             for violation in violations(path, sources.read(path))]
    assert not found, "\n".join(found)


def test_nothing_is_left_unfinished():
    found = [f"{path}:{number}: {line.strip()}"
             for path in sources.files(["include", "src", "test/unit", "test/fuzz", "test/e2e"], (".c", ".h", ".py"))
             for number, line in enumerate(sources.read(path).split("\n"), 1) if UNFINISHED.search(line)]
    assert not found, "\n".join(found)


def test_the_check_sees_what_it_is_for():
    assert violations("src/a.c", "x = atoi (text);")
    assert violations("src/a.c", "fd = socket(AF_INET, SOCK_STREAM, f(0));")
    assert violations("src/a.c", 'printf("x");')
    assert not violations("src/main.c", 'printf("x");')
    assert not violations("src/a.c", "// strcpy(a, b)\nt->signal(x); t.accept(x); address_accept(x); s = \"gets(\";")
    assert not violations("src/a.c", "fd = socket(AF_INET, SOCK_STREAM |\n SOCK_CLOEXEC, 0);")
