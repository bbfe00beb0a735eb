"""The command line: one line a command. Command modules import what is heavy inside their functions."""

from __future__ import annotations

import sys

import typer

from factorstream.worker.cli import checkpoint, config, demo, evaluate, fit, get, plot, replay, run, services, similar, top, tune
from factorstream.worker.cli.printing import complain
from factorstream.worker.errors import FactorstreamError

app = typer.Typer(name="factorstream", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

app.command()(run.run)
app.command()(replay.replay)
app.command()(evaluate.evaluate)
app.command()(fit.fit)
app.command()(tune.tune)
app.command()(top.top)
app.command()(similar.similar)
app.command()(get.get)
app.command()(config.config)
app.command()(demo.demo)
app.add_typer(plot.app, name="plot")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(services.app, name="services")


def main() -> None:
    """Run the command that ``sys.argv`` names; a failure is one line on standard error and its exit code."""
    try:
        code = app(prog_name="factorstream", standalone_mode=False)
    except (FactorstreamError, typer.TyperException) as error:
        complain(error.format_message() if isinstance(error, typer.TyperException) else str(error))
        code = error.exit_code
    except typer.Abort:
        code = 130  # as shells say it of Ctrl-C
    sys.exit(code)


if __name__ == "__main__":
    main()
