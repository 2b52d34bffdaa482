"""gdb's commands for bitflow: connections, their threads, the proxies; see docs/debugging.md.

This comes after bitflow_memory.py and uses its names. Both are part of the program (src/server/debugger.c), so that gdb
loads them by itself where its auto-load safe-path allows.
"""

# Connections and proxies


class Connection:
    def __init__(self, address):
        self.address = address
        self.value = pointer(address, type_of("struct connection")).dereference()
        self.first = self.second = None  # threads
        self.id = int(self.value["id"])
        self.phase = enumerator(self.value["phases"]["current"])
        self.phase_name = phase_words(self.phase)[0]
        self.proxy = text_at(self.value["generation"]["proxy"]["name"])
        self.client = endpoint_text(self.value["client"]["peer"])
        target = self.value["upstream"]["target"]
        self.target = text_at(target["settings"]["name"]) if int(target) else "-"
        sides = self.value["relay"]["sockets"]
        self.from_client, self.from_target = int(sides[0]["bytes"]), int(sides[1]["bytes"])

    def age(self, clock):
        return clock.age(int(self.value["phases"]["started"]), int(self.value["start_wall"]))

    def step(self):
        """The step of dialling that it came to last; "": none."""
        name, step = phase_words(enumerator(self.value["phases"]["step"]))
        return step if name == phase_words("PHASE_DIALLING")[0] else ""

    def threads(self):
        return [thread for thread in (self.first, self.second) if thread is not None]


def live_connections(problems):
    """{address: connection} of the registry, and of threads that still close one, with their threads."""
    threads = all_threads(problems)
    runtime = variable("debugged_process")["runtime"]
    if int(runtime) == 0:
        raise Failure("The process has not started to serve yet.")
    registry = runtime["registry"].dereference()
    first, last = registry["lifetimes"].type.range()
    lists = [registry["unlimited"]] + [registry["lifetimes"][i] for i in range(first, last + 1)]
    addresses = [int(container(int(entry.address), "struct connection", "entry"))
                 for entries in lists
                 for entry in follow(entries, problems, "connections")]
    addresses += [thread.argument for thread in threads if thread.task == "connection_serve"]
    found = {}
    for address in addresses:
        try:
            found.setdefault(address, Connection(address))
        except gdb.error as error:
            problems.append("The connection at %#x cannot be read: %s" % (address, error))
    for thread in threads:
        attach(thread, found)
    return found, threads


def attach(thread, connections):
    """Connects a thread that serves a connection with it."""
    if thread.task == "connection_serve":
        thread.connection = connections.get(thread.argument)
        if thread.connection is not None:
            thread.connection.first = thread
    elif thread.task == "run_second_thread":
        try:
            relay = pointer(thread.argument, type_of("struct handoff"))["shared"]["relay"]
            thread.connection = connections.get(int(container(int(relay), "struct connection", "relay")))
        except gdb.MemoryError:
            return  # it has ended in this moment, and its connection goes on without it
        if thread.connection is not None:
            thread.connection.second = thread


def open_listeners():
    listeners = variable("debugged_process")["listeners"]
    if int(listeners) == 0:
        return []
    count = min(int(listeners["count"]), LIST_LIMIT)
    return [listeners["acceptors"][number].dereference() for number in range(count)]


def health_text(target, clock):
    """What health.c makes of a target's health."""
    word, limit = int(target["health"]["state"]), int(target["settings"]["max_fails"])
    fails, since = word & 0xFFFF, (word >> 16) * 1000000
    if limit == 0 or fails < limit:
        return "good" if fails == 0 else "good, %d failures" % fails
    if clock.monotonic is None or clock.monotonic - since < int(target["settings"]["fail_timeout"]):
        return "out"
    return "out, to be tried"


# Output


def write_table(heads, rows, right=()):
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    for row in [heads, *rows]:
        cells = [cell.rjust(width) if head in right else cell.ljust(width)
                 for head, cell, width in zip(heads, row, widths)]
        gdb.write("  ".join(cells).rstrip() + "\n")


