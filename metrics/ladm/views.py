"""What the app shows of a document: its score beside the reference, the map of its spans, and the text of two of them.

Pieces of HTML and SVG made from a `FocusMap`; `app.py` puts them on a page.
"""

from __future__ import annotations

import functools
import html
import importlib
import inspect
import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from ladm_hf import FocusMap, LadmError, LadmScorer
from ladm_hf.errors import RowError
from ladm_hf.report.focus_plot import FOCUS_ACROSS, FOCUS_MAP, FOCUS_UP
from ladm_hf.stats import area_under_curve

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text(encoding="utf-8"))
# The calculators on offer. A server of many users loads no others, so what it holds in memory is bounded; who runs the
# app for themselves adds one by LADM_MODEL.
MODELS = list(
    dict.fromkeys(["ladm-nano", "UltraRonin/Long-Attn-Calculator", os.environ.get("LADM_MODEL", "ladm-nano")])
)
# Far more than the tokens that are scored, and little enough for a browser's text box.
MAX_CHARS = 400_000
MAX_FILE_BYTES = 5_000_000
CONTEXT_CHARS = 80
# Words named above two spans, and the share of the text's parts beyond which a word tells nothing.
MAX_WORDS = 8
COMMON_SHARE = 0.5
# Of four letters and more.
STOP_WORDS = frozenset(
    """about above across after afterwards again against almost alone along already also although always among another
    anybody anyone anything anywhere around because been before behind being below beside besides between beyond both
    cannot could didn does doesn doing done down during each either else enough even ever every everybody everyone
    everything everywhere except from further gave gets give given gives going gone have haven having hence here hers
    herself himself however indeed instead into itself just keep kept least less like made make makes many maybe might
    mine more moreover most mostly much must myself namely near neither never nevertheless next nobody none nonetheless
    nothing nowhere often once only onto other others otherwise ought ours ourselves over perhaps quite rather really
    said same says seem seemed seems several shall should shouldn since some somebody somehow someone something
    sometimes somewhere soon still such than that their theirs them themselves then there thereby therefore these they
    this those though through throughout thus till together toward towards under unless unlike until upon used uses
    using very want wants wasn well were weren what whatever when whenever where whereas whether which whichever while
    whom whose will with within without would wouldn yours yourself yourselves your""".split()
)

FIRST = "<p class='quiet'>Score a document to see its number here, beside documents of a known kind.</p>"
FIRST_MAP = (
    "<p class='quiet'>The map of the document appears here: one square for each pair of a later and an earlier "
    "passage, bright where the later one looks back.</p>"
)
FIRST_SPANS = "<p class='quiet'>The text of both passages appears here.</p>"
WAITING = "<p class='busy' role='status'>Waiting for a turn: documents are read one at a time.</p>"


@functools.cache
def scorer_for(model: str) -> LadmScorer:
    return LadmScorer(model)


def score(text: str | None, model: str | None) -> Iterator[tuple[Any, ...]]:
    """Scores a document: status, score panel, heat map, spans and state, yielded as the work proceeds."""
    text, model = text or "", (model or "").strip() or MODELS[0]
    nothing = (FIRST, FIRST_MAP, FIRST_SPANS, None)
    if not text.strip():
        yield note("There is no text yet. Paste a document, upload a file, or take an example."), *nothing
        return
    if model not in MODELS:
        yield note(f"There is no calculator {model!r} here: choose {' or '.join(MODELS)}."), *nothing
        return
    cut = "" if len(text) <= MAX_CHARS else f" Only its first {MAX_CHARS:,} characters were read."
    # a browser may send half of a character pair, which is no text
    text = text[:MAX_CHARS].encode("utf-8", "replace").decode()
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(measure, text, model)
        while not work.done():
            seconds = int(time.monotonic() - started)
            yield f"<p class='busy' role='status'>Reading {len(text):,} characters… {seconds} s</p>", *nothing
            time.sleep(0.25 if seconds < 5 else 1)
    try:
        focus = work.result()
    except LadmError as error:
        yield note(str(error)), *nothing
        return
    if isinstance(focus, str):
        yield note(focus), *nothing
        return
    done = f"Read {focus.score.num_tokens:,} tokens in {time.monotonic() - started:.1f} s.{cut}"
    row, column = brightest_cell(focus)
    yield (
        f"<p class='quiet' role='status'>{done}</p>",
        score_panel(focus, model),
        heat_map(focus, (row, column)),
        show_spans(focus, text, row, column),
        (focus, text),
    )


