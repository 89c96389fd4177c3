"""How commands hang together: one that is built when it is asked for, and groups with a command that needs no name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

# `Any` below stands for click's Context and Parameter, whose module depends on typer's version.


class DeferredCommand(TyperCommand):
    """Its function returns the function of the command, whose options are only then known.

    Help texts list the command without building it, so that they appear at once.
    """

    @cached_property
    def _built(self) -> Any:
        build: Callable[[], Callable[..., None]] = self.callback  # type: ignore[assignment]
        app = typer.Typer(add_completion=False, rich_markup_mode=self.rich_markup_mode)
        app.command(self.name, help=self.help)(build())
        return get_command(app)

    def get_params(self, ctx: Any) -> list[Any]:
        return list(self._built.get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        return self._built.invoke(ctx)


class ShowGroup(TyperGroup):
    """`datasets NAME` means `datasets show NAME`, and `datasets` alone `datasets show`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)
