"""Reads a topic over Arrow Flight and compares it with what was acknowledged.

usage: judge.py HOST:PORT TOPIC ACKNOWLEDGED

ACKNOWLEDGED has a line "partition offset writer sequence" for every acknowledged record. Exits with 1 and says why when
an acknowledged record is missing, stands elsewhere, stands twice, or a writer's records are out of order in a partition.
"""

import sys

import pyarrow.flight as flight


def read(address, topic):
    client = flight.connect(f"grpc://{address}")
    info = client.get_flight_info(flight.FlightDescriptor.for_path(topic))
    log = {}
    for endpoint in info.endpoints:
        at = flight.connect(endpoint.locations[0]) if endpoint.locations else client
        table = at.do_get(endpoint.ticket).read_all()
        columns = [table.column(name).to_pylist() for name in ("partition", "offset", "value")]
        for partition, offset, value in zip(*columns):
            writer, sequence, padding = value.decode().split(" ", 2)
            if len(padding) != int(sequence) % 900:
                sys.exit(f"partition {partition} offset {offset}: the value is not as it was sent")
            if (partition, offset) in log:
                sys.exit(f"partition {partition} offset {offset} was read twice")
            log[partition, offset] = (int(writer), int(sequence))
    return log


def main():
    address, topic, acknowledged = sys.argv[1:]
    log = read(address, topic)
    wrong = []
    for line in open(acknowledged):
        partition, offset, writer, sequence = map(int, line.split())
        found = log.get((partition, offset))
        if found != (writer, sequence):
            wrong.append(f"acknowledged {writer}/{sequence} at partition {partition} offset {offset}, found {found}")
    acks = sum(1 for _ in open(acknowledged))
    places, last = {}, {}
    for (partition, offset), record in sorted(log.items()):
        if record in places:
            wrong.append(f"{record} stands at {places[record]} and at {(partition, offset)}")
        places[record] = (partition, offset)
        writer, sequence = record
        if last.get((partition, writer), -1) >= sequence:
            wrong.append(f"partition {partition} writer {writer}: {sequence} behind {last[partition, writer]}")
        last[partition, writer] = sequence
    if wrong:
        sys.exit(f"{len(wrong)} of {acks} wrong, such as:\n" + "\n".join(wrong[:10]))
    print(f"{acks} acknowledged records stand where they were acknowledged; {len(log)} in the log, none twice")


main()
