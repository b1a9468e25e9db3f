"""How fast pyarrow reads a topic over Flight, and what readers that stall cost the server.

    readers.py FLIGHT_ADDRESS TOPIC COLUMN CLUSTER_JSON

The topic was written by `levada bench`: each value in the column is 1 KiB and begins with the CRC-32 of the rest. In the timed
pass all bytes of each batch are checksummed as they arrive; a second pass checks value by value.
"""

import json
import sys
import time
import zlib

import pyarrow.flight as flight

STALLED = 100


def data(batch, name):
    """The bytes of a batch's values, as they lie in its buffer, and where each begins."""
    column = batch.column(batch.schema.get_field_index(name))
    _, offsets, values = column.buffers()
    ends = memoryview(offsets).cast("i" if str(column.type) == "binary" else "q")
    ends = ends[column.offset : column.offset + len(column) + 1]
    return memoryview(values), ends


def batches(address, topic):
    client = flight.connect(f"grpc://{address}")
    info = client.get_flight_info(flight.FlightDescriptor.for_path(topic))
    for endpoint in info.endpoints:
        for chunk in flight.connect(endpoint.locations[0]).do_get(endpoint.ticket):
            yield chunk.data


def rss_anon(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def read(address, topic, name):
    began, count, checksum = time.monotonic(), 0, 0
    for batch in batches(address, topic):
        values, ends = data(batch, name)
        part = values[ends[0] : ends[-1]]
        checksum = zlib.crc32(part, checksum)
        count += len(part)
    return count, time.monotonic() - began


def check(address, topic, name):
    wrong = records = 0
    for batch in batches(address, topic):
        values, ends = data(batch, name)
        for begin, end in zip(ends, ends[1:]):
            stored = int.from_bytes(values[begin : begin + 4], "little")
            wrong += zlib.crc32(values[begin + 4 : end]) != stored
            records += 1
    return records, wrong


def main():
    address, topic, name, cluster = sys.argv[1:]
    with open(cluster) as file:
        nodes = json.load(file)["nodes"]
    read(address, topic, name)
    rates = []
    for _ in range(5):
        count, seconds = read(address, topic, name)
        rates.append(count / seconds / 1e6)
    records, wrong = check(address, topic, name)
    before = [rss_anon(node["pid"]) for node in nodes]
    stalled = []
    for _ in range(STALLED):
        client = flight.connect(f"grpc://{address}")
        info = client.get_flight_info(flight.FlightDescriptor.for_path(topic))
        client = flight.connect(info.endpoints[0].locations[0])
        reader = client.do_get(info.endpoints[0].ticket)
        reader.read_chunk()
        stalled.append((client, reader))
    time.sleep(5)
    after = [rss_anon(node["pid"]) for node in nodes]
    print(
        json.dumps(
            {
                "bench": "pyarrow",
                "mb_per_s": round(sorted(rates)[len(rates) // 2], 1),
                "mb_per_s_all": [round(rate, 1) for rate in rates],
                "bytes": count,
                "values_checked": records,
                "values_wrong": wrong,
                "stalled_readers": len(stalled),
                "server_rss_anon_growth_mib": round(max(b - a for a, b in zip(before, after)) / 2**20, 1),
            }
        )
    )
    if wrong:
        sys.exit("values are not as they were written")


if __name__ == "__main__":
    main()
