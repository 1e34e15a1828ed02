"""docs/guides/events.md says what is there: attributes, commands, metrics."""

import re
import shlex
from dataclasses import fields

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

from cli.main import app
from shared.events import CloudEvent, metrics

from .rules import ROOT

GUIDE = (ROOT / "docs/guides/events.md").read_text()


def section(title: str) -> str:
    return GUIDE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_column(title: str) -> list[str]:
    rows = [line.split("|")[1] for line in section(title).splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_every_attribute_of_the_envelope_is_explained() -> None:
    names = {field.name for field in fields(CloudEvent)} - {"organization_id", "data"}
    assert sorted(first_column("The envelope")) == sorted({*names, "tenantid", "specversion", "datacontenttype"})


def test_every_metric_of_the_event_path_is_explained_with_its_labels() -> None:
    def name(metric: Metric) -> str:
        return f"{metric.name}_total" if metric.type == "counter" else metric.name

    found = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    told = dict(re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", section("Metrics"), re.MULTILINE))
    assert told == {name(next(iter(each.describe()))): ", ".join(each._labelnames) for each in found}


def test_every_command_and_option_of_the_guide_exists() -> None:
    lines = [line.partition("#")[0] for line in GUIDE.splitlines() if line.startswith("guardian events ")]
    assert len(lines) >= 6
    events = get_command(app).commands["events"].commands  # type: ignore[attr-defined]
    for line in lines:
        command, *arguments = shlex.split(line)[2:]
        known = {option for parameter in events[command].params for option in parameter.opts}
        assert {each for each in arguments if each.startswith("--")} <= known, line
    assert set(events) == {shlex.split(line)[2] for line in lines}, "a command that the guide does not show"
