"""`ladm`: the commands. Each one parses its options and calls the public function that does the work.

Heavy imports stay inside the commands, so that `ladm --help` is quick.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ladm_hf.errors import LadmError
from ladm_hf.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Choose long-context training data by the attention of a small model (LADM, arXiv 2503.02502).",
)
F = TypeVar("F", bound=Callable[..., Any])


def command(function: F) -> F:
    """Registers a command that ends with one line on standard error, not a traceback, when the package refuses."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except LadmError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error

    app.command()(run)
    return function


def _show_version(show: bool) -> None:
    if show:
        typer.echo(f"ladm_hf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@command
def env() -> None:
    """Print versions, devices and the default calculator, to paste into a report."""
    from ladm_hf.checks.environment import report

    lines = report()
    width = max(map(len, lines))
    for name, value in lines.items():
        typer.echo(f"{name:<{width}}  {value}")


@command
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the figures and the scored data.")] = Path("ladm-demo"),
    documents: Annotated[int, typer.Option(min=4, help="Documents of each kind.")] = 24,
    model: Annotated[str, typer.Option(help="Calculator: ladm-nano, a folder or a Hub id.")] = "ladm-nano",
) -> None:
    """Score long documents of Python's own library against splices of unrelated ones; offline, under two minutes."""
    from ladm_hf.checks.demo import run
    from ladm_hf.scoring.scorer import LadmScorer

    typer.echo(f"Scoring {documents} natural documents and {documents} splices of unrelated ones with {model}.")
    result = run(output, LadmScorer(model), documents)
    table = result.scored.remove_columns("text").to_pandas()
    typer.echo("")
    typer.echo(f"{'kind':<10}{'documents':>10}{'tokens':>10}{'mean':>10}{'lowest':>10}{'highest':>10}")
    for kind, rows in table.groupby("kind"):
        score = rows["ladm_score"]
        typer.echo(
            f"{kind:<10}{len(rows):>10}{rows['ladm_num_tokens'].sum():>10,}"
            f"{score.mean():>10.3f}{score.min():>10.3f}{score.max():>10.3f}"
        )
    typer.echo(
        f"\nA natural document scores above a splice {result.separation:.0%} of the time (chance: 50%).\n"
        "Highest scores:"
    )
    for _, row in table.nlargest(3, "ladm_score").iterrows():
        typer.echo(f"  {row['ladm_score']:.3f}  {row['kind']:<8}  {row['name']}")
    typer.echo("\nWritten:")
    for path in result.files.values():
        typer.echo(f"  {path}")


@command
def select(
    scored: Annotated[
        str,
        typer.Argument(help="Scored rows: the folder of `ladm score`, a save_to_disk folder, parquet, or a Hub id."),
    ],
    output: Annotated[str, typer.Argument(help="Folder for the selection.")],
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", "--budget-tokens", "-b", help="Tokens to keep: 1073741824, 1e9, 500M or 32768*32*1024."
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Column of the domain, nested with dots (meta.pile_set_name); '' ranks all rows as one.")
    ] = "domain",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            "-s",
            help="exact: never over the budget. percent: the paper's smallest whole percent, which overshoots. Also "
            "top-k, bottom-k, threshold, temperature (sampling).",
        ),
    ] = "exact",
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="How domains divide the budget: proportional (default), equal, or DOMAIN=WEIGHT, repeated; domains "
            "left out get nothing.",
        ),
    ] = None,
    k: Annotated[int | None, typer.Option("-k", help="Documents per domain (top-k, bottom-k).")] = None,
    min_score: Annotated[float | None, typer.Option(help="Lowest score kept (threshold).")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Near 0 keeps the best, large is near chance (temperature; default 1).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling (temperature).")] = 0,
    length_bands: Annotated[
        str | None,
        typer.Option(
            help="Rank within length bands too: their number (4), or the token counts between (8192,16384; one: 8192,)."
        ),
    ] = None,
    tokens: Annotated[
        str,
        typer.Option(help="Tokens counted: scored, document (length of input_ids), or a column of counts."),
    ] = "scored",
    score_column: Annotated[str, typer.Option(help="Column of the score.")] = "ladm_score",
    ties: Annotated[str | None, typer.Option(help="Column that orders equal scores, before the row number.")] = None,
    split: Annotated[str | None, typer.Option(help="Split, where there are several.")] = None,
    dropped_text: Annotated[
        bool, typer.Option(help="Write long columns of the dropped rows too, which the pool still has.")
    ] = True,
) -> None:
    """Keep the best documents of every domain, to a token budget. Writes data/, dropped/ and selection.json."""
    from ladm_hf.selection.options import parse_bands, parse_shares, parse_tokens
    from ladm_hf.selection.selection import select as select_rows

    selection = select_rows(
        scored,
        budget_tokens=None if budget is None else parse_tokens(budget),
        by=by or None,
        strategy=strategy,  # type: ignore[arg-type]
        shares=parse_shares(share),
        k=k,
        min_score=min_score,
        temperature=temperature,
        seed=seed,
        length_bands=parse_bands(length_bands),
        tokens=tokens,
        score_column=score_column,
        ties=ties,
        split=split,
    )
    folder = selection.save(output, dropped="all" if dropped_text else "scores")
    typer.echo(selection.summary())
    typer.echo(f"\nWritten to {folder}: data/ (kept), dropped/ (with reasons), selection.json")


