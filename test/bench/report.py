"""Medians, spread and ratios, as JSON and as a table."""

import statistics

REFERENCES = ("haproxy", "bitflow")


def reference_of(names):
    """Whom the ratios are to: the first of these that is there."""
    return next((name for name in REFERENCES if name in names), None)


def summarize(scenario, results):
    """results: {contender: [run, ...]}. Adds to each metric its median, bounds and ratio to the reference's median."""
    summary = {"text": scenario.text, "contenders": {}}
    medians = {}
    for name, runs in results.items():
        figures = {}
        for metric in scenario.metrics:
            values = [run[metric.key] for run in runs if metric.key in run]
            if values:
                medians[name, metric.key] = statistics.median(values)
                figures[metric.key] = {"median": medians[name, metric.key], "min": min(values), "max": max(values)}
        summary["contenders"][name] = {"figures": figures, "runs": runs}
    chosen = reference_of(results)
    for name, contender in summary["contenders"].items():
        for key, figure in contender["figures"].items():
            reference = medians.get((chosen, key))
            figure["ratio"] = figure["median"] / reference if reference else None
    foreign = [run["foreign_processors"] for runs in results.values() for run in runs]
    if foreign:
        summary["foreign_processors"] = statistics.median(foreign)
    return summary


def print_header(summary):
    machine, settings = summary["machine"], summary["settings"]
    print(f"{machine['processors']} x {machine['model']}, Linux {machine['kernel']}; {settings['rounds']} rounds of "
          f"{settings['seconds']:g} s; {settings['idle_connections']} idle connections, "
          f"{settings['live_connections']} live ones" +
          ("; beside a process on each processor that computes" if settings["neighbours"] else ""))
    for name, note in summary["contenders"].items():
        print(f"  {name}: {note}")
    print(f"ratio: median / {reference_of(summary['contenders'])}'s median", flush=True)


def print_scenario(scenario, summary):
    others = summary.get("foreign_processors")
    note = "" if others is None else f"  [others kept {others:.2f} processors busy]"
    print(f"\n{scenario.name}: {summary['text']}{note}")
    print(f"  {'':<14} {'contender':<20} {'median':>12} {'min':>12} {'max':>12} {'ratio':>7}")
    for metric in scenario.metrics:
        for name, contender in summary["contenders"].items():
            figure = contender["figures"].get(metric.key)
            if figure is None:
                continue
            shown = [figure[which] * metric.scale for which in ("median", "min", "max")]
            values = " ".join(f"{value:>12.{metric.digits}f}" for value in shown)
            ratio = "-" if figure["ratio"] is None else f"{figure['ratio']:.2f}"
            print(f"  {metric.unit:<14} {name:<20} {values} {ratio:>7}")
    print(end="", flush=True)
