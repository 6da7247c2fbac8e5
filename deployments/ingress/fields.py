"""How a single value is written in a form: numbers, booleans, choices. Each parser honours it or refuses it by name."""

import re
from collections.abc import Sequence
from typing import TypeVar

from deployments.exceptions import InvalidRequest
from deployments.ingress.multipart import Form, quoted

Choice = TypeVar("Choice", bound=str)

# float() and int() also take nan, infinity, 1_0, blanks and digits of other scripts: no numbers on the wire.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")


def read_number(form: Form, name: str, *, low: float, high: float, above_low: bool = False) -> float | None:
    """Read a decimal number from `low` to `high`, with `above_low` without `low` itself; None where it was not sent.

    Raises:
        InvalidRequest: it is anything else.
    """
    value = form.text(name)
    if value is None:
        return None
    number = float(value) if _NUMBER.fullmatch(value) else None
    if number is None or not low <= number <= high or (above_low and number == low):
        bounds = f"above {low:g} and at most {high:g}" if above_low else f"from {low:g} to {high:g}"
        raise InvalidRequest(f"Invalid {name} {quoted(value)}: expected a number {bounds}.", param=name)
    return number + 0.0  # no minus zero


def read_integer(form: Form, name: str, *, low: int, high: int) -> int | None:
    """Read a decimal integer from `low` to `high`; None where it was not sent.

    Raises:
        InvalidRequest: it is anything else.
    """
    value = form.text(name)
    if value is None:
        return None
    if not _INTEGER.fullmatch(value) or not low <= int(value) <= high:
        raise InvalidRequest(f"Invalid {name} {quoted(value)}: expected an integer from {low} to {high}.", param=name)
    return int(value)


def read_boolean(form: Form, name: str) -> bool:
    """Read `true` or `false` in any case, also `1` or `0`; False where it was not sent, or as `null`.

    Raises:
        InvalidRequest: it is anything else.
    """
    value = form.text(name)
    if value is None or value.lower() in ("false", "0", "null"):
        return False
    if value.lower() in ("true", "1"):
        return True
    raise InvalidRequest(f"Invalid {name} {quoted(value)}: expected 'true' or 'false'.", param=name)


def check_choice(name: str, value: str, choices: Sequence[Choice]) -> Choice:
    """Return the one of `choices` that `value` is.

    Args:
        name: the field, as the message shows it; `param` is without brackets.
        value: what was sent.
        choices: what is accepted.

    Raises:
        InvalidRequest: it is none of them; the message lists them.
    """
    for choice in choices:
        if value == choice:
            return choice
    supported = ", ".join(repr(choice) for choice in choices)
    raise InvalidRequest(
        f"Invalid {name} {quoted(value)}. Supported values are: {supported}.", param=name.removesuffix("[]")
    )