@command
def report(
    selection: Annotated[str, typer.Argument(help="Folder of a selection, written by `ladm select`.")],
    output: Annotated[str | None, typer.Argument(help="Folder for the report; default: SELECTION/report.")] = None,
    heat_maps: Annotated[
        bool, typer.Option(help="Draw who looks at whom in the best and the worst document (two forward passes).")
    ] = True,
    model: Annotated[str, typer.Option(help="Calculator of the heat maps.")] = "ladm-nano",
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    title: Annotated[str, typer.Option(help="Title of the page.")] = "LADM selection report",
) -> None:
    """Draw a selection: figures as PNG, and index.html, one page that needs no other file."""
    from ladm_hf.report.page import report as write_report

    scorer = None
    if heat_maps:
        from ladm_hf.scoring.scorer import LadmScorer

        scorer = LadmScorer(model)
    page = write_report(
        selection, output or Path(selection) / "report", scorer=scorer, text_column=text_column, title=title
    )
    typer.echo(f"Written to {page}")


# score, prepare


@command
def score(
    input: Annotated[
        str | None,
        typer.Argument(help="Parquet or JSON lines (path, glob or URL), a folder of save_to_disk, or a Hub id."),
    ] = None,
    output: Annotated[str | None, typer.Argument(help="Folder of the run, shared by all processes.")] = None,
    model: Annotated[str | None, typer.Option(help="Calculator: ladm-nano, a folder or a Hub id.")] = None,
    model_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the calculator.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data.")] = None,
    name: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub data set.")] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text; a dot goes into a struct.")] = "text",
    input_ids_column: Annotated[str, typer.Option(help="Column of token ids, read where there is no text.")] = (
        "input_ids"
    ),
    config: Annotated[str | None, typer.Option(help="JSON file of options of the score (ladm_config.json).")] = None,
    span_length: Annotated[int | None, typer.Option(help="Tokens in a span.")] = None,
    d_afs: Annotated[int | None, typer.Option(help="Stride between key spans, in spans.")] = None,
    d_cds: Annotated[int | None, typer.Option(help="Stride between query spans, in spans.")] = None,
    ablation: Annotated[str | None, typer.Option(help="no_std or no_length_weight.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest piece scored at once, in tokens.")] = None,
    overflow: Annotated[str | None, typer.Option(help="What happens beyond: truncate or windows.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="Defaults to each process's own GPU, else the CPU.")] = None,
    backend: Annotated[str, typer.Option(help="How span focus is computed; changes only the speed.")] = "auto",
    max_batch_tokens: Annotated[int | None, typer.Option(help="Padded tokens in a batch.")] = None,
    on_error: Annotated[str, typer.Option(help="What a bad row gets: status, or raise to stop.")] = "status",
    chunks: Annotated[int | None, typer.Option(help="Pieces of work; by default of about 4M tokens.")] = None,
    scores_only: Annotated[bool, typer.Option("--scores-only", help="Write row numbers and scores alone.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Write the published script's scores.jsonl too.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away the run in OUTPUT and begin anew.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    status: Annotated[
        str | None, typer.Option("--status", metavar="OUTPUT", help="Show how far a run is, and do nothing else.")
    ] = None,
) -> None:
    """Score the documents of INPUT into OUTPUT, or go on where an interrupted run stopped.

    Several processes: torchrun --nproc_per_node 8 -m ladm_hf score INPUT OUTPUT, or accelerate launch. A killed run
    loses at most the chunk that each process was at; the same command goes on, with any number of processes.
    """
    if status is not None:
        from ladm_hf.runs.progress import run_status

        typer.echo(str(run_status(status)))
        return
    if input is None or output is None:
        raise typer.BadParameter("score needs INPUT and OUTPUT, or --status OUTPUT")
    from ladm_hf.runs.runner import score_command

    geometry = {
        "span_length": span_length, "d_afs": d_afs, "d_cds": d_cds, "ablation": ablation, "max_length": max_length,
        "overflow": overflow,
    }  # fmt: skip
    score_command(
        input,
        output,
        scorer={
            "model": model, "revision": model_revision, "text_column": text_column or None,
            "input_ids_column": input_ids_column or None, "dtype": dtype, "device": device, "backend": backend,
            "max_batch_tokens": max_batch_tokens, "on_error": on_error,
        },
        config_file=config,
        geometry={key: value for key, value in geometry.items() if value is not None},
        split=split,
        name=name,
        revision=revision,
        chunks=chunks,
        scores_only=scores_only,
        jsonl=jsonl,
        restart=restart,
        progress=not quiet,
    )  # fmt: skip


@command
def prepare(
    input: Annotated[
        str, typer.Argument(help="Parquet or JSON lines (path, glob or URL), a folder of save_to_disk, or a Hub id.")
    ],
    output: Annotated[str, typer.Argument(help="A new folder.")],
    model: Annotated[str, typer.Option(help="Calculator whose tokenizer is used.")] = "ladm-nano",
    model_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the calculator.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data.")] = None,
    name: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub data set.")] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text; a dot goes into a struct.")] = "text",
    min_tokens: Annotated[int | None, typer.Option(help="Shorter documents are dropped; by default 2,305.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens of a row; by default 32,768.")] = None,
    overflow: Annotated[str, typer.Option(help="Longer documents: truncate, or windows (chunked_index).")] = "truncate",
    num_proc: Annotated[int, typer.Option(help="Worker processes.")] = 1,
) -> None:
    """Tokenise the documents of INPUT into OUTPUT as text, meta, input_ids, index, the form of the paper's data."""
    import pyarrow.parquet as pq

    from ladm_hf.calculators.calculator import resolve
    from ladm_hf.data.open import open_source
    from ladm_hf.runs.prepare import prepare_files

    files = prepare_files(
        open_source(input, split=split, name=name, revision=revision),
        resolve(model, model_revision),
        output,
        text_column=text_column,
        min_tokens=min_tokens,
        max_length=max_length,
        overflow=overflow,
        num_proc=num_proc,
        progress=None,
    )
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    typer.echo(f"{rows:,} rows in {files[0].parent}")


