"""How fast pyarrow reads a topic over Flight, and what readers that stall cost the server.

    readers.py FLIGHT_ADDRESS TOPIC CLUSTER_JSON

The topic was written by `levada bench produce`: each value is 1 KiB and begins with the CRC-32 of the rest. In the timed
pass all bytes of each batch are checksummed as they arrive; a second pass checks value by value.
"""

import json
import sys
import time
import zlib

import pyarrow.flight as flight

STALLED = 100


def data(batch):
    """The bytes of a batch's values, as they lie in its buffer, and where each begins."""
    column = batch.column(batch.schema.get_field_index("value"))
    _, offsets, values = column.buffers()
    ends = memoryview(offsets).cast("i" if str(column.type) == "binary" else "q")
    ends = ends[column.offset : column.offset + len(column) + 1]
    return memoryview(values), ends


def batches(address, topic):
    client = flight.connect(f"grpc://{address}")
    info = client.get_flight_info(flight.FlightDescriptor.for_path(topic))
    for endpoint in info.endpoints:
        for chunk in client.do_get(endpoint.ticket):
            yield chunk.data


def rss_anon(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def read(address, topic):
    began, count, checksum = time.monotonic(), 0, 0
    for batch in batches(address, topic):
        values, ends = data(batch)
        part = values[ends[0] : ends[-1]]
        checksum = zlib.crc32(part, checksum)
        count += len(part)
    return count, time.monotonic() - began


def check(address, topic):
    wrong = records = 0
    for batch in batches(address, topic):
        values, ends = data(batch)
        for begin, end in zip(ends, ends[1:]):
            stored = int.from_bytes(values[begin : begin + 4], "little")
            wrong += zlib.crc32(values[begin + 4 : end]) != stored
            records += 1
    return records, wrong


def main():
    address, topic, cluster = sys.argv[1:]
    with open(cluster) as file:
        node = next(node for node in json.load(file)["nodes"] if node["flight"] == address)
    read(address, topic)
    rates = []
    for _ in range(5):
        count, seconds = read(address, topic)
        rates.append(count / seconds / 1e6)
    records, wrong = check(address, topic)
    before = rss_anon(node["pid"])
    stalled = []
    for _ in range(STALLED):
        client = flight.connect(f"grpc://{address}")
        info = client.get_flight_info(flight.FlightDescriptor.for_path(topic))
        reader = client.do_get(info.endpoints[0].ticket)
        reader.read_chunk()
        stalled.append((client, reader))
    time.sleep(5)
    after = rss_anon(node["pid"])
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
                "server_rss_anon_growth_mib": round((after - before) / 2**20, 1),
            }
        )
    )
    if wrong:
        sys.exit("values are not as they were written")


if __name__ == "__main__":
    main()
