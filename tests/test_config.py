from pathlib import Path

import pytest

from reid_da.config import dump_settings, merge
from reid_da.errors import InputError
from reid_da.methods import EXPERIMENTS, load_settings
from reid_da.methods.ecn import ECNSettings as ExperimentSettings
from reid_da.styles.cyclegan import CycleGANSettings
from reid_da.styles.stargan import StarGANSettings
from reid_da.styles.trained import load_style_settings


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
    with pytest.raises(InputError, match="circular base"):
        load_settings(folder / "back.yaml")


def test_a_stage_is_the_same_after_its_run_is_written(folder):
    """The source stage takes what only it knows from the file, whatever the method of the run is."""
    (folder / "npid.yaml").write_text(
        "method: npid\nbatch: {source: 24}\nsource_loss: {triplet_weight: 0.5}\npretrain: {epochs: 2}\n"
    )
    settings = load_settings(folder / "npid.yaml")
    (folder / "dump.yaml").write_text(dump_settings(settings))
    for stage in map(EXPERIMENTS.stage, (settings, load_settings(folder / "dump.yaml"))):
        assert (stage.batch.source, stage.source_loss.triplet_weight, stage.epochs) == (24, 0.5, 2)


def test_a_stage_may_have_a_stage_before_it(folder):
    (folder / "three.yaml").write_text(
        "method: npid\nepochs: 3\nloss_weight: 0.5\npretrain: {method: ecn, epochs: 2, pretrain: {epochs: 1}}\n"
    )
    last = load_settings(folder / "three.yaml", ["pretrain.pretrain.optimizer.lr=2"])
    middle = EXPERIMENTS.stage(last)
    first = EXPERIMENTS.stage(middle)
    assert [(stage.method, stage.epochs) for stage in (last, middle, first)] == [("npid", 3), ("ecn", 2), ("source", 1)]
    assert (first.optimizer.lr, middle.loss_weight, EXPERIMENTS.stage(first)) == (2, 0.5, None)
    (folder / "dump.yaml").write_text(dump_settings(last))
    assert EXPERIMENTS.stage(EXPERIMENTS.stage(load_settings(folder / "dump.yaml"))) == first


def test_bases_that_multiply_are_refused(folder):
    for number in range(25):
        (folder / f"b{number}.yaml").write_text(f"base: [b{number + 1}.yaml, b{number + 1}.yaml]\n")
    (folder / "b25.yaml").write_text("seed: 1\n")
    with pytest.raises(InputError, match="b0.yaml: has more than 100 base files"):
        load_settings(folder / "b0.yaml")


def test_a_key_that_stands_twice_is_refused(folder):
    (folder / "twice.yaml").write_text("seed: 1\nepochs: 2\nseed: 3\n")
    with pytest.raises(InputError, match="twice.yaml: line 3: duplicate key seed, first in line 1"):
        load_settings(folder / "twice.yaml")


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
        ("temperature=1", "temperature is a setting of method npid; method ecn has memory.temperature"),
        ("memory.temperature=-1", "memory.temperature: Input should be greater than 0, got -1"),
        ("memory=3", "memory: Input should be keys and values, such as {key: value}, got 3"),
        ("pretrain.foo=1", "command line: unknown key 'pretrain.foo'"),
        ("pretrain.pretrain.foo=1", r"unknown key 'pretrain.pretrain.foo'"),
        ("epochs=true", "epochs: true and false are valid for boolean settings only, got True"),
        ("data.image_size=[32, true]", "data.image_size: true and false are valid for boolean settings only"),
        ("memory.temperature=.inf", "memory.temperature: Input should be a finite number, got inf"),
        ("name=../../x", "name: a name is wanted, not a path; -o says where a run goes, got '../../x'"),
        ("precision.threads=100000", "precision.threads: Input should be less than or equal to 4096, got 100000"),
        ("optimizer.lr=1.0e+308", r"optimizer.lr: Input should be less than or equal to 10{30}, got 1e\+308"),
        ("epochs=many", "epochs: .*got 'many'"),
        ("epochs", "'epochs' should be key=value"),
        ("data.image_size=[1", "is not YAML"),
        ("model.freeze=all", "model.freeze: Input should be 'official', 'none' or a number of stages, got 'all'"),
        ("model.freeze=-1", "model.freeze: Input should be 'official', 'none' or a number of stages, got -1"),
        ("model.pooling=mean", "model.pooling: Input should be 'default', 'avg', 'max' or 'gem', got 'mean'"),
    ],
)
def test_mistakes_on_the_command_line(folder, override, message):
    with pytest.raises(InputError, match=message) as caught:
        load_settings(folder / "base.yaml", [override])
    assert "\n" not in str(caught.value)
    assert "base.yaml" not in str(caught.value)


