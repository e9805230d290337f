"""YAML with limits: what people write is read, what nobody would write is refused with one line."""

import os
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_da.errors import InputError
from reid_da.yaml_files import MAX_BYTES, parse_yaml, read_yaml

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=4),
    max_leaves=20,
)


@given(NESTED)
@settings(max_examples=20)
def test_what_yaml_writes_is_read_as_yaml_reads_it(value):
    text = yaml.safe_dump(value)
    assert parse_yaml(text, where="test") == yaml.safe_load(text)


def test_anchors_and_merge_keys_work():
    text = "base: &base {lr: 1, momentum: 2}\nmine:\n  <<: *base\n  lr: 3\n"
    assert parse_yaml(text, where="test") == yaml.safe_load(text)
    assert parse_yaml(text, where="test")["mine"] == {"lr": 3, "momentum": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml: line 3: duplicate key a, first in line 1; remove one"),
        ("a:\n  b: 1\n  b: 1\n", "x.yaml: line 3: duplicate key b, first in line 2; remove one"),
        ("b: &b {}\na:\n  <<: *b\n  <<: *b\n", "x.yaml: line 4: duplicate key <<"),
        ('a: 1\n"a": 1', "line 2: duplicate key a, first in line 1"),
        ("a: &a [1, *a]", r"line 1: \*a contains itself"),
        ("[" * 1000, "line 1: is nested more than 50 levels deep"),
        ("a: " + 5000 * "9", "line 1: a value of 5,000 characters, 9{20}..., is too long"),
        ("a: 0x" + 5000 * "f", "is too long"),
        ("a: 2020-02-31", "a value cannot be read: day is out of range"),
        ("a: !!int ''", "a value cannot be read"),
        ("a: !!timestamp x", "a value cannot be read"),
        ("!!python/object/apply:os.system [id]", "is not YAML: could not determine a constructor"),
        ("a: 1\n---\na: 2", "is not YAML: expected a single document"),
        ("{[1]: 2}", "is not YAML: while constructing a mapping"),
        ("a: 'b", "is not YAML"),
        ('"\x1b[31m"', "is not YAML: unacceptable character"),
    ],
)
def test_one_line_says_what_is_wrong(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_yaml(text, where="x.yaml")
    assert "\n" not in str(caught.value)


def test_a_bomb_of_aliases_is_refused_before_it_is_built():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 20)]
    begin = time.monotonic()
    with pytest.raises(InputError, match="more than 20,000 values, repeated by aliases or not"):
        parse_yaml("\n".join(lines), where="x.yaml")
    assert time.monotonic() - begin < 5


def test_files(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("\ufeffa: 1\n", encoding="utf-8")
    assert read_yaml(file) == {"a": 1}
    file.write_text("# nothing\n")
    assert read_yaml(file) == {}
    file.write_text("- 1\n")
    with pytest.raises(InputError, match="a.yaml: expected keys and values, found a list"):
        read_yaml(file)
    file.write_bytes(b"a: \xe4\n")
    with pytest.raises(InputError, match="a.yaml: is not YAML: 'utf-8' codec"):
        read_yaml(file)
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InputError, match=f"a.yaml: has {MAX_BYTES + 1:,} bytes, more than"):
        read_yaml(file)
    with pytest.raises(InputError, match="b.yaml: base: .*none.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml", named_by="b.yaml: base: ")
    with pytest.raises(InputError, match="is a folder"):
        read_yaml(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_devices_and_pipes_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml"):
        with pytest.raises(InputError, match=f"{name}: is not a regular file"):
            read_yaml(tmp_path / name)
