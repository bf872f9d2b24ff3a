"""`rbg reproduce`: figures of the documents, computed again."""

from __future__ import annotations

import click

from robustbench_gan.cli.exits import user_errors

GROUP = "robustbench_gan.figures"  # of entry points: whoever brings a figure registers its command there


class Figures(click.Group):
    """The commands that are registered under GROUP, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        import importlib_metadata

        return sorted(importlib_metadata.entry_points(group=GROUP).names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them, whose errors end as those of every command; None for another name."""
        import importlib_metadata

        for entry in importlib_metadata.entry_points(group=GROUP, name=cmd_name):
            found: click.Command = entry.load()
            assert found.callback is not None, f"{cmd_name} is a command that does nothing"
            return click.Command(
                cmd_name, callback=user_errors(found.callback), params=found.params, help=found.help
            )
        return None


@click.group("reproduce", cls=Figures)
def command() -> None:
    """Compute a figure of the documents again.

    Each is a command with options of its own: some take minutes, some hours, and what is finished is kept.
    """
