"""How fast documents are scored where it was measured, and what that lets expect elsewhere.

    tokens/s of a document of T tokens = T / seconds(T), between measured lengths by interpolation of log T

A model of another size is taken to be slower by its parameters, another GPU by its peak arithmetic, and other signals
by what they cost on a CPU: rough, and said so.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measurement:
    """Seconds that scoring a document took in full batches, from token ids to score, by its tokens.

    Attributes:
        file (`str`): the result in `benchmarks/results` that holds the seconds.
        device (`str`): the GPU, or `""` for a CPU of `CPU_CORES` cores.
        model (`str`): what was scored with.
        parameters (`int`): of it, without the language model head.
        seconds (`dict[int, float]`): by tokens of the document.
    """

    file: str
    device: str
    model: str
    parameters: int
    seconds: dict[int, float]

    def tokens_per_second(self, length: float) -> float:
        """Tokens a second of documents of `length` tokens."""
        tokens = sorted(self.seconds)
        rates = [each / self.seconds[each] for each in tokens]
        return float(np.interp(np.log(max(length, 1.0)), np.log(tokens), rates))


CPU_CORES = 2
NANO_PARAMETERS = 11_734_784
MEASURED = (
    Measurement(
        "h200.json", "H200", "TinyLlama-1.1B", 1_034_512_384,
        {4096: 0.01691, 8192: 0.03955, 16384: 0.10112, 32768: 0.29025, 65536: 0.92164, 131072: 3.21167},
    ),
    Measurement("h100.json", "H100", "ladm-nano", NANO_PARAMETERS, {8192: 0.000878}),
    Measurement(
        "cpu.json", "", "ladm-nano", NANO_PARAMETERS, {4096: 0.3306, 8192: 0.9749, 16384: 3.4085, 32768: 12.7322}
    ),
)  # fmt: skip
# Times the score alone, by signals-cpu.json at 8,192 tokens.
SIGNAL_COSTS = {
    "token_loss": 1.496, "context_gain": 4.308, "key_token_share": 4.308, "distant_attention": 1.079,
    "distant_uniformity": 1.126,
}  # fmt: skip
# Peak teraflops of dense half-precision matrix products, by NVIDIA's data sheets.
_TERAFLOPS = {"T4": 65, "A10G": 70, "L4": 121, "A100": 312, "L40S": 362, "H100": 989, "H200": 989}
# Tokens a second of a run from text whose GPU waits for token ids, by text_to_score-gpu.json, and the cores busy in it.
TEXT_TOKENS, TEXT_CORES = 5_055_000, 10.9
# The length taken where none is known.
USUAL_TOKENS = 8192


@dataclass(frozen=True)
class Speed:
    """What to expect of one GPU, or of one machine without a GPU.

    Attributes:
        tokens_per_second (`float`): of one process.
        source (`str`): where it is from, for people.
    """

    tokens_per_second: float
    source: str


def gpu_model(name: str) -> str:
    """The model of a GPU without its maker, in capitals."""
    return name.upper().removeprefix("NVIDIA").strip()


def expected_speed(
    gpu: str,
    cores: int,
    parameters: int,
    length: float | None = None,
    signals: Collection[str] = (),
    *,
    from_text: bool = False,
) -> Speed | None:
    """The speed on a GPU, or on a machine without one; `None` where nothing comparable was measured.

    Args:
        gpu (`str`): its model as the Hub names it (`"A10G"`), `""` for none.
        cores (`int`): of the machine, or of its share for one GPU.
        parameters (`int`): of the calculator.
        length (`float`, *optional*): mean tokens of a document.
        signals (collection of `str`, *optional*): signals beside the score.
        from_text (`bool`, *optional*, defaults to `False`): whether a GPU has to wait for the token ids of texts.
    """
    name = gpu_model(gpu)
    if name and name not in _TERAFLOPS:
        return None
    measured = [each for each in MEASURED if bool(each.device) == bool(name)]
    # of the size nearest to the calculator's
    nearest = min(measured, key=lambda each: abs(np.log(parameters / each.parameters)))
    rate = nearest.tokens_per_second(length or USUAL_TOKENS)
    rough = []
    # a language model head, which the score does without, is counted in a repository's parameters
    if not 0.9 < parameters / nearest.parameters < 1.1:
        rate *= nearest.parameters / parameters
        rough.append("number of parameters")
    if name:
        rate *= _TERAFLOPS[name] / _TERAFLOPS[nearest.device]
        rough += [] if name == nearest.device else ["peak teraflops"]
    else:
        rate *= cores / CPU_CORES
        rough.append("number of cores")
    if cost := max((SIGNAL_COSTS.get(signal, 1.0) for signal in signals), default=1.0) - 1.0:
        rate /= 1.0 + cost
        rough.append("cost of the signals on a CPU")
    host = TEXT_TOKENS * min(1.0, cores / TEXT_CORES)
    if name and from_text and host < rate:
        return Speed(
            host,
            "a rough estimate of what finding token ids takes, from a run of ladm-nano from text "
            "(benchmarks/results/text_to_score-gpu.json): token ids, as of `ladm prepare`, are faster",
        )
    where = f"an NVIDIA {nearest.device}" if name else f"a CPU of {CPU_CORES} cores"
    where += f" at {next(iter(nearest.seconds)):,} tokens" if len(nearest.seconds) == 1 else ""
    source = f"measured with {nearest.model} on {where}, from token ids (benchmarks/results/{nearest.file})"
    return Speed(rate, f"a rough estimate by {' and '.join(rough)} from what was {source}" if rough else source)
