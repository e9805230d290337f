"""``reid-da train``, ``ablate``, ``sweep``, ``compare``, ``settings``: experiments."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reid_da.atomic import write_text
from reid_da.cli.output import print_json, say, show, show_log, stoppable
from reid_da.errors import InputError
from reid_da.presets import settings_file
from reid_da.yaml_files import parse_yaml, read_yaml

if TYPE_CHECKING:
    from reid_da.config import ExperimentSettings
    from reid_da.reporting.result_tables import ResultRow
    from reid_da.reporting.tables import Table
    from reid_da.training.run_folder import RunFolder


def _readable(config: Path | None) -> Path | None:
    """Refuse a file that cannot be read before torch is imported, which takes seconds."""
    if config is not None and "=" not in str(config):
        read_yaml(settings_file(config))
    return config


Config = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", callback=_readable, help="YAML file, or the name of a preset such as spcl."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that differ, e.g. memory.temperature=0.1."),
]
Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds, starting from the configured one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def train(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", callback=_readable, help="YAML file or name of a preset; not with --resume."),
    ] = None,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run. Default: runs/NAME-seedSEED.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Resume an interrupted run.")] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Resume from the newest intact checkpoint.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train an experiment, or resume an interrupted one.

    A resumed run may change what does not invalidate what is trained: paths of the data, the device, more epochs, and
    the settings of a stage that has not begun.

    Several processes train together where torchrun starts them, with the results of one; see docs/scaling.md.

    Example: reid-da train experiments/rendered/site-a2site-b.yaml memory.temperature=0.1 -o runs/warm

    Example: reid-da train --resume runs/warm epochs=60 data.target=/mnt/site-b

    Example: torchrun --nproc-per-node 8 -m reid_da train experiments/duke2market/e_c_n.yaml
    """
    from reid_da.experiments import runs
    from reid_da.methods import load_settings
    from reid_da.processes import joined

    show_log()
    if resume is not None:
        # without CONFIG the first of the changes stands in its place
        changes = [*([] if config is None else [str(config)]), *(overrides or ())]
        if config is not None and "=" not in str(config):
            raise InputError("give either CONFIG or --resume RUN")
        with stoppable("reid-da train", resume), joined(_device(resume, changes)) as world:
            run = runs.resume(resume, changes, skip_damaged=skip_damaged, world=world)
    elif config is None:
        raise InputError("give either CONFIG or --resume RUN")
    else:
        assert config is not None
        settings = load_settings(config, overrides or ())
        folder = output or _folder(settings)
        with stoppable("reid-da train", folder), joined(settings.device) as world:
            run = runs.train(settings, folder, world=world)
    if not world.is_main:
        return
    result = runs.final_result(run) if run.records("evaluation") else {}
    if as_json:
        print_json({"run": str(run.path), **result})
        return
    if result:
        _print_result(run, result)
    say(f"run: {run.path}")
    before = f"{run.path / 'pretrain'} " if (run.path / "pretrain").is_dir() else ""
    ranked = f"`reid-da ranked-lists {before}{run.path} -o lists.png`, " if result else ""
    say(f"next: {ranked}`reid-da curves {run.path}`, or in Python reid_da.load({str(run.path)!r})", error=True)


def _device(run: Path, changes: Sequence[str]) -> str:
    """The device on which a run is resumed."""
    from reid_da.training.run_folder import RunFolder

    given = [text.partition("=")[2] for text in changes if text.startswith("device=")]
    return given[-1] if given else RunFolder.open(run).settings().device


def _print_result(run: "RunFolder", result: Mapping[str, float]) -> None:
    """Figures on the target after the last epoch, beside those of the first stage where there were several."""
    from reid_da.experiments import runs
    from reid_da.reporting.result_tables import ResultRow, ablation_table, before_after_table

    name = run.name
    stage = run.path / "pretrain"
    while (stage / "pretrain").is_dir():
        stage /= "pretrain"
    if stage.is_dir():
        before = runs.final_result(type(run).open(stage))
        show(before_after_table(before, result, title=f"{name}: on the target, before and after"))
        if result.get("mAP", 0) <= before.get("mAP", 0):
            say(
                f"note: mAP did not rise; the model before adaptation is {stage}. Often it is too weak to begin with: "
                f"start from pretrained weights (model.weights=PATH), or train it for longer (pretrain.epochs=N)"
            )
    else:
        show(ablation_table([ResultRow(name="last epoch", results=(result,))], title=f"{name}: on the target"))