def write_problems(problems):
    for problem in problems:
        gdb.write("warning: %s\n" % problem)


class Command(gdb.Command):
    """What the commands have in common."""

    name = ""

    def __init__(self):
        super().__init__("bitflow" + (" " + self.name if self.name else ""), gdb.COMMAND_DATA,
                         gdb.COMPLETE_NONE, self.name == "")

    def invoke(self, argument, _):
        problems = []
        with Selected():
            try:
                self.run(argument.strip(), problems)
            except gdb.error as error:
                raise Failure(str(error))
        write_problems(problems)


class Bitflow(Command):
    """Looks into bitflow: its connections, proxies and threads.
Works on a live process and on a core file; nothing in the process is changed or called."""

    def run(self, argument, _):
        gdb.execute("help bitflow")


class Connections(Command):
    """bitflow connections [PROXY]: lists the connections, all or a proxy's.
FROM-CLIENT and FROM-TARGET are bytes. THREADS are gdb's numbers with the kernel's ids: > reads from the client (alone,
it serves both ways), < reads from the target."""

    name = "connections"

    def run(self, argument, problems):
        connections, _ = live_connections(problems)
        clock = Clock()
        rows = []
        for connection in sorted(connections.values(), key=lambda each: each.id):
            if argument in ("", connection.proxy):
                threads = [mark + thread.label() for mark, thread in
                           ((">", connection.first), ("<", connection.second)) if thread is not None]
                rows.append([str(connection.id), connection.proxy, connection.client, connection.target,
                             connection.phase_name, str(connection.from_client), str(connection.from_target),
                             age_text(connection.age(clock)), " ".join(threads) or "-"])
        heads = ["ID", "PROXY", "CLIENT", "TARGET", "PHASE", "FROM-CLIENT", "FROM-TARGET", "AGE", "THREADS"]
        write_table(heads, rows, ("ID", "FROM-CLIENT", "FROM-TARGET", "AGE"))
        gdb.write("%d connections\n" % len(rows))


class OneConnection(Command):
    """bitflow connection [ID]: tells what a connection is doing.
By default it is the selected thread's. Its threads' backtraces follow; $connection is a pointer to it afterwards."""

    name = "connection"

    def run(self, argument, problems):
        connections, threads = live_connections(problems)
        connection = self.find(argument, connections, threads)
        gdb.set_convenience_variable("connection", connection.value.address)
        self.write(connection, Clock())
        for thread in connection.threads():
            if thread.number is not None:
                gdb.write("\nThread %s \"%s\": %s\n" % (thread.label(), thread.name, thread.does()))
                thread.native.switch()
                gdb.execute("backtrace 40")

    def find(self, argument, connections, threads):
        selected = gdb.selected_thread()
        for connection in connections.values():
            mine = [thread.number for thread in connection.threads()]
            if argument == str(connection.id) or (argument == "" and selected and selected.num in mine):
                return connection
        raise Failure("There is no connection %s." % argument if argument else
                      "The selected thread serves no connection; name one by its id.")

    def write(self, connection, clock):
        value = connection.value
        reason = enumerator(value["entry"]["settled_reason"])
        rows = [["connection", "%d of %s, %s for %s" % (connection.id, connection.proxy, connection.phase_name,
                                                        age_text(connection.age(clock)))],
                ["ended by", "nothing yet" if reason == "CLOSE_NONE" else reason.removeprefix("CLOSE_").lower()],
                ["client", "%s, socket %d" % (connection.client, int(value["entry"]["client"]))]]
        client, upstream = value["client"], value["upstream"]
        if int(client["declared"]):
            rows.append(["declared", endpoint_text(client["declared"]["client"])])
        if int(client["source"]):
            rows.append(["source", "has %d connections" % int(client["source"]["connections"])])
        name = text_in(client["server_name"])
        if name:
            rows.append(["server name", name])
        if int(upstream["target"]):
            place = address_text(upstream["target"]["settings"]["address"])
            remote = endpoint_text(upstream["dialled"]["remote"])
            place += " at " + remote if remote not in (place, "none") else ""
            number = int(value["entry"]["target"])
            rows.append(["target", "%s, %s%s" % (connection.target, place,
                                                 ", socket %d" % number if number >= 0 else "")])
            step = connection.step()
            rows.append(["attempts", "%d%s" % (int(upstream["attempts"]), ", the last one in " + step if step else "")])
        rows.append(["tls", "client %s, target %s" % ("yes" if int(client["tls"]) else "no",
                                                      "yes" if int(upstream["tls"]) else "no")])
        rows.append(["bytes", "%d from the client, %d from the target" % (connection.from_client,
                                                                         connection.from_target)])
        rows += self.directions(connection)
        error = text_in(value["failure"]["error"]["text"])
        if error:
            rows.append(["error", error])
        for title, text in rows:
            gdb.write("%-12s %s\n" % (title, text))

    def directions(self, connection):
        """What each direction has in its hands, once there are two threads."""
        if connection.second is None:
            return []
        directions = pointer(connection.second.argument, type_of("struct handoff"))["shared"]["directions"]
        rows = []
        for side, name in enumerate(("to target", "to client")):
            direction = directions[side]
            state = enumerator(direction["state"])
            words = ["%d bytes in its buffers" % int(direction["pending"])]
            for applies, word in ((state in ("DIRECTION_WRITING", "DIRECTION_CLOSING"), "in a write"),
                                  (int(direction["is_stalled"]), "the write waits"),
                                  (state in ("DIRECTION_FINISHED", "DIRECTION_UNHEARD"), "its end is passed on"),
                                  (int(direction["has_failed"]), "it has failed")):
                if applies:
                    words.append(word)
            rows.append([name, ", ".join(words)])
        return rows


