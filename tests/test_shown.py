"""What an experiment shows of its progress."""

import io

import shown
from rich.console import Console


def lines(seconds):
    console = Console(file=io.StringIO(), force_terminal=False)
    with shown.Tasks(console, seconds) as tasks:
        task = tasks.add_task("static", total=3)
        tasks.update(task, completed=1)
        tasks.advance(task)
        tasks.update(task, description="SRigL")
    return console.file.getvalue().splitlines()


def test_off_a_terminal_changes_are_lines():
    assert ["static: 1 of 3, 0 s", "static: 2 of 3, 0 s", "SRigL: 2 of 3, 0 s"] == [
        line for line in lines(0.0) if " of " in line
    ]


def test_lines_are_as_rare_as_asked_for():
    assert not [line for line in lines(60.0) if " of " in line]
