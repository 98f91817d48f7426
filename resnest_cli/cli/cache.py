"""`resnest cache`: what is stored on disk, and how it is removed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resnest_cli import settings
from resnest_cli.cli import options
from resnest_cli.cli.options import complete_model, option
from resnest_cli.cli.tables import print_table
from resnest_cli.errors import UsageError
from resnest_cli.text import counted, printable

if TYPE_CHECKING:
    from resnest_cli.engines.cache_folder import CacheItem


def cache(
    action: Annotated[
        Literal["list", "remove", "prune"],
        typer.Argument(
            metavar="[list|remove|prune]",
            help="list: show what is stored; remove: remove everything of the NAMEs; prune: remove "
            "what is unused.",
        ),
    ] = "list",
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="What to remove: models or files that 'resnest cache list' shows, or kinds: "
            "checkpoint, compiled, layers, digests, inductor, cuda, matplotlib, partial.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, option("--dry-run", None, "Show what would be removed, and remove nothing.")
    ] = False,
    fmt: options.TableFormat = "table",
    as_json: options.Json = False,
) -> None:
    """List and clean what is stored on disk.

    The cache folder is $RESNEST_HOME, by default in the user's cache folder. It holds checkpoints,
    models compiled for this CPU, digests of files, and what torch.compile, CUDA and matplotlib have
    generated. Whatever is removed is downloaded or generated again when it is needed.

    prune removes compiled models and digests of checkpoints that are gone or have changed or that
    another version made, and what interrupted downloads have left.

    Examples:

      resnest cache

      resnest cache remove resnest50 inductor

      resnest cache prune --dry-run
    """
    if bool(names) != (action == "remove"):
        raise UsageError(
            "name what to remove; 'resnest cache list' shows it"
            if action == "remove"
            else f"'{action}' takes no names, but got '{' '.join(names or ())}'"
        )
    from resnest_cli.engines.cache_folder import cache_items, prune_cache, remove_from_cache

    if action == "list":
        items = cache_items()
    elif action == "prune":
        items = prune_cache(dry_run=dry_run)
    else:
        items = remove_from_cache(names or (), dry_run=dry_run)
    total = sum(item.bytes for item in items)
    if options.chosen_format(fmt, as_json) == "json":
        fields = ("kind", "name", "detail", "bytes", "unused_because")
        rows = [{f: getattr(i, f) for f in fields} | {"path": str(i.path)} for i in items]
        summary = {"folder": str(settings.home()), "bytes": total, "items": rows}
        typer.echo(json.dumps(summary, indent=2))
        return
    if items:
        print_table([_cells(item) for item in items], left=("kind", "name", "what"))
    done = "to remove" if dry_run else "removed"
    state = f"in {settings.home()}" if action == "list" else done
    typer.echo(f"{counted(len(items), 'item')}, {total / 1e6:,.1f} MB {state}")


def _cells(item: CacheItem) -> dict[str, str]:
    unused = f" (unused: {item.unused_because})" if item.unused_because else ""
    return {
        "kind": item.kind,
        "name": printable(item.name),
        "MB": f"{item.bytes / 1e6:,.1f}",
        "what": printable(item.detail + unused),
    }
