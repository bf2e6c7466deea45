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
    MODELS,
    choose_cell,
    natural_example,
    read_file,
    score,
    spliced_example,
)

INTRO = """
# LADM: does this document need its whole length?

Long-context training data should hold text whose **later parts depend on far earlier parts**. LADM reads a document
with a small language model and measures how much the attention of later spans goes to distant earlier ones
([paper](https://arxiv.org/abs/2503.02502)). Paste a document, score it, and click a cell of the map to read the two
spans that it links.
"""
CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto; }
.quiet { opacity: .72; font-size: .92em; }
.hint { margin: 0; }
.note { border-left: 4px solid #d97706; padding: .5em .9em; background: #d9770618; border-radius: 4px; }
.busy { border-left: 4px solid #4338ca; padding: .5em .9em; background: #4338ca14; border-radius: 4px; }
.number { font-size: 2.6rem; font-weight: 700; line-height: 1.1; font-variant-numeric: tabular-nums; }
svg text { fill: var(--body-text-color); font-family: inherit; }
svg .axis { stroke: var(--border-color-primary); }
.map rect.cell { cursor: pointer; }
.map rect.cell:hover { stroke: #222222; stroke-width: 2; }
.map rect.cell.chosen { stroke: #D55E00; stroke-width: 3; }
.map rect.cell:focus-visible { stroke: #222222; stroke-width: 4; outline: 2px solid #ffffff; }
.span pre:focus-visible { outline: 2px solid #0072B2; outline-offset: 4px; }
.span { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .7em .9em; margin: .6em 0; }
.span h4 { margin: 0 0 .4em; font-size: .95rem; }
.span pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 18em; overflow-y: auto; margin: 0;
            font-size: .8rem; line-height: 1.45; background: none; color: var(--body-text-color); }
.span .around { opacity: .45; }
.span mark { background: #fde68a; color: #111827; border-radius: 2px; }
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


with gr.Blocks(title="LADM score", analytics_enabled=False) as demo:
    gr.Markdown(INTRO)
    state = gr.State()
    with gr.Row():
        with gr.Column(scale=3):
            document = gr.Textbox(
                label="Document",
                lines=10,
                max_lines=10,
                placeholder="Paste a long text of at least 2,305 tokens, about 9,000 characters.",
                elem_id="document",
            )
            with gr.Row():
                upload = gr.UploadButton("Upload a text file", size="sm")
                natural = gr.Button("Example: one module", size="sm")
                spliced = gr.Button("Example: eight pieces spliced", size="sm")
            gr.Markdown("### Which spans look back at which")
            cells = gr.HTML(FIRST_MAP, elem_id="map", js_on_load=CHOOSE_CELL)
        with gr.Column(scale=2):
            model = gr.Dropdown(
                MODELS,
                value=MODELS[0],
                label="Calculator",
                allow_custom_value=True,
                info="ladm-nano is bundled and quick on a CPU. You may type the id of any causal model on the Hub.",
            )
            button = gr.Button("Score", variant="primary")
            status = gr.HTML(elem_id="status")
            panel = gr.HTML(FIRST, elem_id="panel")
            gr.Markdown("### The two spans of a cell")
            spans = gr.HTML(FIRST_SPANS, elem_id="spans")

    button.click(
        score, [document, model], [status, panel, cells, spans, state], concurrency_limit=1, show_progress="hidden"
    )
    cells.select(on_select, state, spans, show_progress="hidden")
    upload.upload(read_file, upload, [status, document])
    natural.click(natural_example, None, document, show_progress="hidden")
    spliced.click(spliced_example, None, document, show_progress="hidden")


def launch(**options: Any) -> Any:
    """Starts the app with its look; fonts are the reader's own, so nothing is fetched from elsewhere."""
    theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    return demo.launch(theme=theme, css=CSS, share=False, **options)


if __name__ == "__main__":
    launch()