def measure(text: str, model: str) -> FocusMap | str:
    """The focus map of a document, or what is wrong with it."""
    scorer = scorer_for(model)
    try:
        return scorer.focus_map(text)
    except RowError as error:
        (found,) = scorer.score_texts([text])
        if found.status != "too_short":
            return str(error)
        least = scorer.config.min_tokens
        return (
            f"This text is too short: it has {found.num_tokens:,} tokens, and a score needs at least {least:,} (about "
            f"{least * 4:,} characters), so that there is something far away to look back to."
        )


def note(message: str) -> str:
    return f"<p class='note' role='alert'>{html.escape(message)}</p>"


# The score and its reference


def score_panel(focus: FocusMap, model: str) -> str:
    """The score, and a strip of dots for each kind of reference document with a line at the score."""
    number = f"<div class='quiet'>LADM score</div><div class='number'>{focus.score.score:.4g}</div>"
    if model != REFERENCE["model"]:
        return (
            f"{number}<p class='quiet'>Scores of different calculators cannot be compared, and the reference below was "
            f"made with {REFERENCE['model']}: choose it to see where this document stands.</p>"
        )
    tokens = focus.score.num_tokens
    group = min(REFERENCE["groups"], key=lambda group: abs(np.log(group["num_tokens"] / tokens)))
    below = {kind: np.mean(np.array(group[kind]) < focus.score.score) for kind in ("natural", "spliced")}
    auc = area_under_curve(np.array(group["natural"]), np.array(group["spliced"]))
    telling = f"The natural one scores higher in {auc:.0%} of their pairs (area under the ROC curve {auc:.2f})"
    if auc < 0.6:
        telling += ", so this calculator hardly tells them apart at this length"
    return (
        f"{number}<p>Higher than <b>{below['natural']:.0%}</b> of natural documents and "
        f"<b>{below['spliced']:.0%}</b> of spliced ones.</p>{strips(group, focus.score.score)}"
        f"<p class='quiet'>Reference: {len(group['natural'])} documents of each kind with {group['num_tokens']:,} "
        f"tokens, from {html.escape(REFERENCE['documents'])}, as <code>ladm demo</code> makes them; yours has "
        f"{tokens:,}. Spliced documents are pieces of unrelated ones. {telling}. The score depends on length and on "
        "the kind of text: read this as a rough guide.</p>"
    )


def strips(group: dict[str, Any], value: float) -> str:
    """An SVG of the reference scores, one row for each kind, and the value as a line through both."""
    top = 1.05 * max(value, *group["natural"], *group["spliced"])
    left, width = 66.0, 330.0
    parts = []
    for i, kind in enumerate(("natural", "spliced")):
        y = 30 + 30 * i
        parts.append(f"<text x='0' y='{y + 4}' font-size='12'>{kind}</text>")
        parts.append(f"<line class='axis' x1='{left}' x2='{left + width}' y1='{y}' y2='{y}'/>")
        parts += [
            f"<circle class='{kind}' cx='{left + width * score / top:.1f}' cy='{y}' r='5'/>" for score in group[kind]
        ]
    x = left + width * value / top
    anchor = "end" if x > left + width * 0.7 else "start"
    parts.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='14' y2='76' class='here'/>")
    parts.append(f"<text x='{x:.1f}' y='10' font-size='12' text-anchor='{anchor}'>this document</text>")
    for mark, anchor in ((0.0, "start"), (top, "end")):
        x = left + width * mark / top
        parts.append(f"<text x='{x:.1f}' y='92' font-size='11' text-anchor='{anchor}'>{mark:.3g}</text>")
    label = (
        f"Reference scores from {min(group['spliced']):.3g} to {max(group['natural']):.3g}; this document {value:.3g}"
    )
    return f"<svg viewBox='0 0 400 96' role='img' aria-label='{label}'>{''.join(parts)}</svg>"


# The heat map


def brightest_cell(focus: FocusMap) -> tuple[int, int]:
    """The cell whose attention exceeds an even share most."""
    row, column = np.unravel_index(np.nanargmax(even_shares(focus)), focus.key_starts.shape)
    return int(row), int(column)


def shares(focus: FocusMap) -> Any:
    """Of a later span's attention, the share that goes to each earlier span: PFS over the span's queries."""
    return focus.pfs / focus.span_length


def even_shares(focus: FocusMap) -> Any:
    """The same in units of an even share: 1 where a later span attends to all that precedes it alike."""
    return shares(focus) * focus.query_starts[:, None] / focus.span_length


