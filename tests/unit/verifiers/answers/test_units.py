from fractions import Fraction

import pytest
from prolong.verifiers.answers.units import parse_unit


@pytest.mark.parametrize(
    ("text", "same", "factor"),
    [
        ("km/h", "m/s", Fraction(5, 18)),
        ("m s^{-1}", "m/s", 1),
        ("m/s/s", "m/s^2", 1),
        ("kg\\cdot m/s^2", "N", 1),
        ("kJ mol^{-1}", "J/mol", 1000),
        ("J/(mol K)", "J mol^{-1} K^{-1}", 1),
        ("square centimeters", "m^2", Fraction(1, 10000)),
        ("meters squared", "m^2", 1),
        ("\\mu m", "m", Fraction(1, 10**6)),
        ("k\\Omega", "V/A", 1000),
        ("\\AA", "nm", Fraction(1, 10)),
        ("mM", "mol/L", Fraction(1, 1000)),
        ("miles per hour", "mph", 1),
        ("milliseconds", "s", Fraction(1, 1000)),
        ("min", "s", 60),
        ("ft", "in", 12),
        ("atm", "kPa", Fraction("101.325")),
        ("cents", "\\$", Fraction(1, 100)),
        ("N\\cdot m", "J", 1),
        ("rpm", "rev/min", 1),
    ],
)
def test_units_convert_exactly(text: str, same: str, factor: int | Fraction):
    one, other = parse_unit(text), parse_unit(same)
    assert one is not None
    assert other is not None
    assert one.agrees(other)
    assert one.factor == factor * other.factor


@pytest.mark.parametrize(
    ("one", "other"),
    [("m", "s"), ("m", "m^2"), ("J", "W"), ("^\\circ", "s"), ("\\$", "€"), ("east", "west"), ("mol", "mol/L"), ("AM", "PM")],
)
def test_other_quantities_do_not_agree(one: str, other: str):
    a, b = parse_unit(one), parse_unit(other)
    assert a is not None
    assert b is not None
    assert not a.agrees(b)


def test_turns_may_be_left_out_but_are_not_radians():
    rad, hertz, inverse = parse_unit("rad/s"), parse_unit("Hz"), parse_unit("s^{-1}")
    assert rad is not None
    assert hertz is not None
    assert inverse is not None
    assert rad.agrees(inverse)
    assert inverse.agrees(hertz)
    assert not rad.agrees(hertz)


def test_celsius_has_an_offset_alone_and_none_in_a_product():
    alone, product = parse_unit("^\\circ C"), parse_unit("J/(kg ^\\circC)")
    kelvin = parse_unit("J/(kg K)")
    assert alone is not None
    assert alone.offset == Fraction("273.15")
    assert product == kelvin


@pytest.mark.parametrize("text", ["", "apples", "x", "2", "^2", "/", "m" * 81, "m/parsnip", "(", "k", "kx", "and"])
def test_what_is_no_unit_is_none(text: str):
    assert parse_unit(text) is None
