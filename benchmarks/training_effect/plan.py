"""The plan of a study: read from YAML, copied into the working folder by the first stage, the same for every stage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

FILE = "plan.json"
# Of each study the figure, whose stem its other results have, too.
FIGURES = ("training_effect.png", "training_effect_40m.png", "training_effect_planted.png")
Plan = dict[str, Any]


def adopt(plan_file: Path, work: Path) -> Plan:
    """Copies a plan into the working folder.

    Raises:
        SystemExit: the folder already follows another plan.
    """
    plan: Plan = yaml.safe_load(plan_file.read_text())
    target = work / FILE
    if target.exists() and json.loads(target.read_text()) != plan:
        raise SystemExit(f"{work} follows another plan than {plan_file}: a changed plan needs another folder")
    work.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(plan, indent=1) + "\n")
    return plan


def load(work: Path) -> Plan:
    plan: Plan = json.loads((work / FILE).read_text())
    return plan


def digest(plan: Plan) -> str:
    """What every result names, so that results of two plans are never mixed."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]


def drawn(arm: dict[str, Any]) -> bool:
    """Whether the arm's documents are drawn by chance, and so differ from seed to seed."""
    return arm["rank"] == "chance"


def slug(name: str) -> str:
    """The name of an arm as part of a file's name."""
    return "".join(c if c.isalnum() else "_" for c in name)