def heat_map(focus: FocusMap, chosen: tuple[int, int]) -> str:
    """An SVG of the spans, drawn as the report's: across the place of the key span, upwards that of the query span."""
    left, top, size = 96, 62, 500
    values = even_shares(focus)
    high = float(np.nanquantile(values, 0.99)) or 1.0
    # in one row key spans lie a stride apart, so that each has a column of its own
    wide = int(focus.key_starts[0, 0] - focus.key_starts[0, 1]) if focus.key_starts.shape[1] > 1 else focus.span_length
    tall = int(-np.diff(focus.query_starts).max()) if len(focus.query_starts) > 1 else focus.span_length
    # a row is centred on its query span, so the first reaches beyond the document
    tokens = focus.score.num_tokens
    highest = max(tokens, int(focus.query_starts[0]) + (focus.span_length + tall) // 2)
    scale, rise = size / tokens, size / highest
    parts = [
        f"<rect class='no-pair' x='{left}' y='{top}' width='{size}' height='{size}'/>",
        f"<text x='{left + size - 12}' y='{top + size - 16}' font-size='12' text-anchor='end'>not compared</text>",
    ]
    for row, column in np.argwhere(focus.key_starts >= 0).tolist():
        later, earlier = int(focus.query_starts[row]), int(focus.key_starts[row, column])
        is_chosen = (row, column) == chosen
        says = html.escape(describe_cell(focus, row, column), quote=True)
        parts.append(
            f"<rect class='cell{' chosen' if is_chosen else ''}' role='button' tabindex='{0 if is_chosen else -1}' "
            f"aria-label='{says}' data-row='{row}' data-column='{column}' "
            f"x='{left + earlier // wide * wide * scale:.1f}' "
            f"y='{top + size - (later + (focus.span_length + tall) / 2) * rise:.1f}' "
            f"width='{max(wide * scale - 1, 1.5):.1f}' height='{max(tall * rise - 1, 1.5):.1f}' "
            f"fill='{colour(float(values[row, column]) / high)}'><title>{says}</title></rect>"
        )
    parts += [*colour_bar(left, size, high), *axes(left, top, size, tokens, highest)]
    hint = (
        "<p class='hint'>Each square is a later passage (how high) looking back at an earlier one (how far right); "
        "yellow is much, blue is little. Click one to read both, or move with the arrow keys and press Enter. The "
        "outlined one stands out most at first.</p>"
    )
    return (
        f"{hint}<div class='map'><svg viewBox='0 0 {left + size + 16} {top + size + 50}' role='group' "
        "aria-label='Focus map: how much each later passage looks back at each earlier one'>"
        f"{''.join(parts)}</svg></div>"
    )


def describe_cell(focus: FocusMap, row: int, column: int) -> str:
    """One cell in words."""
    later, earlier = int(focus.query_starts[row]), int(focus.key_starts[row, column])
    value = float(shares(focus)[row, column])
    return (
        f"tokens {later:,}–{later + focus.span_length - 1:,} look back at {earlier:,}–"
        f"{earlier + focus.span_length - 1:,}: {value:.1%} of their attention, "
        f"{value * later / focus.span_length:.1f} times an even share"
    )


def colour_bar(left: int, size: int, high: float) -> Iterator[str]:
    """The legend of the colours, above the map."""
    steps = 50
    yield f"<text x='{left}' y='14' font-size='12'>attention, in times an even share</text>"
    for i in range(steps):
        x, fill = left + i * size / steps, colour(i / (steps - 1))
        yield f"<rect x='{x:.1f}' y='20' width='{size / steps + 0.5:.1f}' height='12' fill='{fill}'/>"
    yield f"<text x='{left}' y='46' font-size='11'>0</text>"
    yield f"<text x='{left + size}' y='46' font-size='11' text-anchor='end'>{high:.3g} or more</text>"


def axes(left: int, top: int, size: int, tokens: int, highest: int) -> Iterator[str]:
    """Both axes, which grow with the place in the document."""
    step = 10 ** int(np.log10(tokens / 2))
    for mark in range(0, tokens + 1, next(step * n for n in (1, 2, 5) if tokens <= 6 * step * n)):
        across, up = left + mark * size / tokens, top + size - mark * size / highest
        yield f"<text x='{across:.1f}' y='{top + size + 18}' font-size='12' text-anchor='middle'>{mark:,}</text>"
        yield f"<text x='{left - 8}' y='{up + 4:.1f}' font-size='12' text-anchor='end'>{mark:,}</text>"
    yield f"<line class='axis' x1='{left}' x2='{left}' y1='{top}' y2='{top + size}'/>"
    yield f"<line class='axis' x1='{left}' x2='{left + size}' y1='{top + size}' y2='{top + size}'/>"
    middle = top + size / 2
    yield (
        f"<text x='{left + size / 2}' y='{top + size + 40}' font-size='13' text-anchor='middle'>{FOCUS_ACROSS}</text>"
        f"<text x='16' y='{middle}' font-size='13' text-anchor='middle' transform='rotate(-90 16 {middle})'>"
        f"{FOCUS_UP}</text>"
    )


def colour(value: float) -> str:
    """The report's colour of a share of the highest value."""
    return to_hex(colormaps[FOCUS_MAP](min(max(value, 0.0), 1.0)))


# The two spans of a cell


def choose_cell(state: tuple[FocusMap, str] | None, row: int, column: int) -> str:
    """The spans of the cell that was clicked; nothing where there is no such cell."""
    if state is None:
        return FIRST_SPANS
    focus, text = state
    rows, columns = focus.key_starts.shape
    if not (0 <= row < rows and 0 <= column < columns and focus.key_starts[row, column] >= 0):
        return FIRST_SPANS
    return show_spans(focus, text, row, column)


def show_spans(focus: FocusMap, text: str, row: int, column: int) -> str:
    """Both spans with the text around them; words that they share are marked."""
    if focus.offsets is None:
        return note("This calculator's tokenizer does not say where its tokens lie in the text.")
    starts = {"Earlier passage": int(focus.key_starts[row, column]), "Later passage": int(focus.query_starts[row])}
    ends = {name: start + focus.span_length for name, start in starts.items()}
    bounds = {name: (int(focus.offsets[starts[name], 0]), int(focus.offsets[ends[name] - 1, 1])) for name in starts}
    shared = telling_words(text, *(text[start:end] for start, end in bounds.values()))
    value = float(shares(focus)[row, column])
    even = float(even_shares(focus)[row, column])
    named = f"Words in both: {html.escape(', '.join(shared[:MAX_WORDS]))}" if shared else "They share no rare word"
    cards = [
        f"<p>The later passage gives <b>{value:.1%}</b> of its attention to the earlier one, "
        f"{starts['Later passage'] - starts['Earlier passage']:,} tokens before it: <b>{even:.1f} times</b> what an "
        f"even spread would give. {named}.</p>"
    ]
    for name, (start, end) in bounds.items():
        before, after = text[max(start - CONTEXT_CHARS, 0) : start], text[end : end + CONTEXT_CHARS]
        heading = f"{name}: tokens {starts[name]:,}–{ends[name] - 1:,}"
        # what scrolls can be reached with the Tab key
        cards.append(
            f"<div class='span'><h3>{heading}</h3><pre tabindex='0' role='region' aria-label='{heading}'>"
            f"<span class='around'>{html.escape(before)}</span>{marked(text[start:end], set(shared))}"
            f"<span class='around'>{html.escape(after)}</span></pre></div>"
        )
    return "".join(cards)


def telling_words(text: str, *spans: str) -> list[str]:
    """Words of four letters and more that all the spans hold, the rarest of the text first, without stop words.

    Stop words are those of English, and those that stand in most parts of the text, whatever its language.
    """
    words = set.intersection(*(set(re.findall(r"\w{4,}", span)) for span in spans))
    size = max(map(len, spans))
    parts = [set(re.findall(r"\w{4,}", text[start : start + size])) for start in range(0, len(text), size)]
    counts = {word: sum(word in part for part in parts) for word in words if word.lower() not in STOP_WORDS}
    common = max(2.0, COMMON_SHARE * len(parts))
    return sorted((word for word, count in counts.items() if count <= common), key=lambda word: (counts[word], word))


def marked(text: str, words: set[str]) -> str:
    return "".join(
        f"<mark>{html.escape(part)}</mark>" if part in words else html.escape(part) for part in re.split(r"(\w+)", text)
    )


# Documents to try


def read_file(path: str | None) -> tuple[str, str]:
    """Status and text of an uploaded file."""
    if path is None:
        return "", ""
    file = Path(path)
    if file.stat().st_size > MAX_FILE_BYTES:
        return note(f"{file.name} is larger than {MAX_FILE_BYTES // 10**6} MB: upload a part of it."), ""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return note(f"{file.name} is not UTF-8 text: convert it to plain text first."), ""
    return f"<p class='quiet' role='status'>{html.escape(file.name)}: {len(text):,} characters.</p>", text[:MAX_CHARS]


def natural_example() -> str:
    """One module of Python's standard library."""
    return inspect.getsource(importlib.import_module("fractions"))


def spliced_example() -> str:
    """Pieces of eight modules of Python's standard library, one after the other."""
    names = ("heapq", "csv", "calendar", "shlex", "textwrap", "cmd", "sched", "gettext")
    return "\n\n".join(inspect.getsource(importlib.import_module(name))[1000:4500] for name in names)
