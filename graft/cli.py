"""The console command ``graft``: what is no pipeline, and a strict way to run one.

Nothing heavy is imported before it is needed: ``graft predict`` runs with onnxruntime, Pillow and NumPy alone.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from graft import __version__
from graft.errors import GraftError, shown
from graft.garbage import collect_seldom, end_at_once, importing

if TYPE_CHECKING:
    from graft.config import TrainingParameters


def console() -> NoReturn:
    """Run the command that this process was started with, and end the process with its exit code."""
    codes: list[int] = []
    end_at_once(codes)
    collect_seldom()
    codes.append(main())
    sys.exit(codes[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 where it failed, 2 where it was asked wrongly."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold what a terminal cannot show
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except GraftError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from what is finished.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graft", description="Labelled photographs in, a promoted ONNX classifier out."
    )
    parser.add_argument("--version", action="version", version=f"graft {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("setup", help="make and activate the local stack; safe to run again")
    command.set_defaults(run=_setup)

    for name, pipeline, what in (
        ("run", "training", "check a config and train: from images to the challenger"),
        ("promote", "promotion", "check a config and hold the challenger against the gate"),
    ):
        command = commands.add_parser(name, help=what)
        _take_config(command)
        command.set_defaults(run=_run, pipeline=pipeline)

    command = commands.add_parser("check", help="judge the images of a config, and write the report as a page")
    _take_config(command)
    command.add_argument(
        "--page", type=Path, default=Path("validation.html"), metavar="FILE", help="where to write it"
    )
    command.add_argument(
        "--data-docs", type=Path, metavar="FOLDER", help="write Great Expectations' pages as well"
    )
    command.set_defaults(run=_check)

    command = commands.add_parser("plan", help="show what a run trains, and what it takes")
    _take_config(command)
    command.set_defaults(run=_plan)

    command = commands.add_parser("find-lr", help="suggest a learning rate, and draw the loss over it")
    _take_config(command)
    command.add_argument("--phase", choices=("warm_up", "fine_tune"), default="warm_up", help="which rate")
    command.add_argument(
        "--figure", type=_png, default=Path("find-lr.png"), metavar="FILE.png", help="where to draw the curve"
    )
    command.set_defaults(run=_find_lr)

    command = commands.add_parser("predict", help="name the class of images with an exported model")
    command.add_argument("model", type=Path, metavar="MODEL.onnx")
    command.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    command.set_defaults(run=_predict)

    command = commands.add_parser("summary", help="show what the latest training run gave")
    command.set_defaults(run=_summary)

    command = commands.add_parser("ui", help="open MLflow on 127.0.0.1")
    command.add_argument("--port", type=int, default=5000)
    command.set_defaults(run=_ui)

    command = commands.add_parser("rollback", help="make the previous champion champion again")
    command.add_argument("name", metavar="NAME", help="the model's name in the registry")
    command.set_defaults(run=_rollback)

    command = commands.add_parser("demo-data", help="write the demo's handwritten digits as an image folder")
    command.add_argument("folder", type=Path, metavar="FOLDER")
    command.add_argument("--per-class", type=int, metavar="N", help="a fixed sample of each class; all without it")
    command.set_defaults(run=_demo_data)
    return parser


def _take_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, metavar="CONFIG")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="data.root=photos, say")


def _parameters(options: argparse.Namespace) -> TrainingParameters:
    from graft.config_file import training_parameters

    return training_parameters(options.config, options.set)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GraftError(f"{error.filename}: cannot be written ({error.strerror}); give another place.") from error


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{shown(text)} must end in .png and lie in a folder that exists")
    return path


def _setup(_: argparse.Namespace) -> None:
    import graft.runtime.quiet  # noqa: F401
    from graft.runtime.stack import STACK, set_up

    set_up(Path.cwd())
    print(f"The stack {STACK!r} is active for this repository.")


def _run(options: argparse.Namespace) -> None:
    with importing():
        import graft.runtime.quiet  # noqa: F401
        from graft.runtime.run import run

    run(options.pipeline, options.config, options.set)


def _check(options: argparse.Namespace) -> None:
    import graft.runtime.quiet  # noqa: F401
    from graft.data.judge import write_data_docs
    from graft.data.manifest import scan
    from graft.data.validation import validate
    from graft.data.validation_report import require_fit
    from graft.reports.validation_page import validation_page

    parameters = _parameters(options)
    data = parameters.data
    folds = parameters.cross_validation.folds
    manifest = scan(data.root, data.limits)
    report = validate(manifest, data.validation, folds, data.bad_images)
    with _writing():
        options.page.write_text(validation_page(report), encoding="utf-8")
        if options.data_docs:
            write_data_docs(report.raw, options.data_docs)
    for outcome in [*report.failed("quarantine"), *report.failed("warning")]:
        print(outcome.sentence)
    for reason, count, examples in manifest.ignored.itertuples(index=False):
        print(f"Passed over: {count} {reason} ({examples}).")
    print(f"{len(report.table)} images, {len(report.quarantine)} left out; the report is {options.page}.")
    require_fit(report)


def _plan(options: argparse.Namespace) -> None:
    import graft.runtime.quiet  # noqa: F401
    from graft.forecast import forecast

    plan, expected = forecast(_parameters(options))
    print(f"{plan.in_words()}\n\n{expected.in_words()}")


def _find_lr(options: argparse.Namespace) -> None:
    import graft.runtime.quiet  # noqa: F401
    from graft.rate_finder import find_rate_for
    from graft.reports.figures import as_png, rate_curve

    curve = find_rate_for(_parameters(options), options.phase)
    key = f"training.{options.phase}.learning_rate"
    with _writing():
        options.figure.write_bytes(as_png(rate_curve(curve, key)))
    print(f"{key}: {curve.suggestion:.1e}; the curve is {options.figure}.")


def _predict(options: argparse.Namespace) -> None:
    from graft.predict import predict

    for prediction in predict(options.model, options.images):
        best = "  ".join(f"{name} {probability:.1%}" for name, probability in prediction.classes[:3])
        print(f"{prediction.path}\t{best}")


def _summary(_: argparse.Namespace) -> None:
    import graft.runtime.quiet  # noqa: F401
    from graft.runtime.summary import summary

    print(summary())


def _ui(options: argparse.Namespace) -> None:
    import graft.runtime.quiet  # noqa: F401
    from graft.runtime.ui import serve

    serve(options.port)


def _rollback(options: argparse.Namespace) -> None:
    import graft.runtime.quiet  # noqa: F401
    from graft.runtime.registry import roll_back
    from graft.runtime.stack import connect_mlflow

    before, after = roll_back(connect_mlflow(), options.name)
    print(f"Version {after} of {options.name} is champion again; version {before} was.")


def _demo_data(options: argparse.Namespace) -> None:
    from graft.demo import write_digits

    print(write_digits(options.folder, options.per_class))


if __name__ == "__main__":
    sys.exit(main())
