"""How numbers are written: shares in per cent, amounts with as many digits as one can use."""


def percent(share: float) -> str:
    """0.5 as 50.0."""
    return f"{100 * share:.1f}"


def percent_tick(share: float) -> str:
    """0.5 as 50, 0.525 as 52.5."""
    return f"{100 * share:.4g}"


def interval(ends: tuple[float, float] | None) -> str:
    """Two shares as "50.0 to 52.5"; "-" where there is none."""
    return "-" if ends is None else f"{percent(ends[0])} to {percent(ends[1])}"


def amount(number: float | None) -> str:
    """FLOPs as 2.8e12, seconds and samples as 1,234; "-" where it is not known."""
    if number is None:
        return "-"
    if abs(number) < 1e6:
        return f"{number:,.0f}" if number == 0 or abs(number) >= 10 else f"{number:.2g}"
    digits, _, power = f"{number:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
