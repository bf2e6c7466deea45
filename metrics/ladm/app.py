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
.map rect.cell:hover, .map rect.cell:focus { stroke: var(--body-text-color); stroke-width: 2; outline: none; }
.map rect.cell.chosen, .map rect.cell.chosen:focus { stroke: #dc2626; stroke-width: 3; }
.span { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .7em .9em; margin: .6em 0; }
.span h4 { margin: 0 0 .4em; font-size: .95rem; }
.span pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 18em; overflow-y: auto; margin: 0;
            font-size: .8rem; line-height: 1.45; background: none; color: var(--body-text-color); }
.span .around { opacity: .45; }
.span mark { background: #fde68a; color: #111827; border-radius: 2px; }
"""
# A click or the Enter key on a cell tells the server which one, and outlines it.
CHOOSE_CELL = """
const choose = (event) => {
  const cell = event.target.closest('rect.cell');
  if (!cell || (event.type === 'keydown' && event.key !== 'Enter')) return;
  element.querySelectorAll('rect.chosen').forEach((other) => other.classList.remove('chosen'));
  cell.classList.add('chosen');
  trigger('select', {row: Number(cell.dataset.row), column: Number(cell.dataset.column)});
};
element.addEventListener('click', choose);
element.addEventListener('keydown', choose);
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
