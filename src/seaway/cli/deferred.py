"""How commands hang together: one that is built when it is asked for, groups, and what wrong values are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


class RootGroup(TyperGroup):
    """All commands: `help deploy` means `deploy --help`, and wrong values are told in words of people."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # Newer versions of typer have pydantic read the values.
            if found := getattr(error.__cause__, "errors", None):
                error.message = _wrong_value(found()[0]) or error.message
            raise


_EXPECTED = {
    "int_parsing": "a whole number", "float_parsing": "a number", "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}", "finite_number": "a finite number",
}  # fmt: skip


def _wrong_value(finding: Mapping[str, Any]) -> str | None:
    """
    >>> _wrong_value({"type": "greater_than_equal", "ctx": {"ge": 1}, "input": "0", "msg": ""})
    "must be at least 1, not '0'."
    """
    if expected := _EXPECTED.get(finding["type"]):
        limits = {name: f"{limit:.10g}" for name, limit in (finding.get("ctx") or {}).items()}
        return f"must be {expected.format_map(limits)}, not {finding['input']!r}."
    message = str(finding["msg"])
    return message.removeprefix("Value error, ") if finding["type"] == "value_error" else None


class ShowGroup(TyperGroup):
    """`datasets NAME` means `datasets show NAME`, and `datasets` alone `datasets show`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)
