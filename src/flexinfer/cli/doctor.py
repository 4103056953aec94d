"""`flexinfer doctor`: what this machine offers, and what to change."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from flexinfer.cli.streams import say
from flexinfer.text import one_line


@click.command(name="doctor")
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(model: str | None, as_json: bool) -> None:
    """Say in plain words what this machine offers, and what to change.

    With MODEL, a GGUF file, the drive that holds it is measured.
    """
    from flexinfer.cli.findings import examine
    from flexinfer.machine.machine import Machine

    findings = examine(Machine.detect(), model)
    if as_json:
        say(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        mark = click.style("ok", "green") if finding.good else click.style("! ", "yellow")
        say(f"{mark} {finding.topic:<{width}}  {one_line(finding.text)}")
        if finding.advice:
            say(f"   {'':<{width}}  {click.style(one_line(finding.advice), bold=True)}")
