import pytest

from srigl_jax.progress import ProgressDisplay, duration


def test_a_log_without_terminal_is_one_plain_line(capsys):
    with ProgressDisplay(2000, enabled=False) as display:
        display.log(300, loss=0.12341, accuracy=0.961, steps_per_second=842.3)
    assert capsys.readouterr().out == (
        "step 300/2000  loss 0.1234  accuracy 0.961  842 steps/s  2 s left\n"
    )


def test_figures_that_are_not_known_are_left_out(capsys):
    ProgressDisplay(20, enabled=False).log(3, loss=1.0)
    assert capsys.readouterr().out == "step 3/20  loss 1.0000\n"


def test_no_bar_is_drawn_where_output_is_no_terminal(capsys):
    with ProgressDisplay(20) as display:
        display.update(5)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("enabled", [False, True])
def test_print_leaves_brackets_alone(capsys, enabled):
    with ProgressDisplay(20, enabled=enabled) as display:
        display.print("see [bold]")
    assert "see [bold]\n" in capsys.readouterr().out


def test_the_bar_shows_the_figures(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressDisplay(2000, enabled=True) as display:
        display.update(100)
        display.log(300, loss=0.1234, accuracy=0.961, steps_per_second=8.42)
    out = capsys.readouterr().out
    assert "step 300/2000" in out
    assert "loss 0.1234  accuracy 0.961  8.42 steps/s  3 min 22 s left" in out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration_in_words(seconds, text):
    assert duration(seconds) == text