class Proxies(Command):
    """bitflow proxies: lists the proxies and their targets.
ACTIVE are connections now, ACCEPTED since the start. A proxy that a reload has taken away is there as long as it has
connections."""

    name = "proxies"

    def run(self, _, problems):
        connections, _ = live_connections(problems)
        generations = []
        for acceptor in open_listeners():
            generations.append((acceptor["admission"]["generation"], address_text(acceptor["listener"]["address"])))
        for connection in connections.values():
            generations.append((connection.value["generation"], "(closed)"))
        seen, rows, clock = set(), [], Clock()
        for generation, address in generations:
            try:
                proxy = generation["proxy"]
                if int(proxy) not in seen:
                    seen.add(int(proxy))
                    rows += self.rows(generation, proxy, address, clock)
            except gdb.error as error:
                problems.append("The proxy at %s cannot be read: %s" % (address, error))
        write_table(["PROXY", "ADDRESS", "ACTIVE", "ACCEPTED", "TARGET", "ADDRESS", "ACTIVE", "HEALTH"], rows,
                    ("ACTIVE", "ACCEPTED"))

    def rows(self, generation, proxy, address, clock):
        first = [text_at(proxy["name"]), address, str(int(proxy["active"])), str(int(proxy["accepted"]))]
        rows = []
        for index in range(min(int(generation["settings"]["target_count"]), LIST_LIMIT)):
            target = generation["targets"][index]
            rows.append([*(first if index == 0 else [""] * 4), text_at(target["settings"]["name"]),
                         address_text(target["settings"]["address"]), str(int(target["load"]["active"])),
                         health_text(target, clock)])
        return rows


class Threads(Command):
    """bitflow threads: lists the threads and the connections they serve.
GDB is gdb's number, LWP the kernel's id, IN the innermost function of bitflow's own."""

    name = "threads"

    def run(self, _, problems):
        _, threads = live_connections(problems)
        rows = []
        for thread in threads:
            serves = "%d" % thread.connection.id if thread.connection is not None else "-"
            rows.append(["-" if thread.number is None else str(thread.number), str(thread.lwp), thread.name or "-",
                         thread.does(), (thread.native and innermost(thread.native)) or "-", serves])
        write_table(["GDB", "LWP", "NAME", "DOES", "IN", "CONNECTION"], rows, ("GDB", "LWP"))


for command in (Bitflow, Connections, OneConnection, Proxies, Threads):
    command()
