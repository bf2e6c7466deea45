"""Machines that the Hub lends for jobs, and what scoring on them is expected to cost.

hours = tokens left / tokens a second of a process / processes of all jobs
price = hours, in whole minutes * jobs * price of the machine
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ladm_hf.data.open import open_source
from ladm_hf.data.run_record import RunRecord
from ladm_hf.data.streams import StreamSource
from ladm_hf.errors import ConfigError
from ladm_hf.runs.cascade import domain_columns
from ladm_hf.runs.speeds import Speed, gpu_model
from ladm_hf.text import count, counted, duration

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_HOURS = {"second": 3600.0, "minute": 60.0, "hour": 1.0}
# Older than Ada.
_WITHOUT_FLOAT8 = ("V100", "T4", "A10", "A10G", "A100")


@dataclass(frozen=True)
class Flavor:
    """A machine that the Hub lends, as its price list has it.

    Attributes:
        name (`str`): as `--job` takes it.
        hardware (`str`): what it is, for people.
        price (`float`, *optional*): US dollars an hour.
        gpu (`str`): model of its GPUs, `""` where it has none.
        gpus (`int`): how many.
        cores (`int`): virtual ones.
    """

    name: str
    hardware: str
    price: float | None
    gpu: str = ""
    gpus: int = 0
    cores: int = 1

    def check_dtype(self, dtype: str) -> None:
        """Refuses a dtype that it cannot compute in, as far as its model is known.

        Raises:
            ConfigError: the message says what to name instead.
        """
        model = gpu_model(self.gpu)
        if dtype == "float8" and (not model or model in _WITHOUT_FLOAT8):
            raise ConfigError(
                f"--dtype float8 needs a GPU that multiplies float8 (Ada, Hopper or newer), and --job {self.name} has "
                f"{model or 'no GPU'}: name another flavor, or --dtype bfloat16"
            )

    @property
    def processes(self) -> int:
        """Processes that score on it."""
        return max(1, self.gpus)

    def __str__(self) -> str:
        return self.name if self.price is None else f"{self.name} (${self.price:.2f}/h)"


def find_flavor(name: str, known: Sequence[Flavor]) -> Flavor:
    """The flavor of that name.

    Raises:
        ConfigError: there is none; the message lists those that there are.
    """
    for flavor in known:
        if flavor.name == name:
            return flavor
    raise ConfigError(f"--job: the Hub lends no flavor {name!r}; it has {', '.join(map(str, known))}")


def list_flavors(api: HfApi) -> list[Flavor]:
    """The machines of the Hub's price list that this package runs on: with NVIDIA's GPUs, or without any."""
    found = []
    for each in api.list_jobs_hardware():
        gpu = each.accelerator
        if gpu is not None and gpu.type != "gpu":
            continue
        hours = _HOURS.get(each.unit_label)
        parts = [] if gpu is None else [f"{gpu.quantity}x {gpu.manufacturer} {gpu.model} ({gpu.vram})"]
        found.append(
            Flavor(
                each.name,
                ", ".join([*parts, each.cpu, each.ram]),
                None if hours is None else each.unit_cost_usd * hours,
                "" if gpu is None else gpu.model,
                0 if gpu is None else int(gpu.quantity),
                int(number[0]) if (number := re.match(r"\d+", each.cpu)) else 1,
            )
        )
    return found


@dataclass(frozen=True)
class Work:
    """What is left to score.

    Attributes:
        tokens (`float`): estimated from the size of the texts.
        documents (`int`, *optional*): `None` where only reading all of them would tell.
        chunks (`int`, *optional*): chunks left of a run that has begun.
        speed ([`Speed`], *optional*): of one process, as the finished chunks of the run took.
    """

    tokens: float
    documents: int | None = None
    chunks: int | None = None
    speed: Speed | None = None

    @property
    def tokens_per_document(self) -> float | None:
        """Mean length, `None` where the number of documents is not known."""
        return self.tokens / self.documents if self.documents else None

    def part(self, share: float, chunks: int | None = None) -> Work:
        """A share of the tokens, of documents of the same lengths."""
        documents = None if self.documents is None else round(share * self.documents)
        return Work(share * self.tokens, documents, chunks)

    def __str__(self) -> str:
        documents = "" if self.documents is None else f"{counted(self.documents, 'document')}, "
        left = "" if self.chunks is None else f" in {counted(self.chunks, 'chunk')} left"
        return f"{documents}about {count(self.tokens)} tokens{left}"


def work_of_input(
    data: str,
    columns: Sequence[str],
    max_tokens: int,
    *,
    domain: str | None = None,
    limit: int | None = None,
    **options: str | None,
) -> Work | None:
    """The work of a run that has not begun, by the footers and sizes of files; `None` where all of a stream would
    have to be read.

    Args:
        data (`str`): Hub id or URL.
        columns (sequence of `str`): that may hold the document.
        max_tokens (`int`): tokens beyond which a document costs no more.
        domain (`str`, *optional*): a column that a cascade needs.
        limit (`int`, *optional*): rows that count.
        options: `split`, `name` and `revision`.

    Raises:
        InputError, ColumnError, ConfigError: the data or one of the columns is not there.
    """
    source = open_source(data, **options)
    if isinstance(source, StreamSource):
        return None
    if limit is not None:
        source.limit_rows(limit)
    scan = source.scan(columns, max_tokens)
    domain_columns(scan.schema, domain)
    documents = int(scan.positions[-1]) if source.unit == "rows" else None
    # each row costs one token more than its text
    return Work(float(scan.cost[-1]) - (documents or 0), documents)


def work_left(run: RunRecord, records: Mapping[int, Mapping[str, Any]]) -> Work:
    """The work of a run that has begun.

    Args:
        run ([`RunRecord`]): the run.
        records (mapping): of its finished chunks.
    """
    todo = [chunk for chunk in range(run.num_chunks) if chunk not in records]
    documents = None
    if run.unit == "rows":
        documents = sum(run.edges[chunk + 1] - run.edges[chunk] for chunk in todo)
    tokens, seconds = (sum(record[name] for record in records.values()) for name in ("tokens", "seconds"))
    speed = (
        Speed(tokens / seconds, f"that of {counted(len(records), 'finished chunk')}") if tokens and seconds else None
    )
    return Work(sum(run.costs[chunk] for chunk in todo) - (documents or 0), documents, len(todo), speed)


@dataclass(frozen=True)
class Pass:
    """One pass over documents.

    Attributes:
        work ([`Work`], *optional*), speed ([`Speed`], *optional*): `None` where nothing tells.
        name (`str`): which of several, `""` where it is the only one.
    """

    work: Work | None
    speed: Speed | None
    name: str = ""

    @property
    def seconds(self) -> float | None:
        """Seconds of one process."""
        if self.work is None or self.speed is None:
            return None
        return self.work.tokens / self.speed.tokens_per_second


@dataclass(frozen=True)
class Quote:
    """What some jobs are expected to take.

    Attributes:
        flavor ([`Flavor`]), jobs (`int`): the machines.
        passes (sequence of [`Pass`]): one after the other.
    """

    flavor: Flavor
    jobs: int
    passes: Sequence[Pass]

    @property
    def seconds(self) -> float | None:
        """Seconds for all jobs together."""
        seconds = [each.seconds for each in self.passes]
        if None in seconds:
            return None
        return sum(filter(None, seconds)) / self.flavor.processes / self.jobs

    @property
    def price(self) -> float | None:
        """US dollars, for all jobs together, by whole minutes."""
        if self.seconds is None or self.flavor.price is None:
            return None
        return math.ceil(self.seconds / 60) / 60 * self.jobs * self.flavor.price

    def __str__(self) -> str:
        today = datetime.datetime.now(datetime.UTC).date()
        each = (
            "which the Hub names no price for"
            if self.flavor.price is None
            else f"${self.flavor.price:.2f} an hour each (the Hub's price list, {today})"
        )
        lines = [
            *(f"work{_of(each)}: {each.work or 'not known without reading all of it'}" for each in self.passes),
            f"on: {counted(self.jobs, 'job')} on {self.flavor.name}, {self.flavor.hardware}, {each}",
        ]
        if self.seconds is None:
            known = all(each.work for each in self.passes)
            reason = "for a calculator of unknown size or on such a GPU" if known else "without the work"
            lines.append(f"expected: not known {reason}; --limit makes a trial, whose speed tells")
            return "\n".join(lines)
        unit = "GPU" if self.flavor.gpus else "machine"
        hours = self.seconds / 3600 * self.jobs * self.flavor.processes
        shown = "under 0.1" if hours < 0.1 else f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"
        cost = "" if self.price is None else f", {money(self.price)}"
        lines += [
            f"expected: {shown} {unit} hours, {duration(self.seconds)} by {counted(self.jobs, 'job')}{cost}; the "
            "minutes in which a job starts are billed too",
            *(
                f"speed{_of(each)}: {count(each.speed.tokens_per_second)} tokens/s a {unit}, {each.speed.source}"
                for each in self.passes if each.speed is not None
            ),
        ]  # fmt: skip
        return "\n".join(lines)


def _of(each: Pass) -> str:
    return f" of the {each.name}" if each.name else ""


def money(dollars: float) -> str:
    """US dollars for people: $0.04, $12.50, $1,250."""
    return f"${dollars:,.2f}" if dollars < 100 else f"${dollars:,.0f}"
