#!/usr/bin/python3
"""Writes what run.py --json has measured into docs/benchmarks.md, as tables, and beside it, as plots.

The scenarios grow-* have a section of their own; a section of which the file has nothing stays as it is."""

import argparse
import dataclasses
import json
import os
import sys
import textwrap

import growth
import lines
import plot
import scenarios

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KNOWN = {one.name: one for one in (*scenarios.ALL, *growth.ALL)}
GROWING = {one.name for one in growth.ALL}

# A table and a plot each: the file's name, the title, the keys of the metrics in it.
VIEWS = (
    ("rate", "Rate: more is better", ("rate",)),
    ("latency", "Latency, 99th percentile: less is better", ("p99_us",)),
    ("processor-time", "Processor time: less is better", ("cpu_per_exchange", "cpu_per_gigabyte")),
    ("memory", "Memory per idle connection: less is better", ("user", "kernel", "used")),
)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A figure by the size of its scenarios, whose names begin alike."""

    scenarios: str
    key: str
    what: str
    is_drawn: bool = True
    has_slope: bool = False  # what each further one adds is told


# A table and a plot each: the file's name, the title, the figures.
GROWTH = (
    ("growth-connections", "By live connections", (
        Curve("grow-connect", "answer_p50_us", "until a new connection has its answer"),
        Curve("grow-connect", "answer_p99_us", "until a new connection has its answer"),
        Curve("grow-pingpong", "rate", "messages on 64 others"),
        Curve("grow-pingpong", "cpu_per_exchange", "a message on 64 others"),
        Curve("grow-idle", "user", "memory of a live one"),
        Curve("grow-idle", "kernel", "memory of a live one", is_drawn=False),
        Curve("grow-idle", "used", "memory of a live one"),
    )),
    ("growth-proxies", "By proxies", (
        Curve("grow-proxies", "start_seconds", "start, until it listens on all"),
        Curve("grow-proxies", "rest", "memory at rest", has_slope=True),
        Curve("grow-proxies", "answer_p50_us", "until a new connection has its answer"),
        Curve("grow-proxies", "answer_p99_us", "until a new connection has its answer"),
        Curve("grow-proxies", "rate", "messages on 64 connections"),
        Curve("grow-proxies", "cpu_per_exchange", "a message on 64 connections"),
    )),
)


def rows_of(summary, keys):
    """(scenario, metric, {contender: figure}) for all that was measured of these."""
    for name, scenario in summary["scenarios"].items():
        for metric in KNOWN[name].metrics:
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


def curve_of(summary, curve):
    """(metric, {contender: {size: figure}}); None: nothing was measured of it."""
    series = {}
    for name, metric, figures in rows_of(summary, (curve.key,)):
        if name.startswith(f"{curve.scenarios}-"):
            for contender, figure in figures.items():
                size = KNOWN[name].live or KNOWN[name].proxies
                series.setdefault(contender, (metric, {}))[1][size] = figure
    if not series:
        return None
    return next(iter(series.values()))[0], {contender: sizes for contender, (_, sizes) in series.items()}


def slope(metric, figures):
    """What each further one adds, from the least to the most."""
    least, most = min(figures), max(figures)
    if least == most:
        return ""
    more = (figures[most]["median"] - figures[least]["median"]) / (most - least)
    return f"{more * metric.scale:.1f}"


def growth_table(title, curves):
    """`curves`: (curve, what curve_of() returns)."""
    sizes = sorted({size for _, (_, series) in curves for figures in series.values() for size in figures})
    has_slope = any(curve.has_slope for curve, _ in curves)
    heads = [title, "", "", *map(str, sizes), *(["each more"] if has_slope else [])]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for curve, (metric, series) in curves:
        what = [curve.what, metric.unit]
        for contender, figures in series.items():
            cells = [shown(metric, figures[size]) if size in figures else "" for size in sizes]
            cells += [slope(metric, figures) if curve.has_slope else ""] if has_slope else []
            rows.append(f"| {' | '.join([*what, contender, *cells])} |")
            what = ["", ""]
    return rows


def growth_drawn(title, curves):
    """Without `direct`, as the bars."""
    panels = []
    for curve, (metric, series) in curves:
        points = {name: [lines.Point(size, *(figure[which] * metric.scale for which in ("median", "min", "max")))
                         for size, figure in figures.items()] for name, figures in series.items() if name != "direct"}
        if curve.is_drawn and points:
            panels.append((f"{curve.what}, {metric.unit}", points))
    return lines.draw(title, panels) if panels else ""


def described(summary, is_growing):
    machine, settings = summary["machine"], summary["settings"]
    note = "" if is_growing else (f"; certificates {settings['tls_key']}; {settings['live_connections']} connections "
                                  "open in `live-*`")
    rounds = "1 round" if settings["rounds"] == 1 else f"{settings['rounds']} rounds"
    played = {name for one in summary["scenarios"].values() for name in one["contenders"]}
    beside = ", beside a process on each processor that computes" if settings["neighbours"] else ""
    foreign = [one["foreign_processors"] for one in summary["scenarios"].values() if "foreign_processors" in one]
    text = (
        f"Medians of {rounds} of {settings['seconds']:g} s on {machine['processors']} processors "
        f"({machine['model']}), Linux {machine['kernel']}, {summary['date'][:10]}{note}{beside}; others kept at most "
        f"{max(foreign, default=0):.2f} processors busy.")
    return [*textwrap.wrap(text, 120), "",
            *(f"- {name}: {about}" for name, about in summary["contenders"].items() if name in played)]


def views(summary):
    """(file's name, title, table, plot) of each table; no table: nothing was measured of it."""
    for name, title, keys in VIEWS:
        rows = list(rows_of(summary, keys))
        yield name, title, table(title, rows, summary["contenders"]) if rows else [], drawn(title, rows)


def growth_views(summary):
    for name, title, wanted in GROWTH:
        curves = [(curve, found) for curve in wanted if (found := curve_of(summary, curve))]
        yield name, title, growth_table(title, curves) if curves else [], growth_drawn(title, curves)


def write_section(document, name, summary, is_growing):
    """Replaces what stands between the section's marks in the document, and the plots in the folder of its name."""
    with open(document, encoding="utf-8") as file:
        before, begin, rest = file.read().partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not begin or not end:
        raise SystemExit(f"publish.py: {document} has no lines <!-- {name} --> and <!-- end of {name} -->")
    folder = os.path.splitext(document)[0]
    os.makedirs(folder, exist_ok=True)
    text = described(summary, is_growing)
    for plotted, title, rows, picture in (growth_views if is_growing else views)(summary):
        path = os.path.join(folder, f"{plotted}.svg")
        if rows:
            text += ["", *rows]
        if rows and picture:
            with open(path, "w", encoding="utf-8") as file:
                file.write(picture)
            text += ["", f"![{title}]({os.path.basename(folder)}/{plotted}.svg)"]
        elif os.path.exists(path):
            os.remove(path)
    with open(document, "w", encoding="utf-8") as file:
        file.write(before + begin + "\n".join(text) + "\n" + end + after)


def part_of(summary, is_growing):
    chosen = {name: one for name, one in summary["scenarios"].items() if (name in GROWING) == is_growing}
    return {**summary, "scenarios": chosen}


def publish(summary, document):
    usual, growing = part_of(summary, False), part_of(summary, True)
    if usual["scenarios"] or not growing["scenarios"]:
        write_section(document, "results", usual, False)
    if growing["scenarios"]:
        write_section(document, "growth", growing, True)


def read(paths):
    """What the runs have measured, as if it had been one."""
    summary = None
    for path in paths:
        with open(path, encoding="utf-8") as file:
            one = json.load(file)
        if one["failures"]:
            sys.exit(f"publish.py: some runs have failed, see `failures` in {path}")
        if summary is None:
            summary = one
        elif one["settings"] != summary["settings"]:
            sys.exit(f"publish.py: {path} has other settings than {paths[0]}")
        else:
            summary["scenarios"].update(one["scenarios"])
            summary["contenders"].update(one["contenders"])
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", metavar="result",
                        help="the file that run.py --json wrote, or those of runs that differ in their scenarios only")
    parser.add_argument("--document", default=os.path.join(ROOT, "docs", "benchmarks.md"), metavar="FILE")
    arguments = parser.parse_args()
    publish(read(arguments.results), arguments.document)


if __name__ == "__main__":
    main()