@command
def publish(
    output: Annotated[str, typer.Argument(help="Folder of `ladm select` or `ladm score`, or any folder of parquet.")],
    repo_id: Annotated[str, typer.Argument(help="user/name of the data set on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="For everybody to see; private otherwise.")] = False,
    pr: Annotated[bool, typer.Option("--pr", help="Open a pull request instead of committing to main.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to, created if need be.")] = None,
    tag: Annotated[str | None, typer.Option(help="Tag to put on the commit, e.g. v1.0.")] = None,
    config_name: Annotated[str, typer.Option(help="Configuration of the rows; others are kept.")] = "default",
    message: Annotated[str | None, typer.Option("--message", "-m", help="First line of the commit.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Hub id of the scored data set; its language and licence go into the card.")
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="Language code of the text, repeated.")] = None,
    licence: Annotated[str | None, typer.Option("--license", help="Licence of the text, e.g. cc-by-4.0.")] = None,
    pretty_name: Annotated[str | None, typer.Option(help="Title of the card.")] = None,
    figures: Annotated[bool, typer.Option(help="Draw a selection's figures for the card.")] = True,
    read_back: Annotated[bool, typer.Option(help="Check hashes, visibility and load_dataset afterwards.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, sizes and changes to the card; publish nothing.")
    ] = False,
) -> None:
    """Publish data, card and figures in one commit, and read it back. Run it again to finish after a failure."""
    from ladm_hf.publishing.publish import publish as publish_folder

    commit = publish_folder(
        output,
        repo_id,
        private=not public,
        revision=revision,
        create_pr=pr,
        tag=tag,
        config_name=config_name,
        commit_message=message,
        source_dataset=source,
        language=language or None,
        license=licence,
        pretty_name=pretty_name,
        figures=None if figures else (),
        read_back=read_back,
        dry_run=dry_run,
    )
    if commit is not None:
        typer.echo(commit.pr_url or commit.commit_url)


@command
def reproduce(
    model: Annotated[str, typer.Option(help="Calculator.")] = "UltraRonin/Long-Attn-Calculator",
    dataset: Annotated[str, typer.Option(help="The paper's toy data set.")] = (
        "UltraRonin/pile-LlamaTokenizerFast-32k-truncated-toy"
    ),
    tolerance: Annotated[float, typer.Option(help="Largest difference of a score that still passes.")] = 0.001,
    rows: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, cpu, ...; default: the best there is.")] = None,
    dtype: Annotated[str, typer.Option(help="float16 as in the published code, float32, auto.")] = "auto",
) -> None:
    """Score the paper's toy data with the paper's calculator and compare with its 32 published scores."""
    from ladm_hf.checks.reproduce import reproduce as compare

    result = compare(model, dataset, tolerance=tolerance, rows=rows, device=device, dtype=dtype)
    typer.echo(result.report())
    if not result.passed:
        raise typer.Exit(1)


@command
def train_calculator(
    data: Annotated[list[str], typer.Argument(help="Documents: files, a folder or a Hub id; needs a text column.")],
    output: Annotated[Path, typer.Option(help="Folder for the calculator, its record and checkpoints.")],
    base: Annotated[
        str | None, typer.Option(help="Model to go on from: ladm-nano, a folder or a Hub id. Without it: from scratch.")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's recipe: natural windows of 32k, RoPE base 500,000, 1M tokens.")
    ] = False,
    stage: Annotated[
        list[str] | None, typer.Option(help="LENGTH:SHARE of the steps, in order; may be repeated. 8192:0.7 16384:0.3")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of a step, over all devices.")] = None,
    micro_batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of one device's forward pass.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    schedule: Annotated[str | None, typer.Option(help="linear, cosine or constant.")] = None,
    natural: Annotated[float | None, typer.Option(help="Share of natural windows.")] = None,
    interleaved: Annotated[float | None, typer.Option(help="Share of interleaved windows.")] = None,
    spliced: Annotated[float | None, typer.Option(help="Share of spliced windows.")] = None,
    joined: Annotated[float | None, typer.Option(help="Share of joined short documents.")] = None,
    min_chunk: Annotated[int | None, typer.Option(help="Fewest tokens of an interleaved chunk.")] = None,
    max_chunk: Annotated[int | None, typer.Option(help="Most tokens of an interleaved chunk.")] = None,
    same_domain: Annotated[float | None, typer.Option(help="Share of windows mixed within a domain.")] = None,
    same_source: Annotated[float | None, typer.Option(help="Share of windows mixed within a source.")] = None,
    renamed: Annotated[float | None, typer.Option(help="Share of windows whose documents swap rare words.")] = None,
    focus_layer: Annotated[
        list[int] | None, typer.Option(help="Layer whose heads learn to find their document; may be repeated.")
    ] = None,
    focus_weight: Annotated[float | None, typer.Option(help="Weight of that loss.")] = None,
    lm_weight: Annotated[float | None, typer.Option(help="Weight of the language model's loss.")] = None,
    lm_positions: Annotated[float | None, typer.Option(help="Share of the tokens predicted.")] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of sources kept for `ladm calibrate`.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and windows.")] = 0,
    vocab_size: Annotated[int, typer.Option(help="From scratch: entries of the tokenizer.")] = 8192,
    layers: Annotated[int, typer.Option(help="From scratch: layers.")] = 6,
    hidden_size: Annotated[int, typer.Option(help="From scratch: width.")] = 256,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    streaming: Annotated[bool, typer.Option("--streaming", help="Read the data as a stream.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the output.")] = False,
    compile_layers: Annotated[bool, typer.Option("--compile", help="Compile the layers; worth it on a GPU.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time; a 1B model needs it at 32k.")
    ] = False,
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    workers: Annotated[int, typer.Option(help="Processes that make windows.")] = 2,
) -> None:
    """Train a calculator on your documents, new or from a model. Several GPUs: accelerate launch -m ladm_hf."""
    from ladm_hf.training.command import train

    given = {
        name: value
        for name, value in {
            "steps": steps, "batch_tokens": batch_tokens, "micro_batch_tokens": micro_batch_tokens,
            "learning_rate": learning_rate, "schedule": schedule, "focus_layers": tuple(focus_layer or ()) or None,
            "focus_weight": focus_weight, "lm_weight": lm_weight, "lm_positions": lm_positions, "held_out": held_out,
        }.items()
        if value is not None
    }  # fmt: skip
    mix = {
        name: value
        for name, value in {
            "natural": natural, "interleaved": interleaved, "spliced": spliced, "joined": joined,
            "min_chunk": min_chunk, "max_chunk": max_chunk, "same_domain": same_domain, "same_source": same_source,
            "renamed": renamed,
        }.items()
        if value is not None
    }  # fmt: skip
    path = train(
        data, output, base=base, paper=paper, stages=stage, given=given, mix=mix, seed=seed, text_column=text_column,
        streaming=streaming, resume=resume, compile=compile_layers, gradient_checkpointing=gradient_checkpointing,
        save_steps=save_steps, workers=workers,
        architecture={"vocab_size": vocab_size, "num_hidden_layers": layers, "hidden_size": hidden_size},
    )  # fmt: skip
    typer.echo(f"Written: {path}. Next: ladm calibrate {path} {' '.join(data)}")


@command
def calibrate(
    model: Annotated[str, typer.Argument(help="Folder of the calculator.")],
    data: Annotated[list[str], typer.Argument(help="Documents: files, a folder or a Hub id; needs a text column.")],
    held_out: Annotated[
        float, typer.Option(help="Use only the sources that training with this share and seed kept out; 0 uses all.")
    ] = 0.0,
    max_heads: Annotated[int, typer.Option(min=1, help="Most heads.")] = 4,
    layer: Annotated[
        list[int] | None,
        typer.Option(help="Choose from this layer's heads only; may be repeated. Scoring stops at the last one."),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts that the sources are divided into for the test.")] = 2,
    per_domain: Annotated[int, typer.Option(min=2, help="Most windows of each kind, domain, setting and fold.")] = 24,
    setting: Annotated[
        list[str] | None, typer.Option(help="TxK: windows of T tokens, splices of K (0: joined short documents).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of windows and folds.")] = 0,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    device: Annotated[str | None, typer.Option(help="Defaults to the GPU if there is one.")] = None,
) -> None:
    """Choose the heads and factors that tell natural documents from splices; writes ladm_config.json into MODEL."""
    from ladm_hf.training.command import calibrate_folder

    calibration, path = calibrate_folder(
        model, data, held_out=held_out, max_heads=max_heads, layers=layer, folds=folds, per_domain=per_domain,
        settings=setting, seed=seed, text_column=text_column, device=device,
    )  # fmt: skip
    typer.echo(
        f"heads (layer, head)  {', '.join(map(str, calibration.config.heads or ()))}\n"
        f"factors              {calibration.config.ablation or 'all'}\n"
        f"area under the curve {calibration.auc:.3f} on sources left out of the choice; "
        f"all heads and factors {calibration.uncalibrated:.3f}"
    )
    for name, area in {**calibration.settings, **calibration.domains}.items():
        typer.echo(f"  {name:<18} {area:.3f}")
    typer.echo(f"Written: {path}")
