-- Schema 7: schedules. `revision` counts the writes of a row, each of which names the one before; `awaits` is the run whose end it waits
-- for; `body` is MessagePack. A row outlives its schedule, so that no run's id is made twice.

CREATE TABLE schedules (
    name     TEXT    PRIMARY KEY,
    revision INTEGER NOT NULL,
    next_at  INTEGER,
    awaits   INTEGER,
    body     BLOB    NOT NULL
);
CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX schedules_awaiting ON schedules (awaits) WHERE awaits IS NOT NULL;
