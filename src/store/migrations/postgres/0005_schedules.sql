-- Schema 5: schedules. `revision` counts the writes of a row, each of which names the one before; `awaits` is the run whose end it waits
-- for; `body` is MessagePack. A row outlives its schedule, so that no run's id is made twice.

CREATE TABLE schedules (
    name     text   PRIMARY KEY COLLATE "C",
    revision bigint NOT NULL,
    next_at  bigint,
    awaits   bigint,
    body     bytea  NOT NULL
);
CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX schedules_awaiting ON schedules (awaits) WHERE awaits IS NOT NULL;
