"""Great Expectations' own Data Docs, made so that they open without a network and never change by themselves.

Great Expectations draws the pages. What they would fetch from elsewhere (styles, scripts, a logo) is
taken out, a small style stands in its place, and what differs from run to run is numbered or left
out.
"""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from pipeline.reports.page import Html, markup, page, paragraph, table

INDEX = "index.html"

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 0; color: #1a1d21; background: #fff; }
.container-fluid { padding: 0 1rem; } h4, h5 { margin: .8rem 0 .3rem; }
a { color: #0072b2; text-decoration: none; } .sticky ul { list-style: none; padding: 0; columns: 16rem; }
table { border-collapse: collapse; margin: .4rem 0 1rem; } th, td { border-bottom: 1px solid #d9dee3;
  padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.alert { background: #f4f6f8; padding: .4rem .8rem; margin-top: 1.2rem; }
.badge { background: #e3e8ec; border-radius: .3rem; padding: 0 .3rem; }
.collapse { display: none; } .collapse:target { display: block; }
.fa-check-circle::before { content: "\\2713"; color: #00704f; }
.fa-times::before { content: "\\2717"; color: #b03a00; }
.fa-exclamation-triangle::before { content: "!"; color: #8a5a00; font-weight: bold; }
ul.nav { max-height: none !important; } nav, .card-body { max-height: none !important; }
@media (prefers-color-scheme: dark) { body { background: #14171a; color: #e8eaed; }
  .alert, .badge { background: #1e2327; } a { color: #56b4e9; } th, td { border-color: #353c43; } }
"""

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
NEEDLESS = [
    re.compile(r"<script\b.*?</script>", re.S),
    re.compile(r"<style\b.*?</style>", re.S),
    re.compile(r"<(?:link|img|meta)\b[^>]*>", re.S),
    re.compile(r"<footer\b.*?</footer>", re.S),
    # The filter needs a script.
    re.compile(
        r'<div class="card mb-3">\s*<div class="card-header p-2">\s*<strong>Actions</strong>.*?'
        r'(?=<div class="card d-md-block)',
        re.S,
    ),
]
STAND_INS = {letter: chr(0xE000 + number) for number, letter in enumerate("<>&\"'$")}
"""What names of labels hold while the page is drawn: some texts are escaped there, and some are not."""
MEANT = str.maketrans({stand_in: escape(letter) for letter, stand_in in STAND_INS.items()})
ELSEWHERE = re.compile(r'<a\b[^>]*\bhref="(?!#)[^"]*"[^>]*>(.*?)</a>', re.S)
"""A link to a page that is not here; its words stay."""


def data_docs(organ: str, outcomes: Mapping[str, Any]) -> dict[str, str]:
    """The pages by file name: one a suite, and an index.

    Args:
        organ: for the heading.
        outcomes: an ExpectationSuiteValidationResult of Great Expectations, by suite.
    """
    pages = {f"{suite}.html": _suite_page(organ, suite, outcome) for suite, outcome in outcomes.items()}
    rows = []
    for suite, outcome in outcomes.items():
        counts = outcome.statistics
        name = Html(f'<a href="{markup(suite)}.html">{markup(suite)}</a>')
        rows.append([name, str(counts["successful_expectations"]), str(counts["unsuccessful_expectations"])])
    columns = ("suite", "met", "not met")
    blocks = [paragraph("What Great Expectations tells of each suite of expectations.", "soft")]
    pages[INDEX] = page(
        f"{organ}: Data Docs", "Great Expectations", [*blocks, table(columns, rows, numbers=columns[1:])]
    )
    return pages


def _suite_page(organ: str, suite: str, outcome: Any) -> str:
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    shown = _read_back(_changed(outcome.to_json_dict(), str.maketrans(STAND_INS)))
    drawn = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(shown))
    return offline(drawn, f"{organ}: {suite}").translate(MEANT)


def _changed(content: Any, letters: Mapping[int, str]) -> Any:
    """JSON with letters of its texts changed."""
    if isinstance(content, str):
        return content.translate(letters)
    if isinstance(content, dict):
        return {key: _changed(value, letters) for key, value in content.items()}
    return [_changed(value, letters) for value in content] if isinstance(content, list) else content


def _read_back(outcome: dict[str, Any]) -> Any:
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResultSchema

    return ExpectationSuiteValidationResultSchema().load(outcome)


def offline(drawn: str, title: str) -> str:
    """A page of Great Expectations without anything from elsewhere, the same for the same content."""
    body = drawn.partition("<body>")[2].partition("</body>")[0]
    # What stands before is a bar with a logo.
    body = body[max(body.find('<div class="container-fluid'), 0) :]
    for needless in NEEDLESS:
        body = needless.sub("", body)
    body = ELSEWHERE.sub(r"\1", body)
    numbers: dict[str, str] = {}
    body = UUID.sub(lambda match: numbers.setdefault(match[0], str(len(numbers) + 1)), body)
    lines = "\n".join(line.strip() for line in body.splitlines() if line.strip())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{markup(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<div class="container-fluid"><p><a href="{INDEX}">All suites</a> · {markup(title)}</p></div>
{lines}
</body>
</html>
"""