def ablate(
    config: Config,
    overrides: Overrides = None,
    rows: Annotated[
        str, typer.Option(help="Rows of the table, separated by commas. Default: the usual ones of the method.")
    ] = "",
    seeds: Seeds = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of table and runs. Default: runs/NAME-ablation.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the rows of an ablation table; run it again to resume it.

    Rows: source, e, e+c, e+n, e+c+n; camstyle (trained on the source in the target's camera styles); supervised
    (trained on the labels of the target, an upper bound). The table also keeps rows that the folder holds complete from
    before, with the same settings.

    Example: reid-da ablate experiments/rendered/site-a2site-b.yaml --rows source,e+c+n,supervised --seeds 3
    """
    from reid_da.methods import load_settings
    from reid_da.reporting.published_results import published_pair, published_rows, quoted_rows
    from reid_da.reporting.result_tables import ResultRow, ablation_table
    from reid_da.studies.ablation import ablate as train_rows

    show_log()
    settings = load_settings(config, overrides or ())
    names = [row.strip().lower() for row in rows.split(",") if row.strip()]
    if rows and not names:
        raise InputError("--rows: name at least one row, for example --rows source,e+c+n")
    folder = output or _folder(settings, "ablation")
    pair = published_pair(settings.data)
    with stoppable():
        trained = train_rows(settings, folder, rows=names, seeds=seeds)
    results = [ResultRow(name=name, results=figures) for name, figures in trained.items()]
    quoted = quoted_rows(*pair, beside=list(trained))
    table = ablation_table(results, published=published_rows(*pair), quoted=quoted, title=settings.name)
    _save_and_print(folder, table, results, as_json=as_json)


def sweep(
    config: Config,
    setting: Annotated[str, typer.Argument(metavar="KEY=VALUE,VALUE,...", help="What to vary.")],
    overrides: Overrides = None,
    seeds: Seeds = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results. Default: runs/NAME-sweep-KEY."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train with several values of one setting: a table and a plot.

    Example: reid-da sweep experiments/rendered/site-a2site-b.yaml memory.temperature=0.01,0.05,0.1,0.5
    """
    from reid_da.methods import load_settings
    from reid_da.reporting.published_results import published_pair, published_sweep
    from reid_da.reporting.result_tables import sweep_rows, sweep_table
    from reid_da.reporting.training_curves import draw_sweep
    from reid_da.studies.ablation import sweep as train_values
    from reid_da.studies.ablation import sweep_values

    show_log()
    settings = load_settings(config, overrides or ())
    key, listed = _key_and_values(setting)
    values = sweep_values(settings, key=key, values=listed)
    folder = output or _folder(settings, f"sweep-{key}")
    published = published_sweep(*published_pair(settings.data), key)
    with stoppable():
        results = list(train_values(settings, folder, key=key, values=values, seeds=seeds).values())
    draw_sweep(values, {settings.name: results}, folder / "sweep.png", xlabel=key)
    table = sweep_table(key, values, results, published=published, title=settings.name)
    _save_and_print(folder, table, sweep_rows(values, results), as_json=as_json)


def compare(
    configs: Annotated[
        list[str], typer.Argument(metavar="CONFIG... [KEY=VALUE]...", help="YAML files, and settings that differ.")
    ],
    seeds: Seeds = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the results. Default: runs/comparison.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train several experiments: one table, one plot; run it again to resume it.

    Example: reid-da compare experiments/supervised/rendered/{softmax,arcface}.yaml --seeds 3
    """
    from reid_da.methods import load_settings
    from reid_da.reporting.result_tables import ResultRow, ablation_table
    from reid_da.reporting.training_curves import draw_sweep
    from reid_da.studies.ablation import compare as train_experiments
    from reid_da.studies.collecting import published_beside

    show_log()
    overrides = [text for text in configs if "=" in text and not Path(text).exists()]
    experiments = [load_settings(text, overrides) for text in configs if text not in overrides]
    if not experiments:
        raise InputError("give the YAML files of the experiments to compare")
    folder = output or Path("runs") / "comparison"
    with stoppable():
        results = train_experiments(experiments, folder, seeds=seeds)
    rows = [ResultRow(name=name, results=figures) for name, figures in results.items()]
    draw_sweep(list(results), {"": list(results.values())}, folder / "comparison.png", xlabel="")
    published, quoted = published_beside(experiments)
    table = ablation_table(rows, published=published, quoted=quoted, heading="experiment")
    _save_and_print(folder, table, rows, as_json=as_json)


def settings(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG|SECTION]", help="YAML file, or one group such as memory.")
    ] = None,
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="Whose settings to print, without CONFIG.")] = "ecn",
) -> None:
    """Print settings with their values, meaning and range, as YAML: the defaults of a method, or those of a file.

    Example: reid-da settings experiments/duke2market/e_c_n.yaml loss_weight=0.5

    Example: reid-da settings --method supervised > mine.yaml

    Example: reid-da settings memory
    """
    from reid_da.config.describe import describe_settings
    from reid_da.methods import EXPERIMENTS
    from reid_da.presets import is_preset

    is_file = config is not None and (
        is_preset(config) or Path(config).suffix in (".yaml", ".yml") or Path(config).is_file()
    )
    given = ([] if is_file else [f"method={method}"]) + list(overrides or ())
    if config is not None and not is_file and "=" in config:
        given, config = [*given, config], None
    shown = EXPERIMENTS.load(config if is_file else None, given)
    typer.echo(describe_settings(shown, None if is_file else config), nl=False)


def _folder(settings: "ExperimentSettings", kind: str | None = None) -> Path:
    """Where results go unless told otherwise."""
    return Path("runs") / (f"{settings.name}-{kind}" if kind else f"{settings.name}-seed{settings.seed}")


def _save_and_print(folder: Path, table: "Table", rows: Sequence["ResultRow"], *, as_json: bool) -> None:
    """Write ``table.md`` and ``table.json``, and print one of the two."""
    from reid_da.reporting.result_tables import to_json
    from reid_da.reporting.tables import to_markdown

    write_text(folder / "table.md", to_markdown(table))
    write_text(folder / "table.json", json.dumps(to_json(rows), indent=2) + "\n")
    if as_json:
        print_json(to_json(rows))
        return
    show(table)
    say(f"results: {folder}", error=True)


def _key_and_values(setting: str) -> tuple[str, list[Any]]:
    """The parts of ``key=value,value,...``; values are read as YAML, so that one may be a list."""
    key, _, texts = setting.partition("=")
    values = parse_yaml(f"[{texts}]", where=repr(setting))
    if not key or not values:
        raise InputError(f"{setting!r} should be key=value,value,..., for example memory.temperature=0.01,0.05")
    return key, values
