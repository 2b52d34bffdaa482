"""What /proc tells about processes and about the system. Times in seconds, sizes in bytes."""

import os

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

# What the kernel accounts for, beside the pages of processes and files.
KERNEL_FIELDS = ("Slab", "KernelStack", "PageTables", "Percpu")


def _stat_fields(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def _children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
            found += [int(word) for word in file.read().split()]
    return found


def process_tree(pid):
    """The process and its descendants that live now."""
    tree = [pid]
    for parent in tree:
        try:
            tree += _children(parent)
        except (FileNotFoundError, ProcessLookupError):
            pass
    return tree


def _tree_ticks(tree):
    total = 0
    for member in tree:
        try:
            fields = _stat_fields(member)
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(value) for value in fields[11:15])
    return total


def processor_seconds(pid):
    """User and system time of a process, its ended threads and its descendants, dead (and waited for) or alive."""
    for _ in range(20):
        # A child that is waited for meanwhile would be counted in neither place, or in both.
        tree = process_tree(pid)
        ticks = _tree_ticks(tree)
        if process_tree(pid) == tree:
            break
    return ticks / TICKS


def busy_seconds():
    """Processor time that the whole machine has spent on anything, the time stolen by other machines included."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def proportional_set_size(pid, field="Pss:"):
    """Pss of a process and its descendants; or of a part of their memory, as "Pss_Anon:"."""
    total = 0
    for member in process_tree(pid):
        try:
            with open(f"/proc/{member}/smaps_rollup", encoding="ascii") as file:
                total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def thread_count(pid):
    return sum(len(os.listdir(f"/proc/{member}/task")) for member in process_tree(pid))


def _fold_counters():
    """Has the kernel fold each processor's share of its counters into the totals (it takes root)."""
    try:
        with open("/proc/sys/vm/stat_refresh", "rb") as file:
            file.read()
    except OSError:
        pass


def _free_on_lists():
    """Free pages on the processors' own lists, which MemFree leaves out."""
    with open("/proc/zoneinfo", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.split()[0] == "count:") * PAGE


def time_wait_sockets():
    with open("/proc/net/sockstat", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[0] == "TCP:":
                return int(words[words.index("tw") + 1])
    return 0


def system_memory():
    """`kernel`: what the kernel accounts for itself and its sockets; `used`: all that is neither free nor cache."""
    _fold_counters()
    on_lists = _free_on_lists()
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
    sockets = 0
    with open("/proc/net/sockstat", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if "mem" in words:
                sockets += int(words[words.index("mem") + 1]) * PAGE
    return {
        "kernel": sum(fields.get(name, 0) for name in KERNEL_FIELDS) + sockets,
        "used": fields["MemTotal"] - fields["MemFree"] - on_lists - fields["Buffers"] - fields["Cached"],
    }
