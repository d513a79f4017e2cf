"""Draws a race for a terminal: both timelines on one axis, every round as a dot, medians with their intervals. Pure."""

from collections.abc import Iterator

from comet.events.recovery_groups import group
from comet.race.result import FORMS, Race, Spread

GLYPHS = {"noticed": "░", "decided": "|", "started": "▒", "listening": "▓", "ready": "█"}
"""What fills the time up to each step."""

REACH = 2.0
"""Times the longer median that the axis is long at most, so that an outlier does not flatten the rest."""

INDENT = 21
MIN_AXIS = 30


def lines(race: Race, width: int) -> Iterator[str]:
    """Yield the drawing, at most `width` columns wide (51 at least)."""
    axis = max(MIN_AXIS, width - INDENT - 1)
    times = [each for form in FORMS for each in race.times(form)]
    most = min(max(times), REACH * max(race.spread(form).median for form in FORMS))
    rounds = f"{race.rounds} round{'s' if race.rounds != 1 else ''}"
    yield f"From kill -9 to ready, the same program in both forms, {rounds}, on one axis"
    yield ""
    yield from _scale(most, axis)
    for form in FORMS:
        title = group(race.names[form], form)
        yield f"{title:<{INDENT}}{_bar(race, form, most, axis)}"
        yield f"{'  each round':<{INDENT}}{_dots(race.times(form), most, axis)}"
        yield f"{'  median, interval':<{INDENT}}{_interval(race.spread(form), most, axis)}"
        yield ""
    yield "  ".join(f"{glyph} {name}" for name, glyph in GLYPHS.items()) + "   ● median  ├┤ its interval"
    if beyond := [each for each in times if each > most]:
        yield f"{len(beyond)} beyond the axis, up to {max(beyond):.0f} ms, at its end (»)"
    yield ""
    yield from _table(race)
    yield ""
    yield from sentences(race)


def sentences(race: Race) -> Iterator[str]:
    """Yield what the figures say."""
    process, container, more = race.spread("process"), race.spread("container"), race.difference
    for form, each in (("process", process), ("container", container)):
        yield f"{group(race.names[form], form)} ({race.names[form]}): {_words(each)}."
    if more.low > 0:
        yield f"As container it took {_words(more)} longer, {container.median / process.median:.1f} times as long."
    elif more.high < 0 and more.coverage >= 0.95:
        less = Spread(-more.median, -more.high, -more.low, more.coverage)
        yield f"As process it took {_words(less)} longer, {process.median / container.median:.1f} times as long."
    else:
        yield f"The difference, {_words(more)}, is within the noise: race more rounds."
    if more.coverage < 0.95:
        yield "Fewer than 6 rounds give no interval of 95 %."


def _words(spread: Spread) -> str:
    if spread.coverage <= 0:
        return f"{spread.median:.0f} ms"
    return f"{spread.median:.0f} ms ({spread.coverage:.0%} interval {spread.low:.0f} to {spread.high:.0f} ms)"


def _x(value: float, most: float, axis: int) -> int:
    return min(axis - 1, max(0, round(value / most * (axis - 1))))


def _scale(most: float, axis: int) -> Iterator[str]:
    step = next(each for each in _round_numbers() if most / each <= max(2, axis // 12))
    line = [" "] * (axis + 8)
    for number in range(int(most / step) + 1):
        text = f"{number * step:g}" + (" ms" if number == 0 else "")
        at = _x(number * step, most, axis)
        line[at : at + len(text) + 1] = f"╷{text}"
    yield " " * INDENT + "".join(line).rstrip()


def _round_numbers() -> Iterator[float]:
    factor = 1.0
    while True:
        yield from (factor, 2 * factor, 5 * factor)
        factor *= 10


def _bar(race: Race, form: str, most: float, axis: int) -> str:
    drawn, at = "", 0
    for name, glyph in GLYPHS.items():
        end = race.middle_steps(form).get(name)
        if end is not None:
            to = max(at, _x(end, most, axis) + (name == "ready"))
            drawn, at = drawn + glyph * (to - at), to
    return drawn


def _dots(times: list[float], most: float, axis: int) -> str:
    line = [" "] * axis
    for each in times:
        at = _x(each, most, axis)
        line[at] = "»" if each > most else {" ": "·", "·": ":"}.get(line[at], "⁝")
    return "".join(line).rstrip()


def _interval(spread: Spread, most: float, axis: int) -> str:
    low, middle, high = (_x(each, most, axis) for each in (spread.low, spread.median, spread.high))
    line = [" "] * axis
    line[low : high + 1] = "─" * (high + 1 - low)
    line[low], line[high], line[middle] = "├", "┤", "●"
    return "".join(line).rstrip()


def _table(race: Race) -> Iterator[str]:
    names = list(GLYPHS)
    yield f"{'ms after death':<{INDENT}}" + "".join(f"{name:>11}" for name in names)
    for form in FORMS:
        steps = race.middle_steps(form)
        cells = ("-" if name not in steps else f"{steps[name]:.1f}" for name in names)
        yield f"{group(race.names[form], form):<{INDENT}}" + "".join(f"{cell:>11}" for cell in cells)
