from xml.etree import ElementTree

import matplotlib
import pytest

from srigl_jax.analysis.svg import LIGHT, THEME, Picture, drawing, standalone, to_svg


def draw(label="a line"):
    with drawing(300, 200) as figure:
        axes = figure.subplots()
        axes.plot([1, 2], color=LIGHT["blue"])
        axes.set_xlabel("steps & $more$")
        return to_svg(figure, label)


def test_colours_are_those_of_the_page():
    svg = draw()
    assert "var(--blue)" in svg and "var(--muted)" in svg
    assert not [light for light, _ in THEME.values() if light in svg]


def test_text_stays_text():
    assert ">steps &amp; $more$</text>" in draw()


def test_the_same_picture_is_the_same_bytes():
    assert draw() == draw()


def test_the_label_is_escaped():
    assert 'aria-label="&lt;a&gt; &quot;b&quot;"' in draw('<a> "b"')


def test_settings_of_the_user_neither_matter_nor_change():
    plain = draw()
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path"}):
        assert draw() == plain
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.parametrize("name", sorted(THEME))
def test_every_colour_has_a_light_and_a_dark_form(name):
    light, dark = THEME[name]
    assert light != dark and len(light) == len(dark) == 7


def test_a_picture_of_its_own_needs_no_page_for_its_colours():
    svg = standalone(Picture("", "", draw()))
    assert "var(--" not in svg and LIGHT["blue"] in svg
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
