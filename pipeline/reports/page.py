"""Offline HTML pages: one file, pictures inside, no script, readable on a phone and in the dark.

The functions return `Html`; any other string given to them is text and is escaped, so a case called
``<b>`` is shown, not obeyed.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

STYLE = """
:root { color-scheme: light dark; --text: #1a1d21; --soft: #5b636d; --back: #ffffff; --card: #f4f6f8;
  --line: #d9dee3; --accent: #0072b2; --good: #00704f; --warn: #8a5a00; --bad: #b03a00; }
@media (prefers-color-scheme: dark) { :root { --text: #e8eaed; --soft: #a2abb5; --back: #14171a;
  --card: #1e2327; --line: #353c43; --accent: #56b4e9; --good: #3ecf9f; --warn: #e6b84a; --bad: #ff8a5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
p { margin: .5rem 0; max-width: 46rem; }
h1, h2, p, figcaption { overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
  gap: .6rem; margin: 1.2rem 0; }
.facts div { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.facts b { display: block; font-size: 1.6rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: .9rem; }
.notice { border-left: .3rem solid var(--bad); background: var(--card); padding: .6rem 1rem; margin: 1rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem 1.4rem .4rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td { overflow-wrap: break-word; }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; border-radius: .4rem; }
figcaption { margin-top: .3rem; font-size: .92rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1rem 2rem; }
svg { width: 100%; max-width: 38rem; height: auto; display: block; }
svg text { fill: var(--soft); font: 13px system-ui, sans-serif; } svg .strong { fill: var(--text); }
svg .line { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .curve { stroke: var(--accent); fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .dot { fill: var(--accent); fill-opacity: .55; } svg .median { stroke: var(--text); stroke-width: 2.5; }
.case { display: grid; grid-template-columns: minmax(0, 31rem) minmax(14rem, 1fr); gap: .4rem 1.2rem;
  border-top: 1px solid var(--line); padding: .9rem 0; }
.case h3 { grid-column: 1 / -1; font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
.case img { max-width: 100%; height: auto; border-radius: .3rem; background: #000; }
.tile { background: var(--card); color: var(--soft); border-radius: .3rem; min-height: 6rem; display: grid;
  place-items: center; padding: .5rem; }
.legend span { white-space: nowrap; margin-right: 1rem; } .legend i { display: inline-block; width: .8rem;
  height: .8rem; margin-right: .35rem; border-radius: .15rem; }
summary { cursor: pointer; margin: .8rem 0; } a { color: var(--accent); }
@media (max-width: 40rem) {
  .case { grid-template-columns: minmax(0, 1fr); }
  table { font-size: .88rem; } th, td { padding-right: .8rem; }
  figure .wide img { max-width: none; width: 38rem; }
  .cards thead { display: none; }
  .cards tr { display: block; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .cards td { display: block; border: 0; padding: .1rem 0; }
  .cards td::before { content: attr(data-name) ": "; color: var(--soft); }
  .cards td:first-child { font-weight: 600; } .cards td:first-child::before { content: none; }
}
"""


class Html(str):
    """Markup; what is not of this class is text."""


def markup(content: str) -> Html:
    """`content` itself if it is markup, else escaped."""
    return content if isinstance(content, Html) else Html(escape(content))


def page(title: str, subtitle: str, blocks: Iterable[Html]) -> str:
    """A whole page, headed by `title` and `subtitle`."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{markup(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{markup(title)}</h1>
<p class="soft">{markup(subtitle)}</p>
{chr(10).join(blocks)}
</main>
</body>
</html>
"""


def section(heading: str, *blocks: Html) -> Html:
    """Blocks under a heading."""
    return Html(f"<section>\n<h2>{markup(heading)}</h2>\n{chr(10).join(blocks)}\n</section>")


def paragraph(content: str, tone: str = "") -> Html:
    """A paragraph; `tone` is one of soft, good, warn, bad, notice or nothing."""
    return _element("p", content, tone)


def emphasis(content: str, tone: str) -> Html:
    """Words in a colour: good, warn or bad."""
    return _element("span", content, tone)


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Figures with what they are, large: (value, name)."""
    tiles = "".join(f"<div><b>{markup(value)}</b><span>{markup(name)}</span></div>" for value, name in pairs)
    return Html(f'<div class="facts">{tiles}</div>')


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[str] = ()) -> Html:
    """A table; `numbers` are the columns set to the right.

    On a narrow screen numbers and pairs stay a table, to be scrolled where it is too wide; each row of
    any other becomes a card, headed by its first column.
    """
    numeric = [column in set(numbers) for column in columns]
    kind = [' class="number"' if right else "" for right in numeric]
    head = "".join(f"<th{cls}>{markup(name)}</th>" for name, cls in zip(columns, kind, strict=True))
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td{cls} data-name="{markup(name)}">{markup(cell)}</td>'
            for name, cell, cls in zip(columns, row, kind, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    frame = "cards" if len(columns) > 2 and not any(numeric) else "wide"
    whole = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return Html(f'<div class="{frame}"><table>\n{whole}</table></div>')


def picture(png: bytes, caption: str) -> Html:
    """A PNG, inside the page."""
    data = base64.b64encode(png).decode("ascii")
    words = markup(caption)
    image = f'<img src="data:image/png;base64,{data}" alt="{words}">'
    return Html(f'<figure><div class="wide">{image}</div><figcaption>{words}</figcaption></figure>')


def picture_file(source: str, words: str) -> Html:
    """A picture in a file beside the page, fetched when it comes into sight."""
    return Html(f'<img loading="lazy" src="{markup(quote(source))}" alt="{markup(words)}">')


def tile(words: str) -> Html:
    """A grey field where a picture would be."""
    return _element("div", words, "tile")


def case_card(name: str, shown: Html, *blocks: Html) -> Html:
    """A case: its picture, and beside it what is to be said."""
    told = Html(f"<div>{''.join(blocks)}</div>")
    return Html(f'<article class="case"><h3>{markup(name)}</h3><div>{shown}</div>{told}</article>')


def legend(colours: Iterable[tuple[str, tuple[int, int, int]]]) -> Html:
    """What each colour (red, green, blue) stands for."""
    entries = "".join(
        f'<span><i style="background: rgb({red}, {green}, {blue})"></i>{markup(name)}</span> '
        for name, (red, green, blue) in colours
    )
    return Html(f'<p class="legend">{entries}</p>')


def folded(summary: str, *blocks: Html) -> Html:
    """Blocks that are shown when somebody asks for them."""
    return Html(f"<details><summary>{markup(summary)}</summary>\n{chr(10).join(blocks)}\n</details>")


def link(target: str, words: str) -> Html:
    """A paragraph that leads to a file beside the page."""
    return Html(f'<p><a href="{markup(quote(target))}">{markup(words)}</a></p>')


def charts(*figures: Html) -> Html:
    """Charts beside each other where there is room."""
    return Html(f'<div class="charts">{"".join(figures)}</div>')


def chart(svg: Html, caption: str) -> Html:
    """A chart with its caption."""
    return Html(f"<figure>{svg}<figcaption>{markup(caption)}</figcaption></figure>")


def _element(name: str, content: str, tone: str) -> Html:
    attribute = f' class="{tone}"' if tone else ""
    return Html(f"<{name}{attribute}>{markup(content)}</{name}>")
