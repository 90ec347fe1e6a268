"""One HTML page of results, with everything in it: tables, verdicts, pictures, conditions."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import charts, plots, tables
from bench.figures import heading
from bench.plots import Picture

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 64rem;
       padding: 0 1rem; background: #fff; }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { margin-top: 2.5rem; font-size: 1.25rem }
.about { color: #555; margin: .1rem 0 }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums;
        font-size: 13.5px }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4;
         vertical-align: top }
th { border-bottom: 2px solid #999; white-space: nowrap } td.text, th.text { text-align: left }
.good { color: #00633f } .bad { color: #b00020; font-weight: 600 }
figure { margin: 1.5rem 0 } figure svg { width: 100%; height: auto }
figcaption { color: #555; font-size: 13.5px } .wide { overflow-x: auto }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 12.5px }
"""


class NotAResult(ValueError):
    """A file that is no result of this harness."""


def read(path: str) -> dict[str, Any]:
    """A result file; raises NotAResult with what is wrong."""
    try:
        result = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise NotAResult(f"{path}: {error.strerror}") from None
    except ValueError:
        raise NotAResult(f"{path} holds no JSON: give a file that --out or --json wrote") from None
    if not isinstance(result, dict) or "bench" not in result or "format" not in result:
        raise NotAResult(f"{path} holds JSON, but no result of `python -m bench`")
    return result


def single(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sets taken apart."""
    return [
        each
        for result in results
        for each in (result["results"] if result["bench"] == "set" else [result])
    ]


def pictures(results: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], list[Picture]]]:
    """The pictures of each result; those over several results go with the first."""
    with plots.styled():
        found = [(result, _pictures_of(result)) for result in single(results)]
        runs = [result for result, _ in found if _has_staleness(result)]
        if runs:
            next(mine for result, mine in found if result is runs[0]).append(plots.staleness(runs))
    return found


def _has_staleness(result: dict[str, Any]) -> bool:
    return result["bench"] == "run" and any(
        sum(each["staleness"]["reads"]) for each in result["repeats"]
    )


def _pictures_of(result: dict[str, Any]) -> list[Picture]:
    kind = result["bench"]
    if kind == "sweep":
        return [charts.sweep(result)]
    if kind == "compare":
        return [charts.compare(result)]
    if kind == "peers":
        return charts.peers(result)
    if kind != "run":
        return []
    found = [plots.throughput(result), plots.latency(result), plots.nines(result)]
    if result["config"]["faults"]:
        found.append(plots.availability(result))
    if result["repeats"][0].get("balance"):
        found.append(plots.balance(result))
    return found


def page(made: list[tuple[dict[str, Any], list[Picture]]]) -> str:
    """The whole page."""
    title = _text(made[0][0].get("about", ""))
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>bench: {title}</title><style>{STYLE}</style></head><body>",
        "<h1>Measurements of dynamo</h1>",
    ]
    for result, own in made:
        parts += _section(result, own)
    return "\n".join([*parts, "</body></html>\n"])


def _section(result: dict[str, Any], own: list[Picture]) -> list[str]:
    kind = result["bench"]
    title = result["workload"]["title"] if kind in ("run", "sweep") else kind.capitalize()
    parts = [f"<h2>{_text(title)}</h2>", f"<p class='about'>{_text(result['about'])}</p>"]
    if kind in ("run", "sweep"):
        parts.append(f"<p class='about'>{_text(result['workload']['about'])}</p>")
    if result.get("promise"):
        parts.append(f"<p class='about'>Promise: {_text(result['promise'])}.</p>")
    parts.append(f"<p class='about'>{_text(heading(result))}</p>")
    if kind == "run":
        parts += _verdicts(tables.verdicts(result))
        parts.append(_table(tables.run(result), 1))
        parts.append(_list(tables.remarks(result)))
    elif kind == "sweep":
        parts += _verdicts([tables.data_verdict([result["check"]])])
        parts += [f"<p>{_text(result['knee'])}</p>", _table(tables.sweep(result), 0)]
    elif kind == "compare":
        parts += _verdicts([(not result["worse"], result["sentence"])])
        parts.append(_table(tables.compare(result), 1))
    elif kind == "peers":
        parts += _verdicts([(v["good"], v["text"]) for v in result["verdicts"]])
        parts.append(_table(tables.peers(result), 3))
        promises = [[store["label"], store["promise"]] for store in result["stores"]]
        parts.append(_table((["store", "what an acknowledged write means"], promises), 2))
        parts.append(_list([f"Not measured: {text}" for text in result["missing"]]))
    for picture in own:
        parts.append(
            f"<figure>{picture.svg()}<figcaption>{_text(picture.caption)}</figcaption></figure>"
        )
    names = ("machine", "versions", "peer_versions", "commit", "config")
    shown = {name: result[name] for name in names if name in result}
    parts.append(
        "<details><summary>Conditions</summary><pre>"
        f"{_text(json.dumps(shown, indent=2))}</pre></details>"
    )
    return parts


def _text(text: str) -> str:
    return html.escape(text)


def _verdicts(lines: list[tuple[bool, str]]) -> list[str]:
    return [f"<p class='{'good' if good else 'bad'}'>{_text(text)}</p>" for good, text in lines]


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _table(rows: tables.Rows, text_columns: int) -> str:
    def cells(row: list[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=text' if number < text_columns else ''}>{_text(cell)}</{tag}>"
            for number, cell in enumerate(row)
        )

    names, lines = rows
    body = "".join(f"<tr>{cells(line, 'td')}</tr>" for line in lines)
    head = f"<thead><tr>{cells(names, 'th')}</tr></thead>"
    return f"<div class='wide'><table>{head}<tbody>{body}</tbody></table></div>"


def write(results: list[dict[str, Any]], folder: Path, png: bool) -> list[Path]:
    """report.html, and with `png` every picture as a file, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "report.html"
    made = pictures(results)
    target.write_text(page(made), "utf-8")
    written = [target]
    if png:
        for number, (_, own) in enumerate(made):
            for picture in own:
                prefix = f"{number + 1}-" if len(made) > 1 else ""
                path = folder / f"{prefix}{picture.name}.png"
                path.write_bytes(picture.png())
                written.append(path)
    return written
