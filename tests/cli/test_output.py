"""What the commands print: names as they are, and one line whatever becomes of standard output."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from reid_da import cli
from reid_da.cli import main, output
from reid_da.cli.output import PlainConsole, check_output, say, show, show_log
from reid_da.errors import InputError

EVIL = "\x1b]0;title\x07[red]x[/red]\n=1+1"


@pytest.fixture
def terminal(monkeypatch):
    """Text that a terminal of 80 columns gets."""
    stream = io.StringIO()
    monkeypatch.setattr(output, "PlainConsole", lambda **_: PlainConsole(file=stream, force_terminal=True, width=80))
    return stream


def test_names_reach_a_terminal_as_text(terminal):
    say(f"{EVIL}: done")
    without_styles = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert without_styles == r"\x1b]0;title\x07[red]x[/red]\n=1+1: done" + "\n"
    table = Table(title=EVIL.replace("[", r"\["))
    table.add_column("a", style="bold")
    table.add_row(EVIL.replace("[", r"\["))
    show(table)
    assert "\x1b[1m" in terminal.getvalue()  # our own style is obeyed
    assert "\x1b]" not in terminal.getvalue()
    assert "\x07" not in terminal.getvalue()


def test_the_log_and_errors_show_names_as_text(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    show_log()
    record = logging.makeLogRecord({"msg": "%s: left out", "args": (EVIL,)})
    shown = logging.getLogger().handlers[0].format(record)
    assert shown.endswith(r" \x1b]0;title\x07[red]x[/red]\n=1+1: left out")
    with pytest.raises(SystemExit):
        main(["data", "check", str(tmp_path / EVIL)])
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert shown.count("\n") == 1
    assert r"\x1b]0;title\x07[red]x[/red]\n=1+1" in shown


def test_names_that_are_not_utf8_are_printed(capsys):
    say(os.fsdecode(b"M\xfcller"))
    assert capsys.readouterr().out == "M\\xfcller\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_output_is_told(capsys, monkeypatch):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            main(["settings"])
    assert ended.value.code == 2
    assert re.fullmatch("error: (standard output: )?No space left on device\n", capsys.readouterr().err)


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "| true"])
def test_a_closed_output_ends_without_a_traceback(redirection):
    # a command that prints without importing torch, which takes seconds
    lines = ("from reid_da.cli import app, main", 'app.command("print")(lambda: print("x"))', 'main(["print"])')
    program = f"{sys.executable} -c '{'; '.join(lines)}' {redirection}; exit 0"
    outcome = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert outcome.stderr == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "a.png"), "a.png: No space left on device"),
        (OSError(24, "Too many open files", "a"), "Too many open files: raise the limit (ulimit -n), or use fewer"),
        (OSError(18, "Invalid cross-device link", "a", None, "b"), "a -> b: Invalid cross-device link"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 3\nframes"), "out of memory"),
        (InputError("a\nb"), r"a\nb"),
    ],
)
def test_errors_are_one_line(capsys, monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {message}")
    assert shown.count("\n") == 1


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main([])


def test_devices_are_no_outputs(tmp_path):
    for place in ("/dev/null", "/dev/full"):
        with pytest.raises(InputError, match=f"{place}: is not a regular file"):
            check_output(tmp_path / place)


def test_json_of_any_name_is_plain(capsys):
    output.print_json({EVIL: os.fsdecode(b"\xfc")})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert "\x1b" not in shown
    assert json.loads(shown) == {EVIL: "\udcfc"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("settings", "{}/loop.yaml"),
        ("train", "{}/loop.yaml"),
        ("data", "check", "{}/loop.yaml"),
        ("results", "{}/loop.yaml"),
        ("camstyle", "check", "{}", "{}/loop.yaml"),
        ("train", "--resume", "{}/loop.yaml"),
    ],
)
def test_a_link_to_itself_is_one_line(capsys, tmp_path, arguments):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(SystemExit) as ended:
        main([text.format(tmp_path) for text in arguments])
    assert ended.value.code == 2
    assert re.fullmatch(r"error: .*\n", capsys.readouterr().err)


def test_links_in_a_circle_are_named(capsys, monkeypatch):
    def app(*_: object, **__: object) -> None:
        # as Path.resolve() has it before Python 3.13
        raise RuntimeError("Symlink loop from '/data/loop'")

    monkeypatch.setattr("reid_da.cli.app", app)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: /data/loop: links lead in a circle; remove one of them\n"


@pytest.mark.parametrize("command", ["train", "ablate", "sweep", "plan"])
def test_a_settings_file_that_is_not_there_is_told_before_torch_is_imported(command):
    lines = ("import sys", "sys.modules['torch'] = None", "from reid_da.cli import main")
    program = f"{'; '.join(lines)}; main(['{command}', 'absent.yaml'])"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (
        2,
        "error: absent.yaml: cannot be read: No such file or directory\n",
    )
