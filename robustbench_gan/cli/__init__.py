"""The command line, `rbg`: one file a command. Torch is imported only by a command that runs."""

from __future__ import annotations

from importlib import import_module

import click

from robustbench_gan import __version__

COMMANDS = (
    "audit", "cache", "evaluate", "explain", "leaderboard", "list", "reproduce", "show", "sweep", "train",
)  # fmt: skip


class Commands(click.Group):
    """The commands of this folder, each imported when it is asked for: the command NAME of the file NAME.py."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the help page."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them; None for another name."""
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rbg")
def main() -> None:
    """Measure how robust image classifiers and their defenses really are."""