def test_a_mistake_is_told_of_the_file_that_it_is_in(folder):
    (folder / "base.yaml").write_text("memory: {num_neighbors: -3}\n")
    with pytest.raises(InputError, match=r"base\.yaml: memory\.num_neighbors: .*got -3"):
        load_settings(folder / "sub" / "child.yaml", ["epochs=3"])
    with pytest.raises(InputError, match=r"command line: memory\.num_neighbors: .*got -4"):
        load_settings(folder / "sub" / "child.yaml", ["epochs=3", "memory.num_neighbors=-4", "epochs=4"])
    (folder / "sub" / "child.yaml").write_text("base: nowhere.yaml\n")
    with pytest.raises(InputError, match=r"child\.yaml: base: .*nowhere\.yaml: cannot be read"):
        load_settings(folder / "sub" / "child.yaml")


def test_keys_with_dots_are_the_same_in_a_file_as_on_the_command_line(folder):
    (folder / "dots.yaml").write_text(
        "memory.temperature: 0.3\nmemory: {num_neighbors: 4}\npretrain: {optimizer.lr: 2}\n"
    )
    settings = load_settings(folder / "dots.yaml")
    assert (settings.memory.temperature, settings.memory.num_neighbors) == (0.3, 4)
    assert settings.pretrain == {"optimizer": {"lr": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: bad.yaml", "circular base"),
        ("base: nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("- 1\n- 2", "expected keys and values, found a list"),
        ("a: [", "is not YAML"),
        ("base: {a: b}", "bad.yaml: base: expected the name of a YAML file"),
        ("memory: {k: 3}", "bad.yaml: unknown key 'memory.k'"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_mistakes_in_a_file(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_settings(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


def test_the_method_says_which_settings_of_styles_there_are(tmp_path):
    assert isinstance(load_style_settings(None), StarGANSettings)
    settings = load_style_settings(None, ["pool_size=7", "method=cyclegan", "pairs=[[1, 15]]"])
    assert isinstance(settings, CycleGANSettings)
    assert (settings.pool_size, settings.pairs, settings.pair) == (7, ((1, 15),), None)
    (tmp_path / "style.yaml").write_text(dump_settings(settings))
    assert load_style_settings(tmp_path / "style.yaml") == settings
    assert load_style_settings(tmp_path / "style.yaml", ["batch=3"]).batch == 3


@pytest.mark.parametrize("method", ["stargan", "cyclegan"])
def test_a_method_keeps_its_own_optimiser_where_a_part_of_it_is_set(method):
    default = load_style_settings(None, [f"method={method}"]).optimizer
    changed = load_style_settings(None, [f"method={method}", "optimizer.lr=0.5"]).optimizer
    assert (default.kind, default.betas, default.weight_decay, default.schedule) == ("adam", (0.5, 0.999), 0, "linear")
    assert changed == default.model_copy(update={"lr": 0.5})


def test_the_defaults_of_cyclegan_are_those_of_camstyle():
    settings = CycleGANSettings()
    assert (settings.cycle_weight, settings.identity_weight, settings.pool_size) == (10, 5, 50)
    assert (settings.batch, settings.channels, settings.num_blocks, settings.dropout) == (1, 64, 9, 0.5)
    # 30 epochs at 2e-4, then 20 down to 0
    assert (settings.epochs, settings.optimizer.lr, settings.optimizer.linear_from) == (50, 2e-4, 0.6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=stargen"], "unknown method 'stargen' .did you mean 'stargan'.*; valid: cyclegan, stargan"),
        (["method=[1"], "is not YAML"),
        (["pool_size=3"], "command line: pool_size is a setting of method cyclegan; method stargan has none"),
        (
            ["method=cyclegan", "critic_steps=3"],
            "critic_steps is a setting of method stargan; method cyclegan has none",
        ),
        (["method=cyclegan", "pool_szie=3"], "unknown key 'pool_szie' .did you mean 'pool_size'"),
        (["method=cyclegan", "pairs=[[1, 2, 3]]"], "pairs.0: Tuple should have at most 2 items"),
        (["method=cyclegan", "pairs=[[0, 1]]"], "pairs.0.0: Input should be greater than or equal to 1, got 0"),
        (["optimizer.linear_from=1"], "optimizer.linear_from: Input should be less than 1"),
    ],
)
def test_mistakes_in_settings_of_styles(overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        load_style_settings(None, overrides)
    assert "\n" not in str(caught.value)


def test_settings_and_overrides_as_mappings():
    tree = {"method": "ecn", "memory.temperature": 0.2, "memory": {"num_neighbors": 4}, "data": {"source": Path("a")}}
    loaded = load_settings(tree, {"memory": {"temperature": 0.3}, "data.target": "b", "epochs": 7})
    assert (loaded.memory.temperature, loaded.memory.num_neighbors, loaded.epochs) == (0.3, 4, 7)
    assert (loaded.data.source, loaded.data.target) == (Path("a"), Path("b"))
    assert load_settings(tree, {}) == load_settings(tree)
    with pytest.raises(InputError, match=r"overrides: memory\.num_neighbors: .*got -4"):
        load_settings(tree, {"memory.num_neighbors": -4})
    with pytest.raises(InputError, match="config: unknown key 'memry'"):
        load_settings({"memry": 1})
