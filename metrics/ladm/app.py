"""The app of the Space: paste a document, see its LADM score, and read the spans that it comes from.

python app.py
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from views import (
    FIRST,
    FIRST_MAP,
    FIRST_SPANS,
    MAX_FILE_BYTES,
    MODELS,
    WAITING,
    choose_cell,
    natural_example,
    read_file,
    score,
    scorer_for,
    spliced_example,
)

# Users who wait for a turn, and those whose last map is kept for their clicks: some megabytes each.
MAX_WAITING = 40
MAX_SESSIONS = 100
SESSION_SECONDS = 3600

INTRO = """
# LADM: does this document need its whole length?

Long-context training data should hold text whose **later parts depend on far earlier parts**. LADM reads a document
with a small language model and measures how much the attention of later spans goes to distant earlier ones
([paper](https://arxiv.org/abs/2503.02502)). Press **Score** for the example below, or paste a document of your own;
then click a square of the map to read the two passages that it links.
"""
CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto; }
.quiet { opacity: .8; font-size: .92em; }
.hint { margin: 0 0 .6em; }
:root { --natural: #0072B2; --spliced: #6b6b6b; --here: #B34A00; --no-pair: #EDEDED; }
.dark { --natural: #56B4E9; --spliced: #C4C4C4; --here: #FF9A4D; --no-pair: #3f3f46; }
.note { border-left: 4px solid #d97706; padding: .5em .9em; background: #d9770618; border-radius: 4px; }
.busy { border-left: 4px solid #4338ca; padding: .5em .9em; background: #4338ca14; border-radius: 4px; }
.number { font-size: 2.6rem; font-weight: 700; line-height: 1.1; font-variant-numeric: tabular-nums; }
svg text { fill: var(--body-text-color); font-family: inherit; }
svg circle.natural { fill: var(--natural); fill-opacity: .75; }
svg circle.spliced { fill: var(--spliced); fill-opacity: .75; }
svg line.here { stroke: var(--here); stroke-width: 2; }
svg .no-pair { fill: var(--no-pair); }
svg .axis { stroke: var(--border-color-primary); }
.map rect.cell { cursor: pointer; }
.map rect.cell:hover { stroke: #222222; stroke-width: 2; }
.map rect.cell.chosen { stroke: #D55E00; stroke-width: 3; }
.map rect.cell:focus-visible { stroke: #222222; stroke-width: 4; outline: 2px solid #ffffff; }
.span pre:focus-visible { outline: 2px solid #0072B2; outline-offset: 4px; }
.span { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .7em .9em; margin: .6em 0; }
.span h3 { margin: 0 0 .4em; font-size: .95rem; }
.span pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 18em; overflow-y: auto; margin: 0;
            font-size: .8rem; line-height: 1.45; background: none; color: var(--body-text-color); }
.span .around { opacity: .75; font-style: italic; }
.span mark { background: #fde68a; color: #111827; border-radius: 2px; }
@media (max-width: 640px) { .map svg text { font-size: 20px; } }
"""
# A click, Enter or the space bar on a cell tells the server which one, and outlines it. One cell at a time is reached
# with the Tab key; the arrow keys, Home and End lead to the others.
CHOOSE_CELL = """
const cells = () => [...element.querySelectorAll('rect.cell')];
const x = (cell) => Number(cell.getAttribute('x'));
const y = (cell) => Number(cell.getAttribute('y'));
const nearest = (others, far) => others.reduce((best, other) => best && far(best) <= far(other) ? best : other, null);
const reach = (cell) => {
  cells().forEach((other) => other.setAttribute('tabindex', other === cell ? '0' : '-1'));
  cell.focus();
};
const choose = (cell) => {
  element.querySelectorAll('rect.chosen').forEach((other) => other.classList.remove('chosen'));
  cell.classList.add('chosen');
  trigger('select', {row: Number(cell.dataset.row), column: Number(cell.dataset.column)});
};
const neighbour = (cell, key) => {
  const row = cells().filter((other) => other.dataset.row === cell.dataset.row);
  if (key === 'Home') return nearest(row, x);
  if (key === 'End') return nearest(row, (other) => -x(other));
  const sign = key === 'ArrowRight' || key === 'ArrowDown' ? 1 : -1;
  if (key === 'ArrowLeft' || key === 'ArrowRight') {
    return nearest(row.filter((other) => sign * (x(other) - x(cell)) > 0), (other) => sign * x(other));
  }
  // the next row in that direction, and in it what lies nearest
  const beyond = cells().filter((other) => sign * (y(other) - y(cell)) > 0);
  return nearest(beyond, (other) => 1e4 * sign * y(other) + Math.abs(x(other) - x(cell)));
};
element.addEventListener('click', (event) => {
  const cell = event.target.closest('rect.cell');
  if (cell) { reach(cell); choose(cell); }
});
element.addEventListener('keydown', (event) => {
  const cell = event.target.closest('rect.cell');
  if (!cell) return;
  if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); choose(cell); return; }
  if (!['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown', 'Home', 'End'].includes(event.key)) return;
  event.preventDefault();
  const next = neighbour(cell, event.key);
  if (next) reach(next);
});
"""


def on_select(state: Any, event: gr.EventData) -> str:
    return choose_cell(state, int(event.row), int(event.column))


with gr.Blocks(title="LADM score", analytics_enabled=False, delete_cache=(SESSION_SECONDS, SESSION_SECONDS)) as demo:
    gr.Markdown(INTRO)
    state = gr.State(time_to_live=SESSION_SECONDS)
    with gr.Row():
        with gr.Column(scale=3):
            document = gr.Textbox(
                natural_example(),
                label="Document",
                lines=10,
                max_lines=10,
                placeholder="Paste a long text of at least 2,305 tokens, about 9,000 characters.",
                elem_id="document",
            )
            with gr.Row():
                natural = gr.Button("Example: one file", size="sm")
                spliced = gr.Button("Example: pieces of eight files", size="sm")
                upload = gr.UploadButton("Upload a text file", size="sm")
        with gr.Column(scale=2):
            model = gr.Radio(
                MODELS,
                value=MODELS[0],
                label="Calculator",
                info="The small model that reads. ladm-nano takes seconds on a CPU, the paper's takes minutes.",
            )
            button = gr.Button("Score", variant="primary")
            status = gr.HTML(elem_id="status")
            panel = gr.HTML(FIRST, elem_id="panel")
    with gr.Row():
        with gr.Column(scale=3):
            gr.Markdown("## Which passages look back at which")
            cells = gr.HTML(FIRST_MAP, elem_id="map", js_on_load=CHOOSE_CELL)
        with gr.Column(scale=2):
            gr.Markdown("## The two passages of a square")
            spans = gr.HTML(FIRST_SPANS, elem_id="spans")

    # one document at a time uses every core; the others wait, and are told so at once
    button.click(lambda: WAITING, None, status, queue=False, show_progress="hidden").then(
        score, [document, model], [status, panel, cells, spans, state], concurrency_limit=1, show_progress="hidden"
    )
    cells.select(on_select, state, spans, show_progress="hidden")
    upload.upload(read_file, upload, [status, document])
    natural.click(natural_example, None, document, show_progress="hidden")
    spliced.click(spliced_example, None, document, show_progress="hidden")


def theme() -> Any:
    """Fonts are the reader's own, so nothing is fetched from elsewhere; every text has a contrast of 4.5 and more."""
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    return gr.themes.Default(primary_hue="indigo", **fonts).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_600",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
    )


def launch(**options: Any) -> Any:
    """Starts the app: the bundled calculator is loaded first, so the first reader does not wait for it."""
    scorer_for(MODELS[0]).score_texts(["A word. " * 3000])
    demo.queue(max_size=MAX_WAITING, default_concurrency_limit=8)
    return demo.launch(
        theme=theme(), css=CSS, share=False, footer_links=[], max_file_size=MAX_FILE_BYTES,
        state_session_capacity=MAX_SESSIONS, **options,
    )  # fmt: skip


if __name__ == "__main__":
    launch()
