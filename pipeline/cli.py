"""The command line: thin, one verb a stage, and what people do around the stages.

Nothing heavy is imported here, so that `--help` answers at once; each verb imports what it needs.
"""

import importlib
import io
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.atomic import BROKEN, UNWRITABLE, remove_partial_of
from pipeline.errors import HounsfieldError
from pipeline.graph import PRODUCTS
from pipeline.runs.cli import app as run_app
from pipeline.workspace import STAGES, check_inputs, project_root, stage_files

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Retrain organ segmentation when new scans arrive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Organ = Annotated[str, typer.Argument(help="An organ of params.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""No library that is used here phones home."""

SPINS = "1000"
"""How often a thread of PyTorch looks, on a CPU, whether the others are there before it sleeps: for some
microseconds, as with more threads than cores. OpenMP's default is 300,000, and where two trainings share
the cores most of their time goes into that."""

STAGE_HELP = {
    "ingest": "Raw scans to calibrated volumes; every case accepted or quarantined with its reason.",
    "validate": "Check the cases as an imaging person would; freeze the test set.",
    "patches": "Choose balanced, negative and background patch centres.",
    "augment": "Resolve and check the augmentation policy, with a picture.",
    "train": "Train the network; goes on where it was stopped.",
    "evaluate": "Predict and judge the held-out cases; write the report.",
    "register": "Decide by the evidence whether the model becomes the champion.",
}


def main() -> None:
    """Run the command line; a failure the user can mend is one sentence and the class's exit code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if "OMP_WAIT_POLICY" not in os.environ:
        # Before PyTorch is loaded, which reads it then.
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # As stderr: a terminal that has no letter for something gets its number.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except HounsfieldError as error:
        _end_with(error)
    except OSError as error:
        if error.errno not in (*UNWRITABLE, *BROKEN):
            raise
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        room = "see that there is room, and who may read and write"
        disk = "see to the disk, or to the server that it is on, and run again"
        _end_with(HounsfieldError(said, disk if error.errno in BROKEN else room))


def _end_with(error: HounsfieldError) -> None:
    from pipeline.progress import console

    console.print("[bold red]error[/]", end=" ")
    console.print(str(error), markup=False)
    sys.exit(error.exit_code)


def _print_json(result: Any) -> None:
    """Tell machines, on stdout; a dataclass becomes an object of its fields."""
    print(json.dumps(result, default=asdict))


def _tables() -> "Console":
    """What tables are printed by, to people on stdout."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def _say(*lines: str) -> None:
    """Tell people, on stderr."""
    from pipeline.progress import console

    for line in lines:
        # A name with brackets is no markup.
        console.print(line, markup=False)


def run_stage(stage: str, organ: str) -> None:
    """Run one stage of one organ on the files that `dvc.yaml` names, from the project's folder."""
    from pipeline.params import load_organ
    from pipeline.unchanged import unchanged

    root = project_root()
    os.chdir(root)
    files = stage_files(root, stage, organ)
    with unchanged(root, stage, organ):
        params = load_organ(root / "params.yaml", organ).section(stage)
        check_inputs(root, stage, organ)
        for product in stage_files(root, stage, organ, PRODUCTS).values():
            # It bears the number of a killed run: nothing would ever write over it.
            remove_partial_of(product)
        importlib.import_module(f"pipeline.stages.{stage}").run(organ, params, **files)


def _add_stage(stage: str) -> None:
    @app.command(stage, help=STAGE_HELP[stage], rich_help_panel="Stages (dvc repro runs them)")
    def command(organ: Organ) -> None:
        run_stage(stage, organ)


for _stage in STAGES:
    _add_stage(_stage)

app.add_typer(run_app, name="run", rich_help_panel="Runs (Airflow gives these commands)")


@app.command(rich_help_panel="Data and models")
def phantom(
    patients: Annotated[int, typer.Option(min=8, max=999, help="How many patients.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other patients.")] = 0,
    size: Annotated[
        float,
        typer.Option(
            min=0.25,
            max=4.0,
            help="Voxels on each axis, times this; below 0.6 validate finds its slices too thick.",
        ),
    ] = 1.0,
) -> None:
    """Make the embedded default data, a CT phantom of the abdomen, and put it under DVC."""
    from pipeline.onboarding.embedded import make_default_data

    make_default_data(project_root(), patients, seed, size)


@app.command("add-organ", rich_help_panel="Data and models")
def add_organ(
    name: Annotated[str, typer.Argument(help="What the organ is called: lower case, digits, '_'.")],
    source: Annotated[
        str, typer.Option(help="A folder that holds images and labels, or s3://BUCKET/PREFIX.")
    ],
    modality: Annotated[str | None, typer.Option(help="CT or MR; found by itself if it can be.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label and its value; repeat.")
    ] = None,
) -> None:
    """Take scans in as a new organ: data under DVC, the organ in params.yaml."""
    from pipeline import onboarding
    from pipeline.progress import console

    root = project_root()
    labels = onboarding.parse_labels(label) if label else None
    if source.startswith("s3://"):
        organ = onboarding.add_organ_from_prefix(
            root, name, source, modality=modality, labels=labels, console=console
        )
        _say(f"git add data/raw/{name}.s3.json as well: hounsfield fetch goes by it")
    else:
        folder = Path(source).absolute()
        organ = onboarding.add_organ(root, name, folder, modality=modality, labels=labels, console=console)
    _say(*organ.lines())


@app.command(rich_help_panel="Data and models")
def fetch(
    organ: Organ,
    source: Annotated[
        str | None, typer.Option(metavar="s3://BUCKET/PREFIX", help="Where from; remembered for next time.")
    ] = None,
    allow_removal: Annotated[
        bool, typer.Option("--allow-removal", help="Let more than half of the scans go.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch what is new or changed in the S3 prefix of an organ, and put it under DVC."""
    from pipeline.onboarding import fetch_organ

    done = fetch_organ(project_root(), organ, source, allow_removal=allow_removal)
    if as_json:
        _print_json(done.as_json())
    else:
        _say(*done.lines())


@app.command(rich_help_panel="Data and models")
def locate(
    organ: Organ,
    case: Annotated[str, typer.Argument(help="A case, as tables and reports call it.")],
    as_json: AsJson = False,
) -> None:
    """Say which files a case is made of: tables hold no paths, because these may name a person."""
    from pipeline.locate import files_of

    paths = [str(path) for path in files_of(project_root(), organ, case)]
    print(json.dumps(paths) if as_json else "\n".join(paths))


@app.command(rich_help_panel="Data and models")
def predict(
    organ: Organ,
    source: Annotated[Path, typer.Argument(metavar="IN", help="A scan, or a folder of scans.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A label map, or a folder for them.")],
    model: Annotated[
        str, typer.Option(help="auto, champion, challenger, latest, a version's number, or a model's folder.")
    ] = "auto",
    written_as: Annotated[
        Literal["nifti", "dicom-seg", "rtstruct"],
        typer.Option("--format", help="dicom-seg, rtstruct: of DICOM series, to which they refer."),
    ] = "nifti",
    as_json: AsJson = False,
) -> None:
    """Label scans with the current model, in the geometry of each: same shape, affine, orientation."""
    from pipeline.prediction.predict import predict_scans

    started = time.perf_counter()
    source, target = source.absolute(), target.absolute()
    summary = predict_scans(project_root(), organ, source, target, model, written_as)
    summary.show(as_json, time.perf_counter() - started)
    if summary.failed:
        raise typer.Exit(summary.exit_code)


@app.command(rich_help_panel="Data and models")
def card(
    organ: Organ,
    version: Annotated[int | None, typer.Option(help="Its number; by default the champion's.")] = None,
) -> None:
    """Print the model card of a version: what it is for, its data, how good it is, its limits."""
    from pipeline.registry.asked import asked_version
    from pipeline.registry.card import NAME
    from pipeline.registry.models import ModelRegistry

    registry = ModelRegistry(project_root())
    print(registry.evidence(asked_version(registry, project_root(), organ, version), NAME), end="")


@app.command(rich_help_panel="Data and models")
def lineage(
    organ: Organ,
    version: Annotated[int | None, typer.Option(help="Its number; by default the champion's.")] = None,
    cases: Annotated[bool, typer.Option("--cases", help="Each case, with its key and raw files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Walk from a version back to its raw cases: commit, dvc.lock, data; ends with 0 if every link holds."""
    from pipeline.registry.lineage import walk
    from pipeline.registry.links import as_table, cases_table

    found = walk(project_root(), organ, version, cases=cases)
    if as_json:
        _print_json(found.as_json(cases))
        raise typer.Exit(found.exit_code)
    out = _tables()
    out.print(as_table(found))
    if cases:
        out.print(cases_table(found))
    for command in found.commands:
        out.print(f"  {command}", markup=False)
    _say(found.sentence)
    raise typer.Exit(found.exit_code)


@app.command(rich_help_panel="Data and models")
def export(
    organ: Organ,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that is not there, or is empty.")],
    version: Annotated[int | None, typer.Option(help="Its number; by default the champion's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a version as a MONAI bundle: safetensors, torch.export and ONNX, all of which agree."""
    from pipeline.export.registered import export_version

    done = export_version(project_root(), organ, target.absolute(), version)
    if as_json:
        _print_json(done)
    else:
        _say(*done.lines())


@app.command(rich_help_panel="Data and models")
def results(as_json: AsJson = False) -> None:
    """Show what came out: Dice of every organ, where the report is, which version is champion."""
    from pipeline import results as found

    collected = found.collect(project_root())
    if as_json:
        _print_json(collected)
        return
    out = _tables()
    out.print(found.as_table(collected))
    for result in collected:
        for sentence in found.sentences(result):
            out.print(sentence, markup=False)


@app.command(rich_help_panel="Data and models")
def plan(
    organ: Organ,
    pin: Annotated[
        bool, typer.Option("--pin", help="Write all of it into params.yaml: no new data change it then.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show spacing, patches, normalisation and network that were planned, why, and the keys to override."""
    from pipeline import planned

    fresh = planned.pin(project_root(), organ) if pin else []
    found = planned.choices(project_root(), organ)
    if as_json:
        _print_json({"plan": found, "pinned": [one.key for one in fresh]})
        return
    out = _tables()
    out.print(planned.as_table(organ, found))
    if pin:
        out.print(
            f"written to params.yaml: {', '.join(one.key for one in fresh) or 'nothing new'}", markup=False
        )
    else:
        out.print(f"override a key under organs.{organ} of params.yaml, or keep all: --pin", markup=False)


@app.command(rich_help_panel="Data and models")
def drift(organ: Organ, as_json: AsJson = False) -> None:
    """Compare the current data with those the champion was trained on; writes reports/ORGAN/drift.html."""
    from pipeline.drift import as_table, compare

    found = compare(project_root(), organ)
    if as_json:
        _print_json(found.record())
        return
    out = _tables()
    if found.rows:
        out.print(as_table(found))
    for sentence in found.sentences():
        out.print(sentence, markup=False)


@app.command(rich_help_panel="Data and models")
def approve(
    organ: Organ,
    version: Annotated[int, typer.Argument(help="A version that won and waits.")],
    by: Annotated[str, typer.Option(help="Who approves.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "",
) -> None:
    """Approve of a model that won, where params.yaml asks for it; register makes it the champion."""
    from pipeline.registry import champions
    from pipeline.registry.artifacts import content_of

    root = project_root()
    champions.check_beaten(root, organ, version)
    approved = champions.approve(root, organ, version, by, reason)
    said = [f"{organ}: version {approved.number} is approved of by {by}"]
    models = stage_files(root, "register", organ)["models"]
    if content_of(root / models) != approved.content:
        back = f"hounsfield lineage {organ} --version {version} tells how to bring it back"
        said.append(f"{models} does not hold its files, by which register goes: {back}")
    _say(*said, f"next: dvc repro --force --single-item register@{organ}")


@app.command(rich_help_panel="Data and models")
def rollback(
    organ: Organ,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    to: Annotated[
        int | None,
        typer.Option(
            metavar="VERSION",
            help="None: the champion before; who gives the same reason again goes no further back.",
        ),
    ] = None,
    by: Annotated[str, typer.Option(help="Who says so; by default who runs this.")] = "",
    identifier: Annotated[str, typer.Option("--id", hidden=True)] = "",
    as_json: AsJson = False,
) -> None:
    """Make a former champion the champion again; the current one will not come back by itself."""
    from pipeline.registry import champions

    done = champions.rollback(project_root(), organ, reason, to=to, by=by, identifier=identifier)
    if as_json:
        _print_json(done)
    else:
        _say(f"{organ}: version {done.champion} is the champion again, version {done.former} is withdrawn")


@app.command("start-from", rich_help_panel="Data and models")
def start_from(
    organ: Organ,
    other: Annotated[str, typer.Argument(help="The organ whose champion it starts from.")],
    transfer: Annotated[
        str, typer.Option(help="full: all is trained; partial: all but the first layers; zero: nothing.")
    ] = "full",
    frozen_share: Annotated[
        float | None, typer.Option(help="Of the layers, where the transfer is partial.")
    ] = None,
) -> None:
    """Have an organ's training start from another organ's champion; writes it into params.yaml."""
    from pipeline.runs.beginning import start_from

    content = start_from(project_root(), organ, other, transfer, frozen_share)
    _say(
        f"{organ} starts from the champion of {other}, {content[:12]}, transfer {transfer}",
        f"next: dvc repro register@{organ}",
    )


@app.command("hard-negatives", rich_help_panel="Data and models")
def hard_negatives(
    organ: Organ,
    share: Annotated[float, typer.Option(help="Of all patches.")] = 0.2,
) -> None:
    """Have patches drawn where the champion finds the organ and it is not; writes it into params.yaml."""
    from pipeline.runs.beginning import mine_from_champion

    content = mine_from_champion(project_root(), organ, share)
    _say(
        f"{organ}: a share of {share:g} of the patches lies where the champion, {content[:12]}, is wrong",
        f"next: dvc repro register@{organ}",
    )


@app.command(rich_help_panel="Data and models")
def networks(
    name: Annotated[
        list[str] | None, typer.Argument(help="Only these; all of the catalogue otherwise.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="As wide as in the papers, not for a CPU.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the networks that may be trained, with their size and what a step of a patch costs here."""
    from pipeline.errors import ParamsError
    from pipeline.networks import check, options_of
    from pipeline.networks import names as catalogue
    from pipeline.networks.table import PATCH, as_table, rows
    from pipeline.progress import track

    asked = name or catalogue()
    for each in asked:
        try:
            check(each, {})
        except ValueError as error:
            raise ParamsError(str(error)) from None
    measured = list(track(rows(asked, small=not full), "measure", len(asked)))
    if as_json:
        _print_json(measured)
        return
    out = _tables()
    out.print(as_table(measured))
    out.print(f"of one patch of {' x '.join(map(str, PATCH))} voxels, in float32, forward and backward")
    for each in name or ():
        told = options_of(each) if each in catalogue() else None
        if told:
            options = ", ".join(f"{option}: {kind}" for option, kind in told.items())
            out.print(f"options of {each}: {options}", markup=False)


@app.command(rich_help_panel="Data and models")
def leaderboard(
    organ: Organ,
    system: Annotated[
        list[str] | None,
        typer.Argument(help="Such as unet, or unet,network.dims=2,loss.focal_gamma=2; everything otherwise."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of each system's training; 200 by default.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Instead of steps: of each.")] = None,
    voxels: Annotated[float | None, typer.Option(min=1, help="Instead of steps: seen by each.")] = None,
    profile: Annotated[str, typer.Option(help="small, or full for a GPU.")] = "small",
    jobs: Annotated[int, typer.Option(min=1, help="Systems at a time.")] = 1,
    target: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the pages; docs/leaderboard of the project by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train and judge many systems under one budget; writes a page. Run again, it goes on where it was."""
    from pipeline.errors import ParamsError
    from pipeline.leaderboard import board, page
    from pipeline.leaderboard.systems import Budget

    amounts = {"steps": steps, "seconds": seconds, "voxels": voxels}
    given = [Budget(kind, amount) for kind, amount in amounts.items() if amount]
    if len(given) > 1:
        raise ParamsError("the budget is one of --steps, --seconds and --voxels: leave out the others")
    if profile not in ("small", "full"):
        raise ParamsError(f"--profile is '{profile}': it is small or full")
    budget = given[0] if given else Budget("steps", 200)
    root = project_root()
    command = " ".join(["hounsfield", *sys.argv[1:]])
    pages = target.absolute() if target else root / "docs" / "leaderboard"
    rows, written = board.make(
        root, organ, system or [], budget, profile=profile, jobs=jobs, target=pages, command=command
    )
    if as_json:
        _print_json([{key: value for key, value in row.items() if key != "folder"} for row in rows])
    else:
        _tables().print(page.as_table(rows))
        _say(f"{organ}: the page is {written}")
    failed = [row for row in rows if "error" in row]
    for row in failed:
        _say(f"{row['system']} failed: {row['error']}; its log is {row['folder']}/{board.LOG}")
    if failed:
        raise typer.Exit(2)


@app.command(rich_help_panel="Data and models")
def doctor(as_json: AsJson = False) -> None:
    """Say what is there and what is missing, with the command that mends it."""
    from pipeline import doctor as examination

    checks = examination.examine(project_root())
    if as_json:
        _print_json(checks)
    else:
        _tables().print(examination.as_table(checks))
    raise typer.Exit(examination.exit_code(checks))


if __name__ == "__main__":
    main()
