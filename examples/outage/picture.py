"""The timeline as an SVG that is readable on light and on dark pages: it brings its own ground."""

from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 880, 58, 20
BARS_TOP, BARS_BOTTOM = 92, 262
FAILED = 302
LATENCY_TOP, LATENCY_BOTTOM = 346, 416
HEIGHT = 440

# The classes of text and shapes in light and in dark.
COLORS = {
    "ground": ("#ffffff", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "faint": ("#59636e", "#9198a1"),
    "grid": ("#d8dee4", "#30363d"),
    "moment": ("#b3261e", "#ff7b72"),
    "t0": ("#2f6fde", "#5b93f5"),
    "t1": ("#e08a1e", "#f0a848"),
    "t2": ("#2e9e6b", "#4fc28c"),
    "p99": ("#7a4fd0", "#b392f0"),
}


def colors(dark):
    return " ".join(f".{name} {{ fill: {both[dark]}; stroke: {both[dark]}; }}" for name, both in COLORS.items())


STYLE = f"""
text {{ font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }}
.title {{ font-size: 15px; font-weight: 600; }}
.middle {{ text-anchor: middle; }} .end {{ text-anchor: end; }}
line.moment {{ stroke-dasharray: 4 3; }} text.moment {{ font-weight: 600; }}
{colors(False)}
@media (prefers-color-scheme: dark) {{ {colors(True)} }}
text, tspan, rect {{ stroke: none !important; }}
"""


def draw(story):
    rows = [story.row(second) for second in range(story.seconds)]
    step = (WIDTH - LEFT - RIGHT) / story.seconds
    parts = [heading(story), *bars(story, rows, step), *failures(rows, step), *latencies(rows, step), *moments(story, step)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">\n'
        f"<title>{escape(summary(story))}</title>\n<style>{STYLE}</style>\n"
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="8"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def summary(story):
    everything = story.everything()
    return (
        f"An outage of the largest vendor: {everything.count:,} requests, {everything.repaired:,} repaired, "
        f"{everything.failed:,} failed"
    )


def text(x, y, words, kind="ink"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(words)}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def block(x, top, bottom, width, kind):
    return f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}" class="{kind}"/>'


def heading(story):
    parts, x = [text(LEFT, 28, summary(story), "ink title")], LEFT
    for number, name in enumerate(story.own):
        parts += [block(x, 42, 52, 10, f"t{number}"), text(x + 15, 52, name)]
        x += 32 + 7 * len(name)
    parts.append(text(x, 52, "requests a second, by the vendor that answered", "faint"))
    return "\n".join(parts)


def bars(story, rows, step):
    """Answers by target, stacked; and the seconds below."""
    full = max(max(row.count for row in rows), 1)
    scale = (BARS_BOTTOM - BARS_TOP) / full
    for mark in (0, story.rate):
        y = BARS_BOTTOM - mark * scale
        yield line(LEFT, y, WIDTH - RIGHT, y, "grid")
        yield text(LEFT - 6, y + 4, str(mark), "faint end")
    for second, row in enumerate(rows):
        bottom = BARS_BOTTOM
        for number, name in enumerate(story.own):
            top = bottom - row.targets[name] * scale
            if top < bottom:
                yield block(LEFT + second * step + 2, top, bottom, step - 4, f"t{number}")
            bottom = top
    for second in range(0, story.seconds, 5):
        yield text(LEFT + second * step + 3, BARS_BOTTOM + 16, f"{second} s", "faint")


def failures(rows, step):
    yield text(LEFT - 6, FAILED, "failed", "faint end")
    for second, row in enumerate(rows):
        yield text(LEFT + (second + 0.5) * step, FAILED, str(row.failed), "moment middle" if row.failed else "ink middle")


def latencies(rows, step):
    """Added latency, median upon 99th percentile."""
    highest = max(max(row.p99 for row in rows), 1)
    scale = (LATENCY_BOTTOM - LATENCY_TOP) / highest
    words = 'added latency, ms: <tspan class="p99">p99</tspan>, <tspan class="ink">p50</tspan>'
    yield f'<text x="{LEFT}" y="{LATENCY_TOP - 18}" class="faint">{words}</text>'
    for mark in (0, highest):
        y = LATENCY_BOTTOM - mark * scale
        yield line(LEFT, y, WIDTH - RIGHT, y, "grid")
        yield text(LEFT - 6, y + 4, f"{mark:,.0f}", "faint end")
    for second, row in enumerate(rows):
        for value, kind in ((row.p99, "p99"), (row.p50, "ink")):
            top = LATENCY_BOTTOM - max(value, 0) * scale
            yield block(LEFT + second * step + 2, top, LATENCY_BOTTOM, step - 4, kind)
            if kind == "p99":
                yield text(LEFT + (second + 0.5) * step, top - 3, f"{value:.0f}", "faint middle")


def moments(story, step):
    for moment in story.moments:
        x = LEFT + moment.at * step
        yield line(x, BARS_TOP - 12, x, LATENCY_BOTTOM, "moment")
        words = moment.label
        if moment.decided is not None:
            words += f", +{1000 * moment.decided:.0f} ms"
        yield text(x - 1, BARS_TOP - 16, words, "moment")
