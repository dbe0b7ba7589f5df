"""`mona-peft inspect MODEL`: which blocks a method stands in, what that costs, what would be trained."""

from collections.abc import Sequence

MAX_PLACES = 3


def run(argv: Sequence[str]) -> None:
    """Runs the subcommand.

    Raises:
        ValueError: There is no such model, or the method can't be put into it.
    """
    from transformers import HfArgumentParser

    from mona_peft.tasks.models.arguments import MethodArguments
    from mona_peft.tasks.models.inspection import empty_model, inspect_method
    from mona_peft.tasks.models.methods import METHODS

    parser = HfArgumentParser(
        (MethodArguments,),
        prog="mona-peft inspect",
        usage="mona-peft inspect MODEL [--method mona] [--bottleneck_dim 64] ...",
        description="Shows what a method would train in a model, from the model's config alone. Trains nothing.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="Name on the hub, or folder, of a model.")
    args, given = parser.parse_args_into_dataclasses(list(argv), look_for_args_file=False)
    print(report(given.model, args, inspect_method(empty_model(given.model), args), METHODS[args.method].title))


def report(name: str, args: "MethodArguments", found: "Inspection", title: str) -> str:  # noqa: F821 (imported late)
    """Returns what was found as text.

    Args:
        name: Of the model.
        args: The method and its settings.
        found: What would be trained.
        title: Of the method.
    """
    rows = [("block", "class", "channels", "trained at", "parameters")]
    for block in found.blocks:
        places = [*block.places[:MAX_PLACES], *(["..."] if len(block.places) > MAX_PLACES else [])]
        rows.append((block.name, block.kind, str(block.channels), ", ".join(places), f"{block.parameters:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = (2, 4)
    table = [
        "  ".join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]
    adapted = [block for block in found.blocks if block.parameters]
    in_blocks = sum(block.parameters for block in adapted)
    totals = [(f"in {len(adapted)} of {len(found.blocks)} blocks", in_blocks)]
    totals += [("elsewhere in the backbone", found.elsewhere)] if found.elsewhere else []
    modules = ", ".join([*list(found.head)[:MAX_PLACES], *(["..."] if len(found.head) > MAX_PLACES else [])])
    totals += [(f"task head ({modules})", sum(found.head.values()))] if found.head else []
    totals += [("trained in all", found.trained)]
    share = f"{found.trained / found.base_parameters:.2%}"
    width = max(len(words) for words, _ in totals) + 2
    summary = (
        f"{name}: {found.model_class}, {found.base_parameters:,} parameters.\n{title} would train {found.trained:,}: "
        f"{share} of that."
    )
    return "\n".join([summary, "", *table, "", *(f"{words:<{width}}{count:>14,}" for words, count in totals)])
