import pytest

from reid_da.config import ExperimentSettings, dump_settings, load_settings, merge
from reid_da.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "base.yaml").write_text("memory: {num_neighbors: 3, temperature: 0.1}\nepochs: 5\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "child.yaml").write_text("base: ../base.yaml\nmemory: {temperature: 0.2}\n")
    return tmp_path


def test_a_file_changes_its_base_and_the_command_line_both(folder):
    settings = load_settings(folder / "sub" / "child.yaml", ["epochs=7", "optimizer.milestones=[2, 3]"])
    assert (settings.memory.num_neighbors, settings.memory.temperature, settings.epochs) == (3, 0.2, 7)
    assert settings.optimizer.milestones == (2, 3)
    assert settings.optimizer.lr == ExperimentSettings().optimizer.lr


def test_a_file_may_have_several_bases_of_which_later_ones_win(folder):
    (folder / "other.yaml").write_text("memory: {temperature: 0.3}\nloss_weight: 0.5\n")
    (folder / "both.yaml").write_text("base: [base.yaml, other.yaml]\nloss_weight: 0.6\n")
    settings = load_settings(folder / "both.yaml")
    assert (settings.memory.num_neighbors, settings.memory.temperature, settings.loss_weight) == (3, 0.3, 0.6)
    (folder / "back.yaml").write_text("base: [base.yaml, back.yaml]\n")
    with pytest.raises(InputError, match="its base leads back to itself"):
        load_settings(folder / "back.yaml")


def test_what_is_written_reads_back_the_same(folder):
    settings = load_settings(folder / "base.yaml", ["data.source=a/b", "data.image_size=[64, 32]", "init_from=x.pt"])
    (folder / "dump.yaml").write_text(dump_settings(settings))
    assert load_settings(folder / "dump.yaml") == settings


def test_merge_replaces_what_is_no_mapping():
    assert merge({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}}) == {"a": {"b": 1, "c": [3]}}
    assert merge({"a": {"b": 1}}, {"a": None}) == {"a": None}


def test_the_defaults_are_those_of_the_paper():
    settings = ExperimentSettings()
    assert (settings.memory.temperature, settings.memory.num_neighbors, settings.loss_weight) == (0.05, 6, 0.3)
    assert (settings.epochs, settings.optimizer.milestones, settings.batch.source) == (60, (40,), 128)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("memory.temprature=1", r"unknown key 'memory.temprature' \(did you mean 'memory.temperature'"),
        ("temperature=1", r"unknown key 'temperature' \(did you mean 'memory.temperature'"),
        ("memory.temperature=-1", "memory.temperature: Input should be greater than 0, got -1"),
        ("memory=3", "memory: .*got 3"),
        ("epochs=many", "epochs: .*got 'many'"),
        ("epochs", "'epochs' should be key=value"),
        ("data.image_size=[1", "the value is not YAML"),
        ("model.freeze=all", "model.freeze: Input should be 'official' or 'none', got 'all'"),
    ],
)
def test_mistakes_on_the_command_line(folder, override, message):
    with pytest.raises(InputError, match=message) as caught:
        load_settings(folder / "base.yaml", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: bad.yaml", "its base leads back to itself"),
        ("base: nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("- 1\n- 2", "expected keys and values, found a list"),
        ("a: [", "is not YAML"),
        ("memory: {k: 3}", "bad.yaml: unknown key 'memory.k'"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_mistakes_in_a_file(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_settings(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)
