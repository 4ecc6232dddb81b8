"""The options that say which model runs, shared by the commands that run one."""

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option("-m", "--model", help="A known name, folder, .gguf file, PEFT adapter or hub id."),
]
Base = Annotated[
    str | None,
    typer.Option(help="Of an adapter: the model it belongs on, if not the one it names."),
]
MergeAdapter = Annotated[
    bool,
    typer.Option(
        "--merge-adapter/--keep-adapter",
        help="Add an adapter into its base's weights, or run it beside them, as it was trained.",
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that comes with the model.")
]
AttentionModule = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="Modules that attend, as 'transformer.layers.{}.attn', if not found."
    ),
]
Uncertified = Annotated[
    bool,
    typer.Option("--uncertified", help="Take attention that nothing proves, and mark the run."),
]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="Put each prompt into the tokenizer's chat template, as a user."),
]
