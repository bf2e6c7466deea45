"""What the oracle knows: whether a document of the pool is prose, code or markup of a text, by the type of its file."""

from __future__ import annotations

# Tables, records, drawings, logs, catalogues of strings, notebooks with images in them, molecules, dumps. All else is
# prose, source code or the markup of a text.
NOT_TEXT = frozenset(
    "bib cif csv dae dat dict geojson gltf ipynb json jsonl lock log map ndjson obj out pdb po pot rdf sdf snap "
    "sql stderr stdout sum svg toml tsv vtk yaml yml".split()
)


def file_type(document_id: str) -> str:
    """Lower-case extension of the file in `owner/name:path`; of a directory tree that of its first file."""
    path = document_id.partition(":")[2]
    before, mark, after = path.rpartition("#")
    name = (after if "/" in after or not mark else before).rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def is_text(document_id: str) -> bool:
    return file_type(document_id) not in NOT_TEXT
