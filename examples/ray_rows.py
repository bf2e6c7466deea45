"""Scores a folder of parquet files with Ray Data; killed, run it again with the same arguments.

    python ray_rows.py pool/ scored/ --journal journal/ --actors 8

Ray replaces an actor that dies, but a pipeline whose driver dies begins at its first row. The journal keeps the score
of every finished document, so rows are read and written again but not scored. SCORED appears once it is complete; what
a killed pipeline has written is removed.
"""

from __future__ import annotations

import argparse
import os
import shutil

import ray

from ladm_hf.integrations.ray_data import RowScorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", help="folder of parquet files")
    parser.add_argument("scored", help="a new folder that all nodes share")
    parser.add_argument("--journal", required=True, help="folder that all nodes share; remove it afterwards")
    parser.add_argument("--model", default="ladm-nano", help="calculator")
    parser.add_argument("--actors", type=int, default=1, help="scorers at once")
    parser.add_argument("--gpus", type=float, default=1, help="GPUs of each")
    options = parser.parse_args()
    if os.path.exists(options.scored):
        parser.error(f"{options.scored} exists: remove it, or choose another folder")
    unfinished = options.scored.rstrip("/") + ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)

    # rows stay in the order of the pool
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    ray.data.read_parquet(options.pool).map_batches(
        RowScorer,
        fn_constructor_kwargs={"model": options.model, "journal": os.path.abspath(options.journal)},
        compute=ray.data.ActorPoolStrategy(size=options.actors),
        num_gpus=options.gpus,
        batch_size=64,
        batch_format="pyarrow",
    ).write_parquet(os.path.abspath(unfinished))
    os.rename(unfinished, options.scored)


if __name__ == "__main__":
    main()
