"""Tables of medians. A cell is the median of the rounds with their least and greatest; a ratio is formed within each
round, of runs that stood side by side, and only then is the median taken."""

import statistics


def spread(values, form="{:.0f}"):
    """`median (least–greatest)`; a dash where there is nothing to tell."""
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    median, least, greatest = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return median if least == greatest else f"{median} ({least}–{greatest})"


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def column(reports, key, scale=1.0):
    """One value of every round; None where a report lacks it."""
    return [None if report.get(key) is None else report[key] * scale for report in reports]


def ratios(values, bases):
    return [value / base if value is not None and base else None for value, base in zip(values, bases)]


def differences(values, bases):
    return [value - base if value is not None and base is not None else None for value, base in zip(values, bases)]


def table(title, head, rows):
    """Print a Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|---" + "|---:" * (len(head) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def aim(what, value, limit, unit):
    """Print whether an aim is met."""
    if value is not None:
        verdict = "met" if value <= limit else "MISSED"
        print(f"\nAim: {what} at most {limit:g}{unit}. Measured: {value:.2f}{unit}, {verdict}.")
