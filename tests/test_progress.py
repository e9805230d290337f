import pytest

from reid_da.progress import EpochProgress, track


def test_items_pass_through_without_a_terminal(capfd):
    assert list(track(iter("abc"), "letters", total=3)) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_only_the_first_process_shows_a_bar(capfd, monkeypatch, rank, shown):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("RANK", rank)
    assert list(track([1, 2], "numbers")) == [1, 2]
    out, err = capfd.readouterr()
    assert out == ""
    assert ("numbers" in err) is shown


def test_a_description_is_no_markup(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with EpochProgress("[/x] \x1b]0;title\x07", steps=1):
        pass
    err = capfd.readouterr().err
    assert r"[/x] \x1b]0;title\x07" in err
    assert "\x1b]0;" not in err
