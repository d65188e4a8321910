"""Writing the report: report.html, report.md, results.csv and results.parquet of one comparison.

The page is one file that asks the network for nothing: its style and script are inside, its content security policy lets
nothing else run or load, and whatever comes from records and configurations is escaped by the template.
"""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from errors import BadInput
from reports.amounts import amount, interval, percent
from reports.frame import frame_of, write_frame
from reports.markdown import markdown
from reports.parts import Report

HOME = Path(__file__).parent


def write_report(folder: Path, report: Report) -> Path:
    """Write report.html, report.md, results.csv and results.parquet into `folder`; the same results give the same files.

    Args:
        folder: exists or is made.

    Returns:
        The path of report.html.

    Raises:
        BadInput: the folder cannot be written.
    """
    html = folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_frame(frame_of(report.results), folder)
        (folder / "report.md").write_text(markdown(report), encoding="utf-8")
        html.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"the report cannot be written into '{folder}': {error.strerror}") from error
    return html


def page(report: Report) -> str:
    """The report as one HTML document."""
    environment = Environment(
        loader=FileSystemLoader(HOME), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "amount": amount, "interval": interval}
    style, script = ((HOME / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    only_this = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        report=report, choices=report.choices, style=Markup(style), script=Markup(script), script_hash=only_this
    )
