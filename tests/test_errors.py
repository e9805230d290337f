from reid_da.errors import first_few, unknown_name


def test_unknown_name_suggests_the_nearest():
    assert str(unknown_name("format", "marke1501", ["market1501", "msmt17"])) == (
        "unknown format 'marke1501' (did you mean 'market1501'?); valid: market1501, msmt17"
    )
    assert "did you mean 'dukemtmcreid'" in str(unknown_name("format", "duke", ["dukemtmcreid", "msmt17"]))
    assert "did you mean" not in str(unknown_name("format", "xyz", ["market1501"]))


def test_first_few():
    assert first_few(range(3)) == "0, 1, 2"
    assert first_few("abcde", 2) == "a, b and 3 more"
