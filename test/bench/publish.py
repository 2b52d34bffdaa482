#!/usr/bin/python3
"""Writes what run.py --json has measured into docs/benchmarks.md, as tables, and beside it, as plots."""

import argparse
import json
import os
import sys
import textwrap

import plot
import scenarios

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"

# A table and a plot each: the file's name, the title, the keys of the metrics in it.
VIEWS = (
    ("rate", "Rate: more is better", ("rate",)),
    ("latency", "Latency, 99th percentile: less is better", ("p99_us",)),
    ("processor-time", "Processor time: less is better", ("cpu_per_exchange", "cpu_per_gigabyte")),
    ("memory", "Memory per idle connection: less is better", ("user", "kernel")),
)


def rows_of(summary, keys):
    """(scenario, metric, {contender: figure}) for all that was measured of these."""
    known = {one.name: one for one in scenarios.ALL}
    for name, scenario in summary["scenarios"].items():
        for metric in known[name].metrics:
            figures = {contender: result["figures"][metric.key] for contender, result in scenario["contenders"].items()
                       if metric.key in result["figures"]}
            if metric.key in keys and figures:
                yield name, metric, figures


def shown(metric, figure, which="median"):
    return f"{figure[which] * metric.scale:.{metric.digits}f}"


def table(title, rows, contenders):
    names = [name for name in contenders if any(name in figures for _, _, figures in rows)]
    lines = [f"| {title} | | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for scenario, metric, figures in rows:
        cells = (shown(metric, figures[name]) if name in figures else "" for name in names)
        lines.append(f"| `{scenario}` | {metric.unit} | {' | '.join(cells)} |")
    return lines


def drawn(title, rows):
    """Without `direct`, which shows where the kernel ends and would make the others' bars short."""
    groups = []
    for scenario, metric, figures in rows:
        bars = [plot.Bar(name, *(figure[which] * metric.scale for which in ("median", "min", "max")),
                         shown(metric, figure))
                for name, figure in figures.items() if name != "direct"]
        groups.append((f"{scenario}, {metric.unit}", bars))
    return plot.draw(title, groups)


def described(summary):
    machine, settings = summary["machine"], summary["settings"]
    beside = ", beside a process on each processor that computes" if settings["neighbours"] else ""
    foreign = [one["foreign_processors"] for one in summary["scenarios"].values() if "foreign_processors" in one]
    text = (
        f"Medians of {settings['rounds']} rounds of {settings['seconds']:g} s on {machine['processors']} processors "
        f"({machine['model']}), Linux {machine['kernel']}, {summary['date'][:10]}; certificates {settings['tls_key']}; "
        f"{settings['live_connections']} connections open in `live-*`{beside}; others kept at most "
        f"{max(foreign, default=0):.2f} processors busy.")
    return [*textwrap.wrap(text, 120), "", *(f"- {name}: {note}" for name, note in summary["contenders"].items())]


def publish(summary, document):
    """Replaces what stands between the marks in the document, and the plots in the folder of its name."""
    with open(document, encoding="utf-8") as file:
        before, begin, rest = file.read().partition(BEGIN)
        _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"publish.py: {document} has no lines {BEGIN.strip()} and {END.strip()}")
    folder = os.path.splitext(document)[0]
    os.makedirs(folder, exist_ok=True)
    lines = described(summary)
    for name, title, keys in VIEWS:
        rows = list(rows_of(summary, keys))
        path = os.path.join(folder, f"{name}.svg")
        if rows:
            with open(path, "w", encoding="utf-8") as file:
                file.write(drawn(title, rows))
            lines += ["", *table(title, rows, summary["contenders"]), "",
                      f"![{title}]({os.path.basename(folder)}/{name}.svg)"]
        elif os.path.exists(path):
            os.remove(path)
    with open(document, "w", encoding="utf-8") as file:
        file.write(before + begin + "\n".join(lines) + "\n" + end + after)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", help="the file that run.py --json wrote")
    parser.add_argument("--document", default=os.path.join(ROOT, "docs", "benchmarks.md"), metavar="FILE")
    arguments = parser.parse_args()
    with open(arguments.result, encoding="utf-8") as file:
        summary = json.load(file)
    if summary["failures"]:
        sys.exit("publish.py: some runs have failed, see `failures` in the file")
    publish(summary, arguments.document)


if __name__ == "__main__":
    main()
