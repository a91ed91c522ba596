#!/usr/bin/env python3
"""Measures SQLite with the work of `cargo bench --bench events -- rate`, on the same disk.

Each event is accepted and settled, and each step is durable before the next one: a transaction
contains one step of as many events as wait (group commit). SQLite has no other work: there are no
threads, no queue and no encoding, and one call inserts all rows of a table. Run both below the same
TMPDIR.
"""

import os
import resource
import sqlite3
import tempfile
import time

SCHEMA = """
CREATE TABLE entries (id BLOB PRIMARY KEY, state INTEGER, route BLOB, since INTEGER, entry BLOB)
    WITHOUT ROWID;
CREATE INDEX states ON entries (state, route, id);
CREATE TABLE requests (id BLOB PRIMARY KEY, request BLOB);
CREATE TABLE records (digest BLOB PRIMARY KEY, id BLOB) WITHOUT ROWID;
CREATE TABLE event_ids (digest BLOB, id BLOB, PRIMARY KEY (digest, id)) WITHOUT ROWID;
"""
ROUTE = bytes(8)
ENTRY = bytes(230)
REQUEST = bytes(1400)
START = 1_764_500_000_000


def event_id(number):
    return (START + number).to_bytes(6, "big") + number.to_bytes(10, "big")


def digest(number):
    return (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "little") * 2


def accept(database, numbers):
    ids = [event_id(number) for number in numbers]
    digests = [digest(number) for number in numbers]
    database.execute("BEGIN IMMEDIATE")
    for key in digests:
        found = database.execute("SELECT id FROM records WHERE digest = ?", (key,)).fetchone()
        assert found is None
    rows = [(key, 1, ROUTE, START, ENTRY) for key in ids]
    database.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)
    database.executemany("INSERT INTO requests VALUES (?, ?)", [(key, REQUEST) for key in ids])
    database.executemany("INSERT INTO records VALUES (?, ?)", list(zip(digests, ids)))
    database.executemany("INSERT INTO event_ids VALUES (?, ?)", list(zip(digests, ids)))
    database.execute("COMMIT")


def settle(database, numbers):
    database.execute("BEGIN IMMEDIATE")
    rows = [(2, START, ENTRY, event_id(number)) for number in numbers]
    database.executemany("UPDATE entries SET state = ?, since = ?, entry = ? WHERE id = ?", rows)
    database.execute("COMMIT")


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(waiting, events):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "events.sqlite")
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(SCHEMA)
        start, before = time.monotonic(), cpu()
        for first in range(0, events, waiting):
            numbers = range(first, min(first + waiting, events))
            accept(database, numbers)
            settle(database, numbers)
        took, used = time.monotonic() - start, cpu() - before
        database.close()
    print(
        f"accepted and settled, {waiting} waiting: {events / took:.0f} events/s; "
        f"for each event {used / events * 1e6:.0f} µs of CPU time"
    )


print(f"SQLite {sqlite3.sqlite_version}")
for waiting, events in [(1, 500), (64, 20_000), (512, 50_000)]:
    measure(waiting, events)
