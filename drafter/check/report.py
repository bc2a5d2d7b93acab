"""What a check found: a line for each thing that is wrong, and what was measured."""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """Something wrong.

    Attributes:
        rule: the field, tensor, file or behaviour that it is about.
        message: one line that names it, its value, and what to do.
    """

    rule: str
    message: str


@dataclass
class Report:
    """What `check` found of one export.

    Attributes:
        findings: what is wrong; empty when the export may be served.
        notes: what could not be checked, and why.
        measured: numbers of the dynamic part.
        serve: engine → command.
    """

    export: str
    verifier: str
    layout: str = ""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    serve: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        findings = [one._asdict() for one in self.findings]
        return {"ok": self.ok, **asdict(self), "findings": findings}

    def __str__(self) -> str:
        lines = [f"wrong: {one.message}" for one in self.findings]
        lines += [f"note: {note}" for note in self.notes]
        shown = {name: round(value, 4) if isinstance(value, float) else value for name, value in self.measured.items()}
        lines += [f"{name.replace('_', ' ')}: {value}" for name, value in shown.items()]
        if not self.ok:
            lines.append(f"{self.export}: {len(self.findings)} wrong; not fit to be served")
            return "\n".join(lines)
        lines.append(f"{self.export}: fit to be served ({self.layout} layout, verifier {self.verifier})")
        for engine, command in self.serve.items():
            lines += ["", f"{engine}:", *(f"  {line}" for line in command.splitlines())]
        return "\n".join(lines)
