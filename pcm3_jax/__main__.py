"""The command `pcm3`: `pcm3 NAME …` is `python -m MODULE …`."""

from __future__ import annotations

import runpy
import sys

import pcm3_jax
from pcm3_jax.errors import suggestion

# Name → module and what it does.
COMMANDS = {
    "predict": ("pcm3_jax.predict", "label recordings, or frames as they arrive"),
    "embed": ("pcm3_jax.embed", "write features of recordings"),
    "fit": ("pcm3_jax.fit", "make a recogniser of labelled recordings"),
    "show": ("pcm3_jax.show", "see recordings, on a page of animated skeletons"),
    "build": ("tfds_builders.build", "build a data set from its raw files"),
    "train": ("pcm3_jax.main", "pretrain, evaluate, or make the paper's tables"),
    "report": ("pcm3_jax.report", "see runs, on a page of curves, tables and maps"),
    "summary": ("pcm3_jax.summary", "print one table of finished evaluations"),
    "convert": ("pcm3_jax.convert", "convert and export models"),
    "bench": ("pcm3_jax.benchmark", "measure the speed of training"),
}


def main() -> None:
    """Runs the command line; a name that does not exist exits with code 1 and one sentence."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"pcm3_jax {pcm3_jax.__version__}")
    elif name in COMMANDS:
        module, _ = COMMANDS[name]
        sys.argv = [f"pcm3 {name}", *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        end = suggestion(name, COMMANDS) or "; pcm3 --help lists them."
        sys.exit(f"error: There is no command {name!r}{end}")


def usage() -> str:
    """The text of --help."""
    rows = [f"  {name:9}{does:49}{module}" for name, (module, does) in COMMANDS.items()]
    return "\n".join(
        [
            (pcm3_jax.__doc__ or "").partition("\n")[0],
            "",
            "usage: pcm3 NAME …   (pcm3 NAME --help: its arguments)",
            "",
            *rows,
            "",
            "pcm3 NAME … is the same as python -m MODULE …, whose modules stand on the right.",
        ]
    )


if __name__ == "__main__":
    main()
